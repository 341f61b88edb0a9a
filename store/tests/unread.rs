//! Rows of a later version: what holds something that this program doesn't know is left to another, and stops nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use chrono::{DateTime, TimeDelta, Utc};
use common::make;
use rhyzome_model::change::What;
use rhyzome_model::check::{HeldObject, HostInventory, Part};
use rhyzome_model::ids::{Epoch, JobId, ResourceId, TenantId};
use rhyzome_model::kinds::Kind;
use rhyzome_model::quota::{Dimension, Limits};
use rhyzome_model::step::ObjectKind;
use rhyzome_store::accept::Refusal;
use rhyzome_store::changes::{Thing, Whose};
use rhyzome_store::dispatch::DispatchLimits;
use rhyzome_store::jobs::JobFilter;
use rhyzome_store::quotas::Share;
use rhyzome_store::resources::{Page, ResourceFilter, Scope};
use rhyzome_store::sweep::Place;
use rhyzome_store::{Store, StoreError};
use std::collections::{BTreeMap, BTreeSet};

const LIMITS: DispatchLimits = DispatchLimits {
    batch: 100,
    tenant_cap: 64,
    host_cap: 64,
};

async fn run(store: &Store, sql: &'static str, job: JobId) {
    sqlx::query(sql).bind(job.0).execute(store.pool()).await.unwrap();
}

/// Two jobs, the second with an action of a later version.
async fn known_and_newer(store: &Store, tenant: &TenantId) -> Vec<JobId> {
    let mut jobs = Vec::new();
    for name in ["known", "newer"] {
        let made = make::accepted(store, make::network(tenant, name, "10.0.0.0/24")).await;
        jobs.push(made.job.unwrap().id);
    }
    run(
        store,
        "UPDATE jobs SET action = 'transmute' WHERE id = $1",
        jobs[1],
    )
    .await;
    jobs
}

#[tokio::test]
async fn a_due_job_that_cant_be_read_is_put_off_and_the_others_go() {
    let store = common::store().await;
    let tenant = make::tenant(&store, "demo").await;
    let jobs = known_and_newer(&store, &tenant).await;
    let batch = store.dispatch_begin(LIMITS).await.unwrap().expect("due");
    assert_eq!(batch.jobs.iter().map(|j| j.id).collect::<Vec<_>>(), jobs[..1]);
    assert_eq!(batch.unread.iter().map(|u| u.job).collect::<Vec<_>>(), jobs[1..]);
    assert!(
        batch.unread[0].why.contains("transmute"),
        "{}",
        batch.unread[0].why
    );
    batch.commit(Vec::new()).await.unwrap();
    // It is still to be done, by whom that knows how.
    let due: DateTime<Utc> = sqlx::query_scalar("SELECT due FROM jobs WHERE id = $1 AND state = 'queued'")
        .bind(jobs[1].0)
        .fetch_one(store.pool())
        .await
        .unwrap();
    let now = store.now().await.unwrap();
    assert!(due > now && due < now + TimeDelta::minutes(1), "{due}, at {now}");
}

#[tokio::test]
async fn what_refers_to_something_of_a_later_version_is_put_off_with_it() {
    let store = common::store().await;
    let tenant = make::tenant(&store, "demo").await;
    make::accepted(&store, make::network(&tenant, "lan", "10.0.0.0/24")).await;
    make::accepted(&store, make::image(&tenant, "img")).await;
    sqlx::raw_sql(
        "UPDATE resources SET applied = spec;
         DELETE FROM job_resources;
         UPDATE jobs SET state = 'succeeded', due = NULL, ended_at = now()",
    )
    .execute(store.pool())
    .await
    .unwrap();
    let guest = make::accepted(&store, make::instance(&tenant, "guest", "img", "lan")).await;
    let other = make::accepted(&store, make::network(&tenant, "other", "10.0.0.0/24")).await;
    sqlx::raw_sql("UPDATE resources SET kind = 'hologram' WHERE name = 'img'")
        .execute(store.pool())
        .await
        .unwrap();
    let batch = store.dispatch_begin(LIMITS).await.unwrap().expect("due");
    let unread: Vec<JobId> = batch.unread.iter().map(|u| u.job).collect();
    assert_eq!(unread, [guest.job.unwrap().id]);
    let jobs: Vec<JobId> = batch.jobs.iter().map(|j| j.id).collect();
    assert_eq!(jobs, [other.job.unwrap().id]);
}

