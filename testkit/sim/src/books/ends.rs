//! What the end of a job changes: the job, its resource, what it held, and who waited for it.

use super::{Books, Rest};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{HostName, ResourceId, TenantId};
use rhyzome_model::job::Action;
use rhyzome_model::kinds::{Demand, Kind};
use rhyzome_store::settle::{Effect, End, Kept};
use std::collections::BTreeMap;

/// What a batch gives back.
#[derive(Debug, Default)]
pub(super) struct Back {
    pub(super) slots: Vec<TenantId>,
    pub(super) orders: Vec<HostName>,
    pub(super) leaving: Vec<ResourceId>,
    /// Fence and epoch of answers.
    pub(super) answered: Vec<(HostName, i64, i64)>,
    kept: BTreeMap<ResourceId, Kept>,
}

/// Whether it is known what has become of the resource on its host.
fn is_agents_word(end: &End) -> bool {
    match end.effect {
        Effect::Applied { .. } => end.order_out,
        Effect::Removed | Effect::NotMade { .. } => true,
        Effect::LeftBehind { .. } | Effect::NotChanged { .. } => false,
    }
}

impl Books {
    pub(super) fn apply_ends(&mut self, ends: &[End], mut back: Back, now: DateTime<Utc>) {
        self.changed = true;
        for end in ends {
            self.remember_abandoned(end, now);
            self.end_job(end, now);
            self.apply(end);
        }
        let touched: Vec<ResourceId> = ends.iter().map(|e| e.resource).collect();
        let removed: Vec<ResourceId> = ends
            .iter()
            .filter(|e| matches!(e.effect, Effect::Removed))
            .map(|e| e.resource)
            .collect();
        self.wake(&touched, &removed, now);
        for end in ends {
            if end.held_slot {
                back.slots.push(end.tenant.clone());
            }
            if end.order_out
                && let Some(host) = &end.host
            {
                back.orders.push(host.clone());
                back.answered
                    .extend(end.answered.map(|(fence, epoch)| (host.clone(), fence, epoch)));
            }
            match &end.effect {
                Effect::Applied { reserve, .. } | Effect::NotChanged { reserve, .. } => {
                    back.kept.extend(reserve.map(|kept| (end.resource, kept)));
                }
                Effect::Removed | Effect::NotMade { .. } => back.leaving.push(end.resource),
                Effect::LeftBehind { .. } => {}
            }
        }
        self.give_back(back);
        let told: Vec<ResourceId> = ends
            .iter()
            .filter(|e| is_agents_word(e))
            .map(|e| e.resource)
            .collect();
        self.abandoned.retain(|_, rest| !told.contains(&rest.resource));
        for resource in removed {
            self.usage.remove(&resource);
            self.resources.remove(&resource);
            self.refs.retain(|(from, _)| *from != resource);
            self.leases.remove(&resource);
        }
    }

    /// What an abandoned job may have left on its host.
    fn remember_abandoned(&mut self, end: &End, now: DateTime<Utc>) {
        let Effect::LeftBehind { .. } = end.effect else {
            return;
        };
        if let Some(job) = self.jobs.get_mut(&end.job)
            && let (Some(host), Some(first_fence), Some(fence)) = (&job.host, job.first_fence, job.fence)
        {
            job.given_up = true;
            let rest = Rest {
                resource: job.resource,
                host: host.clone(),
                first_fence,
                fence,
                at: now,
            };
            self.abandoned.insert(end.job, rest);
        }
    }

    fn end_job(&mut self, end: &End, now: DateTime<Utc>) {
        self.turn(end.job, end.state);
        self.leave_line(end.job);
        let Some(job) = self.jobs.get_mut(&end.job) else {
            return;
        };
        job.error.clone_from(&end.error);
        if let Some(steps) = &end.steps {
            job.steps.clone_from(steps);
        }
        job.ended_at = Some(now);
        job.due = None;
        job.waiting = None;
        job.holds_slot = false;
        job.dispatched_at = None;
        job.frozen = None;
    }

