//! The whole system at one instant.
//!
//! Guarantees that states which differ only in the names of workers or schedulers are one state.

use crate::agent::{Agent, Kept};
use crate::bus::Bus;
use crate::config::{Config, Faults, HOSTS, RESOURCES, SCHEDULERS, WORKERS};
use crate::postgres::{Look, Postgres};
use crate::scheduler::Scheduler;
use crate::worker::Worker;

/// Something forbidden that no single state shows, noted when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Misdeed {
    /// A job ended twice, or left its end.
    EndedTwice = 1,
    /// An agent took a call with a lower fence than one that it had taken before.
    FenceWentBack = 2,
    /// An order was acked, and its outcome not published.
    OrderAckedEarly = 4,
    /// An event was acked, and not committed.
    EventAckedEarly = 8,
    /// An agent was called for a job that was never committed.
    Phantom = 16,
    /// An agent ended a job in two ways, the first of which wasn't `released`.
    DecidedTwice = 32,
    /// Reconcile accepted a job where nothing was amiss.
    MendedInVain = 64,
    /// A stray was removed where its resource lives, or comes to live.
    RemovedAtHome = 128,
}

/// Something that no state shows any more, and that a run must have reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reached {
    /// A hello showed that the host had been put back.
    PutBackNoticed = 1,
    /// A delete abandoned the undo of a change.
    UndoAbandoned = 2,
    /// A stray was removed.
    StrayRemoved = 4,
    /// What was lost was made again.
    MadeAgain = 8,
}

/// What has been seen of [`Misdeed`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    misdeeds: u8,
    reached: u8,
}

impl Seen {
    /// Notes one.
    pub fn note(&mut self, misdeed: Misdeed) {
        self.misdeeds |= misdeed as u8;
    }

    /// Whether it was ever noted.
    pub fn has(self, misdeed: Misdeed) -> bool {
        self.misdeeds & misdeed as u8 != 0
    }

    /// Notes what was reached.
    pub fn reach(&mut self, reached: Reached) {
        self.reached |= reached as u8;
    }

    /// Whether it was reached.
    pub fn reached(self, reached: Reached) -> bool {
        self.reached & reached as u8 != 0
    }
}

/// The system.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The truth.
    pub postgres: Postgres,
    /// The transport.
    pub bus: Bus,
    /// Volatile state of the schedulers, sorted.
    pub schedulers: [Scheduler; SCHEDULERS],
    /// Volatile state of the workers, sorted.
    pub workers: [Worker; WORKERS],
    /// Ledgers, running effects and objects of the hosts.
    pub agents: [Agent; HOSTS],
    /// Faults left.
    pub faults: Faults,
    /// Misdeeds so far.
    pub seen: Seen,
    /// What hosts may be put back to; without one, to their beginning.
    pub copies: [Option<Kept>; HOSTS],
    /// Looks that are not judged yet ([`crate::Rule::Still`] left out).
    pub looks: [[Option<Look>; RESOURCES]; HOSTS],
}

impl State {
    /// Before anything has happened, save what is accepted at first.
    pub fn new(config: &Config) -> Self {
        Self {
            postgres: Postgres::new(config),
            bus: Bus::default(),
            schedulers: [Scheduler::Free; SCHEDULERS],
            workers: [Worker::Idle; WORKERS],
            agents: [Agent::default(); HOSTS],
            faults: config.faults,
            seen: Seen::default(),
            copies: [None; HOSTS],
            looks: Default::default(),
        }
    }

    /// Sorts what has no identity.
    #[must_use]
    pub fn canonical(mut self) -> Self {
        self.schedulers.sort_unstable();
        self.workers.sort_unstable();
        self
    }
}
