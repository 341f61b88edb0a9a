//! Hosts that nobody hears any more: their guests are read as unknown, and who watches is told of those that are shown otherwise, once,
//! and again when they are known.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::make::{self, WATCHER};
use rhyzome_model::ids::{HostName, ResourceId, TenantId};
use rhyzome_model::job::Action;
use rhyzome_model::kinds::Kind;
use rhyzome_store::Store;
use rhyzome_store::changes::Change;
use rhyzome_store::resources::{Page, ResourceFilter, Scope};
use rhyzome_store::unheard::{LEASES, Turned};
use rhyzome_store::watches::Watch;
use std::collections::BTreeMap;

const LEASE: f64 = 600.0;

async fn sql(store: &Store, text: &'static str) {
    sqlx::raw_sql(text).execute(store.pool()).await.unwrap();
}

/// A host that is heard, with instances at rest on it: three of `a`, and one of `b`.
async fn world() -> (Store, HostName) {
    let store = common::store().await;
    make::tenant(&store, "a").await;
    make::tenant(&store, "b").await;
    let host = make::host(&store, "host-1", 8).await;
    make::host(&store, "host-2", 8).await;
    store.watch_take(WATCHER, LEASE, 10).await.unwrap();
    sql(
        &store,
        "INSERT INTO resources (id, tenant, kind, name, spec, applied, observed, observed_at, host)
         SELECT gen_random_uuid(), CASE n WHEN 4 THEN 'b' ELSE 'a' END, 'instance', 'i' || n, '{}', '{\"power\": \"on\"}',
                CASE n WHEN 2 THEN NULL ELSE '{\"power\": \"on\"}'::jsonb END, now(), 'host-1' FROM generate_series(1, 4) n;
         INSERT INTO reservations (resource_id, host, vcpus, memory_mib, disk_gib) SELECT id, host, 1, 1, 1 FROM resources",
    )
    .await;
    (store, host)
}

/// As a host is of which nobody has heard since its last lease but two.
async fn falls_silent(store: &Store, host: &HostName) {
    assert_eq!(store.watch_set(WATCHER, host, Watch::Down).await.unwrap(), []);
    sql(
        store,
        "UPDATE hosts SET known_until = now() - interval '1 second' WHERE name = 'host-1'",
    )
    .await;
}

async fn read_as_unheard(store: &Store) -> Vec<String> {
    let mut names = Vec::new();
    for tenant in ["a", "b"] {
        let scope = Scope::Tenant(TenantId::from(tenant));
        let page = Page {
            after: None,
            limit: 5000,
        };
        let rows = store
            .resource_list(&scope, Kind::Instance, &ResourceFilter::default(), &page)
            .await
            .unwrap();
        for row in rows.rows {
            let one = store.resource_by_id(row.id).await.unwrap().unwrap();
            assert_eq!(one.unheard_since, row.unheard_since, "{}", row.name);
            if row.unheard_since.is_some() {
                names.push(row.name);
            }
        }
    }
    names.sort();
    names
}

/// Names of the instances that were told of, by tenant.
async fn told(store: &Store, changes: &[Change]) -> BTreeMap<String, Vec<String>> {
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for change in changes {
        let name = sqlx::query_scalar("SELECT name FROM resources WHERE id = $1")
            .bind(change.thing.id())
            .fetch_one(store.pool())
            .await
            .unwrap();
        told.entry(change.tenant.to_string()).or_default().push(name);
    }
    for names in told.values_mut() {
        names.sort();
    }
    told
}

fn of(tenants: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
    let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    tenants
        .iter()
        .map(|(t, names)| ((*t).to_owned(), owned(names)))
        .collect()
}

#[tokio::test]
async fn guests_of_a_host_that_falls_silent_are_told_once_and_again_when_it_is_heard() {
    let (store, host) = world().await;
    let all = of(&[("a", &["i1", "i2", "i3"]), ("b", &["i4"])]);
    assert_eq!(store.unheard_tell(Turned::Either, 10).await.unwrap(), []);
    // It broke off, and what is known counts still.
    store.watch_set(WATCHER, &host, Watch::Down).await.unwrap();
    assert_eq!(store.unheard_tell(Turned::Either, 10).await.unwrap(), []);
    assert_eq!(read_as_unheard(&store).await, [] as [&str; 0]);

    falls_silent(&store, &host).await;
    assert_eq!(read_as_unheard(&store).await, ["i1", "i2", "i3", "i4"]);
    assert_eq!(store.unheard_tell(Turned::Heard, 10).await.unwrap(), []);
    let changes = store.unheard_tell(Turned::Either, 10).await.unwrap();
    assert_eq!(told(&store, &changes).await, all);
    assert_eq!(
        make::count(&store, "SELECT count(*) FROM changes").await,
        2,
        "a row for each tenant"
    );
    assert_eq!(store.unheard_tell(Turned::Either, 10).await.unwrap(), []);

    let changes = store.watch_set(WATCHER, &host, Watch::Up).await.unwrap();
    assert_eq!(told(&store, &changes).await, all);
    assert_eq!(read_as_unheard(&store).await, [] as [&str; 0]);
    assert_eq!(store.watch_set(WATCHER, &host, Watch::Up).await.unwrap(), []);
    assert_eq!(store.unheard_tell(Turned::Either, 10).await.unwrap(), []);
    assert_eq!(make::count(&store, "SELECT count(*) FROM changes").await, 4);
}

