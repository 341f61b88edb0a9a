//! What the ledger's changes add up to. Pure: the same function in recovery and live.
//!
//! ```text
//! (unknown) ─begin─▶ forward ─turn─▶ undoing ─finish─▶ finished(failed | cancelled | released)
//!     │                 │               ▲                          released ─begin | turn, higher fence─▶
//!     └──────turn───────┼───────────────┘
//!                       └─finish─▶ finished(succeeded)
//! ```
//!
//! A resource's fence never decreases. The first of turn and finish wins: the other changes nothing. A change of a job that is
//! no longer here changes nothing. A job of the same resource with a higher fence takes the place of the one before it, whose
//! calls are stale from then on.

use super::record::{Accepted, Change, Ending, StepHash};
use rhyzome_model::ids::{Epoch, Fence, HostName, JobId, ResourceId};
use rhyzome_model::job::Verdict;
use rhyzome_proto::event::StepResult;
use rhyzome_runtime::fault::{self, Mutant};
use std::collections::HashMap;
use uuid::Uuid;

/// All hosts of a process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// By name.
    pub hosts: HashMap<HostName, HostState>,
}

/// One host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostState {
    /// Made with the ledger.
    pub ledger_id: Uuid,
    /// As last told; 0 if never.
    pub epoch: Epoch,
    /// As last told; 0 if never.
    pub floor: Fence,
    /// The highest fence ever accepted.
    pub max_fence: Fence,
    /// By resource, the highest fence accepted.
    pub fences: HashMap<ResourceId, ResourceFence>,
    /// Jobs that aren't pruned.
    pub jobs: HashMap<JobId, JobEntry>,
}

/// A resource's fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceFence {
    /// The highest that was accepted.
    pub fence: Fence,
    /// Whose.
    pub job: JobId,
}

/// A job on one host.
#[derive(Clone, Debug, PartialEq)]
pub struct JobEntry {
    /// What it changes.
    pub resource: ResourceId,
    /// The highest of its orders.
    pub fence: Fence,
    /// Where it is.
    pub phase: Phase,
    /// Its steps, each of which may have happened.
    pub steps: Vec<StepEntry>,
}

/// Where a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its steps are being made so.
    Forward,
    /// They are being taken back.
    Undoing {
        /// What it ends in.
        verdict: Verdict,
        /// `JobError` as JSON; empty for none.
        cause: Vec<u8>,
    },
    /// Ended here.
    Finished {
        /// How.
        ending: Ending,
        /// `JobError` as JSON; empty for none.
        error: Vec<u8>,
    },
}

impl Phase {
    /// As in inventories.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Undoing { .. } => "undoing",
            Self::Finished { .. } => "finished",
        }
    }

    /// Whether it ended.
    pub fn is_finished(&self) -> bool {
        match self {
            Self::Finished { .. } => true,
            Self::Forward | Self::Undoing { .. } => false,
        }
    }
}

/// A step of a job, which may have happened.
#[derive(Clone, Debug, PartialEq)]
pub struct StepEntry {
    /// Of its frozen bytes.
    pub hash: StepHash,
    /// Where it is so.
    pub result: Option<StepResult>,
    /// Where it is taken back.
    pub undone: Option<StepResult>,
}

impl State {
    /// Adds a change.
    pub fn apply(&mut self, host: &HostName, change: &Change) {
        match change {
            Change::Host { ledger_id } => {
                self.hosts
                    .entry(host.clone())
                    .or_insert_with(|| HostState::new(*ledger_id));
            }
            Change::Whole(state) => {
                self.hosts.insert(host.clone(), (**state).clone());
            }
            Change::Epoch(_)
            | Change::Floor(_)
            | Change::Begin(_)
            | Change::Turn { .. }
            | Change::Raise { .. }
            | Change::Done { .. }
            | Change::Undone { .. }
            | Change::Finish { .. }
            | Change::Forget(_) => {
                if let Some(state) = self.hosts.get_mut(host) {
                    state.apply(change);
                }
            }
        }
    }
}

impl HostState {
    /// A host of which nothing is known.
    pub fn new(ledger_id: Uuid) -> Self {
        Self {
            ledger_id,
            epoch: Epoch(0),
            floor: Fence(0),
            max_fence: Fence(0),
            fences: HashMap::new(),
            jobs: HashMap::new(),
        }
    }