#[tokio::test]
async fn a_quiet_order_that_cant_be_read_hides_no_other() {
    let store = common::store().await;
    let tenant = make::tenant(&store, "demo").await;
    make::host(&store, "host-1", 8).await;
    let mut jobs = Vec::new();
    for name in ["known", "newer"] {
        let made = make::accepted(&store, make::image(&tenant, name)).await;
        let job = made.job.unwrap().id;
        run(
            &store,
            "UPDATE jobs SET state = 'running', due = NULL, host = 'host-1', fence = 1, epoch = 1, frozen = ARRAY['{}'],
                    dispatched_at = now() - interval '1 hour' WHERE id = $1",
            job,
        )
        .await;
        jobs.push(job);
    }
    run(
        &store,
        "UPDATE jobs SET action = 'transmute' WHERE id = $1",
        jobs[1],
    )
    .await;
    let page = store.orders_quiet(Utc::now(), Place::START, 100).await.unwrap();
    assert_eq!(page.orders.iter().map(|o| o.job).collect::<Vec<_>>(), jobs[..1]);
    assert_eq!(page.unread.iter().map(|u| u.job).collect::<Vec<_>>(), jobs[1..]);
}

#[tokio::test]
async fn a_kind_of_a_later_version_stands_in_nobodys_way() {
    let store = common::store().await;
    let tenant = make::tenant(&store, "demo").await;
    let image = make::accepted(&store, make::image(&tenant, "img")).await.resource;
    store
        .quotas_set(
            &tenant,
            &Limits::from([(Dimension::DiskGib, 4)]),
            &BTreeSet::new(),
        )
        .await
        .unwrap();
    sqlx::raw_sql(
        "INSERT INTO resources (id, tenant, kind, name, spec, applied, asked_disk_gib)
         VALUES ('00000000-0000-7000-8000-000000000001', 'demo', 'hologram', 'newer', '{}', '{}', 2);
         INSERT INTO resource_refs SELECT '00000000-0000-7000-8000-000000000001', id, '/image' FROM resources WHERE name = 'img';
         INSERT INTO usage_intervals VALUES ('00000000-0000-7000-8000-000000000001', 'demo', 'hologram', 0, 0, 2, now());
         INSERT INTO quotas VALUES ('demo', 'holograms', 7)",
    )
    .execute(store.pool())
    .await
    .unwrap();
    // It counts, in what this version knows of it.
    let shares = store.quotas_of(&tenant).await.unwrap();
    assert_eq!(shares, [(Dimension::DiskGib, Share { limit: 4, used: 3 })].into());
    let more = ["one", "two"].map(|name| make::image(&tenant, name));
    let answers = store.accept_creates(&more).await.unwrap();
    assert!(answers[0].is_ok(), "{:?}", answers[0]);
    assert!(
        matches!(answers[1], Err(Refusal::QuotaExceeded { .. })),
        "{:?}",
        answers[1]
    );
    // What it needs stays.
    let needs = store.dependants_of(image.id).await.unwrap();
    assert_eq!(
        needs.iter().map(|n| n.kind.as_str()).collect::<Vec<_>>(),
        ["hologram"]
    );
    let known = [
        image.id,
        ResourceId("00000000-0000-7000-8000-000000000001".parse().unwrap()),
    ];
    let readable = store.resources_readable(&known).await.unwrap();
    assert_eq!(readable.iter().map(|r| r.id).collect::<Vec<_>>(), known[..1]);
    // Nothing is said of it, whatever a host holds of it.
    let disk = |id| HeldObject {
        kind: ObjectKind::Disk,
        id,
        claims: BTreeSet::new(),
        runs: false,
        part: Part::Whole,
    };
    let inventory = |id| HostInventory {
        host: "host-1".into(),
        asked_at: Utc::now() + TimeDelta::hours(1),
        epoch: Epoch(0),
        objects: vec![disk(id)],
        fences: BTreeMap::new(),
        unfinished: Vec::new(),
    };
    make::host(&store, "host-1", 4).await;
    assert_eq!(store.check(&[inventory(known[1])]).await.unwrap(), []);
    let nobodys = store.check(&[inventory(ResourceId::new())]).await.unwrap();
    assert_eq!(nobodys.len(), 1, "{nobodys:?}");
}

