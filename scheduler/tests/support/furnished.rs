//! Hosts with room, an image and a network, for the tests that begin with an instance.

use super::agent::{Luck, report};
use super::checks::check_within;
use super::common::make;
use super::walk::{LIMITS, Walk};
use rhyzome_model::ids::{HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::Action;
use rhyzome_model::kinds::Demand;
use rhyzome_model::problem::JobError;
use rhyzome_proto::event::OutcomeKind;
use rhyzome_store::dispatch::OrderRow;
use rhyzome_store::rows::{JobRow, ResourceRow};
use serde_json::json;

/// An image and a network of the first tenant, made.
pub async fn furnished() -> Walk {
    let mut walk = Walk::new(1).await;
    for host in walk.hosts.clone() {
        offer(&walk, &host, &[]).await;
    }
    let tenant = walk.tenants[0].clone();
    furnish(&mut walk, &tenant).await;
    walk
}

/// Room for all that a test makes.
pub async fn offer(walk: &Walk, host: &HostName, labels: &[(&str, &str)]) {
    let offered = Demand {
        vcpus: 2000,
        memory_mib: 2000 * 1024,
        disk_gib: 20_000,
    };
    let labels = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let written = walk.store.host_capacity(host, offered, &labels, &json!({})).await;
    written.unwrap();
}

pub async fn furnish(walk: &mut Walk, tenant: &TenantId) {
    make::accepted(&walk.store, make::image(tenant, "image")).await;
    make::accepted(&walk.store, make::network(tenant, "net", "10.0.0.0/16")).await;
    walk.dispatch().await;
    walk.settle(Luck::Good).await;
}

pub async fn instance(walk: &Walk, tenant: &TenantId, name: &str) -> JobId {
    let accepted = make::accepted(&walk.store, make::instance(tenant, name, "image", "net")).await;
    accepted.job.unwrap().id
}

pub async fn job(walk: &Walk, id: JobId) -> JobRow {
    walk.store.job_get(id).await.unwrap().unwrap()
}

pub async fn order_of(walk: &mut Walk, id: JobId) -> OrderRow {
    walk.dispatch().await;
    let order = walk.out.iter().find(|o| o.job == id).cloned();
    order.expect("an order of the job")
}

pub async fn resource(walk: &Walk, id: ResourceId) -> ResourceRow {
    walk.store.resource_by_id(id).await.unwrap().unwrap()
}

/// An update to so many processors, or an action: its job, and the order of it.
pub async fn changed(walk: &mut Walk, id: ResourceId, action: Action, vcpus: i64) -> (JobId, OrderRow) {
    let before = resource(walk, id).await;
    let mut spec = before.kind.ops().apply_action(&before.spec, action).unwrap();
    spec["vcpus"] = vcpus.into();
    let change = make::change(&before, action, spec);
    let job = change.job;
    walk.store.accept_change(&change).await.unwrap().unwrap();
    let order = order_of(walk, job).await;
    (job, order)
}

/// The books hold, and no tenant runs more than it may.
pub async fn check(walk: &Walk, what: &str) {
    check_within(&walk.store, LIMITS.tenant_cap.into(), what).await;
}

/// An order ends so; that settles its job.
pub async fn ends(walk: &mut Walk, job: JobId, order: &OrderRow, kind: OutcomeKind) {
    let error = JobError::new("BAD_LUCK", "It went wrong");
    let failed = kind != OutcomeKind::Succeeded;
    let report = report(order, Some(kind), failed, failed.then_some(&error));
    assert_eq!(walk.settle_one(job, &report).await, 1);
}
