//! Each answer of an agent, and what the worker makes of it: the table "When a step fails", on a real server.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::agent::Act;
use common::{Stack, quick};
use rhyzome_model::job::ErrorClass;
use rhyzome_proto::event::OutcomeKind::{self, Cancelled, Failed, Released, Stale, Succeeded, Suspended};
use rhyzome_proto::event::{Report, StepState};
use rhyzome_proto::job::{Mode, Order, Verdict};
use std::collections::HashMap;
use tonic::Code;

/// Which way, and with what verdict, each call of an order went.
fn ways(calls: &[Order]) -> Vec<(Mode, Verdict)> {
    calls.iter().map(|c| (c.mode(), c.verdict())).collect()
}

fn kind(report: &Report) -> OutcomeKind {
    report.outcome.as_ref().unwrap().kind()
}

fn code(report: &Report) -> String {
    report
        .outcome
        .as_ref()
        .unwrap()
        .model_error()
        .unwrap()
        .map(|e| e.code)
        .unwrap_or_default()
}

/// Action, the agent's acts in turn (the last goes on for ever), how the calls went, the outcome.
type Row = (&'static str, Vec<Act>, Vec<(Mode, Verdict)>, OutcomeKind);

const FORWARD: (Mode, Verdict) = (Mode::Forward, Verdict::Unspecified);

#[tokio::test]
async fn the_table() {
    use Act::{BreakOff, End, Fail, Nonsense, Refuse, Turn};
    use ErrorClass::{Busy, NoRoom, NotHere, NotHereNow, Permanent, Timeout, Unavailable};
    let undo = |verdict| (Mode::Undo, verdict);
    let (failed, released) = (undo(Verdict::Failed), undo(Verdict::Released));
    let rows: Vec<Row> = vec![
        ("create", vec![End(Succeeded)], vec![FORWARD], Succeeded),
        (
            "create",
            vec![Fail(Unavailable), End(Succeeded)],
            vec![FORWARD; 2],
            Succeeded,
        ),
        ("create", vec![Fail(Unavailable)], vec![FORWARD; 3], Suspended),
        ("delete", vec![Fail(Busy)], vec![FORWARD; 3], Suspended),
        (
            "create",
            vec![Fail(Timeout), Fail(Timeout), End(Succeeded)],
            vec![FORWARD; 3],
            Succeeded,
        ),
        ("create", vec![Fail(Timeout)], vec![FORWARD; 4], Suspended),
        (
            "create",
            vec![Fail(NoRoom), End(Released)],
            vec![FORWARD, released],
            Released,
        ),
        (
            "update",
            vec![Fail(NoRoom), End(Failed)],
            vec![FORWARD, failed],
            Failed,
        ),
        (
            "create",
            vec![Fail(NotHere), End(Released)],
            vec![FORWARD, released],
            Released,
        ),
        (
            "create",
            vec![
                Fail(NotHereNow),
                Fail(NotHereNow),
                Fail(NotHereNow),
                End(Released),
            ],
            vec![FORWARD, FORWARD, FORWARD, released],
            Released,
        ),
        ("update", vec![Fail(NotHereNow)], vec![FORWARD; 3], Suspended),
        ("delete", vec![Fail(NotHere)], vec![FORWARD], Suspended),
        (
            "repair",
            vec![Fail(NotHere), End(Failed)],
            vec![FORWARD, failed],
            Failed,
        ),
        (
            "create",
            vec![Fail(Permanent), End(Failed)],
            vec![FORWARD, failed],
            Failed,
        ),
        (
            "create",
            vec![Fail(Permanent), Fail(Busy)],
            vec![FORWARD, failed],
            Suspended,
        ),
        ("delete", vec![Fail(Permanent)], vec![FORWARD], Suspended),
        (
            "create",
            vec![Turn, End(Cancelled)],
            vec![FORWARD, failed],
            Cancelled,
        ),
        (
            "create",
            vec![Turn, End(Succeeded)],
            vec![FORWARD, failed],
            Succeeded,
        ),
        ("create", vec![Act::Stale], vec![FORWARD], Stale),
        (
            "create",
            vec![BreakOff, End(Succeeded)],
            vec![FORWARD; 2],
            Succeeded,
        ),
        ("create", vec![BreakOff], vec![FORWARD; 4], Suspended),
        ("create", vec![Nonsense], vec![FORWARD; 4], Suspended),
        (
            "create",
            vec![Refuse(Code::Unavailable), End(Succeeded)],
            vec![FORWARD; 2],
            Succeeded,
        ),
        (
            "create",
            vec![Refuse(Code::ResourceExhausted)],
            vec![FORWARD; 3],
            Suspended,
        ),
        (
            "create",
            vec![Refuse(Code::FailedPrecondition)],
            vec![FORWARD],
            Suspended,
        ),
        (
            "create",
            vec![Refuse(Code::Internal)],
            vec![FORWARD; 4],
            Suspended,
        ),
        (
            "create",
            vec![Refuse(Code::PermissionDenied)],
            vec![FORWARD],
            Suspended,
        ),
    ];
    let scripts = std::sync::Arc::new(std::sync::Mutex::new(HashMap::<Vec<u8>, Vec<Act>>::new()));
    let mut stack = Stack::new({
        let scripts = std::sync::Arc::clone(&scripts);
        move |order, before| {
            let scripts = scripts.lock().unwrap();
            let acts = &scripts[&order.job];
            acts[before.min(acts.len() - 1)].clone()
        }
    })
    .await;
    let worker = stack.worker("worker-1", quick());
    for (action, acts, want, end) in rows {
        let order = stack.order(action);
        scripts.lock().unwrap().insert(order.job.clone(), acts.clone());
        let report = stack.through(&order).await;
        let calls = stack.agent.calls_of(&order);
        assert_eq!(kind(&report), end, "{action} {acts:?}");
        assert_eq!(ways(&calls), want, "{action} {acts:?}");
        assert!(
            calls
                .iter()
                .all(|c| c.fence == order.fence && c.steps == order.steps),
            "{action} {acts:?}"
        );
        for turned in calls.iter().filter(|c| c.mode() == Mode::Undo) {
            assert!(
                turned.model_cause().unwrap().is_some(),
                "{action} {acts:?}: no cause"
            );
        }
        let undoing = match end {
            Failed | Cancelled | Released => true,
            Suspended => calls.iter().any(|c| c.mode() == Mode::Undo),
            _ => false,
        };
        assert_eq!(report.undoing, undoing, "{action} {acts:?}");
        assert_eq!((report.fence, report.worker.as_str()), (order.fence, "worker-1"));
        if end == Suspended {
            assert_ne!(code(&report), "", "{action} {acts:?}: suspended without a reason");
        }
    }
    worker.end().await;
}

#[tokio::test]
async fn an_outcome_repeats_every_step() {
    let mut stack = Stack::new(|_, before| match before {
        0 => Act::Fail(ErrorClass::Unavailable),
        _ => Act::End(OutcomeKind::Succeeded),
    })
    .await;
    let worker = stack.worker("worker-1", quick());
    let order = stack.order("create");
    let report = stack.through(&order).await;
    let steps: Vec<_> = report
        .steps
        .iter()
        .map(|s| (s.index, s.name.as_str(), s.state()))
        .collect();
    assert_eq!(
        steps,
        [
            (0, "ensure_disk", StepState::Succeeded),
            (1, "ensure_instance", StepState::Failed),
            (1, "ensure_disk", StepState::Succeeded),
        ]
    );
    worker.end().await;
}

#[tokio::test]
async fn an_expired_order_is_not_begun() {
    let mut stack = Stack::new(|_, _| Act::End(OutcomeKind::Cancelled)).await;
    let worker = stack.worker("worker-1", quick());
    let late = Order {
        expires_at_ms: 1,
        ..stack.order("create")
    };
    let report = stack.through(&late).await;
    assert_eq!((kind(&report), code(&report).as_str()), (Suspended, "EXPIRED"));
    assert!(stack.agent.calls().is_empty());
    // Undoing has no deadline.
    let undo = Order {
        expires_at_ms: 1,
        mode: Mode::Undo.into(),
        verdict: Verdict::Cancelled.into(),
        ..stack.order("create")
    };
    assert_eq!(kind(&stack.through(&undo).await), Cancelled);
    assert_eq!(ways(&stack.agent.calls()), [(Mode::Undo, Verdict::Cancelled)]);
    worker.end().await;
}

#[tokio::test]
async fn a_failed_undo_goes_back_to_postgres() {
    let mut stack = Stack::new(|_, _| Act::Fail(ErrorClass::Unavailable)).await;
    let worker = stack.worker("worker-1", quick());
    let order = Order {
        mode: Mode::Undo.into(),
        verdict: Verdict::Failed.into(),
        ..stack.order("create")
    };
    let report = stack.through(&order).await;
    assert_eq!((kind(&report), code(&report).as_str()), (Suspended, "FAKE"));
    assert_eq!(stack.agent.calls().len(), 1);
    assert!(report.undoing);
    worker.end().await;
}

#[tokio::test]
async fn a_host_that_is_not_there_is_suspended() {
    let mut stack = Stack::new(|_, _| Act::End(OutcomeKind::Succeeded)).await;
    let worker = stack.worker("worker-1", quick());
    // A port that nobody listens on: bound once, given back.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let gone = Order {
        address: free.to_string(),
        ..stack.order("create")
    };
    let report = stack.through(&gone).await;
    assert_eq!(
        (kind(&report), code(&report).as_str()),
        (Suspended, "HOST_UNREACHABLE")
    );
    // Somebody else listens there: the certificate is of another host.
    let other = Order {
        host: "host-2".into(),
        ..stack.order("create")
    };
    assert_eq!(kind(&stack.through(&other).await), Suspended);
    assert!(stack.agent.calls().is_empty());
    worker.end().await;
}
