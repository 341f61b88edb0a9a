//! Why is it not running: to the tenant counted per cause without a host's name, to operators host by host; the dry run says the same
//! before anything is written; and what is said follows the hosts as they change.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::agents::{Agent, AgentSize, hosts_up};
use rhyzome_testkit::faults::{Fault, FaultError};
use rhyzome_testkit::rest::{Rest, small_instance, small_instance_on, text, unique};
use rhyzome_testkit::stack::Options;
use rhyzome_testkit::{Stack, eventually};
use serde_json::{Value, json};

fn size(vcpus: u32, memory_mib: u64, disk_gib: u64) -> AgentSize {
    AgentSize {
        vcpus,
        memory_mib,
        disk_gib,
    }
}

/// What each host has to say, by host.
fn by_host(hosts: &Value) -> Vec<(String, Value, i64)> {
    hosts
        .as_array()
        .unwrap_or_else(|| panic!("no hosts in {hosts:#}"))
        .iter()
        .map(|h| {
            (
                text(h, "/host"),
                h["excluded"].clone(),
                h["free"]["memory_mib"].as_i64().unwrap(),
            )
        })
        .collect()
}

async fn dry_run(rest: &Rest, spec: &Value) -> Value {
    let body = json!({ "name": unique("dry"), "spec": spec });
    rest.post("/v1/instances?dry_run=true", &body).await.ok()["placement"].clone()
}

#[tokio::test]
async fn a_host_whose_agent_says_nothing_any_more_is_unreachable_until_it_does() {
    let stack = Stack::start(Options::simulated(1).expecting(&["watch broke off"]));
    let (rest, operator) = (stack.demo(), stack.operator());
    let network = rest.network("net").await;
    let is = async |state: &str| {
        eventually(&format!("the host to be {state}"), || async {
            let hosts = operator.all("/v1/hosts").await;
            (hosts[0]["state"] == json!(state)).then_some(())
        })
        .await;
    };
    is("up").await;
    // The connection lives, and calls are answered.
    stack
        .faults()
        .set(&[Fault::at("heartbeat").error(FaultError::Unavailable)]);
    is("unreachable").await;
    let accepted = rest.create("instances", "guest", small_instance(&network)).await;
    rest.job_until(&accepted.job, "the job to wait for the host", |job| {
        job["waiting_on"]["hosts"]["excluded"] == json!({ "unreachable": 1 })
    })
    .await;
    stack.faults().clear();
    rest.succeed(&accepted.job).await;
    is("up").await;
}

