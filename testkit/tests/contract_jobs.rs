//! Jobs: what is shown, waiting, lists, deadlines, retry.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::time::{Duration, Instant};

use rhyzome_testkit::Stack;
use rhyzome_testkit::agents::{Agent, AgentSize};
use rhyzome_testkit::faults::{Fault, FaultError};
use rhyzome_testkit::rest::{small_instance, small_instance_on, text, unique};
use serde_json::{Value, json};

#[tokio::test]
async fn a_job_can_be_read_step_by_step() {
    let rest = Stack::shared().demo();
    let network = rest.network(&unique("net")).await;
    let name = unique("guest");
    let accepted = rest.create("instances", &name, small_instance(&network)).await;
    let early = &accepted.answer.body["job"];
    let names: Vec<&Value> = early["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| &step["name"])
        .collect();
    assert_eq!(
        names,
        [
            "ensure_network",
            "ensure_image",
            "ensure_disk",
            "ensure_instance",
            "set_power"
        ],
        "steps are there from the acceptance on"
    );
    assert_eq!(
        early["target"],
        json!({ "kind": "instance", "id": accepted.id, "name": name, "generation": 1 })
    );
    for field in [
        "progress",
        "waiting_on",
        "attempt",
        "deadline_at",
        "cancel_requested_at",
        "error",
        "actor",
        "trace_id",
        "created_at",
        "started_at",
        "ended_at",
        "retry_of",
    ] {
        assert!(early.get(field).is_some(), "no {field} in {early:#}");
    }
    let job = rest.succeed(&accepted.job).await;
    assert_eq!(job["done"], true);
    assert_eq!(job["progress"], json!({ "done": 5, "total": 5 }));
    assert_eq!(
        (&job["error"], &job["waiting_on"], &job["retry_of"]),
        (&json!(null), &json!(null), &json!(null))
    );
    for step in job["steps"].as_array().unwrap() {
        assert_eq!(step["state"], "succeeded", "{job:#}");
        assert!(text(step, "/started_at") <= text(step, "/ended_at"), "{step}");
    }
    assert!(
        text(&job, "/created_at") <= text(&job, "/started_at")
            && text(&job, "/started_at") <= text(&job, "/ended_at")
    );
    assert_eq!(text(&job, "/trace_id").len(), 32);
    assert!(job["actor"].is_string());
}

#[tokio::test]
async fn the_callers_trace_is_the_jobs() {
    let rest = Stack::shared().demo();
    let trace = uuid::Uuid::new_v4().simple().to_string();
    let traced = rest.header("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01"));
    let accepted = traced
        .create("networks", &unique("net"), json!({ "cidr": "10.20.0.0/24" }))
        .await;
    assert_eq!(rest.job(&accepted.job).await["trace_id"], trace.as_str());
}

#[tokio::test]
async fn wait_answers_when_the_job_is_done_or_the_time_is_up() {
    let stack = Stack::shared_for_hosts();
    let agent = Agent::start(&stack, &unique("wait"), 1, AgentSize::default());
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    // No host is that big: the job stays.
    let mut spec = small_instance_on(&network, agent.label());
    spec["memory_mib"] = json!(1_000_000);
    let stuck = rest.create("instances", &unique("huge"), spec).await;
    let begun = Instant::now();
    let answer = rest.get(&format!("/v1/jobs/{}?wait=1", stuck.job)).await;
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "it waits as long as it was asked"
    );
    assert!(
        answer.header("retry-after").is_some(),
        "Retry-After while not done"
    );
    assert_eq!(answer.ok()["done"], false);
    rest.get(&format!("/v1/jobs/{}?wait=61", stuck.job))
        .await
        .refused(400);
    rest.remove("instances", &stuck.id).await;

    let quick = rest
        .create(
            "instances",
            &unique("guest"),
            small_instance_on(&network, agent.label()),
        )
        .await;
    let answer = rest.get(&format!("/v1/jobs/{}?wait=60", quick.job)).await;
    assert!(answer.header("retry-after").is_none());
    assert_eq!(answer.ok()["state"], "succeeded");

    let body = json!({ "name": unique("guest"), "spec": small_instance_on(&network, agent.label()) });
    let preferred = rest
        .header("prefer", "wait=60")
        .post("/v1/instances", &body)
        .await
        .accepted();
    let (job, resource) = (&preferred.answer.body["job"], &preferred.answer.body["resource"]);
    assert_eq!(
        (&job["done"], &job["state"]),
        (&json!(true), &json!("succeeded")),
        "{job:#}"
    );
    assert_eq!(resource["state"], "running", "{resource:#}");
}

