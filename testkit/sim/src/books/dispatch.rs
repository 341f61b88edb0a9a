//! Dispatch: a batch of due jobs, locked, and what is written of what was decided.

use super::{Books, Job};
use chrono::{DateTime, TimeDelta, Utc};
use rhyzome_model::ids::{HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState, Mode};
use rhyzome_model::kinds::{Demand, Kind};
use rhyzome_store::dispatch::{
    Decision, DispatchLimits, DispatchOutcome, DueJob, NewOrder, OrderRow, RefRow, Wanted,
};
use rhyzome_store::leases::LeaseView;
use rhyzome_store::rows::StepRow;
use std::collections::{BTreeMap, BTreeSet};

/// A batch, locked until it is committed or given up.
#[derive(Debug)]
pub struct Batch {
    limits: DispatchLimits,
    /// The jobs, in turn.
    pub jobs: Vec<DueJob>,
    /// What their resources refer to.
    pub refs: BTreeMap<ResourceId, Vec<RefRow>>,
    /// Their leases.
    pub leases: BTreeMap<ResourceId, Vec<LeaseView>>,
    /// The database's time.
    pub now: DateTime<Utc>,
}

impl Books {
    /// Locks and reads a batch, in turn among tenants.
    pub fn dispatch_begin(&mut self, limits: DispatchLimits, now: DateTime<Utc>) -> Option<Batch> {
        let is_due = |j: &&Job| j.due.is_some_and(|due| due <= now);
        let tenants: BTreeSet<&TenantId> = self.jobs.values().filter(is_due).map(|j| &j.tenant).collect();
        let share = (limits.batch / (tenants.len().max(1) as i64)).max(1) as usize;
        let mut due: Vec<(DateTime<Utc>, i64, JobId)> = Vec::new();
        for tenant in tenants {
            let running = self.running.get(tenant).copied().unwrap_or(0);
            let free = usize::try_from(limits.tenant_cap - running).unwrap_or(0);
            let mut of = |no_turn: bool, most: usize| {
                let mut jobs: Vec<_> = self
                    .jobs
                    .values()
                    .filter(is_due)
                    .filter(|j| j.tenant == *tenant && Self::needs_no_turn(j) == no_turn)
                    .filter(|j| no_turn || !self.host_is_full(j, limits.host_cap))
                    .filter_map(|j| Some((j.due?, j.seq, j.id)))
                    .collect();
                jobs.sort_unstable();
                jobs.truncate(most);
                due.extend(jobs);
            };
            of(true, share);
            of(false, share.min(free));
        }
        due.sort_unstable();
        due.truncate(limits.batch as usize);
        let ids: Vec<JobId> = due
            .into_iter()
            .map(|(_, _, id)| id)
            .filter(|id| {
                self.jobs
                    .get(id)
                    .is_some_and(|j| !self.locked.contains(&j.resource))
            })
            .collect();
        if ids.is_empty() {
            return None;
        }
        let jobs: Vec<DueJob> = ids.iter().filter_map(|id| self.due_job(*id)).collect();
        let refs = jobs
            .iter()
            .map(|j| (j.resource, self.refs_of(j.resource)))
            .collect();
        let leases = jobs
            .iter()
            .filter_map(|j| Some((j.resource, self.leases.get(&j.resource)?.clone())))
            .collect();
        self.locked.extend(jobs.iter().map(|j| j.resource));
        self.open += 1;
        Some(Batch {
            limits,
            jobs,
            refs,
            leases,
            now,
        })
    }

    fn host_is_full(&self, job: &Job, cap: i32) -> bool {
        let full = |host: &HostName| self.hosts.get(host).is_some_and(|h| h.orders_out >= cap);
        let own = self.resources.get(&job.resource).and_then(|r| r.host.as_ref());
        own.is_some_and(full)
            || (job.action == Action::Create
                && self
                    .refs
                    .iter()
                    .any(|(from, to)| *from == job.resource && self.homes.get(to).is_some_and(full)))
    }

