//! One call of an agent: an order goes out, results come, and at last an answer.

use crate::counters::called;
use crate::decide::Answer;
use rhyzome_proto::agent::agent_client::AgentClient;
use rhyzome_proto::agent::{ApplyOutcome, ApplyReport, ApplyRequest, apply_report};
use rhyzome_proto::event::{OutcomeKind, StepResult};
use rhyzome_proto::job::Order;
use rhyzome_runtime::fault::{self, Point, Side};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

/// Calls Apply, hands on every step's result as it comes, and answers what it came to. A call on which nothing is heard for `silence`
/// counts as broken off.
pub(crate) async fn apply(
    mut agent: AgentClient<Channel>,
    order: Order,
    silence: Duration,
    mut step: impl FnMut(Vec<StepResult>),
) -> Answer {
    let mut request = Request::new(ApplyRequest { order: None });
    if let Ok(traceparent) = order.traceparent.parse() {
        request.metadata_mut().insert("traceparent", traceparent);
    }
    request.get_mut().order = Some(order);
    fault::point(Point::StepCall, Side::Before);
    let mut reports = match tokio::time::timeout(silence, agent.apply(request)).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return failed(&status, Heard::Nothing),
        Err(_) => return silent(),
    };
    loop {
        let report = match tokio::time::timeout(silence, next(&mut reports)).await {
            Ok(Ok(report)) => report,
            Ok(Err(status)) => return failed(&status, Heard::Something),
            Err(_) => return silent(),
        };
        match report.report {
            Some(apply_report::Report::Step(result)) => step(vec![result]),
            Some(apply_report::Report::Outcome(ApplyOutcome { outcome, steps })) => {
                called(Code::Ok);
                step(steps);
                fault::point(Point::StepCall, Side::After);
                return outcome.map_or(Answer::Nonsense, meaning);
            }
            // A newer agent's word that this version doesn't know: the outcome counts.
            None => {}
        }
    }
}

async fn next(reports: &mut Streaming<ApplyReport>) -> Result<ApplyReport, Status> {
    reports
        .message()
        .await?
        .ok_or_else(|| Status::aborted("the stream ended without an outcome"))
}

fn silent() -> Answer {
    called(Code::DeadlineExceeded);
    Answer::Broke
}

/// Whether the agent had begun to answer.
#[derive(Clone, Copy, Debug)]
pub enum Heard {
    /// It had not.
    Nothing,
    /// It had.
    Something,
}

/// What a call that failed means.
pub fn failed(status: &Status, heard: Heard) -> Answer {
    called(status.code());
    tracing::debug!(code = ?status.code(), message = status.message(), "call failed");
    match (status.code(), heard) {
        (Code::Unavailable, Heard::Nothing) => Answer::Unreachable,
        (Code::ResourceExhausted, Heard::Nothing) => Answer::Busy,
        (
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            // A known key with another hash.
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated,
            _,
        ) => {
            tracing::error!(code = ?status.code(), message = status.message(), "an agent refused a call");
            Answer::Refused
        }
        (
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
            | Code::ResourceExhausted,
            _,
        ) => Answer::Broke,
    }
}

/// What an agent's last word means.
pub fn meaning(outcome: rhyzome_proto::event::Outcome) -> Answer {
    match outcome.kind() {
        OutcomeKind::Succeeded | OutcomeKind::Failed | OutcomeKind::Cancelled | OutcomeKind::Released => {
            Answer::Finished(outcome)
        }
        OutcomeKind::StepFailed => match outcome.model_class() {
            Some(class) => Answer::StepFailed(class, outcome),
            None => Answer::Nonsense,
        },
        OutcomeKind::TurnToUndo => Answer::TurnToUndo,
        OutcomeKind::Stale => Answer::Stale(outcome),
        OutcomeKind::Suspended | OutcomeKind::Unspecified => Answer::Nonsense,
    }
}
