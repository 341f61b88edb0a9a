//! An agent's end and beginning, what outlives it on the host, and a host that goes back to an older copy.

use super::Agent;
use crate::config::{Config, Fence, JOBS, RESOURCES, ResourceIx, Serial};
use crate::ledger::{Entry, Held, Stage};

/// A copy of a host: its objects and its agent's ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kept {
    floor: Fence,
    ledger: [Entry; JOBS],
    held: [Held; RESOURCES],
    network: bool,
    count: u8,
    serial: Serial,
}

impl Agent {
    /// The process dies, and is started again. What it began may live on.
    pub fn crash(&mut self, config: &Config) {
        for resource in 0..RESOURCES as ResourceIx {
            if let Some(run) = self.of(resource).run.take()
                && run.stage == Stage::Begun
            {
                self.of(resource).stray = Some(self.effect(config, run));
            }
        }
    }

    /// The ledger is lost with the process; the host stays as it is.
    pub fn lose_ledger(&mut self, config: &Config) {
        self.crash(config);
        self.epoch = None;
        self.lost = true;
        self.floor = 0;
        self.ledger = Default::default();
        self.decided = [None; JOBS];
        self.serial = 0;
        for held in &mut self.held {
            held.fence = 0;
        }
    }

    /// A stray effect reaches the host.
    pub fn land(&mut self, config: &Config, resource: ResourceIx) {
        if let Some(effect) = self.of(resource).stray.take() {
            self.make(config, resource, effect);
        }
    }

    /// A stray effect is gone without having reached the host.
    pub fn vanish(&mut self, resource: ResourceIx) {
        self.of(resource).stray = None;
    }

    /// The host as it is now, without what only runs.
    pub fn copy(&self) -> Kept {
        let held = self.held.map(|held| Held {
            run: None,
            stray: None,
            accepted: 0,
            ..held
        });
        Kept {
            floor: self.floor,
            ledger: self.ledger,
            held,
            network: self.network,
            count: self.count,
            serial: self.serial,
        }
    }

    /// The host goes back to a copy, or to its beginning. Its agent starts, and is told an epoch before it applies anything.
    pub fn put_back(&mut self, copy: Kept) {
        let before = self.held;
        *self = Self {
            epoch: None,
            floor: copy.floor,
            ledger: copy.ledger,
            held: copy.held,
            network: copy.network,
            count: copy.count,
            serial: copy.serial,
            decided: [None; JOBS],
            lost: false,
        };
        for (held, before) in self.held.iter_mut().zip(before) {
            held.accepted = before.accepted;
            held.revived = held.instance || held.claim;
        }
    }

    /// An instance is gone, and nothing of the agent did it.
    pub fn lose_instance(&mut self, resource: ResourceIx) {
        let held = self.of(resource);
        held.instance = false;
        held.version = 0;
    }
}
