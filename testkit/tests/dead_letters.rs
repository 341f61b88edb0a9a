//! An order whose workers die of it, to the end: undone, failed as POISONED, kept as a dead letter, and replayed from there
//! (invariants 1, 4, 6). And what can't be read.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_nats::{Connection, NatsConfig, Outgoing, Role};
use rhyzome_runtime::tls::client_config;
use rhyzome_runtime::{Identity, TlsFiles};
use rhyzome_testkit::patience::eventually;
use rhyzome_testkit::processes::Paused;
use rhyzome_testkit::rest::{small_instance, unique};
use rhyzome_testkit::{Options, Stack};
use serde_json::Value;

fn letters(stack: &Stack) -> Vec<Value> {
    let list = stack.run_json(&["admin", "dead-letters", "list"]);
    list.as_array().expect("a list").clone()
}

fn broken_letter(stack: &Stack) -> Option<Value> {
    letters(stack)
        .into_iter()
        .find(|letter| letter["reason"] == "broken")
}

fn refused(stack: &Stack, words: &[&str]) -> String {
    let output = stack.try_run(words);
    assert!(!output.status.success(), "{words:?} went through");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// As a process of the stack.
async fn connect(stack: &Stack, of: rhyzome_runtime::Role, role: Role, name: &str) -> Connection {
    let file = stack.file();
    let nats = NatsConfig {
        url: file.nats.url.clone(),
        ..NatsConfig::default()
    };
    let files = TlsFiles::in_pki(&file.pki_dir, of, name);
    let tls = client_config(&Identity::load(&files).unwrap()).unwrap();
    rhyzome_nats::connect::connect(&nats, role, "test", Some(tls))
        .await
        .unwrap()
}

#[tokio::test]
async fn an_order_that_its_workers_die_of_is_undone_kept_and_replayed() {
    let stack = Stack::start(Options {
        workers: Some(1),
        ..Options::simulated(2).set("nats.ack_wait", "1s").expecting(&[
            "a broken message, kept as a dead letter",
            "the workers of an order died of it, it is undone",
            "the workers of an order died of it, it is tried again",
            "delivered again and again: runs alone",
        ])
    });
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    // A worker that is frozen takes what it asked for and never says a word: to the server it dies of each delivery.
    let frozen = Paused::new(stack.process("worker").pid);
    let accepted = rest
        .create("instances", &unique("guest"), small_instance(&network))
        .await;
    let letter = eventually("a dead letter", || async { letters(&stack).into_iter().next() }).await;
    assert_eq!(
        (&letter["reason"], &letter["job"]),
        (&"poisoned".into(), &accepted.job.as_str().into())
    );
    assert_eq!(letter["order"]["mode"], "forward", "{letter:#}");
    let job = rest.job(&accepted.job).await;
    assert_eq!(job["done"], false, "only the agent's word ends it: {job:#}");
    let sequence = letter["sequence"].to_string();
    let refusal = refused(&stack, &["admin", "dead-letters", "replay", &sequence]);
    assert!(refusal.contains("can't be tried again"), "{refusal}");

    // It never thaws: it would carry out the order that it holds before the undo reaches the agent. Another does what comes.
    stack.kill_role("worker");
    drop(frozen);
    let job = rest.fail(&accepted.job).await;
    assert_eq!(job["error"]["code"], "POISONED", "{job:#}");
    for (host, inventory) in stack.inventories() {
        assert!(
            inventory.traces_of(&accepted.id).is_empty(),
            "{host}: {inventory:#?}"
        );
    }
    let shown = stack.run_json(&["admin", "job", "show", &accepted.job]);
    assert_eq!(shown["state"], "failed", "{shown:#}");

    stack.run(&["admin", "dead-letters", "show", &sequence]);
    let said = stack.run(&["admin", "dead-letters", "replay", &sequence]);
    let new = said.split_whitespace().nth(1).expect("job ID").to_owned();
    assert_eq!(rest.succeed(&new).await["retry_of"], accepted.job.as_str());
    // The order to undo it comes to the frozen worker, too: where that was so often enough, there is a letter of it as well.
    for other in letters(&stack) {
        assert_ne!(other["sequence"], letter["sequence"], "it is dropped");
        assert_eq!(
            (&other["job"], &other["order"]["mode"]),
            (&letter["job"], &"undo".into()),
            "{other:#}"
        );
    }
    assert_eq!(rest.resource("instances", &accepted.id).await["state"], "running");
    let refusal = refused(&stack, &["admin", "dead-letters", "show", &sequence]);
    assert!(refusal.contains("there is no dead letter"), "{refusal}");

    // What no one can read: kept, and no job can be read from it.
    let scheduler = connect(
        &stack,
        rhyzome_runtime::Role::Scheduler,
        Role::Scheduler,
        "scheduler-1",
    )
    .await;
    let worker = connect(&stack, rhyzome_runtime::Role::Worker, Role::Worker, "worker-1").await;
    for (from, subject) in [
        (&scheduler, "rhyzome.orders.instance.x"),
        (&worker, "rhyzome.events.demo.x"),
    ] {
        let broken = Outgoing::new(subject.into(), unique("m"), "no message of ours");
        from.publish(&broken).await.unwrap();
        let letter = eventually("a broken letter", || async { broken_letter(&stack) }).await;
        assert_eq!(
            (&letter["subject"], &letter["job"]),
            (&subject.into(), &Value::Null)
        );
        let sequence = letter["sequence"].to_string();
        let refusal = refused(&stack, &["admin", "dead-letters", "replay", &sequence]);
        assert!(refusal.contains("no order can be read from it"), "{refusal}");
        stack.run(&["admin", "dead-letters", "drop", &sequence]);
        assert_eq!(broken_letter(&stack), None);
    }
}