#[tokio::test]
async fn a_job_that_cant_be_read_is_left_out_of_lists_and_says_so_alone() {
    let store = common::store().await;
    let tenant = make::tenant(&store, "demo").await;
    let jobs = known_and_newer(&store, &tenant).await;
    let page = Page {
        after: None,
        limit: 10,
    };
    for scope in [Scope::Tenant(tenant.clone()), Scope::Operator(None)] {
        let listed = store
            .job_list(&scope, &JobFilter::default(), &page)
            .await
            .unwrap();
        let ids: Vec<JobId> = listed.rows.iter().map(|row| row.id).collect();
        assert_eq!((ids.as_slice(), listed.next), (&jobs[..1], None), "{scope:?}");
        // Its resource is shown by what is done to it, and that isn't known.
        let networks = store
            .resource_list(&scope, Kind::Network, &ResourceFilter::default(), &page)
            .await
            .unwrap();
        assert_eq!(networks.rows.len(), 1, "{scope:?}");
        let alone = store.job_seen_by(&scope, jobs[1]).await;
        assert!(
            matches!(alone, Err(StoreError::LaterVersion { .. })),
            "{scope:?}: {alone:?}"
        );
    }
    let stranger = Scope::Tenant("other".into());
    assert!(store.job_seen_by(&stranger, jobs[1]).await.unwrap().is_none());
}

#[tokio::test]
async fn what_stands_in_for_a_kind_of_a_later_version_is_left_to_that() {
    let store = common::store().await;
    sqlx::raw_sql(
        r#"INSERT INTO resources (id, tenant, kind, name, spec, stand_in) VALUES
           ('00000000-0000-7000-8000-000000000001', 'system', 'hologram', 'newer', '{}', '{"host": "gone", "steps": []}'),
           ('00000000-0000-7000-8000-000000000002', 'system', 'instance', 'known', '{}', '{"host": "gone", "steps": []}')"#,
    )
    .execute(store.pool())
    .await
    .unwrap();
    assert_eq!(store.stand_ins_gone().await.unwrap().len(), 1);
    let left: Vec<String> = sqlx::query_scalar("SELECT name FROM resources")
        .fetch_all(store.pool())
        .await
        .unwrap();
    assert_eq!(left, ["newer"]);
}

#[tokio::test]
async fn changes_of_a_later_version_keep_their_place_and_hide_no_other() {
    let store = common::store().await;
    let whose = Whose::Tenant("demo".into());
    let from = store.changes_now().await.unwrap();
    let network = ResourceId::new();
    let entries = format!("disk {0} created\nnetwork {0} updated", network.0);
    sqlx::query("INSERT INTO changes (tenant, entries) VALUES ('demo', $1)")
        .bind(entries)
        .execute(store.pool())
        .await
        .unwrap();
    let row = loop {
        let page = store.changes_page(&whose, from, 10).await.unwrap().unwrap();
        if let Some(row) = page.rows.into_iter().next() {
            break row;
        }
        tokio::task::yield_now().await;
    };
    let known = (Thing::Resource(Kind::Network, network), What::Updated);
    assert_eq!(row.entries, [None, Some(known)]);
}
