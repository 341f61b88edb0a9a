//! The check of the books on a whole stack: nothing is broken after all kinds of ends, and what is changed behind a host's back is
//! seen, said, counted and logged.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::agents::{Agent, AgentSize};
use rhyzome_testkit::faults::{Fault, FaultError};
use rhyzome_testkit::patience::eventually_blocking;
use rhyzome_testkit::rest::{Rest, small_instance_on, text, unique};
use rhyzome_testkit::stack::Options;
use rhyzome_testkit::{Stack, eventually};
use serde_json::{Value, json};

/// It finds nothing, and looked at every host.
fn holds(stack: &Stack) {
    let (code, found) = stack.check();
    assert_eq!(found["violations"], json!([]), "{found:#}");
    assert_eq!((code, &found["not_looked"]), (Some(0), &json!([])), "{found:#}");
}

fn checks(found: &Value) -> Vec<(u64, String)> {
    let mut checks: Vec<(u64, String)> = found["violations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| (v["invariant"].as_u64().unwrap(), text(v, "/check")))
        .collect();
    checks.dedup();
    checks
}

async fn gauge(stack: &Stack, invariant: u8) -> f64 {
    let url = stack.process("scheduler").metrics_url.unwrap();
    let (base, path) = match url.match_indices('/').nth(2) {
        Some((at, _)) => url.split_at(at),
        None => (url.as_str(), "/metrics"),
    };
    let answer = Rest::new(base, None).get(path).await;
    let label = format!("rhyzome_invariant_violations{{invariant=\"{invariant}\"}} ");
    let line = answer.text.lines().find_map(|line| line.strip_prefix(&label));
    line.unwrap_or_else(|| panic!("no {label}")).parse().unwrap()
}

async fn until_gauge(stack: &Stack, invariant: u8, what: &str, is: fn(f64) -> bool) {
    eventually(
        what,
        || async move { is(gauge(stack, invariant).await).then_some(()) },
    )
    .await;
}

/// How often the scheduler has said that an invariant is broken on these ids.
fn said(stack: &Stack, id: &str) -> usize {
    let folder = stack.file().log_dir;
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().contains("scheduler") {
            let log = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            count += log
                .lines()
                .filter(|line| line.contains("invariant broken") && line.contains(id))
                .count();
        }
    }
    count
}

#[tokio::test]
async fn after_all_kinds_of_ends_nothing_is_broken() {
    let stack = Stack::start(
        Options::simulated(3)
            .set("scheduler.check_interval", "1s")
            .expecting(&["watch broke off"]),
    );
    let rest = stack.demo();
    let name = unique("mix");
    let mut agent = Agent::start(&stack, &name, 2, AgentSize::default());
    let spec = |network: &str| small_instance_on(network, &name);
    let network = rest.network(&unique("net")).await;
    let kept = text(
        &rest.make("instances", &unique("kept"), spec(&network)).await,
        "/id",
    );
    let gone = text(
        &rest.make("instances", &unique("gone"), spec(&network)).await,
        "/id",
    );
    rest.remove("instances", &gone).await;

    // A failure, a change that fails, a host that refuses, a cancel.
    agent
        .faults()
        .set(&[Fault::at("ensure_disk").error(FaultError::Permanent).times(1)]);
    eventually("a create to fail", || async {
        let failed = rest.create("instances", &unique("fail"), spec(&network)).await;
        (rest.done(&failed.job).await["state"] == "failed").then_some(())
    })
    .await;
    agent
        .faults()
        .set(&[Fault::at("ensure_instance").error(FaultError::NoRoom).times(1)]);
    let refused = rest
        .create(
            "instances",
            &unique("refused"),
            spec(&rest.network(&unique("net")).await),
        )
        .await;
    rest.done(&refused.job).await;
    agent.faults().set(&[Fault::at("ensure_disk").delay_ms(60_000)]);
    eventually("a create to be cancelled", || async {
        let slow = rest.create("instances", &unique("slow"), spec(&network)).await;
        rest.act(&format!("/v1/jobs/{}/cancel", slow.job)).await;
        (rest.done(&slow.job).await["state"] == "cancelled").then_some(())
    })
    .await;
    agent.faults().clear();

    let path = format!("/v1/instances/{kept}");
    for act in ["stop", "start", "stop"] {
        let acted = rest.act(&format!("{path}/{act}")).await.accepted();
        rest.succeed(&acted.job).await;
    }
    let changed = rest
        .patch(&path, &json!({ "spec": { "memory_mib": 256 } }))
        .await
        .accepted();
    rest.succeed(&changed.job).await;
    holds(&stack);

    // Many at once, looked at while they go: what is in motion is not reported, whenever one looks.
    let mut jobs = Vec::new();
    for _ in 0..12 {
        let made = rest.create("instances", &unique("burst"), spec(&network)).await;
        jobs.push(made.job.clone());
        let (_, found) = stack.check();
        assert_eq!(found["violations"], json!([]), "{found:#}");
        if jobs.len() % 2 == 0 {
            let deleted = rest
                .delete(&format!("/v1/instances/{}", made.id))
                .await
                .accepted();
            jobs.push(deleted.job);
        }
    }
    for job in &jobs {
        rest.done(job).await;
    }
    holds(&stack);
    until_gauge(&stack, 7, "nothing to be counted", |n| n.abs() < f64::EPSILON).await;
    assert_eq!(said(&stack, ""), 0, "{}", stack.logs());

    // An agent that can't be reached is said, and not passed in silence.
    agent.kill();
    let (code, found) = stack.check();
    assert_eq!(code, Some(2), "{found:#}");
    let not_looked: Vec<String> = found["not_looked"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| text(n, "/host"))
        .collect();
    assert_eq!(not_looked, agent.hosts(), "{found:#}");
    agent.restart();
    eventually_blocking("the agent to answer again", || {
        (stack.check().0 == Some(0)).then_some(())
    });
}

