//! Orders, events and notices on a real server: ids, credit, used-up deliveries, natural batches, loss of the server.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{PATIENCE, Server, eventually};
use rhyzome_model::ids::JobId;
use rhyzome_nats::notices::{self, Change, Changes, Controls, JobAnnouncer, JobWakeups};
use rhyzome_nats::orders::{self, OrderPresence, Publication};
use rhyzome_nats::{Connection, NatsConfig, Outgoing, Role, dead, events, streams};
use rhyzome_proto::event::Report;
use rhyzome_proto::job::{Control, JobNotice, Order};
use std::time::Duration;
use tokio::time::timeout;
use uuid::Uuid;

fn order(job: JobId) -> Order {
    Order {
        version: 1,
        job: job.0.as_bytes().to_vec(),
        fence: 7,
        resource_kind: "instance".into(),
        ..Default::default()
    }
}

async fn stack(config: impl Fn(&Server) -> NatsConfig) -> (Server, NatsConfig, Connection, Connection) {
    let server = Server::start();
    let config = config(&server);
    let scheduler = server.connect_with(Role::Scheduler, &config).await;
    streams::ensure(&scheduler, &config).await.unwrap();
    let worker = server.connect_with(Role::Worker, &config).await;
    (server, config, scheduler, worker)
}

#[tokio::test]
async fn an_order_goes_through_once() {
    let (_server, _, scheduler, worker) = stack(|s| s.config()).await;
    let job = JobId::new();
    let first = orders::publish_all(&scheduler, &[order(job)], Publication::First)
        .await
        .remove(0)
        .unwrap();
    let again = orders::publish_all(&scheduler, &[order(job)], Publication::First)
        .await
        .remove(0)
        .unwrap();
    assert!(!first.duplicate && again.duplicate, "{first:?} {again:?}");
    let state = orders::consumer_state(&scheduler).await.unwrap();
    let here = orders::presence(&scheduler, "instance", job, state)
        .await
        .unwrap();
    assert_eq!(
        here,
        OrderPresence::Live {
            sequence: first.sequence
        }
    );
    let mut puller = orders::puller(&worker).await.unwrap();
    let delivery = timeout(PATIENCE, puller.next(4)).await.unwrap().unwrap();
    assert_eq!(orders::read(delivery.payload()).unwrap(), order(job));
    assert_eq!(delivery.delivered(), 1);
    delivery.ack_confirmed().await.unwrap();
    let here = orders::presence(&scheduler, "instance", job, state)
        .await
        .unwrap();
    assert_eq!(here, OrderPresence::Absent);
    // The sweep's publish isn't dropped, though the first id is still remembered.
    let swept = orders::publish_all(&scheduler, &[order(job)], Publication::Again(1))
        .await
        .remove(0)
        .unwrap();
    assert!(!swept.duplicate);
    assert!(timeout(PATIENCE, puller.next(4)).await.unwrap().is_ok());
}

#[tokio::test]
async fn no_more_than_asked_for_is_delivered() {
    let (_server, _, scheduler, worker) = stack(|s| s.config()).await;
    let many: Vec<Order> = (0..20).map(|_| order(JobId::new())).collect();
    assert!(
        orders::publish_all(&scheduler, &many, Publication::First)
            .await
            .iter()
            .all(Result::is_ok)
    );
    let mut puller = orders::puller(&worker).await.unwrap();
    let mut held = vec![timeout(PATIENCE, puller.next(3)).await.unwrap().unwrap()];
    eventually("three are out", || async {
        let state = orders::consumer_state(&scheduler).await.unwrap();
        (state.ack_pending == 3).then_some(())
    })
    .await;
    // Two of the three are still free: nothing more may be asked for.
    held.push(timeout(PATIENCE, puller.next(2)).await.unwrap().unwrap());
    held.push(timeout(PATIENCE, puller.next(1)).await.unwrap().unwrap());
    let state = orders::consumer_state(&scheduler).await.unwrap();
    assert_eq!((state.ack_pending, state.pending), (3, 17));
    for delivery in held {
        delivery.nak().await;
    }
    let rest = puller.close().await;
    assert!(rest.len() <= 3, "{}", rest.len());
}

