//! The state that a user reads, computed from intent, applied, observed and the active job.
//!
//! One function, one match, tested as a table. It guesses nothing: what was observed as unknown is shown as `unknown`, and so is what is on
//! a host that nobody has heard for some time, whatever was observed there before. Only an instance that was never observed since its last
//! job succeeded is shown as that job left it.
//!
//! ```text
//! accepted ─▶ creating ─▶ ready | running | stopped ─▶ updating | stopping ─▶ …
//!                 │            any state ─▶ deleting ─▶ gone
//!                 └─▶ failed
//! ```

use crate::job::{Action, JobState, text_enum};
use crate::kinds::{Kind, Power};
use serde::{Deserialize, Serialize};

text_enum! {
    /// The `state` of a resource.
    ResourceState {
        /// Accepted, not there yet.
        Creating = "creating",
        /// There. Of all kinds but instances.
        Ready = "ready",
        /// The guest runs.
        Running = "running",
        /// The guest is on its way off.
        Stopping = "stopping",
        /// The guest is off.
        Stopped = "stopped",
        /// There, and being changed.
        Updating = "updating",
        /// On its way out.
        Deleting = "deleting",
        /// Could not be made; nothing of it is on any host.
        Failed = "failed",
        /// The guest ended by itself, and not well.
        Crashed = "crashed",
        /// Its host can't say, or can't be reached.
        Unknown = "unknown",
    }
}

text_enum! {
    /// What an agent saw of a guest.
    ObservedPower {
        /// It runs.
        On = "on",
        /// It doesn't.
        Off = "off",
        /// It ended by itself, and not well.
        Crashed = "crashed",
        /// The agent can't tell, or can't be asked.
        Unknown = "unknown",
    }
}

/// All that the shown state depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShownInput {
    /// The resource's kind.
    pub kind: Kind,
    /// Of the intent, 1 or more. Changes no state: a lag shows in `observed_generation`.
    pub generation: i64,
    /// A job made it so at least once.
    pub applied: bool,
    /// Its deletion was accepted.
    pub deleting: bool,
    /// The first job on it that isn't done.
    pub active_job: Option<(Action, JobState)>,
    /// Its last job failed or was cancelled, and `reason` says so. Changes no state of what was applied.
    pub failed: bool,
    /// As last observed, of an instance; none if never since the last success. Unknown while nobody hears its host.
    pub observed: Option<ObservedPower>,
    /// As last applied, of an instance.
    pub power: Option<Power>,
}

/// The state that a user reads.
pub fn shown(input: &ShownInput) -> ResourceState {
    let active = input
        .active_job
        .filter(|(_, state)| !state.is_done())
        .map(|(action, _)| action);
    match (input.deleting, input.applied, active) {
        // A deletion is never taken back, so it shows from its acceptance on, whatever else still runs.
        (true, _, _) | (false, _, Some(Action::Delete)) => ResourceState::Deleting,
        // Until the first success nothing else is true, not even while a start or an update waits behind the create.
        (false, false, Some(Action::Create | Action::Start | Action::Reboot | Action::Update))
        | (false, true, Some(Action::Create)) => ResourceState::Creating,
        // Never made and nothing under way, or no more than what clears away the rest: the create ended badly.
        (false, false, None | Some(Action::Repair)) => ResourceState::Failed,
        // The only change with a word of its own. Of what was never made here: what is in quarantine, on its way off.
        (false, _, Some(Action::Stop)) => ResourceState::Stopping,
        (false, true, Some(Action::Start | Action::Reboot | Action::Update | Action::Repair)) => {
            ResourceState::Updating
        }
        // At rest. A failed update shows in `reason` and `observed_generation`, not here.
        (false, true, None) => at_rest(input),
    }
}

fn at_rest(input: &ShownInput) -> ResourceState {
    match input.kind {
        Kind::Network | Kind::Image => ResourceState::Ready,
        Kind::Instance => match (input.observed, input.power) {
            (Some(ObservedPower::On), _) | (None, Some(Power::On)) => ResourceState::Running,
            // What shall be off and isn't running is off, however it ended.
            (Some(ObservedPower::Off), _) | (Some(ObservedPower::Crashed) | None, Some(Power::Off)) => {
                ResourceState::Stopped
            }
            (Some(ObservedPower::Crashed), Some(Power::On) | None) => ResourceState::Crashed,
            (Some(ObservedPower::Unknown), _) | (None, None) => ResourceState::Unknown,
        },
    }
}