#[tokio::test]
async fn what_was_read_as_unknown_is_told_when_it_is_known_though_nobody_told_that_it_was_not() {
    let (store, host) = world().await;
    falls_silent(&store, &host).await;
    let changes = store.watch_set(WATCHER, &host, Watch::Up).await.unwrap();
    assert_eq!(changes.len(), 4);
    // A scheduler of the version before hears it: it knows of no one to tell.
    falls_silent(&store, &host).await;
    assert_eq!(store.unheard_tell(Turned::Either, 10).await.unwrap().len(), 4);
    sql(&store, "UPDATE hosts SET watch_up = true").await;
    assert_eq!(read_as_unheard(&store).await, [] as [&str; 0]);
    assert_eq!(store.unheard_tell(Turned::Heard, 10).await.unwrap().len(), 4);
    assert_eq!(store.unheard_tell(Turned::Either, 10).await.unwrap(), []);
}

#[tokio::test]
async fn only_instances_that_are_shown_otherwise_are_told_of() {
    let (store, host) = world().await;
    sql(
        &store,
        "UPDATE resources SET applied = NULL WHERE name = 'i1';
         UPDATE resources SET deleting = true WHERE name = 'i2';
         UPDATE resources SET observed = '{\"power\": \"unknown\"}' WHERE name = 'i3';
         INSERT INTO resources (id, tenant, kind, name, spec, applied, host)
         SELECT gen_random_uuid(), 'a', k.kind, k.name, s.spec, s.spec, k.host
         FROM (VALUES ('network', 'net', 'host-1'), ('instance', 'elsewhere', 'host-2'), ('instance', 'changing', 'host-1')) k(kind, name, host),
              (SELECT '{\"vcpus\": 1, \"memory_mib\": 64, \"image\": \"x\", \"interfaces\": [{\"network\": \"n\"}]}'::jsonb) s(spec);
         INSERT INTO reservations (resource_id, host, vcpus, memory_mib, disk_gib)
         SELECT id, host, 1, 1, 1 FROM resources WHERE name IN ('net', 'elsewhere', 'changing')",
    )
    .await;
    let changing = sqlx::query_scalar("SELECT id FROM resources WHERE name = 'changing'")
        .fetch_one(store.pool())
        .await
        .unwrap();
    let before = store.resource_by_id(ResourceId(changing)).await.unwrap().unwrap();
    let change = make::change(&before, Action::Reboot, before.spec.clone());
    store.accept_change(&change).await.unwrap().unwrap();

    falls_silent(&store, &host).await;
    let changes = store.unheard_tell(Turned::Either, 10).await.unwrap();
    assert_eq!(told(&store, &changes).await, of(&[("b", &["i4"])]));
    let changes = store.watch_set(WATCHER, &host, Watch::Up).await.unwrap();
    assert_eq!(told(&store, &changes).await, of(&[("b", &["i4"])]));
}

#[tokio::test]
async fn many_guests_are_told_of_in_rows_that_are_bounded() {
    let (store, host) = world().await;
    sql(
        &store,
        "INSERT INTO resources (id, tenant, kind, name, spec, applied, host)
         SELECT gen_random_uuid(), 'a', 'instance', 'n' || n, '{}', '{}', 'host-1' FROM generate_series(1, 1100) n;
         INSERT INTO reservations (resource_id, host, vcpus, memory_mib, disk_gib)
         SELECT id, host, 1, 1, 1 FROM resources WHERE name LIKE 'n%'",
    )
    .await;
    falls_silent(&store, &host).await;
    assert_eq!(store.unheard_tell(Turned::Either, 10).await.unwrap().len(), 1104);
    let longest: i32 =
        sqlx::query_scalar("SELECT max(cardinality(string_to_array(entries, E'\\n'))) FROM changes")
            .fetch_one(store.pool())
            .await
            .unwrap();
    assert_eq!(longest, 500);
}

#[tokio::test]
async fn what_is_known_outlasts_the_lease_of_a_watch_that_another_takes() {
    let (store, _) = world().await;
    let left =
        "SELECT (extract(epoch FROM known_until - now()) * 1000)::bigint FROM hosts WHERE name = 'host-1'";
    let lease_ms = (LEASE * 1000.0) as i64;
    let kept = make::count(&store, left).await;
    assert!(
        kept > lease_ms * (LEASES as i64 - 1) && kept <= lease_ms * LEASES as i64,
        "{kept} ms"
    );
    // Its holder is dead, and its lease ran out: another takes it, and has not greeted the agent yet.
    sql(
        &store,
        "UPDATE hosts SET watch_until = now() - interval '1 second'",
    )
    .await;
    assert_eq!(store.watch_take("another", LEASE, 10).await.unwrap().len(), 2);
    let up = make::count(&store, "SELECT count(*) FROM hosts WHERE watch_up").await;
    assert_eq!((up, read_as_unheard(&store).await), (0, Vec::new()));
    // While it isn't heard, no renewal puts that off.
    sql(
        &store,
        "UPDATE hosts SET known_until = now() - interval '1 second'",
    )
    .await;
    store.watch_take("another", LEASE, 10).await.unwrap();
    assert_eq!(read_as_unheard(&store).await.len(), 4);
}
