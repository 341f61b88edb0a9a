//! Turns: among tenants under load, at their caps, and where hosts have room for few orders (invariant 12).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod support;

use rhyzome_model::ids::{HostName, JobId, TenantId};
use rhyzome_model::job::{Action, JobState};
use rhyzome_model::kinds::Kind;
use rhyzome_proto::event::OutcomeKind;
use rhyzome_store::dispatch::{DispatchLimits, OrderRow};
use rhyzome_store::sweep::Place;
use serde_json::json;
use std::collections::BTreeMap;
use support::agent::report;
use support::checks::check_within;
use support::common::make;
use support::furnished::{furnish, furnished, instance, job, offer, resource};
use support::walk::{LIMITS, Walk};

async fn number(walk: &Walk, query: &'static str) -> i64 {
    make::count(&walk.store, query).await
}

fn by_tenant(orders: &[OrderRow]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for order in orders {
        *counts.entry(order.tenant.to_string()).or_default() += 1;
    }
    counts
}

/// Room for thousands, in three tenants that each have an image and a network.
async fn wide() -> Walk {
    let mut walk = Walk::new(1).await;
    for n in 0..8 {
        let name = format!("big{n}");
        walk.hosts.push(make::host(&walk.store, &name, 1).await);
    }
    for host in walk.hosts.clone() {
        offer(&walk, &host, &[]).await;
    }
    walk.tenants.push(make::tenant(&walk.store, "c").await);
    for tenant in walk.tenants.clone() {
        furnish(&mut walk, &tenant).await;
        for n in 0..8 {
            let network = make::network(&tenant, &format!("net{n}"), "10.0.0.0/16");
            make::accepted(&walk.store, network).await;
        }
    }
    // A network needs no order, but a turn: the walk's cap lets four of a tenant be looked at at a time.
    while number(&walk, "SELECT count(*) FROM jobs WHERE ended_at IS NULL").await > 0 {
        walk.dispatch().await;
    }
    walk
}

async fn instances(walk: &Walk, tenant: &TenantId, count: usize) {
    let requests: Vec<_> = (0..count)
        .map(|n| make::instance(tenant, &format!("x{n}"), "image", &format!("net{}", n % 8)))
        .collect();
    for chunk in requests.chunks(200) {
        for answer in walk.store.accept_creates(chunk).await.unwrap() {
            answer.unwrap();
        }
    }
}

#[tokio::test]
async fn one_create_beside_two_thousand_is_in_the_next_batch() {
    let mut walk = wide().await;
    let (many, one) = (walk.tenants[0].clone(), walk.tenants[1].clone());
    instances(&walk, &many, 2000).await;
    instances(&walk, &one, 1).await;
    let limits = DispatchLimits {
        batch: 200,
        tenant_cap: 64,
        host_cap: 64,
    };
    let orders = walk.dispatch_within(limits).await;
    let counts = by_tenant(&orders);
    assert_eq!(counts.get(one.as_str()), Some(&1), "{counts:?}");
    assert_eq!(
        counts.get(many.as_str()),
        Some(&64),
        "as many as it may: {counts:?}"
    );
    check_within(&walk.store, limits.tenant_cap.into(), "at the cap").await;
}

#[tokio::test]
async fn tenants_at_their_caps_get_a_turn_for_each_that_ends() {
    let mut walk = wide().await;
    for tenant in walk.tenants.clone() {
        instances(&walk, &tenant, 100).await;
    }
    let limits = DispatchLimits {
        batch: 60,
        tenant_cap: 16,
        host_cap: 64,
    };
    let counts = by_tenant(&walk.dispatch_within(limits).await);
    assert_eq!(counts.values().collect::<Vec<_>>(), [&16, &16, &16], "{counts:?}");
    assert!(
        walk.dispatch_within(limits).await.is_empty(),
        "all are at their caps"
    );
    // Two of the first and five of the last end: so many follow of each, and none of the second.
    let ending: Vec<OrderRow> = [("a", 2), ("c", 5)]
        .into_iter()
        .flat_map(|(tenant, n)| {
            walk.out
                .iter()
                .filter(move |o| o.tenant.as_str() == tenant)
                .take(n)
        })
        .cloned()
        .collect();
    for order in ending {
        let done = report(&order, Some(OutcomeKind::Succeeded), false, None);
        assert_eq!(walk.settle_one(order.job, &done).await, 1);
    }
    let counts = by_tenant(&walk.dispatch_within(limits).await);
    assert_eq!(counts, BTreeMap::from([("a".to_owned(), 2), ("c".to_owned(), 5)]));
    check_within(&walk.store, limits.tenant_cap.into(), "at the caps").await;
}

