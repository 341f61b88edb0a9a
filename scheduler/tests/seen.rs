//! What is seen of a guest: by the step that set its power, and by its host's agent. The later sight is shown, whichever is written first.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod support;

use chrono::{DateTime, TimeDelta, Utc};
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::job::Action;
use rhyzome_proto::event::{OutcomeKind, Report};
use rhyzome_store::dispatch::OrderRow;
use rhyzome_store::guests::GuestRow;
use serde_json::json;
use support::agent::report;
use support::furnished::{changed, furnished, instance, job, order_of, resource};
use support::walk::Walk;

/// So long ago, in ms: within what sights take to be told.
fn ago(ms: i64) -> DateTime<Utc> {
    Utc::now() - TimeDelta::milliseconds(ms)
}

/// The order succeeded; its last step ended then.
fn done(order: &OrderRow, ended_at: DateTime<Utc>) -> Report {
    let mut report = report(order, Some(OutcomeKind::Succeeded), false, None);
    report.steps.last_mut().unwrap().ended_at_ms = ended_at.timestamp_millis();
    report
}

async fn power(walk: &Walk, id: ResourceId) -> String {
    let seen = resource(walk, id).await.observed.unwrap();
    seen["power"].as_str().unwrap().to_owned()
}

/// The agent of its host says so.
async fn says(walk: &Walk, id: ResourceId, power: &str, at: DateTime<Utc>) {
    let host = resource(walk, id).await.host.unwrap();
    let observed = json!({ "power": power, "detail": "", "metrics": {} });
    let row = GuestRow {
        host,
        instance: id,
        observed,
        at,
    };
    walk.store.guests_observed(&[row]).await.unwrap();
}

/// An instance whose create is out.
async fn begun() -> (Walk, JobId, ResourceId, OrderRow) {
    let mut walk = furnished().await;
    let tenant = walk.tenants[0].clone();
    let create = instance(&walk, &tenant, "x").await;
    let order = order_of(&mut walk, create).await;
    let id = job(&walk, create).await.resource_id;
    (walk, create, id, order)
}

/// An instance that a create made, with its power set so long ago.
async fn made(ms: i64) -> (Walk, ResourceId) {
    let (mut walk, create, id, order) = begun().await;
    assert_eq!(walk.settle_one(create, &done(&order, ago(ms))).await, 1);
    assert_eq!(power(&walk, id).await, "on");
    (walk, id)
}

#[tokio::test]
async fn what_an_agent_saw_before_the_power_was_set_is_not_shown_after_it() {
    let (mut walk, create, id, order) = begun().await;
    let set = ago(800);
    let before = |ms| set - TimeDelta::milliseconds(ms);
    // An agent that starts again finds the guest defined, and off.
    says(&walk, id, "off", before(100)).await;
    assert_eq!(power(&walk, id).await, "off");
    assert_eq!(walk.settle_one(create, &done(&order, set)).await, 1);
    assert_eq!(power(&walk, id).await, "on");
    // The same, told late.
    says(&walk, id, "off", before(50)).await;
    assert_eq!(power(&walk, id).await, "on");
}

#[tokio::test]
async fn what_an_agent_saw_after_the_power_was_set_stands() {
    let (mut walk, create, id, order) = begun().await;
    let set = ago(800);
    says(&walk, id, "crashed", set + TimeDelta::milliseconds(300)).await;
    assert_eq!(walk.settle_one(create, &done(&order, set)).await, 1);
    assert_eq!(power(&walk, id).await, "crashed");
    // Seen before the job's end was written, told after it.
    let (walk, id) = made(800).await;
    says(&walk, id, "crashed", ago(700)).await;
    assert_eq!(power(&walk, id).await, "crashed");
}

#[tokio::test]
async fn a_change_that_leaves_the_power_says_nothing_of_it() {
    let (mut walk, id) = made(800).await;
    says(&walk, id, "crashed", ago(700)).await;
    let (update, order) = changed(&mut walk, id, Action::Update, 2).await;
    assert_eq!(walk.settle_one(update, &done(&order, ago(0))).await, 1);
    assert_eq!(power(&walk, id).await, "crashed");
    let (reboot, order) = changed(&mut walk, id, Action::Reboot, 2).await;
    assert_eq!(walk.settle_one(reboot, &done(&order, ago(0))).await, 1);
    assert_eq!(power(&walk, id).await, "on");
    let (stop, order) = changed(&mut walk, id, Action::Stop, 2).await;
    assert_eq!(walk.settle_one(stop, &done(&order, ago(0))).await, 1);
    assert_eq!(power(&walk, id).await, "off");
}

#[tokio::test]
async fn a_host_whose_clock_is_wrong_is_believed_all_the_same() {
    let hour = 3_600_000;
    for (set, seen) in [(800, hour), (-hour, 0), (-hour, -hour), (hour, hour)] {
        let (walk, id) = made(set).await;
        says(&walk, id, "crashed", ago(seen)).await;
        assert_eq!(
            power(&walk, id).await,
            "crashed",
            "set {set} ms ago, seen {seen} ms ago"
        );
        says(&walk, id, "on", ago(0)).await;
        assert_eq!(
            power(&walk, id).await,
            "on",
            "set {set} ms ago, seen {seen} ms ago"
        );
    }
}
