//! What hosts lost, or hold too much, comes right by itself: on a whole stack, with agents whose hosts' objects are put back to what they
//! were at another time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::agents::{Agent, AgentSize};
use rhyzome_testkit::faults::{Fault, FaultError};
use rhyzome_testkit::patience::eventually_blocking;
use rhyzome_testkit::rest::{Rest, small_instance_on, text, unique};
use rhyzome_testkit::stack::Options;
use rhyzome_testkit::{Stack, eventually};
use serde_json::{Value, json};

/// A stack that looks every second, and mends what it found so twice.
fn stack(grace: &str) -> Stack {
    Stack::start(
        Options::simulated(1)
            .set("scheduler.check_interval", "1s")
            .set("scheduler.repair_after", "1s")
            .set("scheduler.quarantine_grace", grace)
            .expecting(&["invariant broken", "watch broke off"]),
    )
}

/// It finds nothing, and looked at every host.
fn comes_to_hold(stack: &Stack) {
    eventually_blocking("the books and the hosts to agree", || {
        let (code, found) = stack.check();
        let holds = code == Some(0) && found["violations"] == json!([]) && found["not_looked"] == json!([]);
        holds.then_some(())
    });
}

/// The id of an instance that was made.
async fn made(rest: &Rest, name: &str, spec: &Value) -> String {
    text(&rest.make("instances", &unique(name), spec.clone()).await, "/id")
}

async fn jobs_of(rest: &Rest, id: &str) -> Vec<Value> {
    rest.all(&format!("/v1/jobs?target={id}")).await
}

/// The job of this action that reconcile asked for, once it succeeded.
async fn mended(rest: &Rest, id: &str, action: &str) -> Value {
    eventually(&format!("a {action} of {id} to succeed"), || async {
        let jobs = jobs_of(rest, id).await;
        let kind = format!("instance.{action}");
        let is = |j: &&Value| j["kind"] == kind && j["actor"] == "reconcile" && j["state"] == "succeeded";
        jobs.iter().find(is).cloned()
    })
    .await
}

fn held(stack: &Stack, host: &str, id: &str) -> Vec<(String, String)> {
    let objects = stack.inventory(host).objects;
    let of = objects
        .into_iter()
        .filter(|o| o.id == id || o.claims.iter().any(|c| c == id));
    of.map(|o| (o.kind, o.state)).collect()
}

#[tokio::test]
async fn what_a_host_lost_is_made_again_and_the_user_is_told_what_that_cost() {
    let stack = stack("1h");
    let rest = stack.demo();
    let name = unique("lost");
    let mut agent = Agent::start(&stack, &name, 1, AgentSize::default());
    let host = agent.hosts()[0].clone();
    let network = rest.network(&unique("net")).await;
    let spec = small_instance_on(&network, &name);
    let kept = made(&rest, "kept", &spec).await;
    let without = std::fs::read(agent.effects()).unwrap();
    let lost = made(&rest, "lost", &spec).await;
    let off = made(&rest, "off", &spec).await;
    let stopped = rest.act(&format!("/v1/instances/{off}/stop")).await.accepted();
    rest.succeed(&stopped.job).await;

    agent.put_back(&without);
    for (id, state) in [(&lost, "running"), (&off, "stopped")] {
        mended(&rest, id, "repair").await;
        let shown = rest.resource("instances", id).await;
        assert_eq!(shown["state"], state, "{shown:#}");
        assert_eq!(shown["reason"]["code"], "DISK_LOST", "{shown:#}");
        assert_eq!(shown["generation"], shown["observed_generation"], "{shown:#}");
        let guest = ("instance".to_owned(), state.to_owned());
        assert!(held(&stack, &host, id).contains(&guest));
    }
    comes_to_hold(&stack);
    let jobs = jobs_of(&rest, &kept).await;
    assert!(jobs.iter().all(|j| j["kind"] != "instance.repair"), "{jobs:#?}");

    // What it says goes with what the user makes of it next.
    let started = rest.act(&format!("/v1/instances/{off}/start")).await.accepted();
    rest.succeed(&started.job).await;
    assert_eq!(rest.resource("instances", &off).await["reason"], Value::Null);
}

