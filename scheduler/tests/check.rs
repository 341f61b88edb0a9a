//! Each book is broken on purpose, and the check sees that and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod support;

use rhyzome_model::check::{Check, Source};
use rhyzome_model::ids::{JobId, TenantId};
use rhyzome_model::job::Action;
use rhyzome_model::kinds::Kind;
use rhyzome_store::Store;
use std::collections::BTreeSet;
use support::agent::Luck;
use support::common::make;
use support::walk::Walk;

const ONE: &str = "(SELECT id FROM resources WHERE name = 'one')";

/// A check, and how its book is broken.
const BREAKS: &[(Check, &str)] = &[
    (
        Check::ReservedSum,
        "UPDATE hosts SET used_disk_gib = used_disk_gib + 1 WHERE name = 'h1'",
    ),
    (
        Check::OrdersOut,
        "UPDATE hosts SET orders_out = orders_out + 1 WHERE name = 'h3'",
    ),
    (
        Check::OverOffered,
        "UPDATE hosts SET vcpus = used_vcpus - 1 WHERE used_vcpus > 0",
    ),
    (
        Check::ReservationMissing,
        "WITH v AS (DELETE FROM reservations WHERE resource_id = {one} RETURNING *)
         UPDATE hosts h SET used_vcpus = used_vcpus - v.vcpus, used_memory_mib = used_memory_mib - v.memory_mib,
                used_disk_gib = used_disk_gib - v.disk_gib FROM v WHERE h.name = v.host",
    ),
    (
        Check::ReservationStray,
        "INSERT INTO reservations SELECT id, 'h3', 0, 0, 0 FROM resources WHERE name = 'one'",
    ),
    (
        Check::SlotsCount,
        "UPDATE tenants SET running = running + 1 WHERE id = 'b'",
    ),
    (
        Check::SlotsCap,
        "ALTER TABLE tenants DROP CONSTRAINT tenants_check; UPDATE tenants SET running_cap = 1 WHERE id = 'a'",
    ),
    (
        Check::QuotaUse,
        "UPDATE resources SET asked_vcpus = asked_vcpus + 1 WHERE id = {one}",
    ),
    (
        Check::SlotWithoutOrder,
        "UPDATE jobs SET holds_slot = false WHERE resource_name = 'out'; UPDATE tenants SET running = running - 1 WHERE id = 'a'",
    ),
    (
        Check::LeaseOwner,
        "INSERT INTO leases SELECT network_id, '10.0.0.13', '02:00:00:00:00:99', NULL, instance_id, 7, true FROM leases
         WHERE instance_id = {one}",
    ),
    (Check::LeaseMissing, "DELETE FROM leases WHERE instance_id = {one}"),
    (
        Check::LeaseTwice,
        "ALTER TABLE leases DROP CONSTRAINT leases_mac;
         INSERT INTO leases SELECT network_id, '10.0.0.13', mac, NULL, NULL, 0, false FROM leases WHERE instance_id = {one}",
    ),
    (
        Check::LeaseAddress,
        "INSERT INTO leases SELECT network_id, '10.0.0.1', '02:00:00:00:00:99', NULL, NULL, 0, false FROM leases
         WHERE instance_id = {one}",
    ),
    (
        Check::Reference,
        "DELETE FROM resource_refs WHERE from_id = {one} AND pointer = '/image'",
    ),
    (
        Check::ReferenceForeign,
        "UPDATE resources SET tenant = 'b' WHERE name = 'img'",
    ),
    (
        Check::EndHolds,
        "UPDATE jobs SET dispatched_at = now() WHERE resource_name = 'one'",
    ),
    (
        Check::JobStuck,
        "UPDATE jobs SET state = 'queued' WHERE state = 'blocked'",
    ),
    (
        Check::JobLine,
        "INSERT INTO job_resources SELECT resource_id, seq, id FROM jobs WHERE resource_name = 'keyed'",
    ),
    (
        Check::JobTurn,
        "UPDATE job_resources SET active = false WHERE job_id = (SELECT id FROM jobs WHERE resource_name = 'out')",
    ),
    (
        Check::JobHost,
        "UPDATE hosts SET orders_out = orders_out - 1 WHERE name = (SELECT host FROM jobs WHERE resource_name = 'out');
         UPDATE hosts SET orders_out = orders_out + 1 WHERE name = 'h3'; UPDATE jobs SET host = 'h3' WHERE resource_name = 'out'",
    ),
    (
        Check::JobFence,
        "UPDATE resources SET fence = 0 WHERE name = 'one'",
    ),
    (
        Check::FenceAhead,
        "UPDATE hosts SET max_fence = 1000000 WHERE name = 'h3'",
    ),
    (
        Check::ReplyWithoutJob,
        "DELETE FROM jobs WHERE resource_name = 'keyed'",
    ),
    (
        Check::UsageOpen,
        "UPDATE usage_intervals SET closed_at = clock_timestamp() WHERE resource_id = {one}",
    ),
    (
        Check::UsageFigures,
        "UPDATE usage_intervals SET vcpus = 9 WHERE resource_id = {one}",
    ),
    (
        Check::UsageOverlap,
        "INSERT INTO usage_intervals SELECT resource_id, tenant, kind, vcpus, memory_mib, disk_gib, opened_at - interval '1 hour',
                opened_at + interval '1 minute' FROM usage_intervals WHERE resource_id = {one}",
    ),
    (Check::NetworkHome, "UPDATE network_homes SET host = 'h3'"),
    (
        Check::DeleteLost,
        "UPDATE resources SET deleting = true WHERE name = 'keyed'",
    ),
    (
        Check::DeleteLeft,
        "UPDATE jobs SET action = 'delete' WHERE resource_name = 'keyed'",
    ),
    (
        Check::DeleteNeeded,
        "UPDATE resources SET deleting = true WHERE name = 'late'; UPDATE jobs SET action = 'delete' WHERE resource_name = 'late'",
    ),
];

