//! What an agent knows of jobs and resources: durable records, and what runs.
//!
//! Guarantees nothing by itself: [`crate::agent`] has the rules. Only [`Run`] is volatile.

use crate::bus::Outcome;
use crate::config::{Action, Config, Fence, JobIx, Network, STEPS, Serial};

/// Where a job stands at this agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Never heard of, or pruned.
    #[default]
    Unknown,
    /// Being done.
    Forward,
    /// Being undone, to end so.
    Undoing(Outcome),
    /// Ended.
    Finished(Outcome),
}

/// What the ledger has of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Record {
    /// Nothing.
    #[default]
    Nothing,
    /// It may have happened.
    Intent,
    /// It has happened.
    Done,
}

/// The ledger's entry of a job. Durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The highest fence of its orders.
    pub fence: Fence,
    /// Its phase.
    pub phase: Phase,
    /// Its steps.
    pub steps: [Record; STEPS],
    /// Of the frozen input: as which a repair makes the instance.
    pub version: u8,
    /// The serial number of the record of its end.
    pub serial: Serial,
}

/// Why a step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Another host may do.
    NoRoom,
    /// No host will do.
    Broken,
}

/// How far the effect of a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Intended, and perhaps begun.
    Begun,
    /// The last claim was dropped, and the network is still to go ([`crate::Rule::ObjectLocked`] left out).
    Emptied,
    /// On the host, but not recorded.
    Effected,
    /// Failed, and told to whoever calls.
    Failed(Failure),
}

/// Which steps an undo covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Those in the ledger.
    Known,
    /// All of the plan.
    All,
}

/// The way a run goes through the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Up.
    Forward,
    /// Down.
    Undo(Scope),
}

/// A job being worked on. Volatile: a restart forgets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// The job.
    pub job: JobIx,
    /// Up or down.
    pub direction: Direction,
    /// The step.
    pub step: u8,
    /// Its effect.
    pub stage: Stage,
}

/// A change to the host, atomic and idempotent where the rules are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Takes the claim on the network, and makes it when it isn't there.
    TakeClaim,
    /// Drops the claim, and with the last one the network.
    DropClaim,
    /// Makes the instance.
    MakeInstance,
    /// Removes it.
    RemoveInstance,
    /// Makes it as this version says.
    Redefine(u8),
    /// Makes it as this version says, whether or not it is there.
    Restore(u8),
}

/// What an agent has of a resource.
#[allow(clippy::struct_excessive_bools, reason = "what is there, each by itself")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Held {
    /// The highest fence. Durable, pruned below the floor.
    pub fence: Fence,
    /// The highest fence ever taken, for the checker alone.
    pub accepted: Fence,
    /// What runs. Volatile.
    pub run: Option<Run>,
    /// An effect that outlived the agent process, or the order, that began it.
    pub stray: Option<Effect>,
    /// Whether the instance is on the host.
    pub instance: bool,
    /// As which it is there: 1 as made, 2 as changed.
    pub version: u8,
    /// Whether it claims the network.
    pub claim: bool,
    /// An update of it can't be taken back.
    pub stuck: bool,
    /// It came with an older copy of the host, for the checker alone.
    pub revived: bool,
}

/// The effect of a step, a repair's with the version that its order carries.
pub fn effect(config: &Config, job: JobIx, direction: Direction, step: u8, version: u8) -> Effect {
    let network_step = match config.network {
        Network::None => None,
        Network::Shared => match config.action(job) {
            Action::Create | Action::Repair => Some(0),
            Action::Delete | Action::Clear => Some(1),
            Action::Update => None,
        },
    };
    let network = network_step == Some(step);
    match (config.action(job), direction) {
        (Action::Create | Action::Repair, Direction::Forward) if network => Effect::TakeClaim,
        (Action::Create, Direction::Forward) => Effect::MakeInstance,
        (Action::Delete | Action::Clear, _) | (Action::Create, Direction::Undo(_)) if network => {
            Effect::DropClaim
        }
        (Action::Delete | Action::Clear, _) | (Action::Create, Direction::Undo(_)) => Effect::RemoveInstance,
        // Never undone.
        (Action::Repair, _) => Effect::Restore(version),
        (Action::Update, Direction::Forward) => Effect::Redefine(2),
        // What was applied.
        (Action::Update, Direction::Undo(_)) => Effect::Redefine(1),
    }
}
