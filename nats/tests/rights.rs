//! Who may connect, and what each role may not do. Against a real server, over TLS.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use async_nats::jetstream;
use common::Server;
use rhyzome_nats::dead::{self, Reason};
use rhyzome_nats::{NatsError, Outgoing, Role, orders, streams};
use std::time::Duration;

async fn messages_in(server: &Server, stream: &str) -> u64 {
    let raw = jetstream::new(server.raw("scheduler").await.unwrap());
    let stream = raw.get_stream(stream).await.unwrap();
    stream.cached_info().state.messages
}

#[tokio::test]
async fn a_worker_publishes_events_but_no_order() {
    let server = Server::start();
    let scheduler = server.connect(Role::Scheduler).await;
    streams::ensure(&scheduler, &server.config()).await.unwrap();
    let config = rhyzome_nats::NatsConfig {
        publish_timeout: Duration::from_millis(200),
        ..server.config()
    };
    let worker = server.connect_with(Role::Worker, &config).await;
    let event = Outgoing::new("rhyzome.events.demo.x".into(), "1".into(), "e");
    worker.publish(&event).await.unwrap();
    let order = Outgoing::new("rhyzome.orders.instance.x".into(), "1".into(), "o");
    let refused = worker.publish(&order).await;
    assert!(matches!(refused, Err(NatsError::Unknown { .. })), "{refused:?}");
    assert_eq!(messages_in(&server, streams::EVENTS).await, 1);
    assert_eq!(messages_in(&server, streams::ORDERS).await, 0);
}

#[tokio::test]
async fn a_worker_and_the_api_make_neither_stream_nor_consumer() {
    let server = Server::start();
    let scheduler = server.connect(Role::Scheduler).await;
    streams::ensure(&scheduler, &server.config()).await.unwrap();
    for role in ["worker", "api", "admin"] {
        let raw = jetstream::new(server.raw(role).await.unwrap());
        let made = raw
            .create_stream(jetstream::stream::Config {
                name: "MINE".into(),
                subjects: vec!["mine.>".into()],
                ..Default::default()
            })
            .await;
        assert!(made.is_err(), "{role} made a stream");
        assert!(
            raw.delete_stream(streams::ORDERS).await.is_err(),
            "{role} deleted a stream"
        );
        let consumer = raw
            .create_consumer_on_stream(
                jetstream::consumer::pull::Config {
                    durable_name: Some("mine".into()),
                    ..Default::default()
                },
                streams::JOBS,
            )
            .await;
        assert!(consumer.is_err(), "{role} made a consumer");
        assert!(
            raw.delete_consumer_from_stream(streams::WORKERS, streams::ORDERS)
                .await
                .is_err(),
            "{role} deleted a consumer"
        );
    }
    let after = streams::ensure(&scheduler, &server.config()).await.unwrap();
    assert!(after.is_nothing(), "{after:?}");
}

