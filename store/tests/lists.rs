//! A page of a list reads about what it answers, however much there is and was: on a database with 30,000 jobs, most of which have ended,
//! and 22,000 resources.
//!
//! As in `path.rs` the server's own counters tell what the very statements read, with plans that were made at each moment that matters.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::make;
use common::reads::{ours, read_of};
use rhyzome_model::ids::{ResourceId, TenantId};
use rhyzome_model::job::JobState;
use rhyzome_model::kinds::Kind;
use rhyzome_store::Store;
use rhyzome_store::jobs::JobFilter;
use rhyzome_store::resources::{Page, ResourceFilter, Scope};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Jobs of the tenant `demo` in each state; the first ones have ended, and those of a state are together.
const JOBS: [(&str, i64); 7] = [
    ("succeeded", 20_000),
    ("failed", 2_000),
    ("cancelled", 1_000),
    ("running", 1_000),
    ("undoing", 1_000),
    ("blocked", 1_000),
    ("queued", 2_000),
];
/// Jobs of another tenant, all of them on [`TARGET`].
const OTHERS: i64 = 2_000;
const INSTANCES: i64 = 20_000;
const NETWORKS: i64 = 2_000;
const TARGET: &str = "00000000-0000-7000-8000-00000000ffff";
const PAGE: i64 = 50;
/// Rows of one table: a page of each state at most, or what is looked at for one, and what is listed again to be shown.
const READ_MOST: i64 = 1_100;
const TABLES: [&str; 4] = ["jobs", "job_resources", "resources", "tenants"];

async fn run(store: &Store, sql: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(store.pool())
        .await
        .unwrap();
}

async fn empty() -> Store {
    let store = common::store().await;
    for tenant in ["demo", "other"] {
        make::tenant(&store, tenant).await;
    }
    for table in TABLES {
        run(
            &store,
            &format!("ALTER TABLE {table} SET (autovacuum_enabled = off)"),
        )
        .await;
    }
    store
}

/// A part of all, behind what is there. Ids and times rise together.
async fn fill(store: &Store, part: i64) {
    let jobs = JOBS.map(|(state, count)| ("demo", state, count, "gen_random_uuid()".to_owned()));
    let others = ("other", "succeeded", OTHERS, format!("'{TARGET}'::uuid"));
    for (tenant, state, count, resource) in jobs.into_iter().chain([others]) {
        run(
            store,
            &format!(
                "WITH j AS (
                     INSERT INTO jobs (id, tenant, kind, action, resource_id, resource_name, generation, spec, state, host, first_fence,
                                       fence, epoch, dispatched_at, due, ended_at, created_at, actor, trace_id, traceparent)
                     SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, '{tenant}', 'instance', 'create', {resource},
                            'x', 1, '{{}}', '{state}', CASE WHEN '{state}' IN ('running', 'undoing') THEN 'host-1' END, 1, 1, 1,
                            CASE WHEN '{state}' IN ('running', 'undoing') THEN now() END, CASE WHEN '{state}' = 'queued' THEN now() END,
                            CASE WHEN '{state}' IN ('succeeded', 'failed', 'cancelled') THEN now() END,
                            '2026-01-01'::timestamptz + n * interval '1 ms', 'tester', repeat('0', 32), '00-0-0-01'
                     FROM (SELECT nextval('job_seq') AS n FROM generate_series(1, {count} / {part})) s
                     RETURNING id, resource_id, seq, ended_at
                 )
                 INSERT INTO job_resources (resource_id, seq, job_id) SELECT resource_id, seq, id FROM j WHERE ended_at IS NULL"
            ),
        )
        .await;
    }
    for (tenant, kind, count, public) in [
        ("demo", "instance", INSTANCES, false),
        ("demo", "network", NETWORKS, false),
        ("system", "image", 10 * part, true),
    ] {
        run(
            store,
            &format!(
                "INSERT INTO resources (id, tenant, kind, name, spec, applied, public, tags, created_at)
                 SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, '{tenant}', '{kind}', '{kind}-' || n, '{{}}', '{{}}',
                        {public}, CASE WHEN n % 100 = 0 THEN '{{\"env\": \"prod\"}}' ELSE '{{}}' END::jsonb,
                        '2026-01-01'::timestamptz + n * interval '1 ms'
                 FROM (SELECT nextval('job_seq') AS n FROM generate_series(1, {count} / {part})) s"
            ),
        )
        .await;
    }
}

