//! The agent crashes: before an effect, after it, between orders, and while guests run (invariants 4, 5, 6, 13).

use rhyzome_testkit::Stack;
use rhyzome_testkit::agents::{Agent, AgentSize};
use rhyzome_testkit::faults::{Fault, FaultError};
use rhyzome_testkit::rest::{Accepted, Rest, small_instance_on, step_state, text, unique};
use serde_json::{Value, json};

/// Creates until a create meets the agent's end by a fault that says so.
async fn crash(rest: &Rest, agent: &mut Agent, fault: Fault) -> Accepted {
    let network = rest.network(&unique("net")).await;
    agent.faults().set(&[fault]);
    loop {
        let accepted = rest
            .create(
                "instances",
                &unique("guest"),
                small_instance_on(&network, agent.label()),
            )
            .await;
        // Faults are read again within a second; a create before that just succeeds.
        let job = rest
            .job_until(
                &accepted.job,
                "the create to be done, or its agent to be gone",
                |job| job["done"] == true || !reachable(agent),
            )
            .await;
        if job["done"] == json!(false) {
            agent.wait_crashed();
            return accepted;
        }
    }
}

fn reachable(agent: &Agent) -> bool {
    std::net::TcpStream::connect(agent.address()).is_ok()
}

fn whole(stack: &Stack, agent: &Agent, instance: &str) {
    let inventory = stack.inventory(&agent.hosts()[0]);
    let kinds: Vec<&str> = inventory
        .traces_of(instance)
        .iter()
        .map(|held| held.kind.as_str())
        .collect();
    for kind in ["network", "image", "disk", "instance"] {
        assert_eq!(
            kinds.iter().filter(|found| **found == kind).count(),
            1,
            "one {kind}: {inventory:#?}"
        );
    }
}

#[tokio::test]
async fn a_create_ends_though_its_agent_crashes_before_or_after_a_step() {
    let stack = Stack::shared_for_hosts();
    let mut agent = Agent::start(&stack, &unique("crash"), 1, AgentSize::default());
    let rest = stack.demo();
    for fault in [
        Fault::at("ensure_disk").crash(),
        Fault::at("ensure_instance").crash().after(),
    ] {
        let accepted = crash(&rest, &mut agent, fault).await;
        agent.faults().clear();
        agent.restart();
        rest.succeed(&accepted.job).await;
        whole(&stack, &agent, &accepted.id);
        assert_eq!(rest.resource("instances", &accepted.id).await["state"], "running");
    }
}

#[tokio::test]
async fn an_undo_ends_though_its_agent_crashes() {
    let stack = Stack::shared_for_hosts();
    let mut agent = Agent::start(&stack, &unique("crash"), 1, AgentSize::default());
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    agent.faults().set(&[
        Fault::at("ensure_instance").error(FaultError::Permanent),
        Fault::at("undo_ensure_disk").crash().after(),
    ]);
    let accepted = loop {
        let accepted = rest
            .create(
                "instances",
                &unique("guest"),
                small_instance_on(&network, agent.label()),
            )
            .await;
        let job = rest
            .job_until(
                &accepted.job,
                "the create to be done, or its agent to be gone",
                |job| job["done"] == true || !reachable(&agent),
            )
            .await;
        if job["done"] == json!(false) {
            break accepted;
        }
    };
    agent.wait_crashed();
    agent.faults().clear();
    agent.restart();
    let job = rest.fail(&accepted.job).await;
    assert_eq!(job["error"]["step"], "ensure_instance", "{job:#}");
    let inventory = stack.inventory(&agent.hosts()[0]);
    assert!(inventory.traces_of(&accepted.id).is_empty(), "{inventory:#?}");
}

#[tokio::test]
async fn an_agent_killed_in_the_middle_of_a_step_goes_on_when_it_is_back() {
    let stack = Stack::shared_for_hosts();
    let mut agent = Agent::start(&stack, &unique("kill"), 1, AgentSize::default());
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    agent.faults().set(&[Fault::at("ensure_disk").delay_ms(3000)]);
    let accepted = loop {
        let accepted = rest
            .create(
                "instances",
                &unique("guest"),
                small_instance_on(&network, agent.label()),
            )
            .await;
        let job = rest
            .job_until(&accepted.job, "the create to be at its disk or done", |job| {
                job["done"] == true || step_state(job, "ensure_disk") == Some("running")
            })
            .await;
        if job["done"] == json!(false) {
            break accepted;
        }
    };
    agent.kill();
    agent.faults().clear();
    agent.restart();
    rest.succeed(&accepted.job).await;
    whole(&stack, &agent, &accepted.id);
}

#[tokio::test]
async fn guests_outlive_their_agent_and_jobs_wait_for_it() {
    let stack = Stack::shared_for_hosts();
    let mut agent = Agent::start(&stack, &unique("away"), 1, AgentSize::default());
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    let guest = rest
        .make(
            "instances",
            &unique("guest"),
            small_instance_on(&network, agent.label()),
        )
        .await;
    let id = text(&guest, "/id");
    let epoch = stack.inventory(&agent.hosts()[0]).epoch;
    agent.kill();
    let stop = rest.act(&format!("/v1/instances/{id}/stop")).await.accepted();
    let job = rest
        .job_until(&stop.job, "the job to wait for its host", |job| {
            ["host_unreachable", "retry"].contains(&job["waiting_on"]["reason"].as_str().unwrap_or_default())
        })
        .await;
    assert_eq!(job["done"], false);
    let fresh = rest
        .create(
            "instances",
            &unique("guest"),
            small_instance_on(&network, agent.label()),
        )
        .await;
    agent.restart();
    rest.succeed(&stop.job).await;
    assert_eq!(rest.resource("instances", &id).await["state"], "stopped");
    rest.succeed(&fresh.job).await;
    assert_eq!(
        stack.inventory(&agent.hosts()[0]).epoch,
        epoch,
        "the same ledger, the same epoch"
    );
    let start = rest.act(&format!("/v1/instances/{id}/start")).await.accepted();
    rest.succeed(&start.job).await;
    agent.restart();
    let seen = rest
        .resource_until("instances", &id, "the guest to be seen running", |resource| {
            resource["state"] == "running"
        })
        .await;
    assert_eq!(seen["reason"], Value::Null);
    whole(&stack, &agent, &id);
}