#[tokio::test]
async fn what_is_let_go_is_for_others_until_it_is_asked_for_again() {
    let (server, _, scheduler, worker) = stack(|s| s.config()).await;
    let publish = async |many: usize| {
        let orders: Vec<Order> = (0..many).map(|_| order(JobId::new())).collect();
        let published = orders::publish_all(&scheduler, &orders, Publication::First).await;
        assert!(published.iter().all(Result::is_ok));
    };
    let mut puller = orders::puller(&worker).await.unwrap();
    publish(2).await;
    let first = timeout(PATIENCE, puller.next(8)).await.unwrap().unwrap();
    eventually("the other is out, too", || async {
        let state = orders::consumer_state(&scheduler).await.unwrap();
        (state.ack_pending == 2).then_some(())
    })
    .await;
    // It had come already, and six more were asked for.
    let came = puller.let_go().await;
    assert_eq!(came.len(), 1);
    publish(3).await;
    let other = server.connect(Role::Worker).await;
    let mut others = orders::puller(&other).await.unwrap();
    for _ in 0..3 {
        let delivery = timeout(PATIENCE, others.next(3)).await.unwrap().unwrap();
        assert_eq!(delivery.delivered(), 1);
        delivery.ack_confirmed().await.unwrap();
    }
    for delivery in came.iter().chain([&first]) {
        delivery.ack_confirmed().await.unwrap();
    }
    assert!(others.close().await.is_empty());
    publish(1).await;
    timeout(PATIENCE, puller.next(1)).await.unwrap().unwrap();
}

#[tokio::test]
async fn each_report_that_says_something_else_is_stored() {
    let (_server, _, _scheduler, worker) = stack(|s| s.config()).await;
    let forward = Report {
        version: 1,
        job: JobId::new().0.as_bytes().to_vec(),
        fence: 7,
        tenant: "demo".into(),
        ..Default::default()
    };
    let undoing = Report {
        undoing: true,
        ..forward.clone()
    };
    for report in [&forward, &undoing] {
        let message = events::message(report, 1).unwrap();
        assert!(!worker.publish(&message).await.unwrap().duplicate, "{report:?}");
        assert!(worker.publish(&message).await.unwrap().duplicate, "{report:?}");
    }
}

#[tokio::test]
async fn used_up_deliveries_are_told_from_waiting_ones() {
    let few = |s: &Server| NatsConfig {
        ack_wait: Duration::from_millis(200),
        max_deliver: 2,
        ..s.config()
    };
    let (server, _, scheduler, worker) = stack(few).await;
    let job = JobId::new();
    let stored = orders::publish_all(&scheduler, &[order(job)], Publication::First)
        .await
        .remove(0)
        .unwrap();
    let mut puller = orders::puller(&worker).await.unwrap();
    let mut last = 0;
    for _ in 0..2 {
        last = timeout(PATIENCE, puller.next(1))
            .await
            .unwrap()
            .unwrap()
            .delivered();
    }
    assert_eq!(last, 2);
    // The server notices when somebody asks for more.
    let asking = tokio::spawn(async move { puller.next(1).await });
    let here = eventually("deliveries used up", || async {
        let state = orders::consumer_state(&scheduler).await.unwrap();
        let here = orders::presence(&scheduler, "instance", job, state)
            .await
            .unwrap();
        matches!(here, OrderPresence::Exhausted { .. }).then_some(here)
    })
    .await;
    assert_eq!(
        here,
        OrderPresence::Exhausted {
            sequence: stored.sequence
        }
    );
    let raw = async_nats::jetstream::new(server.raw("scheduler").await.unwrap());
    eventually("the advisory", || async {
        let dead = raw.get_stream(streams::DEAD).await.unwrap();
        (dead.cached_info().state.messages == 1).then_some(())
    })
    .await;
    let (told, next) = orders::exhausted(&scheduler, 0).await.unwrap();
    assert_eq!(
        told,
        [orders::Exhausted {
            sequence: stored.sequence,
            order: order(job),
            subject: format!("rhyzome.orders.instance.{job}"),
            payload: prost::Message::encode_to_vec(&order(job)).into(),
        }]
    );
    assert!(orders::remove(&scheduler, stored.sequence).await.unwrap());
    assert_eq!(orders::exhausted(&scheduler, next).await.unwrap(), (vec![], next));
    assert_eq!(orders::exhausted(&scheduler, 0).await.unwrap(), (vec![], next));
    asking.abort();
}