    /// Adds a change of this host.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Host { .. } => {}
            Change::Whole(state) => *self = (**state).clone(),
            Change::Epoch(epoch) => {
                if *epoch > self.epoch {
                    self.epoch = *epoch;
                    self.jobs.clear();
                }
            }
            Change::Floor(floor) => {
                if *floor > self.floor {
                    self.floor = *floor;
                    self.jobs
                        .retain(|_, entry| entry.fence >= *floor || !entry.phase.is_finished());
                }
            }
            Change::Begin(accepted) => self.open(accepted, Phase::Forward),
            Change::Turn {
                accepted,
                verdict,
                cause,
            } => {
                let undoing = Phase::Undoing {
                    verdict: *verdict,
                    cause: cause.clone(),
                };
                match self.jobs.get_mut(&accepted.job) {
                    Some(entry) if entry.phase == Phase::Forward => {
                        entry.phase = undoing;
                        entry.fence = entry.fence.max(accepted.fence);
                        self.accept(accepted.job, accepted.resource, accepted.fence);
                    }
                    Some(_) | None => self.open(accepted, undoing),
                }
            }
            Change::Raise { job, fence } => {
                if let Some(entry) = self.jobs.get_mut(job) {
                    entry.fence = entry.fence.max(*fence);
                    let resource = entry.resource;
                    self.accept(*job, resource, *fence);
                }
            }
            Change::Done { job, result } => {
                if let Some(step) = self.step(*job, result.index) {
                    step.result = Some(result.clone());
                }
            }
            Change::Undone { job, result } => {
                if let Some(step) = self.step(*job, result.index) {
                    if !fault::is_mutant(Mutant::ResultsKept) {
                        step.result = None;
                    }
                    step.undone = Some(result.clone());
                }
            }
            Change::Finish { job, ending, error } => {
                if let Some(entry) = self.jobs.get_mut(job)
                    && !entry.phase.is_finished()
                {
                    entry.phase = Phase::Finished {
                        ending: *ending,
                        error: error.clone(),
                    };
                    if *ending != Ending::Succeeded && !fault::is_mutant(Mutant::ResultsKept) {
                        entry.steps.iter_mut().for_each(|step| step.result = None);
                    }
                }
            }
            Change::Forget(resources) => {
                for resource in resources {
                    self.fences.remove(resource);
                }
            }
        }
    }

    /// A job that is new here, or was released and is opened again; any other stays as it is.
    fn open(&mut self, accepted: &Accepted, phase: Phase) {
        let opens = self
            .jobs
            .get(&accepted.job)
            .is_none_or(|entry| match &entry.phase {
                Phase::Finished {
                    ending: Ending::Released,
                    ..
                } => entry.fence < accepted.fence,
                Phase::Forward | Phase::Undoing { .. } | Phase::Finished { .. } => false,
            });
        if opens {
            self.accept(accepted.job, accepted.resource, accepted.fence);
            let mut entry = JobEntry::new(accepted, phase);
            if fault::is_mutant(Mutant::ResultsKept)
                && let Some(before) = self.jobs.remove(&accepted.job)
            {
                entry.steps = before.steps;
            }
            self.jobs.insert(accepted.job, entry);
        }
    }

    fn step(&mut self, job: JobId, index: u32) -> Option<&mut StepEntry> {
        self.jobs.get_mut(&job)?.steps.get_mut(index as usize)
    }

    fn accept(&mut self, job: JobId, resource: ResourceId, fence: Fence) {
        self.max_fence = self.max_fence.max(fence);
        let before = self.fences.get(&resource).copied();
        if before.is_none_or(|held| held.fence <= fence) {
            self.fences.insert(resource, ResourceFence { fence, job });
            if let Some(held) = before
                && held.job != job
            {
                self.jobs.remove(&held.job);
            }
        }
    }

    /// Resources whose fence is below the floor, and of which `held` says that nothing is here: calls of theirs are stale by the floor.
    pub fn forgettable(&self, held: impl Fn(ResourceId) -> bool) -> Vec<ResourceId> {
        let below = self
            .fences
            .iter()
            .filter(|(_, of)| of.fence < self.floor && !self.jobs.contains_key(&of.job));
        below
            .map(|(resource, _)| *resource)
            .filter(|resource| !held(*resource))
            .collect()
    }
}

impl JobEntry {
    fn new(accepted: &Accepted, phase: Phase) -> Self {
        let steps = accepted.hashes.iter().map(|hash| StepEntry {
            hash: *hash,
            result: None,
            undone: None,
        });
        Self {
            resource: accepted.resource,
            fence: accepted.fence,
            phase,
            steps: steps.collect(),
        }
    }

    /// Every step's result: of those that are so, or of those taken back.
    pub fn results(&self) -> Vec<StepResult> {
        let so = self.steps.iter().filter_map(|step| step.result.clone());
        let undone = self.steps.iter().rev().filter_map(|step| step.undone.clone());
        so.chain(undone).collect()
    }
}

#[cfg(test)]
mod tests;
