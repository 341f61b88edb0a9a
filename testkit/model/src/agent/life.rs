//! An agent's end and beginning, and what outlives it on the host.

use super::Agent;
use crate::config::{Config, JOBS, ResourceIx};
use crate::ledger::{Stage, effect};

impl Agent {
    /// The process dies, and is started again. What it began may live on.
    pub fn crash(&mut self, config: &Config) {
        for held in &mut self.held {
            if let Some(run) = held.run.take()
                && run.stage == Stage::Begun
            {
                held.stray = Some(effect(config, run.job, run.direction, run.step));
            }
        }
    }

    /// The ledger is lost with the process; the host stays as it is.
    pub fn lose_ledger(&mut self, config: &Config) {
        self.crash(config);
        self.epoch = None;
        self.floor = 0;
        self.ledger = Default::default();
        self.decided = [None; JOBS];
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
}
