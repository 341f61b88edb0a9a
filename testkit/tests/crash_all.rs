//! SIGKILL of everything in the middle of work, `up` again on the same data, and `down` that leaves nothing (invariants 1, 4, 6, 7).

use rhyzome_testkit::faults::Fault;
use rhyzome_testkit::logs;
use rhyzome_testkit::processes::send;
use rhyzome_testkit::rest::{small_instance, text, unique};
use rhyzome_testkit::{Options, Stack, eventually};

use nix::sys::signal::Signal;

#[tokio::test]
async fn everything_is_killed_and_started_again_and_every_accepted_job_ends() {
    let stack = Stack::start(
        Options::simulated(3)
            .set("nats.ack_wait", "3s")
            .expecting(logs::OUTAGE),
    );
    let rest = stack.demo();
    let network = rest.network("net").await;
    let before = rest.make("instances", "before", small_instance(&network)).await;
    stack.faults().set(&[Fault::at("ensure_disk").delay_ms(700)]);
    let mut accepted = Vec::new();
    for n in 0..20 {
        let network = rest
            .create(
                "networks",
                &format!("net-{n}"),
                serde_json::json!({ "cidr": "10.20.0.0/24" }),
            )
            .await;
        accepted.push(
            rest.create("instances", &format!("guest-{n}"), small_instance(&network.id))
                .await,
        );
    }
    rest.job_until(&accepted[3].job, "the first ones to run", |job| {
        job["state"] != "queued"
    })
    .await;
    let all = stack.marked();
    assert!(all.len() >= 8, "{all:#?}");
    for process in &all {
        send(process.pid, Signal::SIGKILL);
    }
    eventually("everything to be gone", || async {
        stack.marked().is_empty().then_some(())
    })
    .await;

    stack.faults().clear();
    stack.up();
    let rest = stack.demo();
    for create in &accepted {
        rest.succeed(&create.job).await;
        assert_eq!(rest.resource("instances", &create.id).await["state"], "running");
    }
    assert_eq!(
        rest.resource("instances", &text(&before, "/id")).await["state"],
        "running"
    );
    let inventories = stack.inventories();
    for id in accepted
        .iter()
        .map(|create| create.id.clone())
        .chain([text(&before, "/id")])
    {
        for kind in ["disk", "instance"] {
            let found = inventories.values().flat_map(|inventory| &inventory.objects);
            assert_eq!(
                found.filter(|held| held.kind == kind && held.id == id).count(),
                1,
                "one {kind} of {id}"
            );
        }
    }
    let guests = inventories
        .values()
        .flat_map(|inventory| &inventory.objects)
        .filter(|held| held.kind == "instance");
    assert_eq!(guests.count(), accepted.len() + 1, "no orphan");

    let file = stack.file();
    assert!(file.processes.iter().any(|process| process.role == "postgres"));
    let left = stack.down(&[]);
    assert!(left.is_empty(), "down leaves no process: {left:#?}");
    let name = unique("after");
    stack.up();
    let rest = stack.demo();
    assert_eq!(
        rest.all("/v1/instances").await.len(),
        accepted.len() + 1,
        "the data are the same"
    );
    rest.make(
        "instances",
        &name,
        small_instance(&text(&rest.all("/v1/networks?name=net").await[0], "/id")),
    )
    .await;
}
