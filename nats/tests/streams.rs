//! Streams and consumers are made, mended, and read back; what is lost is made anew.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use async_nats::jetstream::{self, consumer::pull, stream};
use common::{Server, eventually};
use rhyzome_nats::{Role, streams};
use std::time::Duration;

#[tokio::test]
async fn ensure_makes_and_then_does_nothing() {
    let server = Server::start();
    let scheduler = server.connect(Role::Scheduler).await;
    let made = streams::ensure(&scheduler, &server.config()).await.unwrap();
    assert_eq!(
        made.made,
        [
            "ORDERS",
            "EVENTS",
            "DEAD",
            "JOBS",
            "ORDERS/workers",
            "EVENTS/schedulers"
        ]
    );
    assert!(made.mended.is_empty());
    assert!(
        streams::ensure(&scheduler, &server.config())
            .await
            .unwrap()
            .is_nothing()
    );
}

#[tokio::test]
async fn what_was_altered_is_mended() {
    let server = Server::start();
    let config = server.config();
    let scheduler = server.connect(Role::Scheduler).await;
    streams::ensure(&scheduler, &config).await.unwrap();
    let raw = jetstream::new(server.raw("scheduler").await.unwrap());
    let wanted = streams::streams(&config);
    let jobs = stream::Config {
        max_age: Duration::from_mins(10),
        ..wanted[3].clone()
    };
    raw.update_stream(jobs).await.unwrap();
    // Retention can't be altered in place.
    raw.delete_stream("EVENTS").await.unwrap();
    raw.create_stream(stream::Config {
        retention: stream::RetentionPolicy::Limits,
        ..wanted[1].clone()
    })
    .await
    .unwrap();
    let [(_, workers), _] = streams::consumers(&config);
    raw.create_consumer_on_stream(
        pull::Config {
            ack_wait: Duration::from_secs(3),
            ..workers
        },
        "ORDERS",
    )
    .await
    .unwrap();
    let done = streams::ensure(&scheduler, &config).await.unwrap();
    assert_eq!(done.mended, ["EVENTS", "JOBS", "ORDERS/workers"]);
    assert_eq!(done.made, ["EVENTS/schedulers"]);
    assert!(streams::ensure(&scheduler, &config).await.unwrap().is_nothing());
}

#[tokio::test]
async fn an_overlapping_consumer_gives_way() {
    let server = Server::start();
    let config = server.config();
    let scheduler = server.connect(Role::Scheduler).await;
    streams::ensure(&scheduler, &config).await.unwrap();
    let raw = jetstream::new(server.raw("scheduler").await.unwrap());
    raw.delete_consumer_from_stream("workers", "ORDERS")
        .await
        .unwrap();
    let foreign = pull::Config {
        durable_name: Some("foreign".into()),
        filter_subject: "rhyzome.orders.instance.>".into(),
        ack_policy: jetstream::consumer::AckPolicy::Explicit,
        ..Default::default()
    };
    raw.create_consumer_on_stream(foreign, "ORDERS").await.unwrap();
    let done = streams::ensure(&scheduler, &config).await.unwrap();
    assert_eq!(done.made, ["ORDERS/workers"]);
    assert!(streams::ensure(&scheduler, &config).await.unwrap().is_nothing());
}

#[tokio::test]
async fn a_wiped_server_is_filled_again() {
    let mut server = Server::start();
    let config = server.config();
    let scheduler = server.connect(Role::Scheduler).await;
    streams::ensure(&scheduler, &config).await.unwrap();
    server.kill();
    server.wipe();
    server.restart();
    let done = eventually("streams made anew", || async {
        streams::ensure(&scheduler, &config).await.ok()
    })
    .await;
    assert_eq!(done.made.len(), 6, "{done:?}");
}
