//! An instance whose host's agent is gone is unknown until the agent is back, to who reads and to who watches.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::Stack;
use rhyzome_testkit::agents::{Agent, AgentSize, hosts_up};
use rhyzome_testkit::events::{Event, Watch};
use rhyzome_testkit::rest::{Rest, small_instance_on, text, unique};
use rhyzome_testkit::stack::Options;
use serde_json::{Value, json};

async fn names(rest: &Rest, state: &str) -> Vec<String> {
    let found = rest.all(&format!("/v1/instances?state={state}")).await;
    found.iter().map(|i| text(i, "/name")).collect()
}

/// An event of this instance that shows this state.
fn shows<'a>(instance: &'a Value, state: &'a str) -> impl FnMut(&Event) -> bool + 'a {
    move |event| event.data["id"] == instance["id"] && event.data["resource"]["state"] == state
}

#[tokio::test]
async fn an_instance_is_unknown_while_its_hosts_agent_is_gone() {
    let stack = Stack::start(
        Options::simulated(1)
            .set("scheduler.watch_lease", "3s")
            .set("scheduler.host_silence", "3s")
            .expecting(&["watch broke off"]),
    );
    let (rest, operator) = (stack.demo(), stack.operator());
    let mut agent = Agent::start(&stack, &unique("gone"), 1, AgentSize::default());
    hosts_up(&stack, &agent.hosts()).await;
    let network = rest.network(&unique("net")).await;
    let guest = rest
        .make("instances", "guest", small_instance_on(&network, agent.label()))
        .await;
    let path = format!("/v1/instances/{}", text(&guest, "/id"));
    assert_eq!(names(&rest, "running").await, ["guest"]);

    let mut watch = Watch::of(&rest, None).await;
    agent.kill();
    let seen = watch.until("it to be unknown", shows(&guest, "unknown")).await;
    let told = &seen.last().unwrap().data;
    assert_eq!(
        (&told["change"], &told["resource"]["reason"]["code"]),
        (&json!("updated"), &json!("HOST_UNREACHABLE"))
    );
    let read = rest.get(&path).await.ok();
    assert_eq!(
        (&read["state"], &read["status"]["power"], &read["reason"]),
        (&json!("unknown"), &json!("on"), &told["resource"]["reason"])
    );
    assert!(!read.to_string().contains(&agent.hosts()[0]), "{read:#}");
    assert_eq!(names(&rest, "unknown").await, ["guest"]);
    assert_eq!(names(&rest, "running").await, [] as [&str; 0]);
    let of_operator = operator.get(&format!("{path}?tenant=demo")).await.ok();
    assert!(
        text(&of_operator, "/reason/detail").contains(&agent.hosts()[0]),
        "{of_operator:#}"
    );

    agent.restart();
    watch.until("it to run again", shows(&guest, "running")).await;
    assert_eq!(rest.get(&path).await.ok()["reason"], json!(null));

    // What is asked for while nobody knows waits for the host, and is done.
    agent.kill();
    watch
        .until("it to be unknown again", shows(&guest, "unknown"))
        .await;
    let stop = rest.act(&format!("{path}/stop")).await.accepted();
    rest.job_until(&stop.job, "the stop to wait for the host", |job| {
        job["waiting_on"]["reason"] == "host_unreachable"
    })
    .await;
    assert_eq!(rest.get(&path).await.ok()["state"], "stopping");
    agent.restart();
    rest.succeed(&stop.job).await;
    watch.until("it to be off", shows(&guest, "stopped")).await;
    rest.remove("instances", &text(&guest, "/id")).await;
}
