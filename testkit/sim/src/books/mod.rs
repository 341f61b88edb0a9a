//! What Postgres holds, in memory: the same rows, changed by the same transactions as in `store/`, which hands over and takes the same
//! types. A transaction is one call here, but for dispatch, whose rows stay locked from its begin to its commit.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `rows` | the rows |
//! | `accept` | create, change, cancel, delete, retry (`store/src/{accept,change}`) |
//! | `dispatch` | a batch of due jobs, and what is written of it (`store/src/dispatch`) |
//! | `settle` | a batch of reports, and what is written of it (`store/src/settle/batch.rs`) |
//! | `ends` | what the end of a job changes (`store/src/settle/{ends,books}.rs`) |
//! | `sweep` | what went quiet, deadlines, wake-ups, floors (`store/src/{sweep,hosts}.rs`) |
//! | `hosts` | greetings, inventories, what was left behind (`store/src/{watches,hosts}.rs`, `settle/abandon.rs`) |
//! | `check` | who checks, and what a check reads and notes (`store/src/check/{runs,known}.rs`, `amiss.rs`) |
//! | `mend` | what reconcile asks for (`store/src/change/mend.rs`) |
//! | `audit` | what must hold after each transaction |

mod accept;
mod audit;
mod check;
mod dispatch;
mod ends;
mod hosts;
mod mend;
mod rows;
mod settle;
mod sweep;

pub use accept::{Ask, Origin, Refused};
pub use dispatch::Batch;
pub use mend::NOBODYS;
pub use rows::{AmissRow, CheckRun, HostRec, Job, Pinned, Resource, Rest};

use crate::mutant::Mutant;
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::{JobState, Mode};
use rhyzome_model::kinds::Demand;
use rhyzome_store::leases::LeaseView;
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Debug, Default)]
pub struct Books {
    /// Every job there ever was.
    pub jobs: BTreeMap<JobId, Job>,
    /// Every resource that isn't gone.
    pub resources: BTreeMap<ResourceId, Resource>,
    /// Who stands in line for a resource, by their number; and whether they were dispatched.
    pub line: BTreeMap<ResourceId, BTreeMap<i64, (JobId, bool)>>,
    /// From whom to whom.
    pub refs: BTreeSet<(ResourceId, ResourceId)>,
    /// Of instances.
    pub leases: BTreeMap<ResourceId, Vec<LeaseView>>,
    /// What is reserved for a resource on a host.
    pub reservations: BTreeMap<(ResourceId, HostName), Demand>,
    /// Where networks live.
    pub homes: BTreeMap<ResourceId, HostName>,
    /// Jobs that hold a slot.
    pub running: BTreeMap<TenantId, i32>,
    /// The hosts.
    pub hosts: BTreeMap<HostName, HostRec>,
    /// Open usage.
    pub usage: BTreeMap<ResourceId, Demand>,
    /// The last fence that was drawn.
    pub fence: i64,
    /// What is amiss on hosts, by host and resource.
    pub amiss: BTreeMap<(HostName, ResourceId), AmissRow>,
    /// Jobs that were abandoned, as long as something of them may be on their hosts.
    pub abandoned: BTreeMap<JobId, Rest>,
    /// The check.
    pub check: CheckRun,
    /// A rule that doesn't hold.
    pub mutant: Option<Mutant>,
    /// Slots of a tenant.
    pub cap: i32,
    /// Rows that a dispatch holds.
    locked: BTreeSet<ResourceId>,
    /// Dispatches that aren't committed.
    open: u32,
    /// The last number of a job.
    seq: i64,
    /// Something changed since the last audit.
    changed: bool,
    /// What should never have been written.
    faults: Vec<String>,
}

impl Books {
    /// Of hosts that nobody watches yet, and tenants with so many slots.
    pub fn new(cap: i32, hosts: &[(HostName, Demand)], tenants: &[TenantId]) -> Self {
        let row = |offered: Demand| HostRec {
            offered,
            used: Demand::default(),
            orders_out: 0,
            epoch: 0,
            up: false,
            ledger_id: None,
            answered_fence: 0,
            put_back_at: None,
            inventory: None,
        };
        Self {
            cap,
            hosts: hosts
                .iter()
                .map(|(name, offered)| (name.clone(), row(*offered)))
                .collect(),
            running: tenants.iter().map(|t| (t.clone(), 0)).collect(),
            ..Self::default()
        }
    }

    /// Whether no dispatch holds any row: what else writes waits for that.
    pub fn is_quiet(&self) -> bool {
        self.open == 0
    }

    /// Jobs that didn't end.
    pub fn open_jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().filter(|j| j.ended_at.is_none())
    }

    /// The state of a job becomes another: legal, or a fault.
    fn turn(&mut self, id: JobId, to: JobState) {
        self.changed = true;
        let Some(job) = self.jobs.get_mut(&id) else {
            self.faults.push(format!("3: {id} is no job"));
            return;
        };
        let from = job.state;
        // Within one transaction a blocked job is woken and more.
        let legal = from == to
            || from.may_become(to)
            || (from == JobState::Blocked && JobState::Queued.may_become(to));
        if !legal {
            self.faults.push(format!("4: job {id} went from {from} to {to}"));
        }
        job.state = to;
    }

    /// The open jobs in line for a resource, first come first.
    fn in_line(&self, resource: ResourceId) -> Vec<JobId> {
        self.line
            .get(&resource)
            .map_or_else(Vec::new, |line| line.values().map(|(job, _)| *job).collect())
    }

    fn first_in_line(&self, resource: ResourceId) -> Option<JobId> {
        self.line.get(&resource)?.values().next().map(|(job, _)| *job)
    }

    fn leave_line(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        if let Some(line) = self.line.get_mut(&job.resource) {
            line.remove(&job.seq);
            if line.is_empty() {
                self.line.remove(&job.resource);
            }
        }
    }

    /// Wakes who waited: the next in line on `ended` resources, who is in line on those that refer to these, and on what `removed` ones
    /// referred to.
    fn wake(&mut self, ended: &[ResourceId], removed: &[ResourceId], now: DateTime<Utc>) {
        let mut woken: BTreeSet<JobId> = ended.iter().filter_map(|r| self.first_in_line(*r)).collect();
        for (from, to) in &self.refs {
            if ended.contains(to) {
                woken.extend(self.in_line(*from));
            }
            if removed.contains(from) {
                woken.extend(self.in_line(*to));
            }
        }
        for id in woken {
            let Some(job) = self.jobs.get(&id) else { continue };
            let waits = job.state == JobState::Blocked
                || (job.state == JobState::Queued && job.due.is_some_and(|due| due <= now));
            if job.ended_at.is_none() && job.host.is_none() && waits {
                self.turn(id, JobState::Queued);
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.due = Some(job.due.map_or(now, |due| due.min(now)));
                }
            }
        }
    }

    /// Whether a due job needs neither turn nor room.
    fn needs_no_turn(job: &Job) -> bool {
        job.holds_slot
            || job.mode == Mode::Undo
            || job.state == JobState::Undoing
            || job.cancel_requested_at.is_some()
    }
}
