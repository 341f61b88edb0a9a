//! A whole agent of several simulated hosts over mTLS: who may call what, orders, watches, inventories, the console, restarts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
mod served;

use common::{Job, host};
use rhyzome_model::job::Verdict;
use rhyzome_proto::agent::host_report::Report;
use rhyzome_proto::agent::{ApplyRequest, ConsoleRequest, InventoryRequest, apply_report};
use rhyzome_proto::event::{self, OutcomeKind};
use rhyzome_proto::job::Order;
use rhyzome_runtime::Role;
use served::{Watch, World, apply, told};
use std::time::Duration;
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_says_hello_capacity_inventory_heartbeats_and_guests() {
    let world = World::new();
    let agent = world.agent().await;
    let mut scheduler = world.client(Role::Scheduler, &agent.address, "sim-1");
    let mut watch = Watch::open(&mut scheduler).await;
    let first = watch.reports.message().await.unwrap().unwrap().report.unwrap();
    let Report::Hello(hello) = first else {
        panic!("{first:?}")
    };
    assert_eq!(
        (hello.host.as_str(), hello.epoch, hello.max_fence),
        ("sim-1", 0, 0)
    );
    let capacity = watch
        .until(|r| {
            if let Report::Capacity(c) = r {
                Some(c)
            } else {
                None
            }
        })
        .await;
    assert_eq!(
        (capacity.vcpus, capacity.memory_mib, capacity.driver.as_str()),
        (4, 4096, "simulated")
    );
    watch
        .until(|r| {
            if let Report::Heartbeat(b) = r {
                Some(b)
            } else {
                None
            }
        })
        .await;

    // Two watches of one host; the second tells the epoch, the first sees the guest.
    let _second = told(&world, &agent, "sim-1").await;
    let job = Job::new();
    let mut worker = world.client(Role::Worker, &agent.address, "sim-1");
    let (steps, outcome) = apply(&mut worker, job.order(5)).await;
    assert!(steps.is_empty(), "an order that ends at once is one message");
    assert_eq!(
        (common::kind(&outcome), outcome.steps.len()),
        (OutcomeKind::Succeeded, 5)
    );
    let guest = watch
        .until(|r| if let Report::Guest(g) = r { Some(g) } else { None })
        .await;
    assert_eq!((guest.power.as_str(), guest.fence), ("on", 5));
    assert_eq!(guest.instance, job.resource.0.as_bytes());
    drop(watch);
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inventories_that_are_asked_for_while_one_is_made_are_one() {
    let world = World::new();
    let slow = "[[fault]]\nstep = \"inventory\"\ndelay_ms = 500\n";
    std::fs::write(world.faults(), slow).unwrap();
    let agent = world.agent().await;
    let mut scheduler = world.client(Role::Scheduler, &agent.address, "sim-1");
    let mut watch = Watch::open(&mut scheduler).await;
    for _ in 0..50 {
        watch.tell("sim-1", 1).await;
    }
    let inventory = |r| matches!(r, Report::Inventory(_)).then_some(());
    let mut made = 0;
    // Until none comes for much longer than one takes.
    while tokio::time::timeout(Duration::from_secs(3), watch.until(inventory))
        .await
        .is_ok()
    {
        made += 1;
    }
    // The one that comes unasked, and one that was begun after the last was asked for; a third where asking took so long.
    assert!((2..=3).contains(&made), "{made}");
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_and_hosts_are_checked() {
    let world = World::new();
    let agent = world.agent().await;
    let order = Job::new().order(1);
    let call = |order: Order| ApplyRequest { order: Some(order) };
    for role in [Role::Scheduler, Role::Api, Role::Admin] {
        let refused = world
            .client(role, &agent.address, "sim-1")
            .apply(call(order.clone()))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{role}");
    }
    let mut worker = world.client(Role::Worker, &agent.address, "sim-1");
    let untold = worker.apply(call(order.clone())).await.unwrap_err();
    assert_eq!(untold.code(), Code::Unavailable, "not told its epoch");
    let other = Order {
        host: "sim-2".into(),
        ..order.clone()
    };
    assert_eq!(
        worker.apply(call(other)).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    let nobody = Order {
        host: "sim-9".into(),
        ..order.clone()
    };
    assert_eq!(
        worker.apply(call(nobody)).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        worker
            .apply(ApplyRequest { order: None })
            .await
            .unwrap_err()
            .code(),
        Code::InvalidArgument
    );

    let _watch = told(&world, &agent, "sim-1").await;
    assert_eq!(
        worker
            .apply(call(Order {
                version: 9,
                ..order.clone()
            }))
            .await
            .unwrap_err()
            .code(),
        Code::Unimplemented
    );
    let inventory = InventoryRequest { host: "sim-1".into() };
    for (role, code) in [
        (Role::Worker, Code::PermissionDenied),
        (Role::Api, Code::PermissionDenied),
    ] {
        let refused = world
            .client(role, &agent.address, "sim-1")
            .get_inventory(inventory.clone())
            .await;
        assert_eq!(refused.unwrap_err().code(), code);
    }
    for role in [Role::Scheduler, Role::Admin] {
        world
            .client(role, &agent.address, "sim-1")
            .get_inventory(inventory.clone())
            .await
            .unwrap();
    }
    let console = ConsoleRequest {
        host: "sim-1".into(),
        ..ConsoleRequest::default()
    };
    assert_eq!(
        worker.console(console).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_outlives_the_process() {
    let world = World::new();
    let job = Job::new();
    let agent = world.agent().await;
    let watch = told(&world, &agent, "sim-1").await;
    let mut worker = world.client(Role::Worker, &agent.address, "sim-1");
    let (_, first) = apply(&mut worker, job.order(3)).await;
    drop(watch);
    agent.end().await;

    let agent = world.agent().await;
    let mut worker = world.client(Role::Worker, &agent.address, "sim-1");
    let refused = worker
        .apply(ApplyRequest {
            order: Some(job.order(3)),
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "told anew after each start");
    let _watch = told(&world, &agent, "sim-1").await;
    let (_, again) = apply(&mut worker, job.order(3)).await;
    assert_eq!(again, first);
    let mut admin = world.client(Role::Admin, &agent.address, "sim-1");
    let inventory = admin
        .get_inventory(InventoryRequest { host: "sim-1".into() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (inventory.epoch, inventory.objects.len(), inventory.jobs.len()),
        (1, 4, 1)
    );
    assert_eq!(inventory.resources[0].fence, 3);
    let instance = inventory.objects.iter().find(|o| o.kind == "instance").unwrap();
    assert_eq!(
        (instance.state.as_str(), instance.id.clone()),
        ("running", job.resource.to_string())
    );

    let mut api = world.client(Role::Api, &agent.address, "sim-1");
    let request = ConsoleRequest {
        host: "sim-1".into(),
        instance: job.resource.0.as_bytes().to_vec(),
        tail_lines: 1,
        follow: false,
    };
    let mut console = api.console(request).await.unwrap().into_inner();
    let mut text = Vec::new();
    while let Some(chunk) = console.message().await.unwrap() {
        text.extend(chunk.data);
    }
    assert_eq!(String::from_utf8(text).unwrap(), "rhyzome-guest: name=web\n");
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_breaks_off_stops_nothing() {
    let world = World::new();
    std::fs::write(
        world.faults(),
        "[[fault]]\nstep = \"ensure_image\"\ndelay_ms = 300\n",
    )
    .unwrap();
    let agent = world.agent().await;
    let _watch = told(&world, &agent, host().as_str()).await;
    let job = Job::new();
    let mut worker = world.client(Role::Worker, &agent.address, "sim-1");
    let mut first = worker
        .apply(ApplyRequest {
            order: Some(job.order(1)),
        })
        .await
        .unwrap()
        .into_inner();
    let report = first.message().await.unwrap().unwrap();
    assert!(
        matches!(report.report, Some(apply_report::Report::Step(_))),
        "progress comes before the end: {report:?}"
    );
    drop(first);
    let (_, outcome) = apply(&mut worker, job.order(1)).await;
    assert_eq!(common::kind(&outcome), OutcomeKind::Succeeded);
    let cancelled = apply(&mut worker, job.undo(2, Verdict::Cancelled)).await;
    assert_eq!(common::kind(&cancelled.1), OutcomeKind::Succeeded);
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_room_says_so() {
    let world = World::new();
    let agent = world.agent().await;
    let _watch = told(&world, &agent, "sim-1").await;
    let mut worker = world.client(Role::Worker, &agent.address, "sim-1");
    let mut classes = Vec::new();
    for fence in 1..=17 {
        let (_, outcome) = apply(&mut worker, Job::new().order(fence)).await;
        classes.push(outcome.outcome.unwrap().class());
    }
    assert!(
        classes[..16]
            .iter()
            .all(|class| *class == event::ErrorClass::Unspecified),
        "{classes:?}"
    );
    assert_eq!(
        classes[16],
        event::ErrorClass::NoRoom,
        "4 processors, offered four times"
    );
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_it_ends_in_order_whatever_ends_first() {
    let world = World::new();
    // Which of its parts notices first is the threads' luck.
    for _ in 0..20 {
        world.agent().await.end().await;
    }
}
