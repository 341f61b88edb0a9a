//! Reports: published by workers, pulled by schedulers in natural batches.

use crate::error::NatsError;
use crate::orders::{ConsumerState, state_of};
use crate::publish::Outgoing;
use crate::pull::{Delivery, Puller};
use crate::streams::{EVENTS, SCHEDULERS};
use crate::{Connection, subjects};
use prost::Message;
use rhyzome_proto::convert::WireError;
use rhyzome_proto::event::{OutcomeKind, Report};

/// The most events in one settle transaction (2,000 is slower: job-protocol.md).
pub const MOST: usize = 500;

/// The message of a report: its id names job, fence, how far the steps are, in which phase, and how it ended; and the place in the stream
/// of the order that it answers, so that the answer to an order that was published again isn't taken for the one that was lost.
pub fn message(report: &Report, order: u64) -> Result<Outgoing, NatsError> {
    let job = rhyzome_proto::convert::uuid(&report.job)?;
    let kind = report
        .outcome
        .as_ref()
        .map_or(OutcomeKind::Unspecified, rhyzome_proto::event::Outcome::kind) as i32;
    let told: i64 = report.steps.iter().map(|s| i64::from(s.state) + 1).sum();
    // The phase changes without a step, too.
    let phase = if report.undoing { "undoing" } else { "forward" };
    let id = format!("{job}:{}:{order}:{told}:{phase}:{kind}", report.fence);
    Ok(Outgoing::new(
        subjects::event(&report.tenant, job),
        id,
        report.encode_to_vec(),
    ))
}

/// The report in a delivery. A newer version and a broken message are told apart by the error.
pub fn read(payload: &bytes::Bytes) -> Result<Report, WireError> {
    let report = Report::decode(payload.clone()).map_err(|e| WireError::Broken(format!("report: {e}")))?;
    rhyzome_proto::convert::check_version(report.version)?;
    rhyzome_proto::convert::uuid(&report.job)?;
    Ok(report)
}

/// Pulls events as a scheduler.
#[derive(Debug)]
pub struct EventsPuller(Puller);

impl EventsPuller {
    /// Of the schedulers' consumer; it need not be there yet.
    pub async fn new(connection: &Connection) -> Result<Self, NatsError> {
        Puller::new(connection, EVENTS, SCHEDULERS).await.map(Self)
    }

    /// All that is there, up to [`MOST`], waiting only for the first. May be dropped only while it waits for the first: inside a
    /// `select!` that is so, since the rest is taken without waiting.
    pub async fn next_batch(&mut self) -> Result<Vec<Delivery>, NatsError> {
        self.0.next_batch(MOST).await
    }

    /// Asks for nothing more, and answers what had come: to be nak-ed.
    pub async fn close(self) -> Vec<Delivery> {
        self.0.close().await
    }
}

/// What the schedulers' consumer has now.
pub async fn consumer_state(connection: &Connection) -> Result<ConsumerState, NatsError> {
    state_of(connection, EVENTS, SCHEDULERS).await
}

/// The place of the last event in the stream; 0 if there never was one.
pub async fn position(connection: &Connection) -> Result<u64, NatsError> {
    let refused = |why: String| NatsError::refused(format!("stream {EVENTS}"), why);
    let stream = connection
        .jetstream()
        .get_stream(EVENTS)
        .await
        .map_err(|e| refused(e.to_string()))?;
    Ok(stream.cached_info().state.last_sequence)
}

/// Whether every event up to a [`position`] read earlier is settled and acked (or nothing at all is out: the stream may have been
/// made anew and count from the start).
pub async fn drained_past(connection: &Connection, position: u64) -> Result<bool, NatsError> {
    let state = consumer_state(connection).await?;
    Ok(state.ack_floor >= position || (state.pending == 0 && state.ack_pending == 0))
}
