//! Messages of a newer version, through the real bus: an order goes back to Postgres and is dispatched again; an event waits for
//! whoever knows it, and holds up nobody (invariants 1, 4, 9).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_nats::{Connection, NatsConfig, Outgoing, Role};
use rhyzome_runtime::tls::client_config;
use rhyzome_runtime::{Identity, TlsFiles};
use rhyzome_testkit::patience::eventually;
use rhyzome_testkit::processes::Paused;
use rhyzome_testkit::rest::{small_instance, unique};
use rhyzome_testkit::{Options, Stack};
use uuid::Uuid;

/// As a newer scheduler or worker would connect.
async fn newer(stack: &Stack, role: Role) -> Connection {
    let file = stack.file();
    let of_runtime = match role {
        Role::Api => rhyzome_runtime::Role::Api,
        Role::Scheduler => rhyzome_runtime::Role::Scheduler,
        Role::Worker => rhyzome_runtime::Role::Worker,
        Role::Admin => rhyzome_runtime::Role::Admin,
    };
    let files = TlsFiles::in_pki(&file.pki_dir, of_runtime, &format!("{}-1", role.as_str()));
    let config = NatsConfig {
        url: file.nats.url,
        ..NatsConfig::default()
    };
    let tls = client_config(&Identity::load(&files).unwrap()).unwrap();
    rhyzome_nats::connect::connect(&config, role, "newer", Some(tls))
        .await
        .unwrap()
}

/// Field 1 of orders and events is the version, a varint: these two bytes say 99. What comes later in a message counts.
fn of_version_99(payload: &[u8]) -> Vec<u8> {
    [payload, &[0x08, 99]].concat()
}

#[tokio::test]
async fn what_is_newer_waits_for_who_knows_it() {
    let stack = Stack::start(Options {
        workers: Some(1),
        ..Options::simulated(2).expecting(&["an order of a newer version", "event of a newer version"])
    });
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;

    // The order of a create is taken out of the worker's hands, and comes back as a newer scheduler would have written it.
    let frozen = Paused::new(stack.process("worker").pid);
    let create = rest
        .create("instances", &unique("guest"), small_instance(&network))
        .await;
    rest.job_until(&create.job, "the order to be out", |job| {
        job["state"] == "running"
    })
    .await;
    let scheduler = newer(&stack, Role::Scheduler).await;
    let subject = format!("rhyzome.orders.instance.{}", create.job);
    let (sequence, payload) = eventually("the order in the stream", || async {
        rhyzome_nats::orders::stored(&scheduler, &subject).await.unwrap()
    })
    .await;
    rhyzome_nats::orders::remove(&scheduler, sequence).await.unwrap();
    // The worker that has it never thaws: another does what comes.
    stack.kill_role("worker");
    drop(frozen);
    let order = Outgoing::new(subject, unique("newer"), of_version_99(&payload));
    scheduler.publish(&order).await.unwrap();
    let job = rest.succeed(&create.job).await;
    assert!(job["attempt"].as_i64() > Some(1), "dispatched again: {job:#}");

    // An event of a newer version holds up nobody, and is still there for who knows it.
    let worker = newer(&stack, Role::Worker).await;
    let event = Outgoing::new(
        format!("rhyzome.events.demo.{}", Uuid::now_v7()),
        unique("newer"),
        of_version_99(&[]),
    );
    worker.publish(&event).await.unwrap();
    for _ in 0..3 {
        rest.make("instances", &unique("guest"), small_instance(&network))
            .await;
    }
    let mut puller = rhyzome_nats::events::EventsPuller::new(&scheduler).await.unwrap();
    let seen = tokio::time::timeout(rhyzome_testkit::PATIENCE, async {
        loop {
            for delivery in puller.next_batch().await.unwrap() {
                let newer = rhyzome_nats::events::read(delivery.payload()).is_err();
                if newer {
                    delivery.ack_confirmed().await.unwrap();
                    return delivery.payload().clone();
                }
                delivery.nak().await;
            }
        }
    })
    .await
    .expect("the event comes to a scheduler that knows it");
    assert_eq!(&seen[..], &of_version_99(&[])[..]);
    rest.make("instances", &unique("guest"), small_instance(&network))
        .await;
}
