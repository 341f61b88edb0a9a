//! nats-server killed and its storage removed during a burst of creates (invariants 1, 3, 4, 7, 11).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use nix::sys::signal::Signal;
use rhyzome_testkit::faults::Fault;
use rhyzome_testkit::logs;
use rhyzome_testkit::processes::send;
use rhyzome_testkit::rest::{Accepted, small_instance, unique};
use rhyzome_testkit::{Options, Stack};
use serde_json::{Value, json};

const CREATES: usize = 200;

#[tokio::test]
async fn every_create_of_a_burst_ends_though_nats_loses_everything() {
    let stack = Stack::start(Options {
        // Room for all: a network lives on one host.
        simulated_size: Some("256,1048576,8192".to_owned()),
        ..Options::simulated(10)
            .set("nats.ack_wait", "5s")
            .expecting(logs::OUTAGE)
    });
    let rest = stack.demo();
    let mut networks = Vec::new();
    for n in 0..10 {
        networks.push(rest.network(&format!("net-{n}")).await);
    }
    let create = |n: usize| {
        let (rest, network) = (rest.clone(), networks[n % networks.len()].clone());
        async move {
            rest.create("instances", &format!("guest-{n}"), small_instance(&network))
                .await
        }
    };
    let wiped = std::sync::atomic::AtomicBool::new(false);
    let accepted: Vec<Accepted> = futures::stream::iter(0..CREATES)
        .map(create)
        .buffer_unordered(16)
        .enumerate()
        .map(|(n, accepted)| {
            if n == CREATES / 2 {
                wipe(&stack);
                wiped.store(true, std::sync::atomic::Ordering::SeqCst);
            }
            accepted
        })
        .collect()
        .await;
    assert!(wiped.load(std::sync::atomic::Ordering::SeqCst));
    assert_eq!(accepted.len(), CREATES);
    for create in &accepted {
        let job = rest.done_within(Duration::from_mins(3), &create.job).await;
        assert_eq!(job["state"], "succeeded", "{job:#}");
    }
    // One job each, and the agents hold exactly what Postgres says.
    assert_eq!(
        rest.all("/v1/jobs?state=succeeded&limit=100").await.len(),
        CREATES + networks.len()
    );
    let ids: BTreeSet<&str> = accepted.iter().map(|create| create.id.as_str()).collect();
    let inventories = stack.inventories();
    for kind in ["disk", "instance"] {
        let held: Vec<&str> = inventories
            .values()
            .flat_map(|inventory| &inventory.objects)
            .filter(|held| held.kind == kind)
            .map(|held| held.id.as_str())
            .collect();
        assert_eq!(held.len(), CREATES, "each {kind} once");
        assert_eq!(held.into_iter().collect::<BTreeSet<_>>(), ids);
    }
    for network in &networks {
        let holders: Vec<_> = inventories
            .values()
            .flat_map(|inventory| &inventory.objects)
            .filter(|held| held.kind == "network" && held.id == *network)
            .collect();
        assert_eq!(holders.len(), 1, "a network is on one host");
        assert_eq!(holders[0].claims.len(), CREATES / networks.len());
    }
    let running = rest.all("/v1/instances?state=running&limit=100").await;
    assert_eq!(running.len(), CREATES);
    let leases = rest
        .all(&format!("/v1/networks/{}/leases?limit=100", networks[0]))
        .await;
    let addresses: BTreeSet<String> = leases.iter().map(|lease| lease["ip"].to_string()).collect();
    assert_eq!(
        (leases.len(), addresses.len()),
        (CREATES / networks.len(), CREATES / networks.len())
    );

    // What comes after goes its ordinary way.
    let after = rest
        .make("instances", "after", small_instance(&networks[0]))
        .await;
    assert_eq!(after["state"], json!("running"));
}

#[tokio::test]
async fn what_runs_ends_though_nats_loses_everything_and_nobody_asks_for_more() {
    let stack = Stack::start(
        Options::simulated(1)
            .set("nats.ack_wait", "5s")
            .expecting(logs::OUTAGE),
    );
    let rest = stack.demo();
    let network = rest.network("net").await;
    stack.faults().set(&[Fault::at("ensure_disk").delay_ms(5000)]);
    let makes_its_disk = |job: &Value| {
        let mut steps = job["steps"].as_array().into_iter().flatten();
        steps.any(|step| (&step["name"], &step["state"]) == (&json!("ensure_disk"), &json!("running")))
    };
    // The agent reads its faults within a second: what it does before is done at once.
    let create = loop {
        let create = rest
            .create("instances", &unique("guest"), small_instance(&network))
            .await;
        let job = rest
            .job_until(&create.job, "its disk to be made, or its end", |job| {
                job["done"] == json!(true) || makes_its_disk(job)
            })
            .await;
        if job["done"] == json!(false) {
            break create;
        }
    };
    wipe(&stack);
    let job = rest.done_within(Duration::from_mins(2), &create.job).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
}

/// Stopped first, so that it is not started again before its storage is gone.
fn wipe(stack: &Stack) {
    let nats = stack.process("nats");
    send(nats.pid, Signal::SIGSTOP);
    std::fs::remove_dir_all(stack.file().nats.jetstream_dir).unwrap();
    send(nats.pid, Signal::SIGKILL);
}
