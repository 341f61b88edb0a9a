//! The order's message, from its row. The same row gives the same bytes: an order that is published again is the same order.

use crate::late;
use rhyzome_model::job::{Mode, Verdict};
use rhyzome_proto::convert::{bytes, error_bytes};
use rhyzome_proto::job::{Mode as WireMode, Order, Verdict as WireVerdict};
use rhyzome_store::dispatch::OrderRow;

/// The message.
pub fn message(row: &OrderRow) -> Order {
    let cause = match (row.verdict, &row.cause) {
        (Some(Verdict::Deadline), cause) => Some(late::after(cause.as_ref())),
        (Some(Verdict::Failed | Verdict::Released), cause) => cause.clone(),
        // The agent knows why; this counts only should it have lost that.
        (None, cause) if row.mode == Mode::Undo => cause.clone(),
        (Some(Verdict::Cancelled) | None, _) => None,
    };
    Order {
        version: rhyzome_proto::VERSION,
        job: bytes(row.job.0),
        attempt: u32::try_from(row.attempt).unwrap_or(u32::MAX),
        fence: row.fence,
        epoch: row.epoch,
        mode: WireMode::from(row.mode).into(),
        host: row.host.to_string(),
        address: row.address.clone(),
        tenant: row.tenant.to_string(),
        resource_kind: row.kind.to_string(),
        resource: bytes(row.resource.0),
        action: row.action.to_string(),
        steps: row.frozen.iter().map(|s| s.clone().into_bytes().into()).collect(),
        verdict: match (row.verdict, row.mode) {
            (Some(verdict), _) => WireVerdict::from(verdict),
            (None, Mode::Undo) => WireVerdict::Failed,
            (None, Mode::Forward) => WireVerdict::Unspecified,
        }
        .into(),
        cause: error_bytes(cause.as_ref()),
        expires_at_ms: row.deadline_at.map_or(0, |d| d.timestamp_millis()),
        traceparent: row.traceparent.clone(),
        generation: row.generation,
    }
}