#[tokio::test]
async fn events_come_in_natural_batches_and_drain() {
    let (_server, _, scheduler, worker) = stack(|s| s.config()).await;
    let report = || Report {
        version: 1,
        job: Uuid::now_v7().as_bytes().to_vec(),
        tenant: "demo".into(),
        ..Default::default()
    };
    let reports: Vec<Outgoing> = (0..700).map(|_| events::message(&report(), 1).unwrap()).collect();
    assert!(worker.publish_all(reports).await.iter().all(Result::is_ok));
    let position = events::position(&scheduler).await.unwrap();
    assert_eq!(position, 700);
    assert!(!events::drained_past(&scheduler, position).await.unwrap());
    let mut puller = events::EventsPuller::new(&scheduler).await.unwrap();
    let mut seen = 0;
    while seen < 700 {
        let batch = timeout(PATIENCE, puller.next_batch()).await.unwrap().unwrap();
        assert!(batch.len() <= events::MOST);
        for delivery in batch {
            events::read(delivery.payload()).unwrap();
            delivery.ack().await;
            seen += 1;
        }
    }
    eventually("drained", || async {
        events::drained_past(&scheduler, position)
            .await
            .unwrap()
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_puller_outlives_its_server_and_consumer() {
    let (mut server, config, scheduler, worker) = stack(|s| s.config()).await;
    let mut puller = orders::puller(&worker).await.unwrap();
    assert!(
        timeout(Duration::from_millis(100), puller.next(8)).await.is_err(),
        "nothing there yet"
    );
    server.kill();
    server.wipe();
    server.restart();
    let waits = tokio::spawn(async move { puller.next(8).await });
    eventually("made anew", || async {
        streams::ensure(&scheduler, &config).await.ok()
    })
    .await;
    let job = JobId::new();
    eventually("published", || async {
        orders::publish_all(&scheduler, &[order(job)], Publication::First)
            .await
            .remove(0)
            .ok()
    })
    .await;
    let delivery = timeout(PATIENCE, waits).await.unwrap().unwrap().unwrap();
    assert_eq!(orders::read(delivery.payload()).unwrap().job_id().unwrap(), job);
}

#[tokio::test]
async fn notices_arrive() {
    let (server, _, scheduler, worker) = stack(|s| s.config()).await;
    let api = server.connect(Role::Api).await;
    let mut changes = Changes::of(&api, &"demo".into()).await.unwrap();
    let mut controls = Controls::new(&worker).await.unwrap();
    let mut wakeups = JobWakeups::new(&scheduler).await.unwrap();
    for connection in [&api, &worker, &scheduler] {
        connection.flush().await.unwrap();
    }
    let job = JobId::new();
    let change = |tenant: &str| Change {
        tenant: tenant.into(),
        kind: "job".into(),
        id: job.0,
    };
    // Sent until heard: a subscription may reach the server after the first.
    let sending = tokio::spawn({
        let (changes, api) = ([change("other"), change("demo")], api.clone());
        async move {
            let (announcer, publishing) = JobAnnouncer::new(api);
            tokio::spawn(publishing);
            loop {
                notices::publish_changes(&scheduler, &changes).await.unwrap();
                let control = Control {
                    version: 1,
                    job: job.0.as_bytes().to_vec(),
                    fence: 9,
                };
                notices::publish_control(&scheduler, &control).await.unwrap();
                announcer.announce(JobNotice {
                    version: 1,
                    job: Uuid::now_v7().as_bytes().to_vec(),
                    tenant: "demo".into(),
                    ..Default::default()
                });
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    assert_eq!(
        timeout(PATIENCE, changes.next()).await.unwrap().unwrap(),
        change("demo")
    );
    let (told, control) = timeout(PATIENCE, controls.next()).await.unwrap().unwrap();
    assert_eq!((told, control.fence), (job, 9));
    assert!(timeout(PATIENCE, wakeups.next()).await.unwrap().unwrap() >= 1);
    sending.abort();
}

#[tokio::test]
async fn a_dead_letter_is_kept_with_its_reason() {
    let (server, _, _scheduler, worker) = stack(|s| s.config()).await;
    let why = "can't be read\nat all";
    dead::publish(
        &worker,
        dead::Reason::Broken,
        "rhyzome.orders.instance.x",
        3,
        "body".into(),
        why,
    )
    .await
    .unwrap();
    let raw = async_nats::jetstream::new(server.raw("scheduler").await.unwrap());
    let stream = raw.get_stream(streams::DEAD).await.unwrap();
    let kept = stream
        .get_last_raw_message_by_subject("rhyzome.dead.broken.x")
        .await
        .unwrap();
    assert_eq!(&kept.payload[..], b"body");
    assert_eq!(
        kept.headers.get(dead::WHY).unwrap().as_str(),
        "can't be read at all"
    );
}
