//! The ledger's changes.

use super::state::HostState;
use rhyzome_model::ids::{Epoch, Fence, JobId, ResourceId};
use rhyzome_model::job::Verdict;
use rhyzome_proto::event::StepResult;
use uuid::Uuid;

/// SHA-256 of a frozen step's bytes.
pub type StepHash = [u8; 32];

/// One change of one host's state.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The host is new to this ledger.
    Host {
        /// Made now.
        ledger_id: Uuid,
    },
    /// The host was told a higher epoch; jobs of the lower one are void.
    Epoch(Epoch),
    /// The host was told a higher floor.
    Floor(Fence),
    /// An order was accepted to go forward: from now on every step may have happened.
    Begin(Accepted),
    /// Forward, or never seen, became undoing.
    Turn {
        /// The order.
        accepted: Accepted,
        /// What the undo ends in.
        verdict: Verdict,
        /// `JobError` as JSON; empty for none.
        cause: Vec<u8>,
    },
    /// A higher fence of a known job was accepted.
    Raise {
        /// The job.
        job: JobId,
        /// Of the new order.
        fence: Fence,
    },
    /// A step is so.
    Done {
        /// The job.
        job: JobId,
        /// Its result, with its index.
        result: StepResult,
    },
    /// A step is taken back: its result is gone.
    Undone {
        /// The job.
        job: JobId,
        /// The undo's result, with the step's index.
        result: StepResult,
    },
    /// The job ended here.
    Finish {
        /// The job.
        job: JobId,
        /// How.
        ending: Ending,
        /// `JobError` as JSON; empty for none.
        error: Vec<u8>,
    },
    /// Fences below the floor of resources of which nothing is held.
    Forget(Vec<ResourceId>),
    /// All of a host: written by compaction.
    Whole(Box<HostState>),
}

/// Of an accepted order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The job.
    pub job: JobId,
    /// The resource that it changes.
    pub resource: ResourceId,
    /// The order's.
    pub fence: Fence,
    /// Of its steps, in order.
    pub hashes: Vec<StepHash>,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps are so.
    Succeeded,
    /// Undone: it failed.
    Failed,
    /// Undone: it was cancelled.
    Cancelled,
    /// Undone, to be placed anew; a higher fence opens it again.
    Released,
}

impl Ending {
    /// What an undo of that verdict ends in.
    pub fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Failed | Verdict::Deadline => Self::Failed,
            Verdict::Cancelled => Self::Cancelled,
            Verdict::Released => Self::Released,
        }
    }
}
