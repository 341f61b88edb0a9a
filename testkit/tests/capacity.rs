//! No room anywhere: the job waits, says why with the counts, and runs by itself when a bigger host joins.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::Stack;
use rhyzome_testkit::agents::{Agent, AgentSize};
use rhyzome_testkit::rest::{small_instance, small_instance_on, text, unique};
use serde_json::{Value, json};

#[tokio::test]
async fn more_memory_than_any_host_has_waits_for_a_bigger_host() {
    let stack = Stack::shared_for_hosts();
    let rest = stack.demo();
    // Only hosts with this label count; the first two of them are too small.
    let label = unique("cap");
    let network = rest.network(&unique("net")).await;
    let small = Agent::start(
        &stack,
        &label,
        2,
        AgentSize {
            memory_mib: 4096,
            ..AgentSize::default()
        },
    );
    let mut spec = small_instance_on(&network, small.label());
    spec["memory_mib"] = json!(20_000);
    let accepted = rest.create("instances", &unique("big"), spec).await;
    let job = rest
        .job_until(
            &accepted.job,
            "the job to say that both hosts lack memory",
            |job| job["waiting_on"]["hosts"]["excluded"]["memory"] == 2,
        )
        .await;
    let waiting = &job["waiting_on"];
    assert_eq!(
        (&job["state"], &waiting["reason"]),
        (&json!("queued"), &json!("capacity")),
        "{job:#}"
    );
    assert!(
        waiting["detail"]
            .as_str()
            .is_some_and(|detail| !detail.is_empty())
            && waiting["since"].is_string()
    );
    let excluded: u64 = waiting["hosts"]["excluded"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(Value::as_u64)
        .sum();
    assert_eq!(
        waiting["hosts"]["total"], excluded,
        "each host is counted once: {job:#}"
    );
    assert_eq!(
        rest.resource("instances", &accepted.id).await["state"],
        "creating"
    );

    let big = Big::start(&stack, &label);
    let job = rest.succeed(&accepted.job).await;
    assert_eq!(job["waiting_on"], json!(null));
    let seen = stack
        .operator()
        .get(&format!("/v1/instances/{}?tenant=demo", accepted.id))
        .await
        .ok();
    assert_eq!(text(&seen, "/status/host"), big.host());
}

/// A bigger host with the same label.
struct Big(Agent);

impl Big {
    fn start(stack: &Stack, label: &str) -> Self {
        let size = AgentSize {
            memory_mib: 65_536,
            ..AgentSize::default()
        };
        Self(Agent::start_labelled(stack, &unique("big"), label, 1, size))
    }

    fn host(&self) -> String {
        self.0.hosts()[0].clone()
    }
}

#[tokio::test]
async fn what_waits_goes_on_when_room_is_made() {
    let stack = Stack::shared_for_hosts();
    let rest = stack.demo();
    let agent = Agent::start(
        &stack,
        &unique("full"),
        1,
        AgentSize {
            memory_mib: 4096,
            ..AgentSize::default()
        },
    );
    let network = rest.network(&unique("net")).await;
    let half = || {
        let mut spec = small_instance_on(&network, agent.label());
        spec["memory_mib"] = json!(2500);
        spec
    };
    let first = rest.make("instances", &unique("first"), half()).await;
    let second = rest.create("instances", &unique("second"), half()).await;
    rest.job_until(&second.job, "the second to wait for capacity", |job| {
        job["waiting_on"]["reason"] == "capacity"
    })
    .await;
    rest.remove("instances", &text(&first, "/id")).await;
    rest.succeed(&second.job).await;
}

#[tokio::test]
async fn a_label_that_no_host_has_is_counted_as_such() {
    let stack = Stack::shared_for_hosts();
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    let accepted = rest
        .create(
            "instances",
            &unique("guest"),
            small_instance_on(&network, "nowhere"),
        )
        .await;
    let job = rest
        .job_until(&accepted.job, "the job to wait", |job| {
            job["waiting_on"]["reason"] == "capacity"
        })
        .await;
    assert!(
        job["waiting_on"]["hosts"]["excluded"]["label"].as_u64().unwrap() >= 1,
        "{job:#}"
    );
    rest.remove("instances", &accepted.id).await;
}

#[tokio::test]
async fn a_network_lives_on_one_host() {
    let stack = Stack::shared_for_hosts();
    let rest = stack.demo();
    let agent = Agent::start(
        &stack,
        &unique("home"),
        2,
        AgentSize {
            memory_mib: 4096,
            ..AgentSize::default()
        },
    );
    let network = rest.network(&unique("net")).await;
    let big = || {
        let mut spec = small_instance_on(&network, agent.label());
        spec["memory_mib"] = json!(2500);
        spec
    };
    rest.make("instances", &unique("first"), big()).await;
    // The other host has room, but the network is not there.
    let second = rest.create("instances", &unique("second"), big()).await;
    let job = rest
        .job_until(&second.job, "the second to wait for the network's host", |job| {
            job["waiting_on"]["hosts"]["excluded"]["network"]
                .as_u64()
                .unwrap_or(0)
                >= 1
        })
        .await;
    assert_eq!(job["waiting_on"]["hosts"]["excluded"]["memory"], 1, "{job:#}");
    let mut small = small_instance(&network);
    small["placement"] = json!({ "host_labels": { "test": agent.label() } });
    rest.make("instances", &unique("third"), small).await;
    let homes = agent
        .hosts()
        .iter()
        .filter(|host| !stack.inventory(host).traces_of(&network).is_empty())
        .count();
    assert_eq!(homes, 1, "never a network that is split");
    rest.remove("instances", &second.id).await;
}

#[tokio::test]
async fn an_update_that_its_host_has_no_room_for_waits_and_goes_on() {
    let stack = Stack::shared_for_hosts();
    let rest = stack.demo();
    let size = AgentSize {
        memory_mib: 4096,
        ..AgentSize::default()
    };
    let agent = Agent::start(&stack, &unique("grow"), 1, size);
    let network = rest.network(&unique("net")).await;
    let spec = |memory_mib: u32| {
        let mut spec = small_instance_on(&network, agent.label());
        spec["memory_mib"] = json!(memory_mib);
        spec["power"] = json!("off");
        spec
    };
    let grows = text(&rest.make("instances", &unique("grows"), spec(512)).await, "/id");
    let other = text(&rest.make("instances", &unique("other"), spec(2048)).await, "/id");
    let patched = rest
        .patch(
            &format!("/v1/instances/{grows}"),
            &json!({ "spec": { "memory_mib": 3000 } }),
        )
        .await
        .accepted();
    let job = rest
        .job_until(&patched.job, "the job to say that its host lacks memory", |job| {
            job["waiting_on"]["reason"] == "capacity"
        })
        .await;
    let waiting = &job["waiting_on"];
    assert_eq!(
        waiting["hosts"],
        json!({ "total": 1, "excluded": { "memory": 1 } }),
        "{job:#}"
    );
    let fits = waiting["fits_with"]["memory_mib"]
        .as_i64()
        .expect("what would fit");
    assert!((512..3000).contains(&fits), "{job:#}");

    rest.remove("instances", &other).await;
    rest.succeed(&patched.job).await;
    assert_eq!(
        rest.resource("instances", &grows).await["spec"]["memory_mib"],
        json!(3000)
    );
}
