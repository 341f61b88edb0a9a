//! What counts against a tenant's quotas while jobs are open, and after them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod support;

use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::job::Action;
use rhyzome_model::quota::{Dimension, Limits};
use rhyzome_proto::event::OutcomeKind;
use rhyzome_store::accept::Refusal;
use std::collections::BTreeSet;
use support::agent::Luck;
use support::common::make;
use support::furnished::{changed, check, ends, furnished, instance, job, order_of, resource};
use support::walk::Walk;

const ENOUGH: i64 = 1000;

/// An instance of one processor, made.
async fn made() -> (Walk, ResourceId) {
    let mut walk = furnished().await;
    let tenant = walk.tenants[0].clone();
    limit(&walk, ENOUGH).await;
    let create = instance(&walk, &tenant, "x").await;
    walk.dispatch().await;
    walk.settle(Luck::Good).await;
    let id = job(&walk, create).await.resource_id;
    (walk, id)
}

async fn limit(walk: &Walk, vcpus: i64) {
    let limits = Limits::from([(Dimension::Vcpus, vcpus)]);
    walk.store
        .quotas_set(&walk.tenants[0], &limits, &BTreeSet::new())
        .await
        .unwrap();
}

async fn used(walk: &Walk) -> i64 {
    walk.store.quotas_of(&walk.tenants[0]).await.unwrap()[&Dimension::Vcpus].used
}

#[tokio::test]
async fn while_it_grows_the_larger_counts_and_while_it_shrinks_too() {
    let (mut walk, id) = made().await;
    assert_eq!(used(&walk).await, 1);
    let (grow, order) = changed(&mut walk, id, Action::Update, 5).await;
    assert_eq!(used(&walk).await, 5);
    check(&walk, "growing").await;
    ends(&mut walk, grow, &order, OutcomeKind::Succeeded).await;
    assert_eq!(used(&walk).await, 5);

    let (shrink, order) = changed(&mut walk, id, Action::Update, 2).await;
    assert_eq!(used(&walk).await, 5, "until it is smaller");
    check(&walk, "shrinking").await;
    ends(&mut walk, shrink, &order, OutcomeKind::Succeeded).await;
    assert_eq!(used(&walk).await, 2);
    check(&walk, "small").await;
}

#[tokio::test]
async fn what_failed_counts_as_it_is_wanted_or_as_it_is_whichever_is_more() {
    let (mut walk, id) = made().await;
    let (grow, order) = changed(&mut walk, id, Action::Update, 5).await;
    ends(&mut walk, grow, &order, OutcomeKind::Failed).await;
    assert_eq!(used(&walk).await, 5, "it is wanted still");
    check(&walk, "wanted").await;
    let (less, order) = changed(&mut walk, id, Action::Update, 2).await;
    assert_eq!(used(&walk).await, 2, "no job asks for five any more");
    ends(&mut walk, less, &order, OutcomeKind::Succeeded).await;
    let (least, order) = changed(&mut walk, id, Action::Update, 1).await;
    ends(&mut walk, least, &order, OutcomeKind::Failed).await;
    assert_eq!(used(&walk).await, 2, "it is as it was");
    check(&walk, "as it was").await;
}

#[tokio::test]
async fn what_waits_behind_another_job_counts_and_no_longer_when_it_is_cancelled() {
    let (mut walk, id) = made().await;
    let (stop, order) = changed(&mut walk, id, Action::Stop, 1).await;
    // Both wait behind it.
    for vcpus in [7, 3] {
        let before = resource(&walk, id).await;
        let mut spec = before.spec.clone();
        spec["vcpus"] = vcpus.into();
        let change = make::change(&before, Action::Update, spec);
        walk.store.accept_change(&change).await.unwrap().unwrap();
        assert_eq!(used(&walk).await, 7);
        let cancelled = walk
            .store
            .accept_cancel(&walk.tenants[0], change.job, None, &make::origin())
            .await;
        cancelled.unwrap().unwrap();
        check(&walk, "cancelled").await;
    }
    assert_eq!(used(&walk).await, 7, "a job is open");
    ends(&mut walk, stop, &order, OutcomeKind::Succeeded).await;
    assert_eq!(used(&walk).await, 3, "as it was asked for last");
    check(&walk, "stopped").await;
}

#[tokio::test]
async fn only_growth_is_refused_and_what_is_deleted_counts_until_it_is_gone() {
    let (mut walk, id) = made().await;
    limit(&walk, 0).await;
    let before = resource(&walk, id).await;
    let mut spec = before.spec.clone();
    spec["vcpus"] = 2.into();
    let grow = make::change(&before, Action::Update, spec);
    let refused = walk.store.accept_change(&grow).await.unwrap().unwrap_err();
    let Refusal::QuotaExceeded { over } = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(over[0].to_string(), "vcpus: 1 of 0 used, 1 more asked");
    let (stop, order) = changed(&mut walk, id, Action::Stop, 1).await;
    ends(&mut walk, stop, &order, OutcomeKind::Succeeded).await;

    let tenant = walk.tenants[0].clone();
    let delete = JobId::new();
    let steps = before
        .kind
        .ops()
        .step_names(Action::Delete, &before.spec, before.applied.as_ref())
        .unwrap();
    let accepted = walk
        .store
        .accept_delete(&tenant, before.kind, id, None, delete, &steps, &make::origin())
        .await;
    accepted.unwrap().unwrap();
    let order = order_of(&mut walk, delete).await;
    assert_eq!(used(&walk).await, 1);
    ends(&mut walk, delete, &order, OutcomeKind::Succeeded).await;
    assert_eq!(used(&walk).await, 0);
    check(&walk, "gone").await;
}
