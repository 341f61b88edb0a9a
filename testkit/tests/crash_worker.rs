//! SIGKILL and SIGSTOP of workers in the middle of a create (invariants 1, 4, 5, 6).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::faults::{Fault, FaultError};
use rhyzome_testkit::logs;
use rhyzome_testkit::processes::Paused;
use rhyzome_testkit::rest::{small_instance, unique};
use rhyzome_testkit::{Options, Stack};
use serde_json::json;

#[tokio::test]
async fn a_create_ends_though_its_worker_dies_or_freezes() {
    let stack = Stack::start(
        Options::simulated(2)
            .set("nats.ack_wait", "3s")
            .expecting(logs::OUTAGE)
            .expecting(&["a step failed"]),
    );
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;

    // Killed while the disk is being made.
    stack.faults().set(&[Fault::at("ensure_disk").delay_ms(4000)]);
    // The agent reads its faults again within a second: wait until they show.
    loop {
        let probe = rest
            .create("instances", &unique("probe"), small_instance(&network))
            .await;
        let job = rest.job_until(&probe.job, "the probe to be at its disk or done", |job| {
            job["done"] == true || rhyzome_testkit::rest::step_state(job, "ensure_disk") == Some("running")
        });
        if job.await["done"] == json!(false) {
            break;
        }
    }
    let accepted = rest
        .create("instances", &unique("guest"), small_instance(&network))
        .await;
    rest.job_until(&accepted.job, "the job to run", |job| job["state"] == "running")
        .await;
    let killed = stack.kill_role("worker");
    assert_eq!(killed.len(), 2);
    assert_eq!(
        rest.job(&accepted.job).await["done"],
        false,
        "in the middle of it"
    );
    let job = rest.succeed(&accepted.job).await;
    assert!(
        job["steps"]
            .as_array()
            .unwrap()
            .iter()
            .all(|step| step["state"] == "succeeded"),
        "{job:#}"
    );
    for worker in &killed {
        stack.wait_restarted(worker);
    }
    one_trace(&stack, &accepted.id);

    // Frozen for longer than the ack wait while the disk is being made: the other one takes over, and what it does when it thaws counts nothing.
    let accepted = rest
        .create("instances", &unique("guest"), small_instance(&network))
        .await;
    rest.job_until(&accepted.job, "the job to run", |job| job["state"] == "running")
        .await;
    let frozen = Paused::new(stack.process("worker").pid);
    rest.succeed(&accepted.job).await;
    rest.remove("instances", &accepted.id).await;
    drop(frozen);
    stack.faults().clear();
    let last = rest
        .create("instances", &unique("guest"), small_instance(&network))
        .await;
    rest.succeed(&last.job).await;
    no_trace(&stack, &accepted.id);

    // A create that fails, its worker killed while it is undone.
    stack.faults().set(&[
        Fault::at("ensure_instance").error(FaultError::Permanent),
        Fault::at("undo_ensure_disk").delay_ms(3000),
    ]);
    let failed = loop {
        let probe = rest
            .create("instances", &unique("guest"), small_instance(&network))
            .await;
        let job = rest
            .job_until(&probe.job, "the job to be undone or done", |job| {
                job["done"] == true || job["state"] == "undoing"
            })
            .await;
        if job["done"] == json!(false) {
            break probe;
        }
    };
    stack.kill_role("worker");
    rest.fail(&failed.job).await;
    no_trace(&stack, &failed.id);
    assert_eq!(rest.resource("instances", &failed.id).await["state"], "failed");
}

fn one_trace(stack: &Stack, instance: &str) {
    let inventories = stack.inventories();
    let hosts: Vec<_> = inventories
        .values()
        .filter(|inventory| !inventory.traces_of(instance).is_empty())
        .collect();
    assert_eq!(hosts.len(), 1, "one host: {hosts:#?}");
    for kind in ["disk", "instance"] {
        let of_kind = hosts[0]
            .objects
            .iter()
            .filter(|held| held.kind == kind && held.id == instance)
            .count();
        assert_eq!(of_kind, 1, "one {kind}: {hosts:#?}");
    }
}

fn no_trace(stack: &Stack, instance: &str) {
    for (host, inventory) in stack.inventories() {
        assert!(inventory.traces_of(instance).is_empty(), "{host}: {inventory:#?}");
    }
}