#[tokio::test]
async fn why_a_job_waits_is_told_and_follows_the_hosts() {
    let stack = Stack::start(
        Options::simulated(1)
            .set("scheduler.capacity_recheck", "1s")
            .expecting(&["watch broke off"]),
    );
    let (rest, operator) = (stack.demo(), stack.operator());
    let ours = unique("ours");
    let mut small = Agent::start_labelled(&stack, &unique("small"), &ours, 2, size(8, 4096, 100));
    let narrow = Agent::start_labelled(&stack, &unique("narrow"), &ours, 1, size(1, 65_536, 100));
    let other = Agent::start(&stack, &unique("other"), 1, size(64, 262_144, 1000));
    let names: Vec<String> = [&small, &narrow, &other]
        .iter()
        .flat_map(|a| a.hosts())
        .chain(["sim-1".to_owned()])
        .collect();
    hosts_up(&stack, &names).await;
    // One processor is offered four times: the narrow host has four.
    let mut spec = small_instance_on(&rest.network(&unique("net")).await, &ours);
    spec["memory_mib"] = json!(6000);
    spec["vcpus"] = json!(6);
    let want = json!({ "total": 5, "excluded": { "label": 2, "vcpus": 1, "memory": 2 } });
    // Of the two changes the relatively smaller one: 4096 of 6000 MiB rather than 4 of 6 processors.
    let hint = json!({ "memory_mib": 4096 });

    let placement = dry_run(&rest, &spec).await;
    assert_eq!(
        (&placement["fits"], &placement["hosts"], &placement["fits_with"]),
        (&json!(false), &want, &hint),
        "{placement:#}"
    );
    assert_eq!(placement.get("by_host"), None, "{placement:#}");

    let accepted = rest.create("instances", &unique("big"), spec.clone()).await;
    let waits = |excluded: Value| move |job: &Value| job["waiting_on"]["hosts"]["excluded"] == excluded;
    let job = rest
        .job_until(&accepted.job, "the job to wait", waits(want["excluded"].clone()))
        .await;
    let waiting = &job["waiting_on"];
    assert_eq!(
        (&waiting["hosts"], &waiting["fits_with"]),
        (&want, &hint),
        "{job:#}"
    );
    assert_eq!(waiting.get("by_host"), None, "{job:#}");
    for name in &names {
        assert!(
            !job.to_string().contains(name.as_str()),
            "a tenant is told of {name}: {job:#}"
        );
        assert!(!placement.to_string().contains(name.as_str()), "{placement:#}");
    }

    // The operator sees each host, with its cause and what is free there.
    let seen = operator
        .get(&format!("/v1/jobs/{}?tenant=demo", accepted.job))
        .await
        .ok();
    let mut told = by_host(&seen["waiting_on"]["by_host"]);
    told.sort_by(|a, b| a.0.cmp(&b.0));
    let mut wanted = vec![
        (small.hosts()[0].clone(), json!("memory"), 4096),
        (small.hosts()[1].clone(), json!("memory"), 4096),
        (narrow.hosts()[0].clone(), json!("vcpus"), 65_536),
        (other.hosts()[0].clone(), json!("label"), 262_144),
    ];
    wanted.sort_by(|a, b| a.0.cmp(&b.0));
    told.retain(|h| h.0 != "sim-1");
    assert_eq!(told, wanted, "{seen:#}");
    assert_eq!(seen["waiting_on"]["hosts"], want, "{seen:#}");

    // What would fit does.
    let mut smaller = spec.clone();
    smaller["memory_mib"] = hint["memory_mib"].clone();
    smaller["interfaces"][0]["network"] = json!(rest.network(&unique("net")).await);
    assert_eq!(dry_run(&rest, &smaller).await["fits"], true);
    rest.make("instances", &unique("smaller"), smaller).await;

    // A host that can't be reached is that first of all; and back it is what it was.
    small.kill();
    let down = json!({ "label": 2, "unreachable": 2, "vcpus": 1 });
    let job = rest
        .job_until(&accepted.job, "two hosts to be unreachable", waits(down))
        .await;
    assert_eq!(job["waiting_on"]["fits_with"], json!({ "vcpus": 4 }), "{job:#}");
    small.restart();
    rest.job_until(
        &accepted.job,
        "them to lack memory again",
        waits(want["excluded"].clone()),
    )
    .await;

    // A host that fits joins.
    let large = Agent::start_labelled(&stack, &unique("large"), &ours, 1, size(8, 8192, 100));
    let job = rest.succeed(&accepted.job).await;
    assert_eq!(job["waiting_on"], json!(null), "{job:#}");
    let at = operator
        .get(&format!("/v1/instances/{}?tenant=demo", accepted.id))
        .await
        .ok();
    assert_eq!(text(&at, "/status/host"), large.hosts()[0]);

    // The next waits for that one, and runs when it is freed.
    spec["interfaces"][0]["network"] = json!(rest.network(&unique("net")).await);
    let next = rest.create("instances", &unique("next"), spec.clone()).await;
    rest.job_until(&next.job, "the next to wait", |job| {
        job["waiting_on"]["hosts"]["excluded"]["memory"] == 3
    })
    .await;
    let before = dry_run(&rest, &spec).await;
    assert_eq!(before["hosts"]["excluded"]["memory"], 3, "{before:#}");
    rest.remove("instances", &accepted.id).await;
    rest.succeed(&next.job).await;
}

#[tokio::test]
async fn an_operators_dry_run_names_the_hosts() {
    let stack = Stack::shared();
    let operator = stack.operator();
    let network = operator.network(&unique("net")).await;
    let spec = small_instance_on(&network, "nowhere");
    let placement = dry_run(&operator, &spec).await;
    let told = by_host(&placement["by_host"]);
    assert_eq!(told.len() as u64, placement["hosts"]["total"].as_u64().unwrap());
    assert!(told.iter().all(|h| h.1 == "label"), "{placement:#}");
    assert!(told.iter().any(|h| h.0 == "sim-1"), "{placement:#}");
    operator.remove("networks", &network).await;
}