    fn due_job(&self, id: JobId) -> Option<DueJob> {
        let job = self.jobs.get(&id)?;
        let resource = self.resources.get(&job.resource)?;
        let reserved = resource
            .host
            .as_ref()
            .and_then(|h| self.reservations.get(&(resource.id, h.clone())))
            .copied();
        let earlier_open = self
            .line
            .get(&job.resource)
            .is_some_and(|line| line.range(..job.seq).next().is_some());
        Some(DueJob {
            pinned_host: job.pinned_host.clone(),
            wanted: if resource.deleting {
                Wanted::Gone
            } else {
                Wanted::Kept
            },
            id,
            tenant: job.tenant.clone(),
            kind: job.kind,
            action: job.action,
            resource: job.resource,
            name: resource.name.clone(),
            generation: job.generation,
            spec: job.spec.clone(),
            applied: resource.applied.clone(),
            observed: None,
            facts: resource.facts.clone(),
            state: job.state,
            host: job.host.clone(),
            resource_host: resource.host.clone(),
            reserved: reserved.unwrap_or_default(),
            home: self.homes.get(&job.resource).cloned(),
            frozen: job.frozen.clone(),
            mode: job.mode,
            verdict: job.verdict,
            cause: job.error.clone(),
            attempt: job.attempt,
            failures: job.failures,
            excluded: job.excluded.clone(),
            deadline_at: job.deadline_at,
            cancel_requested_at: job.cancel_requested_at,
            holds_slot: job.holds_slot,
            order_out: job.dispatched_at.is_some(),
            waiting: job.waiting.clone(),
            traceparent: String::new(),
            created_at: job.created_at,
            earlier_open,
            referrers: if job.action == Action::Delete {
                self.refs.iter().filter(|(_, to)| *to == job.resource).count() as i64
            } else {
                0
            },
        })
    }

    fn refs_of(&self, from: ResourceId) -> Vec<RefRow> {
        self.refs
            .iter()
            .filter(|(f, _)| *f == from)
            .filter_map(|(_, to)| self.resources.get(to))
            .map(|r| RefRow {
                id: r.id,
                kind: r.kind,
                tenant: r.tenant.clone(),
                name: r.name.clone(),
                generation: r.generation,
                spec: r.spec.clone(),
                applied: r.applied.is_some(),
                facts: r.facts.clone(),
                open: self.line.contains_key(&r.id),
            })
            .collect()
    }

    /// The transaction is rolled back.
    pub fn dispatch_give_up(&mut self, batch: &Batch) {
        for job in &batch.jobs {
            self.locked.remove(&job.resource);
        }
        self.open -= 1;
    }

    /// Writes the decisions; what no longer holds is left, and stays due.
    pub fn dispatch_commit(
        &mut self,
        batch: &Batch,
        decisions: Vec<Decision>,
        now: DateTime<Utc>,
    ) -> DispatchOutcome {
        self.dispatch_give_up(batch);
        let mut outcome = DispatchOutcome::default();
        let mut orders = Vec::new();
        for decision in decisions {
            match decision {
                Decision::Order(order) => orders.push(order),
                Decision::End(end) => outcome.ended.push(end),
                Decision::Wait {
                    job,
                    state,
                    waiting,
                    due,
                } => {
                    self.turn(job, state);
                    if let Some(job) = self.jobs.get_mut(&job) {
                        job.waiting = Some(waiting);
                        job.due = due;
                    }
                }
            }
        }
        let ended = outcome.ended.clone();
        self.apply_ends(&ended, super::ends::Back::default(), now);
        let mut settled: BTreeMap<ResourceId, bool> = BTreeMap::new();
        orders.retain(|order| {
            let here = order.networks.iter().all(|network| {
                let home = self.homes.entry(*network).or_insert_with(|| {
                    settled.insert(*network, false);
                    order.host.clone()
                });
                *home == order.host
            });
            if !here {
                outcome.left.push(order.job);
            }
            here
        });
        for order in orders {
            let networks = order.networks.clone();
            if self.write_order(batch, order, &mut outcome, now) {
                for network in networks {
                    settled.entry(network).and_modify(|s| *s = true);
                }
            }
        }
        for (network, _) in settled.into_iter().filter(|(_, settled)| !settled) {
            self.homes.remove(&network);
        }
        outcome
    }

