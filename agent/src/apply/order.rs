//! An order as read from the wire, whole or refused.

use crate::driver::StepError;
use crate::ledger::record::{Accepted, StepHash};
use rhyzome_model::ids::{Epoch, Fence, HostName, JobId, ResourceId};
use rhyzome_model::job::{Mode, Verdict};
use rhyzome_model::step::Step;
use rhyzome_proto::convert::WireError;
use rhyzome_proto::job::Order;
use rhyzome_runtime::trace::TraceParent;
use sha2::{Digest, Sha256};

/// What the engine needs of an order.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) version: u32,
    pub(super) host: HostName,
    pub(super) job: JobId,
    pub(super) resource: ResourceId,
    pub(super) fence: Fence,
    pub(super) epoch: Epoch,
    pub(super) mode: Mode,
    /// What an undo ends in; of an order without one, failed.
    pub(super) verdict: Verdict,
    pub(super) cause: Vec<u8>,
    pub(super) steps: Vec<Step>,
    pub(super) hashes: Vec<StepHash>,
    pub(super) expires_at_ms: i64,
    pub(super) trace: TraceParent,
}

impl Work {
    /// Reads an order. A newer version's is refused before anything in it is looked at.
    pub(super) fn read(order: &Order) -> Result<Self, WireError> {
        rhyzome_proto::convert::check_version(order.version)?;
        order.model_cause()?;
        Ok(Self {
            version: order.version,
            host: HostName(order.host.clone()),
            job: order.job_id()?,
            resource: order.resource_id()?,
            fence: Fence(order.fence),
            epoch: Epoch(order.epoch),
            mode: order.model_mode()?,
            verdict: order.model_verdict().unwrap_or(Verdict::Failed),
            cause: order.cause.clone(),
            steps: order.model_steps()?,
            hashes: order
                .steps
                .iter()
                .map(|step| Sha256::digest(step).into())
                .collect(),
            expires_at_ms: order.expires_at_ms,
            trace: order
                .traceparent
                .parse()
                .map_or_else(|_| TraceParent::new(), |t: TraceParent| t.child()),
        })
    }

    /// As the ledger records it.
    pub(super) fn accepted(&self) -> Accepted {
        Accepted {
            job: self.job,
            resource: self.resource,
            fence: self.fence,
            hashes: self.hashes.clone(),
        }
    }

    /// Why a step failed, for the log.
    pub(super) fn log_failure(&self, step: &str, error: &StepError) {
        tracing::warn!(
            host = %self.host, job = %self.job, trace_id = %self.trace.trace_id(), step,
            class = %error.class, code = %error.code, detail = %error.detail,
            inside = error.inside.as_deref().unwrap_or_default(),
            "a step failed"
        );
    }
}
