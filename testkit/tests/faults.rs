//! When a step fails: the table of job-protocol.md, one row after the other.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::Stack;
use rhyzome_testkit::agents::{Agent, AgentSize};
use rhyzome_testkit::faults::{Fault, FaultError};
use rhyzome_testkit::rest::{Accepted, Rest, small_instance_on, text, unique};
use serde_json::{Value, json};

/// Creates on networks of their own until a job shows that the faults were read.
async fn until_met(rest: &Rest, agent: &Agent, met: impl Fn(&Value) -> bool) -> (Accepted, Value) {
    for _ in 0..50 {
        let network = rest.network(&unique("net")).await;
        let accepted = rest
            .create(
                "instances",
                &unique("guest"),
                small_instance_on(&network, agent.label()),
            )
            .await;
        let job = rest.done(&accepted.job).await;
        if met(&job) {
            return (accepted, job);
        }
    }
    panic!("50 creates, and none met the fault");
}

fn objects_of(stack: &Stack, agent: &Agent, id: &str) -> usize {
    let inventories = agent.hosts().into_iter().map(|host| stack.inventory(&host));
    inventories.map(|inventory| inventory.traces_of(id).len()).sum()
}

#[tokio::test]
async fn no_room_after_all_is_placed_elsewhere() {
    let stack = Stack::shared_for_hosts();
    let agent = Agent::start(&stack, &unique("room"), 2, AgentSize::default());
    let hosts = agent.hosts();
    agent
        .faults()
        .set(&[Fault::at("ensure_disk").host(&hosts[0]).error(FaultError::NoRoom)]);
    let rest = stack.demo();
    let (accepted, job) = until_met(&rest, &agent, |job| job["attempt"].as_i64() > Some(1)).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    assert!(
        stack.inventory(&hosts[0]).traces_of(&accepted.id).is_empty(),
        "released"
    );
    assert_eq!(stack.inventory(&hosts[1]).traces_of(&accepted.id).len(), 4);
}

#[tokio::test]
async fn no_room_anywhere_waits_as_capacity() {
    let stack = Stack::shared_for_hosts();
    let agent = Agent::start(&stack, &unique("room"), 1, AgentSize::default());
    agent
        .faults()
        .set(&[Fault::at("ensure_disk").error(FaultError::NoRoom)]);
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    let (accepted, job) = loop {
        let accepted = rest
            .create(
                "instances",
                &unique("guest"),
                small_instance_on(&network, agent.label()),
            )
            .await;
        let job = rest
            .job_until(&accepted.job, "the job to be refused or done", |job| {
                job["done"] == true || job["waiting_on"]["hosts"]["excluded"]["refused"].as_i64() > Some(0)
            })
            .await;
        if job["done"] == json!(false) {
            break (accepted, job);
        }
    };
    assert_eq!(
        (&job["state"], &job["waiting_on"]["reason"]),
        (&json!("queued"), &json!("capacity")),
        "{job:#}"
    );
    assert_eq!(
        objects_of(&stack, &agent, &accepted.id),
        0,
        "while it waits nothing of it is there"
    );
    agent.faults().clear();
    rest.succeed(&accepted.job).await;
}

