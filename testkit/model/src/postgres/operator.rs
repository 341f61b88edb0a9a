//! Orders whose workers died of them, and undos that are given up.

use super::{Left, Mark, Postgres, Status};
use crate::agent::Agent;
use crate::bus::{Mode, Order};
use crate::config::{Action, Config, HOSTS, JobIx, ResourceIx};
use crate::ledger::Phase;
use crate::rules::Rule;
use crate::state::Seen;

impl Postgres {
    /// **poison**: an order was buried. The job is undone by another, if the order is its own and still out.
    pub fn poison(&mut self, config: &Config, order: Order, seen: &mut Seen) {
        let row = self.job_mut(order.job);
        let own = row.order.is_some_and(|last| last.fence == order.fence);
        if row.status != Status::Running || !own {
            return;
        }
        if !config.rules.has(Rule::PoisonByOrder) {
            self.end(config, order.job, Status::Failed, seen);
            return;
        }
        row.status = Status::Queued;
        if config.action(order.job) != Action::Delete {
            row.mark = row.mark.or(Some(Mark::Poison));
        }
    }

    /// Whether an operator can give a job's undo up.
    pub fn abandonable(&self, job: JobIx) -> bool {
        let row = self.job(job);
        !row.status.is_final() && row.order.is_some_and(|order| order.mode == Mode::Undo)
    }

    /// Whether taking a change back was tried in vain, and its resource is being deleted: that takes back all of it.
    pub fn is_moot(&self, config: &Config, job: JobIx) -> bool {
        let row = self.job(job);
        let deleting = self
            .open(config, config.resource(job))
            .any(|other| config.action(other) == Action::Delete);
        row.status == Status::Queued
            && row.in_vain
            && config.rules.has(Rule::DeleteAbandonsUndo)
            && (deleting || !config.rules.has(Rule::AbandonedForDelete))
    }

    /// **abandon**: ends a job whose undo goes on; what it holds on its host stays held.
    pub fn abandon(&mut self, config: &Config, job: JobIx, seen: &mut Seen) {
        let row = *self.job(job);
        let resource = config.resource(job);
        let reservation = self.resource(resource).reservation;
        self.end(config, job, row.mark.map_or(Status::Failed, Mark::end), seen);
        let first = row.first;
        let kept = self.resource_mut(resource);
        if config.rules.has(Rule::AbandonedKept) {
            kept.reservation = reservation;
        }
        kept.left = row.order.map(|order| Left { order, first });
    }

    /// Whether an agent's inventory shows that nothing of what an abandoned job left is there any more.
    pub fn seen_gone(&self, config: &Config, resource: ResourceIx, agents: &[Agent; HOSTS]) -> bool {
        let Some(Left { order, .. }) = self.resource(resource).left else {
            return false;
        };
        let agent = agents[usize::from(order.host)];
        let fence = agent.held[usize::from(resource)].fence;
        let known = if config.rules.has(Rule::ForgottenByFence) {
            agent.epoch.is_some_and(|epoch| epoch > order.epoch) || fence >= order.fence
        } else {
            fence > 0 || agent.ledger[usize::from(order.job)].phase == Phase::Unknown
        };
        let busy =
            self.jobs.iter().zip(config.jobs).any(|(row, spec)| {
                spec.resource == resource && row.order.is_some() && !row.status.is_final()
            });
        let made = self.resource(resource).applied.is_some();
        known
            && !busy
            && agent.epoch.is_some()
            && (agent.has_nothing_of(resource) || (made && agent.rests(resource)))
    }

    /// **inventory**: what an abandoned job left is gone.
    pub fn forget(&mut self, resource: ResourceIx) {
        let row = self.resource_mut(resource);
        row.left = None;
        row.forgotten = true;
        row.reservation = row.applied;
    }
}
