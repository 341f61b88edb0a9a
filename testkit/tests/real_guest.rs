//! Real guests from end to end: two tenants with the same range, fetched by HTTP at the address that the API gave; power, console, crashes of the
//! agent and of everything but the guests; deletion that leaves nothing on the machine (invariants 6, 7, 12, 13).
//!
//! Only as root and with the image `tiny`; `RHYZOME_SKIP_REAL` leaves it out.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use rhyzome_testkit::guard::Marked;
use rhyzome_testkit::logs;
use rhyzome_testkit::patience::eventually_within;
use rhyzome_testkit::processes::send;
use rhyzome_testkit::rest::{Rest, small_instance, text};
use rhyzome_testkit::{LocalHost, Options, Stack, eventually, tools};
use serde_json::{Value, json};

/// A guest under software emulation on a busy machine needs this long at the very most.
const BOOT: Duration = Duration::from_mins(3);

#[tokio::test]
async fn an_image_with_a_wrong_digest_fails_and_cannot_be_used() {
    if let Some(why) = tools::why_no_guests() {
        eprintln!("skipped: {why}");
        return;
    }
    let stack = real_stack();
    let operator = stack.operator();
    let spec = json!({ "source": { "file": "tiny.qcow2" }, "format": "qcow2", "visibility": "public", "sha256": "0".repeat(64) });
    let image = operator.create("images", "wrong", spec).await;
    let job = operator.fail(&image.job).await;
    assert_eq!(
        (&job["error"]["step"], &job["error"]["retryable"]),
        (&json!("ensure_image"), &json!(false)),
        "{job:#}"
    );
    assert!(
        job["error"]["code"].is_string() && job["error"]["detail"].is_string(),
        "{job:#}"
    );
    let failed = operator.resource("images", &image.id).await;
    assert_eq!(
        (&failed["state"], &failed["reason"]["job"]),
        (&json!("failed"), &json!(image.job)),
        "{failed:#}"
    );
    assert_eq!(failed["reason"]["code"], job["error"]["code"]);
    let host = stack.file().agents[0].host.clone();
    assert!(stack.inventory(&host).traces_of(&image.id).is_empty());

    let rest = stack.demo();
    let network = rest.network("lan").await;
    let mut spec = small_instance(&network);
    spec["image"] = json!(image.id);
    let problem = rest
        .post("/v1/instances", &json!({ "name": "guest", "spec": spec }))
        .await
        .refused(422);
    assert!(problem.to_string().contains("REFERENCE_FAILED"), "{problem:#}");
    operator.remove("images", &image.id).await;

    // Another format than it is, and a file that isn't there.
    for (file, format) in [("tiny.qcow2", "raw"), ("no-such-file.qcow2", "qcow2")] {
        let spec = json!({ "source": { "file": file }, "format": format });
        let image = operator.create("images", &format!("wrong-{format}"), spec).await;
        let job = operator.fail(&image.job).await;
        assert_eq!(job["error"]["step"], "ensure_image", "{job:#}");
        assert!(stack.inventory(&host).traces_of(&image.id).is_empty());
    }
}

fn real_stack() -> Stack {
    Stack::start(Options {
        simulated_hosts: 0,
        local_host: LocalHost::Yes,
        ..Options::default()
            .set("agent.disk_reserve_gib", "1")
            .expecting(logs::OUTAGE)
            .expecting(&["a step failed"])
    })
}