#[tokio::test]
async fn an_admin_reads_and_drops_dead_letters_alone() {
    let server = Server::start();
    let scheduler = server.connect(Role::Scheduler).await;
    streams::ensure(&scheduler, &server.config()).await.unwrap();
    let order = Outgoing::new("rhyzome.orders.instance.x".into(), "1".into(), "o");
    let order = scheduler.publish(&order).await.unwrap();
    let subject = "rhyzome.orders.instance.y";
    let kept = dead::publish(
        &scheduler,
        Reason::Poisoned,
        subject,
        7,
        "letter".into(),
        "they died",
    );
    let kept = kept.await.unwrap();
    let config = rhyzome_nats::NatsConfig {
        publish_timeout: Duration::from_millis(200),
        ..server.config()
    };
    let admin = server.connect_with(Role::Admin, &config).await;

    let letters = dead::list(&admin, 0, 10).await.unwrap();
    assert_eq!(letters.len(), 1, "{letters:?}");
    let letter = &letters[0];
    assert_eq!(
        (letter.sequence, letter.reason.as_str()),
        (kept.sequence, "poisoned")
    );
    assert_eq!(
        (letter.why.as_str(), letter.subject.as_str()),
        ("they died", subject)
    );
    assert_eq!(&letter.payload[..], b"letter");
    assert!(letter.order().is_err(), "no order can be read from it");

    // Neither orders nor events, not even to look at; and nothing is published.
    assert!(orders::remove(&admin, order.sequence).await.is_err());
    let raw = jetstream::new(server.raw("admin").await.unwrap());
    assert!(raw.get_stream(streams::ORDERS).await.is_err());
    for subject in [
        "rhyzome.orders.instance.x",
        "rhyzome.dead.broken.x",
        "rhyzome.events.demo.x",
    ] {
        let message = Outgoing::new(subject.into(), "2".into(), "m");
        let refused = admin.publish(&message).await;
        assert!(
            matches!(refused, Err(NatsError::Unknown { .. })),
            "{subject}: {refused:?}"
        );
    }
    assert_eq!(messages_in(&server, streams::ORDERS).await, 1);

    assert!(dead::remove(&admin, kept.sequence).await.unwrap());
    assert_eq!(dead::get(&admin, kept.sequence).await.unwrap(), None);
    assert!(dead::list(&admin, 0, 10).await.unwrap().is_empty());
    // The others neither read nor drop them.
    let worker = server.connect_with(Role::Worker, &config).await;
    assert!(dead::list(&worker, 0, 10).await.is_err());
}

#[tokio::test]
async fn roles_do_not_hear_one_another() {
    let server = Server::start();
    let api = server.raw("api").await.unwrap();
    let worker = server.raw("worker").await.unwrap();
    // Replies to another role, and what isn't for it: the server says no, and nothing arrives.
    let mut inbox = worker.subscribe("_INBOX_api.>").await.unwrap();
    let mut changes = worker.subscribe("rhyzome.changes.>").await.unwrap();
    worker.flush().await.unwrap();
    let mut heard = api.subscribe("rhyzome.changes.>").await.unwrap();
    api.flush().await.unwrap();
    api.publish("rhyzome.changes.demo.job.1", "x".into())
        .await
        .unwrap();
    futures::StreamExt::next(&mut heard).await.unwrap();
    api.flush().await.unwrap();
    let mut control = worker.subscribe("rhyzome.control").await.unwrap();
    worker.flush().await.unwrap();
    // What the worker may hear arrives, so what was sent before it would have.
    let scheduler = server.raw("scheduler").await.unwrap();
    scheduler.publish("rhyzome.control", "c".into()).await.unwrap();
    futures::StreamExt::next(&mut control).await.unwrap();
    assert!(
        futures::FutureExt::now_or_never(futures::StreamExt::next(&mut changes))
            .flatten()
            .is_none()
    );
    assert!(
        futures::FutureExt::now_or_never(futures::StreamExt::next(&mut inbox))
            .flatten()
            .is_none()
    );
}

#[tokio::test]
async fn agents_strangers_and_the_nameless_are_refused() {
    let server = Server::start();
    assert!(server.raw("worker").await.is_ok());
    for role in ["agent", "operator", "worker-1", "nats"] {
        assert!(server.raw(role).await.is_err(), "{role} connected");
    }
    let without = async_nats::ConnectOptions::new()
        .require_tls(true)
        .tls_client_config(server.ca.client(None))
        .connect(server.url())
        .await;
    assert!(without.is_err(), "without a certificate");
    let stranger = common::Ca::new().issue("worker", "worker-1", &[]);
    let tls = server.ca.client(Some(&stranger));
    let other = async_nats::ConnectOptions::new()
        .require_tls(true)
        .tls_client_config(tls)
        .connect(server.url())
        .await;
    assert!(other.is_err(), "a worker of another CA");
}
