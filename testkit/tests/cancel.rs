//! Cancel: of what was never dispatched, of what runs, of what only goes forward.

use rhyzome_testkit::Stack;
use rhyzome_testkit::agents::{Agent, AgentSize};
use rhyzome_testkit::faults::{Fault, FaultError};
use rhyzome_testkit::rest::{Accepted, Rest, small_instance_on, step_state, text, unique};
use serde_json::json;

/// Creates until one is held up at a step.
async fn held_at(rest: &Rest, agent: &Agent, step: &str) -> Accepted {
    let network = rest.network(&unique("net")).await;
    agent.faults().set(&[Fault::at(step).delay_ms(60_000)]);
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
            .job_until(&accepted.job, "the create to be held up or done", |job| {
                job["done"] == true || step_state(job, step) == Some("running")
            })
            .await;
        if job["done"] == json!(false) {
            return accepted;
        }
    }
}

#[tokio::test]
async fn what_was_never_dispatched_is_cancelled_at_once() {
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
    let answer = rest.act(&format!("/v1/jobs/{}/cancel", accepted.job)).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let job = &answer.body["job"];
    assert_eq!(
        (&job["state"], &job["done"]),
        (&json!("cancelled"), &json!(true)),
        "{job:#}"
    );
    let failed = rest.resource("instances", &accepted.id).await;
    assert_eq!(
        (&failed["state"], &failed["reason"]["job"]),
        (&json!("failed"), &json!(accepted.job)),
        "{failed:#}"
    );
    let again = rest
        .act(&format!("/v1/jobs/{}/cancel", accepted.job))
        .await
        .refused(409);
    assert_eq!(again["code"], "JOB_DONE");
    rest.remove("instances", &accepted.id).await;
}

#[tokio::test]
async fn a_create_in_the_middle_of_a_step_is_cancelled_and_leaves_nothing() {
    let stack = Stack::shared_for_hosts();
    let agent = Agent::start(&stack, &unique("cancel"), 1, AgentSize::default());
    let rest = stack.demo();
    let accepted = held_at(&rest, &agent, "ensure_disk").await;
    let answer = rest.act(&format!("/v1/jobs/{}/cancel", accepted.job)).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    assert!(
        answer.body["job"]["cancel_requested_at"].is_string(),
        "{}",
        answer.text
    );
    let job = rest.done(&accepted.job).await;
    assert_eq!(
        job["state"], "cancelled",
        "an abort stops the running effect: {job:#}"
    );
    let resource = rest.resource("instances", &accepted.id).await;
    assert_eq!(
        (&resource["state"], &resource["reason"]["job"]),
        (&json!("failed"), &json!(accepted.job))
    );
    let inventory = stack.inventory(&agent.hosts()[0]);
    assert!(inventory.traces_of(&accepted.id).is_empty(), "{inventory:#?}");
    // Its name is its own until it is retried or deleted.
    let body = json!({ "name": resource["name"], "spec": resource["spec"] });
    rest.post("/v1/instances", &body).await.refused(409);
    agent.faults().clear();
    // A cancelled job may be retried; the agent may still hold the faults for a second, and then the cancelled one takes a minute.
    agent_forgets(&rest, &agent).await;
    let retry = rest.act(&format!("/v1/jobs/{}/retry", accepted.job)).await;
    assert_eq!(retry.status, 202, "{}", retry.text);
    rest.succeed(&text(&retry.body, "/job/id")).await;
}

/// Waits until the agent has read that there are no faults.
async fn agent_forgets(rest: &Rest, agent: &Agent) {
    let network = rest.network(&unique("net")).await;
    loop {
        let probe = rest
            .create(
                "instances",
                &unique("probe"),
                small_instance_on(&network, agent.label()),
            )
            .await;
        let job = rest
            .job_until(&probe.job, "the probe to be held up or done", |job| {
                job["done"] == true || step_state(job, "ensure_disk") == Some("running")
            })
            .await;
        if job["done"] == json!(true) {
            return;
        }
        let deleted = rest
            .delete(&format!("/v1/instances/{}", probe.id))
            .await
            .accepted();
        rest.succeed(&deleted.job).await;
    }
}

#[tokio::test]
async fn a_job_between_two_attempts_is_cancelled() {
    let stack = Stack::shared_for_hosts();
    let agent = Agent::start(&stack, &unique("cancel"), 1, AgentSize::default());
    agent
        .faults()
        .set(&[Fault::at("ensure_instance").error(FaultError::Unavailable)]);
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    let accepted = loop {
        let accepted = rest
            .create(
                "instances",
                &unique("guest"),
                small_instance_on(&network, agent.label()),
            )
            .await;
        let job = rest
            .job_until(&accepted.job, "the job to be tried again", |job| {
                job["done"] == true
                    || job["waiting_on"]["reason"] == "retry"
                    || job["attempt"].as_i64() > Some(1)
            })
            .await;
        if job["done"] == json!(false) {
            break accepted;
        }
    };
    let answer = rest.act(&format!("/v1/jobs/{}/cancel", accepted.job)).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let job = rest.done(&accepted.job).await;
    assert_eq!(job["state"], "cancelled", "{job:#}");
    let inventory = stack.inventory(&agent.hosts()[0]);
    assert!(inventory.traces_of(&accepted.id).is_empty(), "{inventory:#?}");
}

#[tokio::test]
async fn a_delete_that_was_dispatched_goes_on() {
    let stack = Stack::shared_for_hosts();
    let agent = Agent::start(&stack, &unique("cancel"), 1, AgentSize::default());
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    agent.faults().set(&[Fault::at("remove_disk").delay_ms(2000)]);
    let deleting = loop {
        let id = text(
            &rest
                .make(
                    "instances",
                    &unique("guest"),
                    small_instance_on(&network, agent.label()),
                )
                .await,
            "/id",
        );
        let deleting = rest.delete(&format!("/v1/instances/{id}")).await.accepted();
        let job = rest
            .job_until(&deleting.job, "the delete to be held up or done", |job| {
                job["done"] == true || step_state(job, "remove_disk") == Some("running")
            })
            .await;
        if job["done"] == json!(false) {
            break deleting;
        }
    };
    rest.act(&format!("/v1/jobs/{}/cancel", deleting.job))
        .await
        .refused(409);
    rest.succeed(&deleting.job).await;
    rest.get(&format!("/v1/instances/{}", deleting.id))
        .await
        .refused(404);
}