#[tokio::test]
async fn what_waits_for_a_full_host_takes_no_turn() {
    let mut walk = wide().await;
    let tenant = walk.tenants[0].clone();
    // A network lives on one host: all of these go there, and it may have eight orders out.
    let limits = DispatchLimits {
        batch: 40,
        tenant_cap: 32,
        host_cap: 8,
    };
    let first = make::instance(&tenant, "first", "image", "net0");
    make::accepted(&walk.store, first).await;
    assert_eq!(walk.dispatch_within(limits).await.len(), 1);
    let home = walk.out.last().unwrap().host.clone();
    let requests: Vec<_> = (0..300)
        .map(|n| make::instance(&tenant, &format!("x{n}"), "image", "net0"))
        .collect();
    for answer in walk.store.accept_creates(&requests).await.unwrap() {
        answer.unwrap();
    }
    let other = walk.hosts.iter().find(|h| **h != home).unwrap().clone();
    offer(&walk, &other, &[("side", "other")]).await;
    let spec = json!({
        "vcpus": 1, "memory_mib": 512, "image": "image", "interfaces": [{ "network": "net1" }],
        "placement": { "host_labels": { "side": "other" } }
    });
    let elsewhere = make::accepted(&walk.store, make::create(&tenant, Kind::Instance, "y", &spec)).await;
    let elsewhere = elsewhere.job.unwrap().id;
    let mut rounds = 0;
    let mut there = 1;
    loop {
        rounds += 1;
        let orders = walk.dispatch_within(limits).await;
        there += orders.iter().filter(|o| o.host == home).count();
        assert!(there <= 8, "more orders out than the host may have");
        if orders.iter().any(|o| o.job == elsewhere) {
            break;
        }
        assert!(rounds < 3, "the one for another host is still not dispatched");
    }
    assert_eq!(there, 8);
    check_within(&walk.store, limits.tenant_cap.into(), "a full host").await;
}

/// Instances that can go to hosts of one side only.
async fn on_one_side(walk: &Walk, tenant: &TenantId, names: &str, count: usize) -> Vec<JobId> {
    let spec = json!({
        "vcpus": 1, "memory_mib": 512, "image": "image", "interfaces": [{ "network": "net" }],
        "placement": { "host_labels": { "side": "one" } }
    });
    let requests: Vec<_> = (0..count)
        .map(|n| make::create(tenant, Kind::Instance, &format!("{names}{n}"), &spec))
        .collect();
    let answers = walk.store.accept_creates(&requests).await.unwrap();
    answers
        .into_iter()
        .map(|answer| answer.unwrap().accepted.job.unwrap().id)
        .collect()
}

async fn ends(walk: &mut Walk, order: &OrderRow) {
    let done = report(order, Some(OutcomeKind::Succeeded), false, None);
    assert_eq!(walk.settle_one(order.job, &done).await, 1);
}

#[tokio::test]
async fn a_host_with_room_for_few_orders_is_shared_by_who_waits_for_it() {
    let mut walk = wide().await;
    let (many, few) = (walk.tenants[0].clone(), walk.tenants[1].clone());
    let host: HostName = walk.hosts.last().unwrap().clone();
    offer(&walk, &host, &[("side", "one")]).await;
    let limits = DispatchLimits {
        batch: 40,
        tenant_cap: 32,
        host_cap: 4,
    };
    on_one_side(&walk, &many, "m", 60).await;
    let mut out: Vec<OrderRow> = Vec::new();
    while out.len() < 4 {
        out.extend(walk.dispatch_within(limits).await);
    }
    // Who comes later, with nothing running, has the next places.
    let later = on_one_side(&walk, &few, "f", 2).await;
    for n in 0..2 {
        ends(&mut walk, &out.remove(0)).await;
        // What found the host full is looked at again a moment later.
        walk.time_passes().await;
        let next = walk.dispatch_within(limits).await;
        let tenants: Vec<&TenantId> = next.iter().map(|o| &o.tenant).collect();
        assert_eq!(tenants, [&few], "after {} ends", n + 1);
        out.extend(next);
    }
    for id in later {
        assert_eq!(job(&walk, id).await.state, JobState::Running);
    }
    // And then it is the other's turn again.
    ends(&mut walk, &out.remove(0)).await;
    walk.time_passes().await;
    let next = walk.dispatch_within(limits).await;
    assert_eq!(by_tenant(&next), BTreeMap::from([(many.to_string(), 1)]));
    check_within(&walk.store, limits.tenant_cap.into(), "a shared host").await;
}