/// Something of each: made, deleted, out, blocked; on hosts other than `h3`.
async fn books() -> Store {
    let mut walk = Walk::new(1).await;
    let store = walk.store.clone();
    let a = TenantId::from("a");
    let offered = rhyzome_model::kinds::Demand::default();
    store
        .host_capacity(
            &"h3".into(),
            offered,
            &std::collections::BTreeMap::new(),
            &serde_json::json!({}),
        )
        .await
        .unwrap();
    let keyed = rhyzome_store::accept::CreateRequest {
        idempotency: make::key("k", 1),
        ..make::network(&a, "keyed", "10.1.0.0/28")
    };
    for request in [
        make::network(&a, "net", "10.0.0.0/28"),
        make::image(&a, "img"),
        keyed,
    ] {
        make::accepted(&store, request).await;
        run(&mut walk).await;
    }
    for name in ["one", "gone"] {
        make::accepted(&store, make::instance(&a, name, "img", "net")).await;
        run(&mut walk).await;
    }
    delete(&store, &a, "gone").await;
    run(&mut walk).await;
    make::accepted(&store, make::instance(&a, "out", "img", "net")).await;
    make::accepted(&store, make::image(&a, "late")).await;
    walk.dispatch().await;
    make::accepted(&store, make::instance(&a, "blocked", "late", "net")).await;
    store
}

async fn run(walk: &mut Walk) {
    walk.dispatch().await;
    walk.settle(Luck::Good).await;
}