#[tokio::test]
async fn what_is_changed_behind_a_hosts_back_is_seen() {
    let stack = Stack::start(
        Options::simulated(1)
            .set("scheduler.check_interval", "1s")
            .expecting(&["invariant broken", "watch broke off"]),
    );
    let rest = stack.demo();
    let name = unique("back");
    let mut agent = Agent::start(&stack, &name, 1, AgentSize::default());
    let network = rest.network(&unique("net")).await;
    let first = rest
        .make("instances", &unique("first"), small_instance_on(&network, &name))
        .await;
    let effects = agent.effects();
    let without = std::fs::read(&effects).unwrap();
    let second = rest
        .make("instances", &unique("second"), small_instance_on(&network, &name))
        .await;
    let (first, second) = (text(&first, "/id"), text(&second, "/id"));
    holds(&stack);

    // Its disk, its guest and its claims go, and nobody was told.
    agent.kill();
    let with = std::fs::read(&effects).unwrap();
    std::fs::write(&effects, &without).unwrap();
    agent.restart();
    let found = eventually_blocking("the agent to be looked at", || {
        let (code, found) = stack.check();
        (code == Some(1)).then_some(found)
    });
    assert_eq!(checks(&found), [(7, "object_missing".to_owned())], "{found:#}");
    let ids = &found["violations"][0]["ids"];
    assert_eq!(ids, &json!([agent.hosts()[0], second]), "{found:#}");
    assert!(
        !found.to_string().contains(&first),
        "what is there is not missing: {found:#}"
    );
    let table = stack.try_run(&["admin", "check"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("object_missing"));
    until_gauge(&stack, 7, "the missing object to be counted", |n| {
        (n - 1.0).abs() < f64::EPSILON
    })
    .await;
    assert_eq!(said(&stack, &second), 1, "it is said once:\n{}", stack.logs());

    agent.kill();
    std::fs::write(&effects, &with).unwrap();
    agent.restart();
    eventually_blocking("it to be there again", || {
        (stack.check().0 == Some(0)).then_some(())
    });
    until_gauge(&stack, 7, "nothing to be counted any more", |n| {
        n.abs() < f64::EPSILON
    })
    .await;

    // And what was deleted comes back.
    rest.remove("instances", &second).await;
    agent.kill();
    std::fs::write(&effects, &with).unwrap();
    agent.restart();
    let found = eventually_blocking("what nobody owns to be seen", || {
        let (code, found) = stack.check();
        (code == Some(1)).then_some(found)
    });
    let mut seen = checks(&found);
    seen.dedup();
    let of_seven = [(7, "object_orphan".to_owned()), (7, "claim_stray".to_owned())];
    assert!(
        seen.iter().all(|s| of_seven.contains(s)) && seen.contains(&of_seven[0]),
        "{found:#}"
    );
    assert!(!found.to_string().contains(&first), "{found:#}");
    until_gauge(&stack, 7, "the orphan to be counted", |n| n >= 1.0).await;
}