    fn apply(&mut self, end: &End) {
        let Effect::Applied {
            spec,
            generation,
            facts,
            metered,
            ..
        } = &end.effect
        else {
            return;
        };
        let Some(resource) = self.resources.get_mut(&end.resource) else {
            return;
        };
        resource.observed_generation = if *spec == resource.spec {
            resource.generation
        } else {
            resource.observed_generation.max(*generation)
        };
        resource.applied = Some(spec.clone());
        if facts.is_some() {
            resource.facts.clone_from(facts);
        }
        if end.action != Action::Create && self.usage.get(&end.resource) != metered.as_ref() {
            self.usage.remove(&end.resource);
        }
        if let Some(metered) = metered {
            self.usage.entry(end.resource).or_insert(*metered);
        }
    }

    pub(super) fn give_back(&mut self, back: Back) {
        let mut left = Vec::new();
        for id in &back.leaving {
            if let Some(host) = self.resources.get_mut(id).and_then(|r| r.host.take()) {
                left.push((*id, host));
            }
        }
        self.leave_homes(&left);
        for tenant in back.slots {
            *self.running.entry(tenant).or_default() -= 1;
        }
        for host in back.orders {
            if let Some(host) = self.hosts.get_mut(&host) {
                host.orders_out -= 1;
            }
        }
        for (host, fence, epoch) in back.answered {
            if let Some(host) = self.hosts.get_mut(&host).filter(|h| h.epoch == epoch) {
                host.answered_fence = host.answered_fence.max(fence);
            }
        }
        let gone: Vec<(ResourceId, HostName)> = self
            .reservations
            .keys()
            .filter(|(id, _)| back.leaving.contains(id))
            .cloned()
            .chain(self.copies(&left))
            .collect();
        for key in gone {
            if let Some(demand) = self.reservations.remove(&key) {
                self.free(&key.1, demand);
            }
        }
        for (id, kept) in back.kept {
            let Some(host) = self.resources.get(&id).and_then(|r| r.host.clone()) else {
                continue;
            };
            let Some(reserved) = self.reservations.get_mut(&(id, host.clone())) else {
                continue;
            };
            let before = *reserved;
            *reserved = Demand {
                vcpus: kept.vcpus.unwrap_or(before.vcpus),
                memory_mib: kept.memory_mib.unwrap_or(before.memory_mib),
                disk_gib: kept.disk_gib.unwrap_or(before.disk_gib),
            };
            let freed = Demand {
                vcpus: before.vcpus - reserved.vcpus,
                memory_mib: before.memory_mib - reserved.memory_mib,
                disk_gib: before.disk_gib - reserved.disk_gib,
            };
            self.free(&host, freed);
        }
    }

    fn free(&mut self, host: &HostName, demand: Demand) {
        if let Some(host) = self.hosts.get_mut(host) {
            host.used.vcpus -= demand.vcpus;
            host.used.memory_mib -= demand.memory_mib;
            host.used.disk_gib -= demand.disk_gib;
        }
    }

    /// A network that its last instance left lives nowhere.
    fn leave_homes(&mut self, left: &[(ResourceId, HostName)]) {
        let (refs, resources) = (&self.refs, &self.resources);
        let has_left = |network: &ResourceId| {
            let of =
                |(from, to): &(ResourceId, ResourceId)| to == network && left.iter().any(|l| l.0 == *from);
            refs.iter().any(of)
        };
        let somebody = |network: &ResourceId| {
            refs.iter()
                .any(|(from, to)| to == network && resources.get(from).is_some_and(|r| r.host.is_some()))
        };
        self.homes
            .retain(|network, _| !has_left(network) || somebody(network));
    }

    /// Copies of images that nothing on the host needs any more.
    fn copies(&self, left: &[(ResourceId, HostName)]) -> Vec<(ResourceId, HostName)> {
        let on = |id: &ResourceId, host: &HostName| {
            self.resources
                .get(id)
                .is_some_and(|r| r.host.as_ref() == Some(host))
        };
        let mut copies = Vec::new();
        for (id, host) in left {
            for (_, image) in self.refs.iter().filter(|(from, _)| from == id) {
                let is_image = self.resources.get(image).is_some_and(|r| r.kind == Kind::Image);
                let needed =
                    on(image, host) || self.refs.iter().any(|(from, to)| to == image && on(from, host));
                if is_image && !needed {
                    copies.push((*image, host.clone()));
                }
            }
        }
        copies
    }
}
