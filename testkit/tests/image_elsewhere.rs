//! An image that a further host can't have: the instance goes to another host, and says what it waits for where there is none.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::agents::{Agent, AgentSize};
use rhyzome_testkit::faults::{Fault, FaultError};
use rhyzome_testkit::rest::{small_instance_on, unique};
use rhyzome_testkit::{Stack, eventually};
use serde_json::{Value, json};

/// Hosts that are up, with these faults in force.
async fn hosts_with(stack: &Stack, name: &str, hosts: u32, faults: &[Fault]) -> Agent {
    let agent = Agent::start(stack, name, hosts, AgentSize::default());
    agent.faults().set(faults);
    let told = &agent;
    eventually("the faults to be in force", || async move {
        told.log().contains("faults in force").then_some(())
    })
    .await;
    let operator = &stack.operator();
    for host in agent.hosts() {
        let path = &format!("/v1/hosts/{host}");
        eventually(&format!("{host} to be up"), || async move {
            (operator.get(path).await.body["state"] == "up").then_some(())
        })
        .await;
    }
    agent
}

fn counted(job: &Value, reason: &str) -> i64 {
    job["waiting_on"]["hosts"]["excluded"][reason]
        .as_i64()
        .unwrap_or_default()
}

/// Alone, a host that doesn't get the image leaves the job waiting, with the host counted under `image` and nothing of it there; a
/// second host takes it.
async fn goes_to_the_host_that_gets_it(error: FaultError) {
    let stack = Stack::shared_for_hosts();
    let name = unique("image");
    let bad = hosts_with(&stack, &name, 1, &[Fault::at("ensure_image").error(error)]).await;
    let bad_host = bad.hosts()[0].clone();
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    let accepted = rest
        .create(
            "instances",
            &unique("guest"),
            small_instance_on(&network, bad.label()),
        )
        .await;
    let job = rest
        .job_until(
            &accepted.job,
            "the job to end, or to wait for a host that gets the image",
            |job| job["done"] == true || counted(job, "image") == 1,
        )
        .await;
    assert_eq!(
        (&job["state"], &job["waiting_on"]["reason"]),
        (&json!("queued"), &json!("capacity")),
        "{job:#}"
    );
    assert_eq!(
        counted(&job, "refused"),
        0,
        "a host is counted once, under `image`: {job:#}"
    );
    assert!(
        stack.inventory(&bad_host).traces_of(&accepted.id).is_empty(),
        "while it waits nothing of it is there"
    );

    let good = Agent::start_labelled(&stack, &unique("good"), bad.label(), 1, AgentSize::default());
    let job = rest.succeed(&accepted.job).await;
    assert_eq!(job["error"], Value::Null, "{job:#}");
    assert!(stack.inventory(&bad_host).traces_of(&accepted.id).is_empty());
    assert_eq!(
        stack.inventory(&good.hosts()[0]).traces_of(&accepted.id).len(),
        4,
        "network, image, disk, instance"
    );
    rest.remove("instances", &accepted.id).await;
}

#[tokio::test]
async fn what_a_host_can_never_have_is_placed_elsewhere() {
    goes_to_the_host_that_gets_it(FaultError::Permanent).await;
}

#[tokio::test]
async fn what_a_host_does_not_reach_now_is_placed_elsewhere() {
    goes_to_the_host_that_gets_it(FaultError::Unavailable).await;
}

#[tokio::test]
async fn after_three_hosts_it_waits_until_one_may_be_asked_again() {
    let stack = Stack::shared_for_hosts();
    let fault = Fault::at("ensure_image").error(FaultError::Permanent).times(3);
    let agent = hosts_with(&stack, &unique("three"), 4, &[fault]).await;
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    let accepted = rest
        .create(
            "instances",
            &unique("guest"),
            small_instance_on(&network, agent.label()),
        )
        .await;
    let job = rest
        .job_until(&accepted.job, "three hosts to be left out", |job| {
            job["done"] == true || counted(job, "image") == 3
        })
        .await;
    assert_eq!(
        (&job["state"], &job["waiting_on"]["reason"]),
        (&json!("queued"), &json!("capacity")),
        "{job:#}"
    );
    assert_eq!(counted(&job, "refused"), 1, "the fourth is not asked: {job:#}");
    assert!(job["waiting_on"]["until"].is_string(), "{job:#}");
    // Exclusions lapse: it goes on by itself.
    let job = rest.succeed(&accepted.job).await;
    assert_eq!(job["attempt"], 4, "{job:#}");
    rest.remove("instances", &accepted.id).await;
}