fn scopes() -> [Scope; 3] {
    [
        Scope::Tenant(TenantId::from("demo")),
        Scope::Operator(Some(TenantId::from("demo"))),
        Scope::Operator(None),
    ]
}

/// Every list of jobs that can be asked for.
fn of_jobs() -> Vec<(Scope, JobFilter)> {
    let shown = JobState::ALL.iter().copied().filter(|s| s.shown() == *s);
    let states: Vec<Option<JobState>> = [None].into_iter().chain(shown.map(Some)).collect();
    let target = Some(ResourceId(TARGET.parse().unwrap()));
    let mut all = Vec::new();
    for scope in scopes() {
        for state in states.iter().copied() {
            all.push((scope.clone(), JobFilter { target: None, state }));
        }
    }
    for scope in [Scope::Tenant(TenantId::from("other")), Scope::Operator(None)] {
        for state in [None, Some(JobState::Failed)] {
            all.push((scope.clone(), JobFilter { target, state }));
        }
    }
    all
}

/// Every list of resources.
fn of_resources() -> Vec<(Scope, Kind, ResourceFilter)> {
    let tags = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
    let filters = [
        ResourceFilter::default(),
        ResourceFilter { name: None, tags },
        ResourceFilter {
            name: Some("instance-40000".to_owned()),
            tags: BTreeMap::new(),
        },
    ];
    let mut all = Vec::new();
    for scope in scopes() {
        for kind in [Kind::Instance, Kind::Network, Kind::Image] {
            for filter in &filters {
                all.push((scope.clone(), kind, filter.clone()));
            }
        }
    }
    all
}

/// What a call read must be about a page.
macro_rules! within {
    ($store:expr, $what:expr, $call:expr) => {{
        let mut before = Vec::new();
        for table in TABLES {
            before.push(read_of($store, table).await);
        }
        let got = $call.await.unwrap();
        for (table, before) in TABLES.iter().zip(before) {
            let after = read_of($store, table).await;
            let (by_index, by_scan) = (after.0 - before.0, after.1 - before.1);
            assert!(by_index <= READ_MOST, "{} read {by_index} rows of {table}", $what);
            assert_eq!(by_scan, 0, "{} scanned {table}", $what);
        }
        got
    }};
}

async fn pages_read_little(store: &Store) {
    // The first page, and one far behind it.
    let far = Some((
        "2026-01-01T00:00:19Z".parse().unwrap(),
        "00000000-0000-7000-8000-000000004a38".parse().unwrap(),
    ));
    for after in [None, far] {
        let page = Page { after, limit: PAGE };
        for (scope, filter) in of_jobs() {
            let what = format!("{scope:?} {filter:?} after {after:?}");
            within!(store, what, store.job_list(&scope, &filter, &page));
        }
        for (scope, kind, filter) in of_resources() {
            let what = format!("{scope:?} {kind} {filter:?} after {after:?}");
            within!(store, what, store.resource_list(&scope, kind, &filter, &page));
        }
    }
}

/// Has every statement's plan made.
async fn plan(store: &Store) {
    let page = Page {
        after: None,
        limit: PAGE,
    };
    for (scope, filter) in of_jobs() {
        store.job_list(&scope, &filter, &page).await.unwrap();
    }
    for (scope, kind, filter) in of_resources() {
        store.resource_list(&scope, kind, &filter, &page).await.unwrap();
    }
    // What is listed is read by its id; with nothing there nothing was.
    store.jobs_readable(&[]).await.unwrap();
    store.resources_readable(&[]).await.unwrap();
}

