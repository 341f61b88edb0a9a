//! What is done with an order: a pure function of the order and of what is known, to a closed enum.
//!
//! The order of the checks is the policy: a version that isn't understood is never acted on; nothing is answered before the
//! epoch is told; what is stale is stale whatever the job's phase; an end absorbs; then the phase decides.

use crate::driver::Direction;
use crate::ledger::record::{Ending, StepHash};
use crate::ledger::state::{JobEntry, Phase, ResourceFence};
use rhyzome_model::ids::{Epoch, Fence, JobId, ResourceId};
use rhyzome_model::job::Mode;
use rhyzome_runtime::fault::{self, Mutant};

/// Of an order.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Of the message's meaning.
    pub version: u32,
    /// The job.
    pub job: JobId,
    /// What it changes.
    pub resource: ResourceId,
    /// The order's fence.
    pub fence: Fence,
    /// The host's epoch, as the sender knew it.
    pub epoch: Epoch,
    /// Which way.
    pub mode: Mode,
    /// Of the frozen steps.
    pub hashes: &'a [StepHash],
    /// Unix milliseconds; 0 for never.
    pub expires_at_ms: i64,
    /// Unix milliseconds by this machine's clock.
    pub now_ms: i64,
}

/// Of the ledger, and of what runs.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The highest version that is understood.
    pub version: u32,
    /// The host's epoch, if it was told since the start.
    pub told: Option<Epoch>,
    /// The host's floor.
    pub floor: Fence,
    /// The resource's fence.
    pub fence: Option<ResourceFence>,
    /// The job.
    pub job: Option<&'a JobEntry>,
    /// This job's running operation, unless it was turned or superseded.
    pub running: Option<Direction>,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Refused: a newer version's.
    UnknownVersion,
    /// Refused for now: the epoch wasn't told since the start.
    NotTold,
    /// Stale: of another epoch of the host.
    OtherEpoch,
    /// Stale: below the floor.
    BelowFloor,
    /// Stale: the resource has a higher fence, or another job has this one.
    LowerFence,
    /// Refused: the job is known with another resource.
    OtherResource,
    /// Refused: the job is known with another step here.
    OtherHash {
        /// The first that differs.
        index: usize,
    },
    /// Answered: the job's recorded end.
    Ended,
    /// Answered: its phase is undoing.
    TurnToUndo,
    /// Answered: it expired and nothing of it runs.
    Expired,
    /// Follows what runs.
    Join,
    /// Runs.
    Run(Start),
}

/// How an operation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The job is new here, or was released and is opened again.
    Forward,
    /// It goes on where it stopped.
    ForwardAgain,
    /// From now on it is undone; whatever runs is stopped.
    Turn,
    /// The undo goes on.
    UndoAgain,
}

/// See the module.
pub fn admit(asked: &Asked<'_>, known: &Known<'_>) -> Admission {
    if asked.version == 0 || asked.version > known.version {
        return Admission::UnknownVersion;
    }
    let Some(epoch) = known.told else {
        return Admission::NotTold;
    };
    if asked.epoch != epoch {
        return Admission::OtherEpoch;
    }
    let fenced = !fault::is_mutant(Mutant::NoFenceCheck);
    if fenced && asked.fence < known.floor {
        return Admission::BelowFloor;
    }
    let stale = |held: ResourceFence| {
        held.fence > asked.fence || (held.fence == asked.fence && held.job != asked.job)
    };
    if fenced && known.fence.is_some_and(stale) {
        return Admission::LowerFence;
    }
    let Some(entry) = known.job else {
        return begin(asked);
    };
    if entry.resource != asked.resource {
        return Admission::OtherResource;
    }
    if fenced && entry.fence > asked.fence {
        return Admission::LowerFence;
    }
    match &entry.phase {
        Phase::Finished {
            ending: Ending::Released,
            ..
        } if asked.fence > entry.fence => begin(asked),
        Phase::Finished { .. } => Admission::Ended,
        Phase::Forward => other_hash(asked, entry).unwrap_or_else(|| match (asked.mode, known.running) {
            (Mode::Undo, None | Some(_)) => Admission::Run(Start::Turn),
            (Mode::Forward, Some(_)) => Admission::Join,
            (Mode::Forward, None) if expired(asked) => Admission::Expired,
            (Mode::Forward, None) => Admission::Run(Start::ForwardAgain),
        }),
        Phase::Undoing { .. } => other_hash(asked, entry).unwrap_or(match (asked.mode, known.running) {
            (Mode::Forward, None | Some(_)) => Admission::TurnToUndo,
            (Mode::Undo, Some(_)) => Admission::Join,
            (Mode::Undo, None) => Admission::Run(Start::UndoAgain),
        }),
    }
}

fn begin(asked: &Asked<'_>) -> Admission {
    match asked.mode {
        Mode::Forward if expired(asked) => Admission::Expired,
        Mode::Forward => Admission::Run(Start::Forward),
        Mode::Undo => Admission::Run(Start::Turn),
    }
}

fn expired(asked: &Asked<'_>) -> bool {
    asked.expires_at_ms != 0 && asked.expires_at_ms <= asked.now_ms
}

fn other_hash(asked: &Asked<'_>, entry: &JobEntry) -> Option<Admission> {
    let same = asked
        .hashes
        .iter()
        .zip(&entry.steps)
        .take_while(|(hash, step)| **hash == step.hash)
        .count();
    (same < asked.hashes.len() || same < entry.steps.len()).then_some(Admission::OtherHash { index: same })
}

#[cfg(test)]
mod tests;