#[tokio::test]
async fn a_delete_does_not_wait_for_a_repair_that_cannot_succeed() {
    let stack = stack("1h");
    let rest = stack.demo();
    let name = unique("stuck");
    let mut agent = Agent::start(&stack, &name, 1, AgentSize::default());
    let network = rest.network(&unique("net")).await;
    let before = std::fs::read(agent.effects()).unwrap_or_default();
    let spec = small_instance_on(&network, &name);
    let lost = made(&rest, "lost", &spec).await;
    let broken = made(&rest, "broken", &spec).await;

    // The one is tried again and again by its worker, the other fails for good.
    agent
        .faults()
        .set(&[Fault::at("ensure_disk").error(FaultError::Unavailable)]);
    agent.put_back(&before);
    let repair = eventually("a repair to be under way", || async {
        let jobs = jobs_of(&rest, &lost).await;
        jobs.into_iter()
            .find(|j| j["kind"] == "instance.repair" && j["attempt"].as_i64() > Some(0))
    })
    .await;
    let deleted = rest.delete(&format!("/v1/instances/{lost}")).await.accepted();
    rest.succeed(&deleted.job).await;
    assert_eq!(rest.job(&text(&repair, "/id")).await["state"], "cancelled");

    agent
        .faults()
        .set(&[Fault::at("ensure_disk").error(FaultError::Permanent)]);
    let failed = eventually("a repair to fail", || async {
        let jobs = jobs_of(&rest, &broken).await;
        jobs.into_iter()
            .find(|j| j["kind"] == "instance.repair" && j["state"] == "failed")
    })
    .await;
    let shown = rest.resource("instances", &broken).await;
    assert_eq!(shown["reason"]["code"], failed["error"]["code"], "{shown:#}");
    agent.faults().clear();
    mended(&rest, &broken, "repair").await;
    comes_to_hold(&stack);
}

#[tokio::test]
async fn what_comes_back_from_the_dead_is_turned_off_and_removed_in_time() {
    let stack = stack("5s");
    let rest = stack.demo();
    let operator = stack.operator();
    let name = unique("dead");
    let mut agent = Agent::start(&stack, &name, 1, AgentSize::default());
    let host = agent.hosts()[0].clone();
    let network = rest.network(&unique("net")).await;
    let spec = small_instance_on(&network, &name);
    let kept = made(&rest, "kept", &spec).await;
    let dead = made(&rest, "dead", &spec).await;
    let with = std::fs::read(agent.effects()).unwrap();
    rest.remove("instances", &dead).await;
    assert_eq!(held(&stack, &host, &dead), []);

    agent.put_back(&with);
    let off = mended(&operator, &dead, "stop").await;
    let told = jobs_of(&rest, &dead).await;
    assert!(
        told.iter().all(|j| j["id"] != off["id"]),
        "it is no tenant's: {told:#?}"
    );
    let guest = ("instance".to_owned(), "stopped".to_owned());
    assert!(
        held(&stack, &host, &dead).contains(&guest),
        "it is kept, and doesn't run"
    );
    mended(&operator, &dead, "delete").await;
    assert_eq!(held(&stack, &host, &dead), []);
    operator.get(&format!("/v1/instances/{dead}")).await.refused(404);
    comes_to_hold(&stack);
    assert_eq!(rest.resource("instances", &kept).await["state"], "running");
    assert_eq!(jobs_of(&rest, &kept).await.len(), 1, "nothing was done to it");
}

#[tokio::test]
async fn an_operator_sees_what_is_in_quarantine_and_may_remove_it() {
    let stack = stack("1h");
    let rest = stack.demo();
    let operator = stack.operator();
    let name = unique("seen");
    let mut agent = Agent::start(&stack, &name, 1, AgentSize::default());
    let host = agent.hosts()[0].clone();
    let network = rest.network(&unique("net")).await;
    let dead = made(&rest, "dead", &small_instance_on(&network, &name)).await;
    let with = std::fs::read(agent.effects()).unwrap();
    rest.remove("instances", &dead).await;
    agent.put_back(&with);

    let off = mended(&operator, &dead, "stop").await;
    let all = operator.all("/v1/instances?tenant=system").await;
    let shown = all.iter().find(|i| i["id"] == dead.as_str()).unwrap();
    assert_eq!(shown["reason"]["code"], "QUARANTINED", "{shown:#}");
    let why = text(shown, "/reason/detail");
    assert!(why.contains(&host), "{why}");
    // It is no resource: nothing is made of it. And it is no tenant's.
    let path = format!("/v1/instances/{dead}");
    let tags = json!({ "tags": { "a": "b" } });
    for refused in [
        operator.act(&format!("{path}/start")).await,
        operator.act(&format!("{path}/start?dry_run=true")).await,
        operator.patch(&path, &tags).await,
    ] {
        let refused = refused.refused(409);
        assert_eq!(refused["code"], "QUARANTINED", "{refused:#}");
        let why = text(&refused, "/detail");
        assert!(
            why.contains("can only be deleted") && !why.contains("retry"),
            "{why}"
        );
    }
    operator
        .act(&format!("/v1/jobs/{}/retry", text(&off, "/id")))
        .await
        .refused(409);
    rest.get(&path).await.refused(404);

    let deleted = operator.delete(&path).await.accepted();
    operator.succeed(&deleted.job).await;
    assert_eq!(held(&stack, &host, &dead), []);
    operator.get(&path).await.refused(404);
    comes_to_hold(&stack);
}