#[tokio::test]
async fn with_plans_that_were_made_when_there_was_nothing() {
    let store = ours(&empty().await).await;
    plan(&store).await;
    fill(&store, 1).await;
    pages_read_little(&store).await;
}

#[tokio::test]
async fn with_plans_that_were_made_when_there_was_one_of_each() {
    let store = empty().await;
    fill(&store, 1_000).await;
    run(&store, "VACUUM ANALYZE").await;
    let store = ours(&store).await;
    plan(&store).await;
    fill(&store, 1).await;
    pages_read_little(&store).await;
}

#[tokio::test]
async fn with_plans_that_were_made_before_anybody_counted() {
    let store = empty().await;
    fill(&store, 1).await;
    pages_read_little(&ours(&store).await).await;
}

#[tokio::test]
async fn with_plans_by_statistics() {
    let store = empty().await;
    fill(&store, 1).await;
    run(&store, "VACUUM ANALYZE").await;
    pages_read_little(&ours(&store).await).await;
}

async fn ids(store: &Store, sql: String) -> Vec<Uuid> {
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .fetch_all(store.pool())
        .await
        .unwrap()
}

/// Takes a list's pages to its end.
macro_rules! all_pages {
    (|$page:ident| $call:expr) => {{
        let (mut all, mut after) = (Vec::<Uuid>::new(), None);
        loop {
            let $page = Page {
                after,
                limit: PAGE - 1,
            };
            let got = $call.await.unwrap();
            assert!(got.rows.len() as i64 <= $page.limit);
            all.extend(got.rows.iter().map(|row| row.id.0));
            after = got.next;
            if after.is_none() {
                break all;
            }
        }
    }};
}

#[tokio::test]
async fn the_pages_together_are_all_that_was_asked_for() {
    let store = ours(&empty().await).await;
    fill(&store, 20).await;
    fill(&store, 40).await;
    let of_tenant = |scope: &Scope| match scope {
        Scope::Tenant(tenant) | Scope::Operator(Some(tenant)) => format!("tenant = '{tenant}'"),
        Scope::Operator(None) => "true".to_owned(),
    };
    let mut listed = 0;
    for (scope, filter) in of_jobs() {
        let target = filter.target.map(|t| format!(" AND resource_id = '{t}'"));
        let state = filter
            .state
            .map(|s| format!(" AND replace(state, 'blocked', 'queued') = '{s}'"));
        let (target, state) = (target.unwrap_or_default(), state.unwrap_or_default());
        let sql = format!(
            "SELECT id FROM jobs WHERE {}{target}{state} ORDER BY id",
            of_tenant(&scope)
        );
        let got = all_pages!(|page| store.job_list(&scope, &filter, &page));
        assert_eq!(got, ids(&store, sql).await, "{scope:?} {filter:?}");
        listed += got.len();
    }
    for (scope, kind, mut filter) in of_resources() {
        let number = match kind {
            Kind::Instance => 1_600,
            Kind::Network => 2_550,
            Kind::Image => 2_605,
        };
        filter.name = filter.name.and(Some(format!("{kind}-{number}")));
        let public = if matches!(scope, Scope::Tenant(_)) {
            "public"
        } else {
            "false"
        };
        let name = filter.name.as_ref().map(|name| format!(" AND name = '{name}'"));
        let tags = serde_json::to_string(&filter.tags).unwrap();
        let sql = format!(
            "SELECT id FROM resources WHERE ({} OR {public}) AND kind = '{kind}' AND tags @> '{tags}'{} ORDER BY id",
            of_tenant(&scope),
            name.unwrap_or_default()
        );
        let got = all_pages!(|page| store.resource_list(&scope, kind, &filter, &page));
        assert_eq!(got, ids(&store, sql).await, "{scope:?} {kind} {filter:?}");
        listed += got.len();
    }
    assert!(listed > 10_000, "{listed}");
}
