//! An order that workers may have died of runs alone, and keeps nobody else's orders from other workers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::agent::Act;
use common::server::{PATIENCE, eventually};
use common::{Stack, quick};
use rhyzome_nats::orders;
use rhyzome_proto::event::{OutcomeKind, Report};
use rhyzome_proto::job::Order;
use std::time::Duration;
use tokio::time::timeout;

fn kind(report: &Report) -> OutcomeKind {
    report.outcome.as_ref().unwrap().kind()
}

/// What is called so is held until the agent lets go; all else succeeds.
const HELD: &str = "hold";

async fn stack() -> Stack {
    Stack::new(|order, _| match order.action.as_str() {
        HELD => Act::Hold,
        _ => Act::End(OutcomeKind::Succeeded),
    })
    .await
}

async fn held(stack: &Stack, many: usize) {
    eventually("calls are held", || async {
        (stack.agent.under_way().0 == many).then_some(())
    })
    .await;
}

/// An order that two workers had, and is in the stream again.
async fn suspect(stack: &Stack) -> Order {
    let suspect = stack.order(HELD);
    stack.publish(&suspect).await;
    let own = stack.as_worker().await;
    let mut puller = orders::puller(&own).await.unwrap();
    for _ in 0..2 {
        timeout(PATIENCE, puller.next(1))
            .await
            .unwrap()
            .unwrap()
            .nak()
            .await;
    }
    puller.close().await;
    own.flush().await.unwrap();
    suspect
}

async fn published(stack: &Stack, many: usize) -> Vec<Order> {
    let others: Vec<Order> = (0..many).map(|_| stack.order("create")).collect();
    for order in &others {
        stack.publish(order).await;
    }
    others
}

#[tokio::test]
async fn from_the_third_delivery_an_order_runs_alone() {
    let mut stack = stack().await;
    let suspect = suspect(&stack).await;
    let worker = stack.worker("worker-1", quick());
    held(&stack, 1).await;
    let others = published(&stack, 3).await;
    // A while in which another would be pulled or called, were it to be.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let state = orders::consumer_state(&stack.scheduler).await.unwrap();
    assert_eq!((state.ack_pending, state.pending), (1, 3));
    assert_eq!(stack.agent.calls(), std::slice::from_ref(&suspect));
    stack.agent.release();
    for order in [&suspect].into_iter().chain(&others) {
        assert_eq!(kind(&stack.outcome(order).await), OutcomeKind::Succeeded);
        stack.acked(order).await;
    }
    worker.end().await;
}

#[tokio::test]
async fn while_one_runs_alone_other_workers_have_the_rest() {
    let mut stack = stack().await;
    let suspect = suspect(&stack).await;
    let first = stack.worker("worker-1", quick());
    held(&stack, 1).await;
    let second = stack.worker("worker-2", quick());
    for order in &published(&stack, 20).await {
        let report = stack.outcome(order).await;
        assert_eq!(
            (kind(&report), report.worker.as_str()),
            (OutcomeKind::Succeeded, "worker-2")
        );
    }
    assert_eq!(stack.agent.under_way().0, 1);
    stack.agent.release();
    assert_eq!(kind(&stack.outcome(&suspect).await), OutcomeKind::Succeeded);
    first.end().await;
    second.end().await;
}

#[tokio::test]
async fn what_came_with_it_goes_back_to_postgres() {
    let mut stack = stack().await;
    let suspect = suspect(&stack).await;
    let others = published(&stack, 3).await;
    // All at once; the server gives what it gives again first.
    let worker = stack.worker("worker-1", quick());
    held(&stack, 1).await;
    for order in &others {
        let report = stack.outcome(order).await;
        let error = report.outcome.as_ref().unwrap().model_error().unwrap().unwrap();
        // Which dispatches it again at once, to whom it may.
        assert_eq!(
            (kind(&report), error.code.as_str()),
            (OutcomeKind::Suspended, "WORKER_STOPPED")
        );
        stack.acked(order).await;
    }
    assert_eq!(stack.agent.calls(), std::slice::from_ref(&suspect));
    stack.agent.release();
    assert_eq!(kind(&stack.outcome(&suspect).await), OutcomeKind::Succeeded);
    worker.end().await;
}
