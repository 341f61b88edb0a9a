//! What the sweep looks for, what placement reads, and what hosts are told.

use super::{Books, Job};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{HostName, JobId, ResourceId};
use rhyzome_model::job::{Action, JobState, Mode, Verdict};
use rhyzome_model::kinds::Kind;
use rhyzome_store::dispatch::OrderRow;
use rhyzome_store::hosts::{ClusterView, HostRow};
use std::collections::BTreeMap;

impl Books {
    /// Orders that went out before this and have no outcome; those of jobs that are due are left out.
    pub fn orders_quiet(&self, before: DateTime<Utc>) -> Vec<OrderRow> {
        self.jobs
            .values()
            .filter(|j| j.dispatched_at.is_some_and(|at| at < before) && j.due.is_none())
            .filter_map(|j| {
                Some(OrderRow {
                    job: j.id,
                    tenant: j.tenant.clone(),
                    kind: j.kind,
                    action: j.action,
                    resource: j.resource,
                    generation: j.generation,
                    host: j.host.clone()?,
                    address: String::new(),
                    epoch: j.epoch,
                    fence: j.fence?,
                    mode: j.mode,
                    verdict: j.verdict,
                    cause: j.error.clone(),
                    attempt: j.attempt,
                    frozen: j.frozen.clone()?,
                    deadline_at: j.deadline_at,
                    traceparent: String::new(),
                })
            })
            .collect()
    }

    /// The order is quiet from now on anew.
    pub fn order_published_again(&mut self, id: JobId, fence: i64, now: DateTime<Utc>) {
        if let Some(job) = self.jobs.get_mut(&id)
            && job.fence == Some(fence)
            && job.dispatched_at.is_some()
        {
            job.dispatched_at = Some(now);
        }
    }

    /// Makes due what passed its deadline going forward, and marks it for undo.
    pub fn deadlines_pass(&mut self, now: DateTime<Utc>) {
        let late = |j: &&Job| {
            j.ended_at.is_none()
                && j.mode == Mode::Forward
                && j.deadline_at.is_some_and(|d| d < now)
                && j.action != Action::Delete
                && !self.locked.contains(&j.resource)
        };
        let ids: Vec<JobId> = self.jobs.values().filter(late).map(|j| j.id).collect();
        for id in ids {
            if self.jobs.get(&id).is_some_and(|j| j.state == JobState::Blocked) {
                self.turn(id, JobState::Queued);
            }
            let Some(job) = self.jobs.get_mut(&id) else {
                continue;
            };
            job.due = Some(now);
            job.mode = Mode::Undo;
            job.verdict = Some(if job.cancel_requested_at.is_some() {
                Verdict::Cancelled
            } else {
                Verdict::Deadline
            });
            self.changed = true;
        }
    }

    /// Wakes blocked jobs that wait for nothing any more; says how many that nothing else woke.
    pub fn blocked_recheck(&mut self, now: DateTime<Utc>) -> usize {
        let free = |j: &&Job| {
            let first = self
                .line
                .get(&j.resource)
                .is_none_or(|line| line.range(..j.seq).next().is_none());
            let in_the_way = if j.action == Action::Delete {
                self.refs.iter().any(|(_, to)| *to == j.resource)
            } else {
                self.refs.iter().any(|(from, to)| {
                    *from == j.resource
                        && self.line.contains_key(to)
                        && self.resources.get(to).is_some_and(|r| r.applied.is_none())
                })
            };
            j.state == JobState::Blocked
                && j.due.is_none()
                && !self.locked.contains(&j.resource)
                && first
                && !in_the_way
        };
        let ids: Vec<JobId> = self.jobs.values().filter(free).map(|j| j.id).collect();
        for id in &ids {
            self.turn(*id, JobState::Queued);
            if let Some(job) = self.jobs.get_mut(id) {
                job.due = Some(now);
            }
        }
        ids.len()
    }

    /// Makes due what waits for capacity: some came.
    pub fn capacity_wake(&mut self, now: DateTime<Utc>) {
        let locked = &self.locked;
        for job in self.jobs.values_mut() {
            let waits = job.waiting.as_ref().is_some_and(|w| w.reason == "capacity");
            if job.ended_at.is_none()
                && job.dispatched_at.is_none()
                && waits
                && job.due.is_some_and(|due| due > now)
                && !locked.contains(&job.resource)
            {
                job.due = Some(now);
            }
        }
    }

    /// What placement reads.
    pub fn cluster_view(&self) -> ClusterView {
        let hosts = self.hosts.iter().map(|(name, h)| HostRow {
            name: name.clone(),
            address: String::new(),
            epoch: h.epoch,
            ledger_id: None,
            cordoned: false,
            labels: BTreeMap::new(),
            offered: h.offered,
            used: h.used,
            orders_out: h.orders_out,
            facts: serde_json::Value::Null,
            load: None,
            two_agents: false,
            up: h.up,
            seen_at: None,
        });
        let mut view = ClusterView {
            hosts: hosts.collect(),
            homes: self.homes.clone(),
            ..ClusterView::default()
        };
        for (id, host) in self.reservations.keys() {
            if self.resources.get(id).is_some_and(|r| r.kind == Kind::Image) {
                view.images.entry(host.clone()).or_default().insert(*id);
            }
        }
        view
    }

    /// The hosts of a tenant's resources, by id or name.
    pub fn hosts_of(&self, tenant: &str, kind: Kind, targets: &[String]) -> Vec<HostName> {
        let wanted = |id: ResourceId, name: &str| targets.iter().any(|t| t == name || *t == id.to_string());
        self.resources
            .values()
            .filter(|r| r.tenant.as_str() == tenant && r.kind == kind && wanted(r.id, &r.name))
            .filter_map(|r| r.host.clone())
            .collect()
    }

    /// The host's floor: the lowest first fence among the open jobs that have it, and the abandoned ones that may have left something
    /// there; above all drawn, if there is none. Not while a dispatch draws: it has the host's row.
    pub fn floor(&self, host: &HostName) -> i64 {
        let left = self.abandoned.values().filter(|rest| rest.host == *host);
        self.open_jobs()
            .filter(|j| j.host.as_ref() == Some(host))
            .filter_map(|j| j.first_fence)
            .chain(left.map(|rest| rest.first_fence))
            .min()
            .unwrap_or(self.fence + 1)
    }
}