#[tokio::test]
async fn what_cannot_succeed_fails_and_leaves_nothing() {
    let stack = Stack::shared_for_hosts();
    let agent = Agent::start(&stack, &unique("perm"), 2, AgentSize::default());
    agent
        .faults()
        .set(&[Fault::at("ensure_instance").error(FaultError::Permanent)]);
    let rest = stack.demo();
    let (accepted, job) = until_met(&rest, &agent, |job| job["state"] == "failed").await;
    let error = &job["error"];
    assert_eq!(error["step"], "ensure_instance", "{job:#}");
    for field in ["code", "detail"] {
        assert!(error[field].is_string(), "no {field}: {job:#}");
    }
    assert!(error["retryable"].is_boolean(), "{job:#}");
    assert!(
        error.get("host").is_none_or(Value::is_null),
        "hosts are for operators: {job:#}"
    );
    let seen = stack
        .operator()
        .get(&format!("/v1/jobs/{}?tenant=demo", accepted.job))
        .await
        .ok();
    assert!(agent.hosts().contains(&text(&seen, "/error/host")), "{seen:#}");
    let states: Vec<&Value> = job["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| &step["state"])
        .collect();
    assert!(!states.contains(&&json!("running")), "{job:#}");
    assert_eq!(objects_of(&stack, &agent, &accepted.id), 0);
    let resource = rest.resource("instances", &accepted.id).await;
    assert_eq!(
        (&resource["state"], &resource["reason"]["code"]),
        (&json!("failed"), &error["code"]),
        "{resource:#}"
    );
}

#[tokio::test]
async fn a_time_out_is_asked_again_and_the_effect_is_single() {
    let stack = Stack::shared_for_hosts();
    let agent = Agent::start(&stack, &unique("time"), 1, AgentSize::default());
    let rest = stack.demo();
    // Every step loses its first answer, those of the network and image too.
    let steps = [
        "ensure_network",
        "ensure_image",
        "ensure_disk",
        "ensure_instance",
        "set_power",
    ];
    agent
        .faults()
        .set(&steps.map(|step| Fault::at(step).error(FaultError::Timeout).times(1)));
    for _ in 0..3 {
        let network = rest.network(&unique("net")).await;
        let accepted = rest
            .create(
                "instances",
                &unique("guest"),
                small_instance_on(&network, agent.label()),
            )
            .await;
        rest.succeed(&accepted.job).await;
        assert_eq!(
            objects_of(&stack, &agent, &accepted.id),
            4,
            "network, image, disk, instance: once each"
        );
    }
}

#[tokio::test]
async fn unavailable_and_busy_are_tried_again_until_they_work() {
    let stack = Stack::shared_for_hosts();
    let agent = Agent::start(&stack, &unique("again"), 1, AgentSize::default());
    agent.faults().set(&[
        Fault::at("ensure_disk").error(FaultError::Unavailable).times(4),
        Fault::at("ensure_instance").error(FaultError::Busy).times(4),
    ]);
    let rest = stack.demo();
    let (accepted, job) = until_met(&rest, &agent, |job| job["attempt"].as_i64() > Some(1)).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    assert_eq!(objects_of(&stack, &agent, &accepted.id), 4);
}

#[tokio::test]
async fn an_undo_that_fails_goes_on_until_it_works() {
    let stack = Stack::shared_for_hosts();
    let agent = Agent::start(&stack, &unique("undo"), 1, AgentSize::default());
    agent.faults().set(&[
        Fault::at("set_power").error(FaultError::Permanent),
        Fault::at("undo_ensure_instance")
            .error(FaultError::Permanent)
            .times(2),
        Fault::at("undo_ensure_disk")
            .error(FaultError::Unavailable)
            .times(2),
        Fault::at("undo_ensure_network")
            .error(FaultError::Timeout)
            .times(1),
    ]);
    let rest = stack.demo();
    let (accepted, job) = until_met(&rest, &agent, |job| job["state"] == "failed").await;
    assert_eq!(
        job["error"]["step"], "set_power",
        "the cause, not what the undo met: {job:#}"
    );
    assert_eq!(objects_of(&stack, &agent, &accepted.id), 0);
}

#[tokio::test]
async fn a_failed_update_leaves_what_was() {
    let stack = Stack::shared_for_hosts();
    let agent = Agent::start(&stack, &unique("upd"), 1, AgentSize::default());
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    let mut spec = small_instance_on(&network, agent.label());
    spec["power"] = json!("off");
    let id = text(&rest.make("instances", &unique("guest"), spec).await, "/id");
    let path = format!("/v1/instances/{id}");
    agent
        .faults()
        .set(&[Fault::at("ensure_instance").error(FaultError::Permanent)]);
    let mut memory = 128;
    let (job, resource) = loop {
        memory += 64;
        let patched = rest
            .patch(&path, &json!({ "spec": { "memory_mib": memory } }))
            .await
            .accepted();
        let job = rest.done(&patched.job).await;
        if job["state"] == "failed" {
            break (job, rest.resource("instances", &id).await);
        }
    };
    assert_eq!(resource["state"], "stopped", "{resource:#}");
    assert_eq!(resource["reason"]["job"], job["id"], "{resource:#}");
    assert!(
        resource["observed_generation"].as_i64() < resource["generation"].as_i64(),
        "{resource:#}"
    );
    agent.faults().clear();
    rest.remove("instances", &id).await;
}

#[tokio::test]
async fn everything_fails_now_and_then_and_every_job_ends() {
    let stack = Stack::shared_for_hosts();
    let agent = Agent::start(&stack, &unique("dice"), 3, AgentSize::default());
    let kinds = [
        FaultError::Unavailable,
        FaultError::Busy,
        FaultError::Timeout,
        FaultError::Permanent,
        FaultError::NoRoom,
    ];
    agent
        .faults()
        .set(&kinds.map(|kind| Fault::at("*").error(kind).rate(0.04)));
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    let mut accepted = Vec::new();
    for _ in 0..30 {
        accepted.push(
            rest.create(
                "instances",
                &unique("guest"),
                small_instance_on(&network, agent.label()),
            )
            .await,
        );
    }
    let mut running = Vec::new();
    for create in &accepted {
        let job = rest.done(&create.job).await;
        let expected = match text(&job, "/state").as_str() {
            "succeeded" => 4,
            "failed" => 0,
            other => panic!("{other}: {job:#}"),
        };
        assert_eq!(objects_of(&stack, &agent, &create.id), expected, "{job:#}");
        running.extend((expected > 0).then_some(&create.id));
    }
    agent.faults().clear();
    for id in running {
        rest.remove("instances", id).await;
    }
    assert_eq!(
        objects_of(&stack, &agent, &network),
        0,
        "no claim is left, so the network is gone"
    );
}
