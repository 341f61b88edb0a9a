//! Reconcile between Postgres and hosts: what a look at a host finds, and what may go wrong with a host.
//!
//! Guarantees that a look says nothing of a resource that moves: what is found is judged against rows that stood still from
//! before the host was asked until they were read. (So a look and its judgement are one step; only without
//! [`Rule::Still`] is there time between them.)

use crate::agent::Kept;
use crate::config::{Config, HostIx, ResourceIx};
use crate::postgres::{Look, Wrong};
use crate::rules::Rule;
use crate::state::{Misdeed, State};
use crate::steps::Step;

impl Config {
    fn seen(state: &State, host: HostIx, resource: ResourceIx) -> Look {
        let held = state.agents[usize::from(host)].held[usize::from(resource)];
        Look {
            instance: held.instance,
            claim: held.claim,
        }
    }

    fn judged(&self, state: &State, host: HostIx, resource: ResourceIx) -> Option<Wrong> {
        let seen = Self::seen(state, host, resource);
        state.postgres.judge(self, host, resource, seen)
    }

    /// Whether a look at a host would tell anything new of a resource.
    fn tells(&self, state: &State, host: HostIx, resource: ResourceIx, found: Option<Wrong>) -> bool {
        let before = state.postgres.amiss[usize::from(host)][usize::from(resource)];
        match (found, before) {
            (None, None) => false,
            (Some(wrong), Some(before)) if before.wrong == wrong => !before.again,
            (Some(wrong), _) => state.postgres.left_to_mend(self, resource, wrong).is_some(),
            (None, Some(_)) => true,
        }
    }

    /// What reconcile can do now.
    pub(crate) fn reconcile_steps(&self, state: &State, steps: &mut Vec<Step>) {
        for (host, resource) in self.places() {
            if self
                .mends(resource, Wrong::Incomplete.mended_by())
                .next()
                .is_none()
                && self.mends(resource, Wrong::Stray.mended_by()).next().is_none()
            {
                continue;
            }
            if let Some(job) = state.postgres.mendable(self, host, resource) {
                steps.push(Step::Mend(job, host));
            }
            let up = state.agents[usize::from(host)].epoch.is_some();
            if self.rules.has(Rule::Still) {
                let still = state.postgres.is_still(self, resource);
                if up && still && self.tells(state, host, resource, self.judged(state, host, resource)) {
                    steps.push(Step::Look(host, resource));
                }
            } else {
                self.hasty_steps(state, host, resource, up, steps);
            }
        }
    }

    fn hasty_steps(
        &self,
        state: &State,
        host: HostIx,
        resource: ResourceIx,
        up: bool,
        steps: &mut Vec<Step>,
    ) {
        match state.looks[usize::from(host)][usize::from(resource)] {
            None => {
                if up && self.judged(state, host, resource).is_some() {
                    steps.push(Step::Look(host, resource));
                }
            }
            Some(look) => {
                let found = state.postgres.judge(self, host, resource, look);
                if self.tells(state, host, resource, found) {
                    steps.push(Step::Judge(host, resource));
                }
            }
        }
    }

    /// A look at a host, whose inventory shows nothing if `blind`.
    pub(crate) fn look(&self, state: &mut State, host: HostIx, resource: ResourceIx, blind: bool) {
        let seen = if blind {
            Look::default()
        } else {
            Self::seen(state, host, resource)
        };
        if self.rules.has(Rule::Still) {
            let found = state.postgres.judge(self, host, resource, seen);
            state.postgres.note(self, host, resource, found);
        } else {
            state.looks[usize::from(host)][usize::from(resource)] = Some(seen);
        }
    }

    /// Without [`Rule::Still`]: what was seen is compared, whatever went on meanwhile.
    pub(crate) fn judge_late(&self, state: &mut State, host: HostIx, resource: ResourceIx) {
        if let Some(look) = state.looks[usize::from(host)][usize::from(resource)].take() {
            let found = state.postgres.judge(self, host, resource, look);
            state.postgres.note(self, host, resource, found);
        }
    }

    /// A mending is accepted.
    pub(crate) fn mend(&self, state: &mut State, job: u8, host: HostIx) {
        // A host that was put back may have got back what it had lost.
        if self.faults.put_back == 0 && self.judged(state, host, self.resource(job)).is_none() {
            state.seen.note(Misdeed::MendedInVain);
        }
        state.postgres.mend(self, job, host, &mut state.seen);
    }

    /// What may go wrong with hosts beside their agents.
    pub(crate) fn host_faults(&self, state: &State, steps: &mut Vec<Step>) {
        let faults = state.faults;
        for (host, resource) in self.places() {
            let agent = &state.agents[usize::from(host)];
            let held = agent.held[usize::from(resource)];
            if faults.vanish > 0 && held.instance && agent.rests(resource) {
                steps.push(Step::LoseInstance(host, resource));
            }
            let found = state.postgres.judge(self, host, resource, Look::default());
            if faults.blind > 0
                && agent.epoch.is_some()
                && state.postgres.is_still(self, resource)
                && found.is_some()
                && (held.instance || held.claim)
                && self.tells(state, host, resource, found)
            {
                steps.push(Step::Blind(host, resource));
            }
            if faults.stuck > 0 && agent.can_stick(self, resource) {
                steps.push(Step::Stick(host, resource));
            }
        }
        for host in 0..self.hosts {
            let agent = &state.agents[usize::from(host)];
            let copy = state.copies[usize::from(host)];
            if faults.put_back > 0 {
                if copy.is_none() && agent.copy() != Kept::default() {
                    steps.push(Step::Copy(host));
                }
                if agent.copy() != copy.unwrap_or_default() {
                    steps.push(Step::PutBack(host));
                }
            }
        }
    }
}