    fn write_order(
        &mut self,
        batch: &Batch,
        order: NewOrder,
        outcome: &mut DispatchOutcome,
        now: DateTime<Utc>,
    ) -> bool {
        let Some(due) = batch.jobs.iter().find(|j| j.id == order.job) else {
            self.faults
                .push("a decision about a job that is not in the batch".into());
            return false;
        };
        let takes_slot = order.mode == Mode::Forward && !due.holds_slot;
        let running = self.running.entry(due.tenant.clone()).or_default();
        if takes_slot && *running >= batch.limits.tenant_cap {
            outcome.left.push(order.job);
            return false;
        }
        let Some(host) = self.hosts.get_mut(&order.host).filter(|host| host.up) else {
            outcome.left.push(order.job);
            return false;
        };
        let mut wants: Vec<(ResourceId, Demand)> =
            order.reserve.map(|d| (due.resource, d)).into_iter().collect();
        if let Some((image, disk_gib)) = order.image
            && image != due.resource
            && !self.reservations.contains_key(&(image, order.host.clone()))
        {
            wants.push((
                image,
                Demand {
                    disk_gib,
                    ..Demand::default()
                },
            ));
        }
        let mut delta = Demand::default();
        for (resource, demand) in &wants {
            let before = self
                .reservations
                .get(&(*resource, order.host.clone()))
                .copied()
                .unwrap_or_default();
            delta.vcpus += demand.vcpus - before.vcpus;
            delta.memory_mib += demand.memory_mib - before.memory_mib;
            delta.disk_gib += demand.disk_gib - before.disk_gib;
        }
        let fits = |want: i64, offered: i64, used: i64| want <= 0 || want <= offered - used;
        let room = fits(delta.vcpus, host.offered.vcpus, host.used.vcpus)
            && fits(delta.memory_mib, host.offered.memory_mib, host.used.memory_mib)
            && fits(delta.disk_gib, host.offered.disk_gib, host.used.disk_gib);
        if !room {
            outcome.left.push(order.job);
            return false;
        }
        let out = i32::from(!due.order_out);
        if order.mode == Mode::Forward && host.orders_out + out > batch.limits.host_cap {
            outcome.left.push(order.job);
            if let Some(job) = self.jobs.get_mut(&order.job) {
                job.due = Some(now + TimeDelta::milliseconds(100));
            }
            return false;
        }
        host.orders_out += out;
        host.used.vcpus += delta.vcpus;
        host.used.memory_mib += delta.memory_mib;
        host.used.disk_gib += delta.disk_gib;
        let epoch = host.epoch;
        *running += i32::from(takes_slot);
        for (resource, demand) in wants {
            self.reservations.insert((resource, order.host.clone()), demand);
        }
        self.draw(due, order, epoch, outcome, now);
        true
    }

    fn draw(
        &mut self,
        due: &DueJob,
        order: NewOrder,
        epoch: i64,
        outcome: &mut DispatchOutcome,
        now: DateTime<Utc>,
    ) {
        self.fence += 1;
        let fence = self.fence;
        if due.state != JobState::Undoing {
            self.turn(order.job, JobState::Running);
        }
        let Some(job) = self.jobs.get_mut(&order.job) else {
            return;
        };
        if job.host.is_none() || job.first_fence.is_none() {
            job.first_fence = Some(fence);
        }
        job.host = Some(order.host.clone());
        job.fence = Some(fence);
        job.epoch = epoch;
        job.mode = order.mode;
        job.verdict = order.verdict;
        job.frozen = Some(order.frozen.clone());
        if let Some(names) = &order.names {
            job.steps = names.iter().map(|n| StepRow::pending(n)).collect();
        }
        job.attempt += 1;
        job.due = None;
        job.dispatched_at = Some(now);
        job.holds_slot |= order.mode == Mode::Forward;
        job.waiting = None;
        let (seq, attempt, resource) = (job.seq, job.attempt, job.resource);
        let pinned = job.pinned_host.is_some();
        if let Some((_, active)) = self.line.get_mut(&resource).and_then(|l| l.get_mut(&seq)) {
            *active = true;
        }
        if let Some(resource) = self.resources.get_mut(&resource) {
            resource.fence = fence;
            if resource.kind != Kind::Network && !pinned {
                resource.host = Some(order.host.clone());
            }
        }
        outcome.orders.push(OrderRow {
            job: order.job,
            tenant: due.tenant.clone(),
            kind: due.kind,
            action: due.action,
            resource: due.resource,
            generation: due.generation,
            address: String::new(),
            epoch,
            host: order.host,
            fence,
            mode: order.mode,
            verdict: order.verdict,
            cause: due.cause.clone(),
            attempt,
            frozen: order.frozen,
            deadline_at: due.deadline_at,
            traceparent: due.traceparent.clone(),
        });
    }
}