#[tokio::test]
async fn jobs_are_listed_by_target_and_state() {
    let stack = Stack::shared();
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    let created = text(&rest.all(&format!("/v1/jobs?target={network}")).await[0], "/id");
    let changed = rest
        .patch(
            &format!("/v1/networks/{network}"),
            &json!({ "spec": { "dns": ["1.1.1.1"] } }),
        )
        .await
        .accepted();
    rest.succeed(&changed.job).await;
    let jobs = rest.all(&format!("/v1/jobs?target={network}")).await;
    let ids: Vec<&Value> = jobs.iter().map(|job| &job["id"]).collect();
    assert_eq!(ids, [&json!(created), &json!(changed.job)], "newest last");
    let succeeded = rest
        .all(&format!("/v1/jobs?target={network}&state=succeeded&limit=1"))
        .await;
    assert_eq!(succeeded.len(), 2);
    assert!(
        rest.all(&format!("/v1/jobs?target={network}&state=failed"))
            .await
            .is_empty()
    );
    assert!(
        stack
            .tenant("other")
            .all(&format!("/v1/jobs?target={network}"))
            .await
            .is_empty()
    );
    stack
        .tenant("other")
        .get(&format!("/v1/jobs/{created}"))
        .await
        .refused(404);
}

#[tokio::test]
async fn a_job_that_takes_longer_than_it_may_ends_with_nothing_left() {
    let stack = Stack::shared_for_hosts();
    let agent = Agent::start(&stack, &unique("late"), 1, AgentSize::default());
    agent
        .faults()
        .set(&[Fault::at("ensure_disk").error(FaultError::Unavailable)]);
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    let body = json!({ "name": unique("guest"), "spec": small_instance_on(&network, agent.label()) });
    let accepted = rest
        .post("/v1/instances?deadline_seconds=3", &body)
        .await
        .accepted();
    let job = rest.fail(&accepted.job).await;
    assert_eq!(job["error"]["code"], "DEADLINE_EXCEEDED", "{job:#}");
    assert_eq!(rest.resource("instances", &accepted.id).await["state"], "failed");
    let inventory = stack.inventory(&agent.hosts()[0]);
    assert!(inventory.traces_of(&accepted.id).is_empty(), "{inventory:?}");
}

#[tokio::test]
async fn a_failed_create_is_retried_by_a_new_job_that_names_the_old_one() {
    let stack = Stack::shared_for_hosts();
    let agent = Agent::start(&stack, &unique("retry"), 1, AgentSize::default());
    agent
        .faults()
        .set(&[Fault::at("ensure_disk").error(FaultError::Permanent)]);
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    let accepted = rest
        .create(
            "instances",
            &unique("guest"),
            small_instance_on(&network, agent.label()),
        )
        .await;
    rest.fail(&accepted.job).await;
    let failed = rest.resource("instances", &accepted.id).await;
    assert_eq!(failed["state"], "failed");
    let leases = rest.all(&format!("/v1/networks/{network}/leases")).await;
    assert_eq!(leases.len(), 1, "its address is still its own: {leases:#?}");

    let cancel = rest
        .act(&format!("/v1/jobs/{}/cancel", accepted.job))
        .await
        .refused(409);
    assert_eq!(cancel["code"], "JOB_DONE");
    agent.faults().clear();
    // The agent reads its faults again within a second: until then a retry fails as the first one did.
    let mut before = accepted.job.clone();
    let job = loop {
        let answer = rest.act(&format!("/v1/jobs/{before}/retry")).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        assert_eq!(answer.body["job"]["retry_of"], before.as_str());
        let job = rest.done(&text(&answer.body, "/job/id")).await;
        if job["state"] == "succeeded" {
            break job;
        }
        before = text(&job, "/id");
    };
    let made = rest.resource("instances", &accepted.id).await;
    assert_eq!(
        (&made["state"], &made["reason"]),
        (&json!("running"), &json!(null)),
        "{made:#}"
    );
    let late = rest.act(&format!("/v1/jobs/{}/retry", accepted.job)).await;
    late.refused(409);
    rest.act(&format!("/v1/jobs/{}/retry", text(&job, "/id")))
        .await
        .refused(409);
}

#[tokio::test]
async fn what_waits_behind_a_failed_create_fails_and_a_delete_goes_on() {
    let stack = Stack::shared_for_hosts();
    let agent = Agent::start(&stack, &unique("behind"), 1, AgentSize::default());
    agent.faults().set(&[Fault::at("ensure_disk")
        .delay_ms(1500)
        .error(FaultError::Permanent)]);
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    let create = rest
        .create(
            "instances",
            &unique("guest"),
            small_instance_on(&network, agent.label()),
        )
        .await;
    let stop = rest
        .act(&format!("/v1/instances/{}/stop", create.id))
        .await
        .accepted();
    let waiting = rest.job(&stop.job).await;
    if waiting["done"] == json!(false) {
        assert_eq!(
            (&waiting["state"], &waiting["waiting_on"]["reason"]),
            (&json!("queued"), &json!("earlier_job")),
            "{waiting:#}"
        );
        assert!(waiting["waiting_on"]["detail"].is_string() && waiting["waiting_on"]["since"].is_string());
    }
    rest.fail(&create.job).await;
    let behind = rest.fail(&stop.job).await;
    assert_eq!(behind["error"]["code"], "PREDECESSOR_FAILED", "{behind:#}");
    rest.remove("instances", &create.id).await;
}