#[tokio::test]
async fn guests_from_request_to_nothing() {
    if let Some(why) = tools::why_no_guests() {
        eprintln!("skipped: {why}");
        return;
    }
    let links_before = links();
    let stack = real_stack();
    let (demo, other) = (stack.demo(), stack.tenant("other"));
    let (lan, same) = (demo.network("lan").await, other.network("lan").await);

    let with_address = |network: &str| {
        let mut spec = small_instance(network);
        spec["interfaces"][0]["ip"] = json!("10.20.0.7");
        spec["user_data"] = json!("#!/bin/sh\necho said-by-user-data\n");
        spec
    };
    let one = demo.create("instances", "web-1", with_address(&lan)).await;
    let mut left_off = small_instance(&lan);
    left_off["restart"] = json!("never");
    let two = demo.create("instances", "web-2", left_off).await;
    let there = other.create("instances", "web-there", with_address(&same)).await;
    for (rest, create) in [(&demo, &one), (&demo, &two), (&other, &there)] {
        let job = rest.done_within(BOOT, &create.job).await;
        assert_eq!(job["state"], "succeeded", "{job:#}");
    }
    let spaces = (
        namespace(&stack, "demo", &lan).await,
        namespace(&stack, "other", &same).await,
    );
    assert_ne!(spaces.0, spaces.1, "a namespace for each network");
    let own = demo.resource("networks", &lan).await;
    assert!(
        own["status"].get("namespace").is_none_or(Value::is_null),
        "namespaces are for operators: {own:#}"
    );
    let second = text(&demo.resource("instances", &two.id).await, "/status/addresses/0");
    let guests = [
        (spaces.0.as_str(), "web-1", "10.20.0.7"),
        (spaces.0.as_str(), "web-2", second.as_str()),
        (spaces.1.as_str(), "web-there", "10.20.0.7"),
    ];
    all_answer(&guests).await;
    let links_then: BTreeSet<String> = links().difference(&links_before).cloned().collect();

    let console = demo
        .get(&format!("/v1/instances/{}/console?tail=200", one.id))
        .await;
    assert_eq!(console.status, 200, "{}", console.text);
    assert!(
        console
            .text
            .contains("rhyzome-guest: name=web-1 address=10.20.0.7"),
        "{}",
        console.text
    );
    eventually("the user data's word on the console", || async {
        let console = demo
            .get(&format!("/v1/instances/{}/console?tail=200", one.id))
            .await;
        console.text.contains("said-by-user-data").then_some(())
    })
    .await;
    other
        .get(&format!("/v1/instances/{}/console", one.id))
        .await
        .refused(404);

    // The agent is killed while guests run: they go on, and it adopts them.
    let running = qemu(&stack);
    assert_eq!(running.len(), 3, "{running:#?}");
    let killed = stack.kill_role("agent");
    all_answer(&guests).await;
    stack.wait_restarted(&killed[0]);
    off_and_on(&demo, &one.id, guests[0]).await;
    died_and_started(&stack, &demo, &two.id, guests[1]).await;
    let still = qemu(&stack);
    let kept = running
        .iter()
        .filter(|guest| still.iter().any(|now| now.pid == guest.pid))
        .count();
    assert_eq!(kept, 1, "one was told to stop, one was killed: {still:#?}");

    // Everything but the guests is killed, and started again.
    let pids: BTreeSet<i32> = still.iter().map(|guest| guest.pid).collect();
    for process in stack.marked() {
        if !is_of_guests(&process) {
            send(process.pid, Signal::SIGKILL);
        }
    }
    all_answer(&guests).await;
    stack.up();
    all_answer(&guests).await;
    let now: BTreeSet<i32> = qemu(&stack).iter().map(|guest| guest.pid).collect();
    assert_eq!(now, pids, "what runs is adopted");
    let (demo, other) = (stack.demo(), stack.tenant("other"));
    demo.resource_until("instances", &two.id, "web-2 to be seen running", |guest| {
        guest["state"] == "running"
    })
    .await;
    let reboot = demo
        .act(&format!("/v1/instances/{}/reboot", two.id))
        .await
        .accepted();
    let job = demo.done_within(BOOT, &reboot.job).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    answers(guests[1]).await;

    // Nothing is left of what is deleted, and the rest stays.
    demo.remove("instances", &one.id).await;
    assert_eq!(qemu(&stack).len(), 2);
    answers(guests[1]).await;
    demo.remove("instances", &two.id).await;
    other.remove("instances", &there.id).await;
    assert!(qemu(&stack).is_empty(), "{:#?}", qemu(&stack));
    let left = namespaces();
    assert!(!left.contains(&spaces.0) && !left.contains(&spaces.1), "{left:?}");
    eventually("bridges, taps and pairs to be gone", || async {
        links().is_disjoint(&links_then).then_some(())
    })
    .await;
    let host = stack.file().agents[0].host.clone();
    let inventory = stack.inventory(&host);
    assert!(
        inventory.objects.iter().all(|held| held.kind == "image"),
        "only what the public image keeps is left: {inventory:#?}"
    );

    // `down` stops guests, too.
    let last = demo.create("instances", "last", small_instance(&lan)).await;
    demo.done_within(BOOT, &last.job).await;
    let space = namespace(&stack, "demo", &lan).await;
    assert!(namespaces().contains(&space));
    let left = stack.down(&[]);
    assert!(left.is_empty(), "{left:#?}");
    assert!(!namespaces().contains(&space), "down leaves no namespace");
}

