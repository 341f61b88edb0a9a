//! How Postgres notices that a host was put back, and what reconcile finds and accepts.
//!
//! Guarantees that a mending is an ordinary job, accepted only where nothing moved since its host was looked at.

use super::{Postgres, Status};
use crate::agent::Agent;
use crate::bus::Order;
use crate::config::{Action, Config, Epoch, HostIx, JobIx, Network, ResourceIx, Serial};
use crate::rules::Rule;
use crate::state::{Reached, Seen};

/// What is wrong with a resource on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wrong {
    /// It lives there, and isn't all there, or may be there as it was once.
    Incomplete,
    /// The host holds it, and it doesn't live there.
    Stray,
    /// The host holds no more of it than a claim, and it doesn't live there.
    StrayClaim,
}

/// A row of `amiss`: something that a look at a host found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Amiss {
    /// What.
    pub wrong: Wrong,
    /// Whether each of two looks found it so.
    pub again: bool,
}

/// What an inventory shows of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Look {
    /// The instance is there.
    pub instance: bool,
    /// A claim of it is there.
    pub claim: bool,
}

impl Wrong {
    /// What mends it.
    pub fn mended_by(self) -> Action {
        match self {
            Self::Incomplete => Action::Repair,
            Self::Stray | Self::StrayClaim => Action::Clear,
        }
    }
}

impl Postgres {
    /// **watch**: answers an agent's hello. An agent that has started begins a new epoch: what it was sent before, its ledger may
    /// have forgotten.
    pub fn greet(&mut self, config: &Config, host: HostIx, agent: &Agent, seen: &mut Seen) -> Epoch {
        let ix = usize::from(host);
        if agent.serial < self.answered[ix] && config.rules.has(Rule::PutBackNoticed) {
            self.doubt(config, host, seen);
        }
        if agent.epoch.is_none() && (agent.lost || config.rules.has(Rule::StartBeginsEpoch)) {
            self.epochs[ix] += 1;
        }
        if config.faults.put_back > 0 {
            self.answered[ix] = agent.serial;
            self.greeted[ix] = agent.serial;
        }
        self.epochs[ix]
    }

    /// The host was put back: all that lives there may be there as it was once.
    fn doubt(&mut self, config: &Config, host: HostIx, seen: &mut Seen) {
        seen.reach(Reached::PutBackNoticed);
        if config.rules.has(Rule::DoubtRepaired) {
            for row in self.resources.iter_mut().filter(|row| row.applied == Some(host)) {
                row.doubt = true;
            }
        }
    }

    /// An agent has answered an order with an end.
    pub(super) fn answer(&mut self, config: &Config, order: Order, serial: Serial, seen: &mut Seen) {
        let ix = usize::from(order.host);
        if config.faults.put_back == 0 {
            return;
        }
        if self.is_lost(config, order, serial) {
            self.doubt(config, order.host, seen);
        } else if order.epoch == self.epochs[ix] {
            self.answered[ix] = self.answered[ix].max(serial);
        }
    }

    /// Whether an end that comes only now was decided before the agent started, and its ledger knows no more of it.
    pub(super) fn is_lost(&self, config: &Config, order: Order, serial: Serial) -> bool {
        let host = usize::from(order.host);
        config.rules.has(Rule::LateEndNoticed)
            && order.epoch < self.epochs[host]
            && serial > self.greeted[host]
    }

    /// Whether nothing is under way with a resource, so that something can be said of it.
    pub fn is_still(&self, config: &Config, resource: ResourceIx) -> bool {
        self.open(config, resource).next().is_none() && self.resource(resource).left.is_none()
    }

    /// What is wrong with a resource on a host that shows this of it.
    pub fn judge(&self, config: &Config, host: HostIx, resource: ResourceIx, seen: Look) -> Option<Wrong> {
        let row = self.resource(resource);
        let claimless = config.network == Network::Shared && !seen.claim;
        if row.applied == Some(host) {
            (!seen.instance || claimless || row.doubt).then_some(Wrong::Incomplete)
        } else if seen.instance {
            Some(Wrong::Stray)
        } else {
            seen.claim.then_some(Wrong::StrayClaim)
        }
    }

    /// Notes what a look found.
    pub fn note(&mut self, config: &Config, host: HostIx, resource: ResourceIx, found: Option<Wrong>) {
        let row = &mut self.amiss[usize::from(host)][usize::from(resource)];
        // Only where an inventory may err does another matter.
        let sure = config.faults.blind == 0;
        *row = found.map(|wrong| Amiss {
            wrong,
            again: sure || row.is_some_and(|before| before.wrong == wrong),
        });
    }

    /// What was found before a job ended means nothing any more.
    pub(super) fn forget_found(&mut self, config: &Config, resource: ResourceIx) {
        if config.rules.has(Rule::NothingSince) {
            for host in &mut self.amiss {
                host[usize::from(resource)] = None;
            }
        }
    }

    /// The job by which reconcile would mend what was found, if it may.
    pub fn mendable(&self, config: &Config, host: HostIx, resource: ResourceIx) -> Option<JobIx> {
        let found = self.amiss[usize::from(host)][usize::from(resource)]?;
        let row = self.resource(resource);
        let still = self.is_still(config, resource) || !config.rules.has(Rule::NothingOpen);
        let sure = found.again || !config.rules.has(Rule::FoundTwice);
        let lives_there = row.applied == Some(host);
        let fits = match found.wrong {
            Wrong::Incomplete => lives_there,
            Wrong::Stray => !lives_there,
            // What lives there may have claims too many.
            Wrong::StrayClaim => true,
        };
        (still && sure && fits)
            .then(|| self.left_to_mend(config, resource, found.wrong))
            .flatten()
    }

    /// A job that isn't accepted yet, and would mend this.
    pub fn left_to_mend(&self, config: &Config, resource: ResourceIx, wrong: Wrong) -> Option<JobIx> {
        config
            .mends(resource, wrong.mended_by())
            .find(|job| self.job(*job).status == Status::Absent)
    }

    /// **reconcile**: accepts the job that mends what was found.
    pub fn mend(&mut self, config: &Config, job: JobIx, host: HostIx, seen: &mut Seen) {
        let resource = config.resource(job);
        self.amiss[usize::from(host)][usize::from(resource)] = None;
        self.accept(config, job, seen);
        if config.action(job) == Action::Clear {
            self.job_mut(job).pinned = Some(host);
        }
    }
}
