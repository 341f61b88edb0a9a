//! A host that was put back to an older copy of itself is noticed by its watch as soon as it says what it holds, also where its hello doesn't
//! show it: before any check of the books, and before a job could cover it up.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::agents::{Agent, AgentSize, hosts_up};
use rhyzome_testkit::faults::Fault;
use rhyzome_testkit::rest::{Rest, small_instance_on, step_state, text, unique};
use rhyzome_testkit::stack::Options;
use rhyzome_testkit::{Stack, eventually};
use serde_json::json;
use sqlx::PgPool;

/// So long is a step that is copied in the middle: a copy takes some milliseconds.
const STEP_MS: u64 = 3000;

/// A change of the guest's power that is at its step: its job. Faults are read again within a second; what comes before that just succeeds.
async fn at_its_step(rest: &Rest, id: &str) -> String {
    for action in ["stop", "start"].into_iter().cycle() {
        let accepted = rest.act(&format!("/v1/instances/{id}/{action}")).await.accepted();
        let job = rest
            .job_until(&accepted.job, "the change to be at its step, or done", |job| {
                job["done"] == true || step_state(job, "set_power") == Some("running")
            })
            .await;
        if job["done"] == json!(false) {
            return accepted.job;
        }
    }
    unreachable!("there is always a next change")
}

async fn epoch(operator: &Rest, host: &str) -> i64 {
    operator.get(&format!("/v1/hosts/{host}")).await.ok()["epoch"]
        .as_i64()
        .unwrap()
}

#[tokio::test]
async fn a_ledger_without_an_end_that_was_answered_raises_the_epoch_at_once() {
    // The first check is made soon, the next one not while this lasts.
    let stack = Stack::start(
        Options::simulated(1)
            .set("scheduler.check_interval", "1h")
            .expecting(&["the agent's ledger was set back", "watch broke off"]),
    );
    let db = PgPool::connect(&stack.file().postgres.url).await.unwrap();
    eventually("the first check of the books", || async {
        let checked = sqlx::query_scalar("SELECT bool_and(checked_at IS NOT NULL) FROM check_runs");
        let checked: bool = checked.fetch_one(&db).await.unwrap();
        checked.then_some(())
    })
    .await;
    let (rest, operator) = (stack.demo(), stack.operator());
    let name = unique("copied");
    let mut agent = Agent::start(&stack, &name, 1, AgentSize::default());
    let host = agent.hosts()[0].clone();
    let network = rest.network(&unique("net")).await;
    let made = rest
        .make("instances", &unique("guest"), small_instance_on(&network, &name))
        .await;

    agent.faults().set(&[Fault::at("set_power").delay_ms(STEP_MS)]);
    let job = at_its_step(&rest, &text(&made, "/id")).await;
    let before_its_end = std::fs::read(agent.ledger()).unwrap();
    assert_eq!(rest.job(&job).await["done"], false, "copied in time");
    rest.succeed(&job).await;
    agent.faults().clear();
    let before = epoch(&operator, &host).await;

    // The copy knows the order, and so a fence as high as any that was answered; the end of it, it doesn't know.
    agent.put_back_ledger(&before_its_end);
    eventually("a new epoch to begin on the host", || async {
        (epoch(&operator, &host).await == before + 1).then_some(())
    })
    .await;
    hosts_up(&stack, std::slice::from_ref(&host)).await;
    assert_eq!(epoch(&operator, &host).await, before + 1, "once");
    assert_eq!(stack.inventory(&host).epoch, before + 1);
}