async fn namespace(stack: &Stack, tenant: &str, network: &str) -> String {
    let seen = stack
        .operator()
        .get(&format!("/v1/networks/{network}?tenant={tenant}"))
        .await
        .ok();
    text(&seen, "/status/namespace")
}

async fn all_answer(guests: &[(&str, &str, &str)]) {
    for guest in guests {
        answers(*guest).await;
    }
}

/// The guest's page: its name and its address, one a line.
async fn answers((namespace, name, address): (&str, &str, &str)) {
    let what = format!("{name} to answer at {address} in {namespace}");
    eventually_within(BOOT, &what, || async {
        (page(namespace, address)? == format!("{name}\n{address}\n")).then_some(())
    })
    .await;
}

fn page(namespace: &str, address: &str) -> Option<String> {
    let output = Command::new("ip")
        .args([
            "netns",
            "exec",
            namespace,
            "curl",
            "-s",
            "--noproxy",
            "*",
            "--max-time",
            "3",
        ])
        .arg(format!("http://{address}/"))
        .output()
        .unwrap();
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn off_and_on(rest: &Rest, id: &str, guest: (&str, &str, &str)) {
    for (action, state) in [("stop", "stopped"), ("start", "running")] {
        let accepted = rest.act(&format!("/v1/instances/{id}/{action}")).await.accepted();
        let job: Value = rest.done_within(BOOT, &accepted.job).await;
        assert_eq!(job["state"], "succeeded", "{job:#}");
        assert_eq!(rest.resource("instances", id).await["state"], state);
        if action == "stop" {
            assert_eq!(page(guest.0, guest.2), None, "it is off");
        }
    }
    answers(guest).await;
}

/// A guest that ended by itself is shown with why, and a start starts it, though it was never stopped.
async fn died_and_started(stack: &Stack, rest: &Rest, id: &str, guest: (&str, &str, &str)) {
    let process = qemu(stack)
        .into_iter()
        .find(|process| process.command.contains(id));
    send(process.expect("its process").pid, Signal::SIGKILL);
    let crashed = rest
        .resource_until("instances", id, "it is seen crashed", |shown| {
            shown["state"] == "crashed"
        })
        .await;
    assert_eq!(crashed["reason"]["code"], "GUEST_CRASHED", "{crashed:#}");
    let accepted = rest.act(&format!("/v1/instances/{id}/start")).await.accepted();
    let job: Value = rest.done_within(BOOT, &accepted.job).await;
    assert_eq!(
        (&job["state"], &job["steps"][0]["name"]),
        (&json!("succeeded"), &json!("set_power")),
        "{job:#}"
    );
    let running = rest.resource("instances", id).await;
    assert_eq!(
        (&running["state"], &running["reason"]),
        (&json!("running"), &Value::Null)
    );
    answers(guest).await;
}

fn qemu(stack: &Stack) -> Vec<Marked> {
    let mut guests = stack.marked();
    guests.retain(|process| {
        process
            .command
            .split(' ')
            .next()
            .is_some_and(|program| program.contains("qemu-system"))
    });
    guests
}

/// What stays when all of Rhyzome is killed: the guests, and what gives them their addresses.
fn is_of_guests(process: &Marked) -> bool {
    ["qemu-system", "dnsmasq"]
        .iter()
        .any(|program| process.command.contains(program))
}

fn namespaces() -> BTreeSet<String> {
    let output = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
        .collect()
}

/// Network interfaces outside of any namespace.
fn links() -> BTreeSet<String> {
    let entries = std::fs::read_dir("/sys/class/net").unwrap();
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
