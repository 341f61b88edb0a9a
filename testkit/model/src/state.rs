//! The whole system at one instant.
//!
//! Guarantees that states which differ only in the names of workers or schedulers are one state.

use crate::agent::Agent;
use crate::bus::Bus;
use crate::config::{Config, Faults, HOSTS, SCHEDULERS, WORKERS};
use crate::postgres::Postgres;
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
}

/// What has been seen of [`Misdeed`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seen(u8);

impl Seen {
    /// Notes one.
    pub fn note(&mut self, misdeed: Misdeed) {
        self.0 |= misdeed as u8;
    }

    /// Whether it was ever noted.
    pub fn has(self, misdeed: Misdeed) -> bool {
        self.0 & misdeed as u8 != 0
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