#[tokio::test]
async fn what_is_too_late_needs_no_turn_to_end() {
    let mut walk = furnished().await;
    let tenant = walk.tenants[0].clone();
    let limits = DispatchLimits {
        batch: 40,
        tenant_cap: 1,
        host_cap: 8,
    };
    instance(&walk, &tenant, "first").await;
    assert_eq!(walk.dispatch_within(limits).await.len(), 1);
    let late = instance(&walk, &tenant, "late").await;
    assert!(
        walk.dispatch_within(limits).await.is_empty(),
        "the tenant is at its cap"
    );
    sqlx::query("UPDATE jobs SET deadline_at = now() WHERE id = $1")
        .bind(late.0)
        .execute(walk.store.pool())
        .await
        .unwrap();
    walk.store.deadlines_pass(Place::START, 10).await.unwrap();
    assert!(walk.dispatch_within(limits).await.is_empty());
    let row = job(&walk, late).await;
    let error = row.error.unwrap();
    assert_eq!(
        (row.state, error.code.as_str(), error.detail.as_str()),
        (
            JobState::Failed,
            "DEADLINE_EXCEEDED",
            "It was not done before its deadline. It waited: Other jobs came first."
        )
    );
    check_within(&walk.store, limits.tenant_cap.into(), "too late").await;
}

#[tokio::test]
async fn what_is_too_late_says_what_it_stood_behind() {
    let mut walk = furnished().await;
    let tenant = walk.tenants[0].clone();
    let create = instance(&walk, &tenant, "first").await;
    assert_eq!(walk.dispatch_within(LIMITS).await.len(), 1);
    let before = resource(&walk, job(&walk, create).await.resource_id).await;
    let stop = make::change(&before, Action::Stop, before.spec.clone());
    walk.store.accept_change(&stop).await.unwrap().unwrap();
    sqlx::query("UPDATE jobs SET deadline_at = now() WHERE id = $1")
        .bind(stop.job.0)
        .execute(walk.store.pool())
        .await
        .unwrap();
    walk.store.deadlines_pass(Place::START, 10).await.unwrap();
    assert!(walk.dispatch_within(LIMITS).await.is_empty());
    let error = job(&walk, stop.job).await.error.unwrap();
    assert_eq!(
        error.detail,
        "It was not done before its deadline. It waited: It comes after an earlier job on the same resource."
    );
}

#[tokio::test]
async fn a_batch_tells_whether_those_who_take_no_turn_may_stand_before_others() {
    let mut walk = furnished().await;
    let tenant = walk.tenants[0].clone();
    for n in 0..5 {
        make::accepted(
            &walk.store,
            make::network(&tenant, &format!("net{n}"), "10.0.0.0/16"),
        )
        .await;
    }
    let of_cap = |tenant_cap| DispatchLimits { tenant_cap, ..LIMITS };
    for (cap, jobs, crowded) in [(4, 4, true), (5, 5, true), (6, 5, false)] {
        let batch = walk.store.dispatch_begin(of_cap(cap)).await.unwrap().unwrap();
        assert_eq!(
            (batch.jobs.len(), batch.crowded, batch.more),
            (jobs, crowded, false),
            "{cap}"
        );
        // A transaction that is dropped gives its locks back some time later.
        batch.commit(Vec::new()).await.unwrap();
    }
    // What runs leaves fewer turns.
    let running = instance(&walk, &tenant, "x").await;
    let waits = "UPDATE jobs SET due = due + interval '1 hour' WHERE kind = 'network' AND ended_at IS NULL";
    sqlx::query(waits).execute(walk.store.pool()).await.unwrap();
    assert_eq!(walk.dispatch_within(LIMITS).await.len(), 1, "{running}");
    let again = "UPDATE jobs SET due = due - interval '1 hour' WHERE kind = 'network' AND ended_at IS NULL";
    sqlx::query(again).execute(walk.store.pool()).await.unwrap();
    let batch = walk.store.dispatch_begin(of_cap(6)).await.unwrap().unwrap();
    assert_eq!((batch.jobs.len(), batch.crowded), (5, true));
}
