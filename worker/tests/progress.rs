//! Progress that could not be stored is told once it can be, though nothing moved since.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::agent::Act;
use common::server::eventually;
use common::{Stack, quick};
use rhyzome_nats::{events, streams};
use rhyzome_proto::event::OutcomeKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, span};

/// Set once the worker logs that progress was not stored.
#[derive(Clone, Default)]
struct NotStored(Arc<AtomicBool>);

impl Visit for NotStored {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" && format!("{value:?}").starts_with("progress was not stored") {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

impl tracing::Subscriber for NotStored {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn progress_that_could_not_be_stored_is_told_later() {
    let not_stored = NotStored::default();
    tracing::subscriber::set_global_default(not_stored.clone()).unwrap();
    let mut stack = Stack::new(|_, _| Act::Hold).await;
    stack.raw().await.delete_stream(streams::EVENTS).await.unwrap();
    let worker = stack.worker("worker-1", quick());
    let order = stack.order("create");
    stack.publish(&order).await;
    eventually("progress can't be stored", || async {
        not_stored.0.load(Ordering::SeqCst).then_some(())
    })
    .await;
    streams::ensure(&stack.scheduler, &stack.nats).await.unwrap();
    // The agent is silent meanwhile.
    eventually("progress is told", || async {
        (events::position(&stack.scheduler).await.unwrap() > 0).then_some(())
    })
    .await;
    assert_eq!(stack.agent.under_way().0, 1);
    stack.agent.release();
    let report = stack.outcome(&order).await;
    assert_eq!(report.outcome.as_ref().unwrap().kind(), OutcomeKind::Succeeded);
    worker.end().await;
}
