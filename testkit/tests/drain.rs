//! SIGTERM to each role under load: it ends with status 0, whoever was answered was answered well, and every job ends
//! (invariants 1, 4, 9, 13).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use nix::sys::signal::Signal;
use rhyzome_testkit::logs;
use rhyzome_testkit::patience::eventually;
use rhyzome_testkit::processes::send;
use rhyzome_testkit::rest::{Accepted, small_instance, unique};
use rhyzome_testkit::stack::ProcessEntry;
use rhyzome_testkit::{Options, Rest, Stack};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Tells a process to end, and waits until the stack has seen it end well and serves again.
async fn drained(stack: &Stack, process: &ProcessEntry) {
    let log = stack.file().log_dir.join("up.log");
    let before = std::fs::read_to_string(&log).unwrap_or_default().len();
    send(process.pid, Signal::SIGTERM);
    let said = eventually(&format!("{} to end", process.name), || async {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let line = text
            .get(before..)?
            .lines()
            .find(|l| l.starts_with(&format!("{} ended", process.name)))?;
        Some(line.to_owned())
    })
    .await;
    assert!(said.contains("(exit status: 0)"), "{said}");
    stack.wait_restarted(process);
    // Restarted is not yet serving.
    eventually(&format!("{} to serve again", process.name), || async {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.get(before..)?
            .contains(&format!("{} serves again", process.name))
            .then_some(())
    })
    .await;
}

async fn burst(rest: &Rest, networks: &[String], count: usize) -> Vec<Accepted> {
    let mut accepted = Vec::new();
    for n in 0..count {
        let spec = small_instance(&networks[n % networks.len()]);
        accepted.push(rest.create("instances", &unique("guest"), spec).await);
    }
    accepted
}

#[tokio::test]
async fn every_role_ends_in_order_under_load() {
    let stack = Stack::start(Options {
        simulated_size: Some("256,1048576,8192".to_owned()),
        ..Options::simulated(4).expecting(logs::OUTAGE)
    });
    let rest = stack.demo();
    let mut networks = Vec::new();
    for _ in 0..4 {
        networks.push(rest.network(&unique("net")).await);
    }
    let mut all = Vec::new();
    for role in ["worker", "scheduler", "agent"] {
        all.extend(burst(&rest, &networks, 20).await);
        drained(&stack, &stack.process(role)).await;
    }

    // The API, while it is asked all the time: who gets an answer gets a good one.
    let ending = Arc::new(AtomicBool::new(false));
    let url = format!("{}/v1/jobs?limit=5", stack.file().api_url);
    let answered: Vec<Arc<AtomicUsize>> = (0..4).map(|_| Arc::default()).collect();
    let askers: Vec<_> = answered
        .iter()
        .map(|answered| {
            let (ending, url, token) = (Arc::clone(&ending), url.clone(), rest.token().unwrap().to_owned());
            let answered = Arc::clone(answered);
            tokio::spawn(async move {
                let client = reqwest::Client::new();
                let mut answers = Vec::new();
                while !ending.load(Ordering::SeqCst) {
                    // Between two lives nobody listens.
                    if let Ok(answer) = client.get(&url).bearer_auth(&token).send().await {
                        answers.push(answer.status().as_u16());
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                    tokio::task::yield_now().await;
                }
                answers
            })
        })
        .collect();
    eventually("every asker to be answered", || async {
        let all = answered.iter().all(|count| count.load(Ordering::SeqCst) > 0);
        all.then_some(())
    })
    .await;
    drained(&stack, &stack.process("api")).await;
    ending.store(true, Ordering::SeqCst);
    for asker in askers {
        let answers = asker.await.unwrap();
        assert!(
            !answers.is_empty() && answers.iter().all(|status| *status == 200),
            "{answers:?}"
        );
    }

    let rest = stack.demo();
    for create in &all {
        rest.succeed(&create.job).await;
    }
}
