//! What holds when something dies, ends or is told: acks come last, nothing is lost, no more is taken than there is room for.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::agent::Act;
use common::server::eventually;
use common::{Stack, quick};
use rhyzome_model::job::ErrorClass;
use rhyzome_nats::orders::{self, OrderPresence};
use rhyzome_nats::{Outgoing, notices, streams};
use rhyzome_proto::event::OutcomeKind;
use rhyzome_proto::job::{Control, Order};
use rhyzome_runtime::Span;
use rhyzome_worker::WorkerConfig;
use std::time::Duration;

fn kind(report: &rhyzome_proto::event::Report) -> OutcomeKind {
    report.outcome.as_ref().unwrap().kind()
}

fn code(report: &rhyzome_proto::event::Report) -> String {
    report
        .outcome
        .as_ref()
        .unwrap()
        .model_error()
        .unwrap()
        .unwrap()
        .code
}

async fn held(stack: &Stack, many: usize) {
    eventually("calls are held", || async {
        (stack.agent.under_way().0 == many).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_order_is_acked_after_its_outcome_is_stored() {
    let mut stack = Stack::new(|_, _| Act::Hold).await;
    let worker = stack.worker("worker-1", quick());
    let order = stack.order("create");
    stack.publish(&order).await;
    held(&stack, 1).await;
    // Nowhere to report to.
    let raw = stack.raw().await;
    raw.delete_stream(streams::EVENTS).await.unwrap();
    stack.agent.release();
    eventually("the agent is done", || async {
        (stack.agent.under_way().0 == 0).then_some(())
    })
    .await;
    assert!(
        matches!(stack.presence(&order).await, OrderPresence::Live { .. }),
        "acked without a stored outcome"
    );
    streams::ensure(&stack.scheduler, &stack.nats).await.unwrap();
    assert_eq!(kind(&stack.outcome(&order).await), OutcomeKind::Succeeded);
    stack.acked(&order).await;
    assert_eq!(stack.agent.calls().len(), 1);
    worker.end().await;
}

#[tokio::test]
async fn an_order_that_is_published_again_is_answered_again() {
    let mut stack = Stack::new(|_, _| Act::End(OutcomeKind::Succeeded)).await;
    let worker = stack.worker("worker-1", quick());
    let order = stack.order("create");
    stack.through(&order).await;
    // What it came to was acked and is lost all the same: within the window in which the server takes equal ids for one message.
    let again = orders::publish_all(
        &stack.scheduler,
        std::slice::from_ref(&order),
        orders::Publication::Again(1),
    );
    again.await.remove(0).unwrap();
    assert_eq!(kind(&stack.outcome(&order).await), OutcomeKind::Succeeded);
    worker.end().await;
}

#[tokio::test]
async fn a_killed_workers_order_goes_to_another() {
    let mut stack = Stack::with(|n| n.ack_wait = Duration::from_millis(500), |_, _| Act::Hold).await;
    let first = stack.worker("worker-1", quick());
    let order = stack.order("create");
    stack.publish(&order).await;
    held(&stack, 1).await;
    first.kill().await;
    let second = stack.worker("worker-2", quick());
    eventually("called again", || async {
        (stack.agent.calls().len() >= 2).then_some(())
    })
    .await;
    stack.agent.release();
    let report = stack.outcome(&order).await;
    assert_eq!(kind(&report), OutcomeKind::Succeeded);
    stack.acked(&order).await;
    second.end().await;
}

#[tokio::test]
async fn a_long_order_is_not_given_to_another() {
    let wait = Duration::from_millis(300);
    let mut stack = Stack::with(|n| n.ack_wait = wait, |_, _| Act::Hold).await;
    let worker = stack.worker("worker-1", quick());
    let order = stack.order("create");
    stack.publish(&order).await;
    held(&stack, 1).await;
    // Five ack waits pass: without signs of life the server would have delivered it again and again.
    tokio::time::sleep(wait * 5).await;
    stack.agent.release();
    assert_eq!(kind(&stack.outcome(&order).await), OutcomeKind::Succeeded);
    stack.acked(&order).await;
    assert_eq!(stack.agent.calls().len(), 1);
    // It took long enough to be told of before.
    assert!(
        stack
            .others()
            .iter()
            .any(|r| r.job == order.job && r.outcome.is_none()),
        "no progress was told"
    );
    worker.end().await;
}

#[tokio::test]
async fn no_more_is_pulled_than_there_are_slots() {
    let mut stack = Stack::new(|_, _| Act::Hold).await;
    let many: Vec<Order> = (0..9).map(|_| stack.order("create")).collect();
    for order in &many {
        stack.publish(order).await;
    }
    let worker = stack.worker("worker-1", WorkerConfig { slots: 4, ..quick() });
    held(&stack, 4).await;
    let state = orders::consumer_state(&stack.scheduler).await.unwrap();
    assert_eq!((state.ack_pending, state.pending), (4, 5));
    stack.agent.release();
    for order in &many {
        assert_eq!(kind(&stack.outcome(order).await), OutcomeKind::Succeeded);
        stack.acked(order).await;
    }
    assert!(stack.agent.under_way().1 <= 4);
    worker.end().await;
}

#[tokio::test]
async fn told_to_end_it_hands_back_what_is_not_done() {
    // To Postgres, which dispatches it again: no delivery is used up, as only deaths of workers may.
    let mut stack = Stack::new(|_, _| Act::Hold).await;
    let worker = stack.worker("worker-1", quick());
    let order = stack.order("create");
    stack.publish(&order).await;
    held(&stack, 1).await;
    worker.end().await;
    let report = stack.outcome(&order).await;
    assert_eq!(
        (kind(&report), code(&report).as_str()),
        (OutcomeKind::Suspended, "WORKER_STOPPED")
    );
    stack.acked(&order).await;
}

#[tokio::test]
async fn told_to_end_it_finishes_what_it_can() {
    let mut stack = Stack::new(|_, _| Act::Hold).await;
    let worker = stack.worker_of_grace("worker-1", quick(), Duration::from_mins(1));
    let (order, later) = (stack.order("create"), stack.order("create"));
    stack.publish(&order).await;
    held(&stack, 1).await;
    worker.shutdown.token.cancel();
    eventually("nothing more is asked for", || async {
        let info: async_nats::jetstream::consumer::PullConsumer = stack
            .raw()
            .await
            .get_consumer_from_stream(streams::WORKERS, streams::ORDERS)
            .await
            .unwrap();
        (info.cached_info().num_waiting == 0).then_some(())
    })
    .await;
    stack.publish(&later).await;
    stack.agent.release();
    worker.end().await;
    assert_eq!(kind(&stack.outcome(&order).await), OutcomeKind::Succeeded);
    stack.acked(&order).await;
    assert_eq!(stack.agent.calls().len(), 1, "a worker that ends took an order");
    assert!(matches!(stack.presence(&later).await, OrderPresence::Live { .. }));
}

async fn events_told(stack: &Stack) -> u64 {
    rhyzome_nats::events::position(&stack.scheduler).await.unwrap()
}

#[tokio::test]
async fn the_last_delivery_goes_back_to_postgres() {
    let mut stack = Stack::with(|n| n.max_deliver = 1, |_, _| Act::Hold).await;
    let worker = stack.worker("worker-1", quick());
    let order = stack.order("create");
    stack.publish(&order).await;
    held(&stack, 1).await;
    eventually("the step is told of", || async {
        (events_told(&stack).await > 0).then_some(())
    })
    .await;
    worker.end().await;
    let report = stack.outcome(&order).await;
    assert_eq!(
        (kind(&report), code(&report).as_str()),
        (OutcomeKind::Suspended, "WORKER_STOPPED")
    );
    assert_eq!(report.steps.len(), 1, "what was known of it is told");
    stack.acked(&order).await;
}

#[tokio::test]
async fn a_worker_outlives_a_wiped_server() {
    let mut stack = Stack::new(|_, _| Act::Hold).await;
    let worker = stack.worker("worker-1", quick());
    let (under_way, later) = (stack.order("create"), stack.order("create"));
    stack.publish(&under_way).await;
    held(&stack, 1).await;
    stack.server.kill();
    stack.server.wipe();
    stack.agent.release();
    stack.server.restart();
    eventually("streams made anew", || async {
        streams::ensure(&stack.scheduler, &stack.nats).await.ok()
    })
    .await;
    // What ran is reported, and what comes is taken.
    assert_eq!(kind(&stack.outcome(&under_way).await), OutcomeKind::Succeeded);
    stack.publish(&later).await;
    assert_eq!(kind(&stack.outcome(&later).await), OutcomeKind::Succeeded);
    stack.acked(&later).await;
    assert!(!worker.ended.is_finished());
    worker.end().await;
}

#[tokio::test]
async fn a_hint_ends_the_pauses() {
    let mut stack = Stack::new(|_, _| Act::Fail(ErrorClass::Unavailable)).await;
    let worker = stack.worker(
        "worker-1",
        WorkerConfig {
            quick_pause: Span::hours(1),
            ..quick()
        },
    );
    let order = stack.order("create");
    stack.publish(&order).await;
    eventually("it pauses", || async {
        (stack.agent.calls().len() == 1).then_some(())
    })
    .await;
    let scheduler = stack.scheduler.clone();
    let control = Control {
        version: 1,
        job: order.job.clone(),
        fence: order.fence + 1,
    };
    let older = Control {
        fence: order.fence - 1,
        ..control.clone()
    };
    // Until it is heard: the call above comes back to the worker a moment after the agent noted it.
    let telling = tokio::spawn(async move {
        loop {
            for control in [&older, &control] {
                notices::publish_control(&scheduler, control).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let report = stack.outcome(&order).await;
    telling.abort();
    assert_eq!(kind(&report), OutcomeKind::Suspended);
    assert!(stack.agent.calls().len() <= 2);
    stack.acked(&order).await;
    worker.end().await;
}

#[tokio::test]
async fn what_is_newer_is_reported_and_what_is_broken_is_kept() {
    let mut stack = Stack::new(|_, _| Act::End(OutcomeKind::Succeeded)).await;
    let worker = stack.worker("worker-1", quick());
    let newer = Order {
        version: 99,
        ..stack.order("create")
    };
    stack.publish(&newer).await;
    let report = stack.outcome(&newer).await;
    assert_eq!(
        (kind(&report), code(&report).as_str()),
        (OutcomeKind::Suspended, "NEWER_VERSION")
    );
    stack.acked(&newer).await;
    let broken = Outgoing::new("rhyzome.orders.instance.x".into(), "x".into(), "not an order");
    stack.scheduler.publish(&broken).await.unwrap();
    let raw = stack.raw().await;
    let letter = eventually("a dead letter", || async {
        let dead = raw.get_stream(streams::DEAD).await.unwrap();
        dead.get_last_raw_message_by_subject("rhyzome.dead.broken.x")
            .await
            .ok()
    })
    .await;
    assert_eq!(&letter.payload[..], b"not an order");
    eventually("it is gone", || async {
        let orders = raw.get_stream(streams::ORDERS).await.unwrap();
        (orders.cached_info().state.messages == 0).then_some(())
    })
    .await;
    assert!(stack.agent.calls().is_empty());
    worker.end().await;
}