async fn delete(store: &Store, tenant: &TenantId, name: &str) {
    let row = store
        .resource_find(tenant, Kind::Instance, name)
        .await
        .unwrap()
        .unwrap();
    store
        .accept_delete(
            tenant,
            Kind::Instance,
            row.id,
            None,
            JobId::new(),
            &[Action::Delete.as_str()],
            &make::origin(),
        )
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn books_that_hold_break_nothing() {
    let store = books().await;
    assert_eq!(store.check(&[]).await.unwrap(), []);
    for (count, what) in [
        (
            "SELECT count(*) FROM jobs WHERE dispatched_at IS NOT NULL",
            "orders are out",
        ),
        (
            "SELECT count(*) FROM jobs WHERE state = 'blocked'",
            "a job is blocked",
        ),
        (
            "SELECT count(*) FROM usage_intervals WHERE closed_at IS NOT NULL",
            "something is gone",
        ),
        (
            "SELECT count(*) FROM resources WHERE name = 'one' AND applied IS NOT NULL",
            "something is there",
        ),
        ("SELECT count(*) FROM idempotency", "a reply is kept"),
    ] {
        assert!(make::count(&store, count).await > 0, "{what}");
    }
}

#[tokio::test]
async fn each_broken_book_is_seen_and_nothing_else() {
    for (check, breaks) in BREAKS {
        let store = books().await;
        let statements = breaks.replace("{one}", ONE);
        sqlx::raw_sql(sqlx::AssertSqlSafe(statements))
            .execute(store.pool())
            .await
            .unwrap_or_else(|e| panic!("{check}: {e}"));
        let found = store.check(&[]).await.unwrap();
        let seen: BTreeSet<Check> = found.iter().map(|v| v.check).collect();
        assert_eq!(seen, BTreeSet::from([*check]), "{found:#?}");
        assert!(
            found.iter().all(|v| !v.ids.is_empty() && !v.found.is_empty()),
            "{found:#?}"
        );
    }
}

/// What only inventories show is tested on the comparison itself.
#[test]
fn every_check_of_postgres_alone_is_broken_here() {
    let broken: BTreeSet<Check> = BREAKS.iter().map(|b| b.0).collect();
    let by_postgres = |check: &Check| check.source() != Source::Inventory;
    let all: BTreeSet<Check> = Check::ALL.iter().copied().filter(by_postgres).collect();
    assert_eq!(broken, all);
}

/// A host that comes to offer less than is reserved is over with open eyes; what is reserved above that is not.
#[tokio::test]
async fn a_host_that_shrinks_was_judged_so() {
    let store = books().await;
    let host = store
        .host_list()
        .await
        .unwrap()
        .into_iter()
        .find(|h| h.used.vcpus > 0)
        .unwrap();
    let less = rhyzome_model::kinds::Demand {
        vcpus: host.used.vcpus - 1,
        ..host.offered
    };
    store
        .host_capacity(&host.name, less, &host.labels, &host.facts)
        .await
        .unwrap();
    assert_eq!(store.check(&[]).await.unwrap(), []);
    sqlx::query(
        "WITH v AS (UPDATE reservations SET vcpus = vcpus + 1 WHERE host = $1 AND vcpus > 0 RETURNING 1)
         UPDATE hosts SET used_vcpus = used_vcpus + (SELECT count(*) FROM v) WHERE name = $1",
    )
    .bind(host.name.as_str())
    .execute(store.pool())
    .await
    .unwrap();
    let found = store.check(&[]).await.unwrap();
    assert_eq!(
        found.iter().map(|v| v.check).collect::<Vec<_>>(),
        [Check::OverOffered]
    );
}

#[tokio::test]
async fn one_of_several_takes_the_check_when_it_is_time() {
    let store = support::common::store().await;
    assert!(store.check_take(3600.0, 60.0).await.unwrap().is_some());
    assert!(
        store.check_take(3600.0, 60.0).await.unwrap().is_none(),
        "it is taken"
    );
    let broken = rhyzome_model::check::Violation::of(Check::JobStuck, "x", "y");
    store.check_done(std::slice::from_ref(&broken)).await.unwrap();
    assert!(
        store.check_take(3600.0, 60.0).await.unwrap().is_none(),
        "it isn't time"
    );
    assert_eq!(
        store.check_last().await.unwrap().violations,
        std::slice::from_ref(&broken)
    );
    let last = store
        .check_take(0.0, 0.0)
        .await
        .unwrap()
        .expect("it is time again");
    assert_eq!(last.violations, [broken]);
    assert!(
        store.check_take(0.0, 60.0).await.unwrap().is_some(),
        "who took it is dead"
    );
}
