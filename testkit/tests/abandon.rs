//! An undo that does not work: it goes on, visibly, until an operator gives it up; what it left is held until a delete is rid of it
//! (invariants 4, 6, 7, 8). And a database that was set back.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::faults::{Fault, FaultError};
use rhyzome_testkit::patience::eventually;
use rhyzome_testkit::rest::{small_instance, unique};
use rhyzome_testkit::{Options, Stack};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

fn traces(stack: &Stack, id: &str) -> usize {
    let inventories = stack.inventories();
    inventories
        .values()
        .map(|inventory| inventory.traces_of(id).len())
        .sum()
}

#[tokio::test]
async fn an_undo_that_does_not_work_is_shown_and_can_be_abandoned() {
    let stack = Stack::start(Options::simulated(1).expecting(&["a step failed"]));
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    stack.faults().set(&[
        Fault::at("ensure_instance").error(FaultError::Permanent),
        Fault::at("undo_ensure_disk").error(FaultError::Unavailable),
    ]);
    // The agent reads its faults within a second.
    let stuck = loop {
        let accepted = rest
            .create("instances", &unique("guest"), small_instance(&network))
            .await;
        let job = rest
            .job_until(&accepted.job, "the job to be done, or its undo to fail", |job| {
                job["done"] == true || job["waiting_on"]["reason"] == "undo"
            })
            .await;
        if job["done"] == json!(false) {
            break accepted;
        }
        let refused = stack.try_run(&["admin", "job", "abandon", &accepted.job]);
        let refusal = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && refusal.contains("is done"),
            "{refusal}"
        );
    };
    let job = rest.job(&stuck.job).await;
    assert_eq!(job["state"], "undoing", "{job:#}");
    assert!(traces(&stack, &stuck.id) > 0);

    stack.run(&["admin", "job", "abandon", &stuck.job]);
    let job = rest.fail(&stuck.job).await;
    assert_eq!(job["error"]["code"], "ABANDONED", "{job:#}");
    let resource = rest.resource("instances", &stuck.id).await;
    assert_eq!(
        (&resource["state"], &resource["reason"]["code"]),
        (&json!("failed"), &json!("ABANDONED")),
        "{resource:#}"
    );
    let held = stack.run_json(&["admin", "job", "abandoned"]);
    assert_eq!(held[0]["job"], json!(stuck.job), "{held:#}");
    assert!(traces(&stack, &stuck.id) > 0, "its rest is there");

    stack.faults().clear();
    rest.remove("instances", &stuck.id).await;
    assert_eq!(traces(&stack, &stuck.id), 0);
    assert_eq!(stack.run_json(&["admin", "job", "abandoned"]), json!([]));
}

#[tokio::test]
async fn nothing_is_dispatched_while_the_database_is_set_back() {
    let stack = Stack::start(Options::simulated(1).expecting(&[
        "nothing is dispatched to any host until an operator has looked",
        "the database was set back",
        "invariant broken",
        "watch broke off",
    ]));
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    rest.make("instances", &unique("guest"), small_instance(&network))
        .await;
    let url = stack.file().postgres.url;
    let mut postgres = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("ALTER SEQUENCE fences RESTART WITH 1")
        .execute(&mut postgres)
        .await
        .unwrap();
    // Whoever watches greets anew.
    let scheduler = stack.kill_role("scheduler").remove(0);
    stack.wait_restarted(&scheduler);
    let shown = eventually("the alarm", || async {
        let shown = stack.run_json(&["admin", "postgres-set-back", "show"]);
        (shown != json!([])).then_some(shown)
    })
    .await;
    assert_eq!(shown[0]["host"], "sim-1", "{shown:#}");
    let ready: Value = reqwest_ready(&stack).await;
    assert_eq!(ready["alarms"], json!(["set_back"]), "{ready:#}");
    let accepted = rest
        .create("instances", &unique("guest"), small_instance(&network))
        .await;

    stack.run(&["admin", "postgres-set-back", "clear"]);
    rest.succeed(&accepted.job).await;
    assert_eq!(stack.run_json(&["admin", "postgres-set-back", "show"]), json!([]));
    assert!(
        !stack
            .try_run(&["admin", "postgres-set-back", "clear"])
            .status
            .success()
    );
}

async fn reqwest_ready(stack: &Stack) -> Value {
    let url = format!("{}/readyz", stack.file().api_url);
    reqwest::get(url).await.unwrap().json().await.unwrap()
}
