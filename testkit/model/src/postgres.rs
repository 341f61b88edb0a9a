//! Postgres: rows, and the transactions that change them. Each function here is one transaction.
//!
//! Guarantees atomicity, and nothing about what is outside: it learns of hosts only by [`Postgres::settle`].

mod operator;
mod reconcile;
mod rows;
mod settle;

pub use reconcile::{Amiss, Look, Wrong};
pub use rows::{JobRow, Left, Mark, ResourceRow, Status};

use crate::bus::{Mode, Order};
use crate::config::{
    Action, Asked, Config, Epoch, Fence, HOSTS, HostIx, JOBS, JobIx, Network, RESOURCES, ResourceIx, Serial,
};
use crate::rules::Rule;
use crate::state::Seen;

/// The database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Postgres {
    /// The fence sequence's last value.
    pub sequence: Fence,
    /// Of the hosts.
    pub epochs: [Epoch; HOSTS],
    /// Rows of the configuration's jobs.
    pub jobs: [JobRow; JOBS],
    /// Rows of the claiming resources.
    pub resources: [ResourceRow; RESOURCES],
    /// The highest serial number of a record that a host's agent has answered with; kept where hosts are put back.
    pub answered: [Serial; HOSTS],
    /// The serial number that a host's ledger had reached when its agent said hello.
    pub greeted: [Serial; HOSTS],
    /// What reconcile found, and has not mended yet.
    pub amiss: [[Option<Amiss>; RESOURCES]; HOSTS],
}

impl Postgres {
    /// With the jobs that are accepted at first.
    pub fn new(config: &Config) -> Self {
        let mut jobs = [JobRow::default(); JOBS];
        for (row, spec) in jobs.iter_mut().zip(config.jobs) {
            if spec.asked == Asked::AtFirst {
                row.status = Status::Queued;
            }
        }
        Self {
            sequence: 0,
            epochs: [0; HOSTS],
            jobs,
            resources: [ResourceRow::default(); RESOURCES],
            answered: [0; HOSTS],
            greeted: [0; HOSTS],
            amiss: Default::default(),
        }
    }

    fn job(&self, job: JobIx) -> &JobRow {
        &self.jobs[usize::from(job)]
    }

    fn job_mut(&mut self, job: JobIx) -> &mut JobRow {
        &mut self.jobs[usize::from(job)]
    }

    fn resource(&self, resource: ResourceIx) -> &ResourceRow {
        &self.resources[usize::from(resource)]
    }

    fn resource_mut(&mut self, resource: ResourceIx) -> &mut ResourceRow {
        &mut self.resources[usize::from(resource)]
    }

    /// Users' jobs before this one, on its resource.
    fn earlier(config: &Config, job: JobIx) -> impl Iterator<Item = JobIx> {
        let resource = config.resource(job);
        let jobs = config.jobs;
        (0..job).filter(move |other| {
            let spec = jobs[usize::from(*other)];
            spec.resource == resource && spec.asked != Asked::Reconcile
        })
    }

    /// Jobs on a resource that are accepted and haven't ended.
    fn open(&self, config: &Config, resource: ResourceIx) -> impl Iterator<Item = JobIx> {
        (0..config.jobs.len() as JobIx)
            .filter(move |job| config.resource(*job) == resource && self.job(*job).is_open())
    }

    /// Whether a user may ask for a job now: in their order, and for a second create once the first came to nothing.
    pub fn acceptable(&self, config: &Config, job: JobIx) -> bool {
        let retry = config.action(job) == Action::Create;
        self.job(job).status == Status::Absent
            && Self::earlier(config, job).all(|other| match self.job(other).status {
                Status::Absent => false,
                Status::Queued | Status::Running | Status::Succeeded => !retry,
                Status::Failed | Status::Cancelled => true,
            })
    }

    /// **accept**: it comes behind all that is open on its resource. A delete cancels that.
    pub fn accept(&mut self, config: &Config, job: JobIx, seen: &mut Seen) {
        let open: Vec<JobIx> = self.open(config, config.resource(job)).collect();
        let behind = open.iter().map(|other| self.job(*other).turn + 1).max();
        let row = self.job_mut(job);
        row.status = Status::Queued;
        row.turn = behind.unwrap_or(0);
        match config.action(job) {
            Action::Create | Action::Update | Action::Repair | Action::Clear => {}
            Action::Delete => {
                for other in open {
                    self.mark(config, other, Mark::Cancel, seen);
                }
            }
        }
    }

    /// Whether a job can still be cancelled, or pass its deadline.
    pub fn markable(&self, config: &Config, job: JobIx) -> bool {
        let row = self.job(job);
        match (config.action(job), row.status) {
            (
                Action::Create | Action::Update | Action::Repair | Action::Clear,
                Status::Queued | Status::Running,
            ) => row.mark.is_none(),
            (
                Action::Create | Action::Update | Action::Repair | Action::Clear,
                Status::Absent | Status::Succeeded | Status::Failed | Status::Cancelled,
            )
            | (Action::Delete, _) => false,
        }
    }

    /// **cancel**, and the deadline. A job of which no host holds anything ends here; any other waits for its agent's word.
    pub fn mark(&mut self, config: &Config, job: JobIx, mark: Mark, seen: &mut Seen) {
        if !self.markable(config, job) {
            return;
        }
        let resource = config.resource(job);
        self.job_mut(job).mark = Some(mark);
        if self.job(job).order.is_none() || !config.rules.has(Rule::CancelByOrder) {
            self.end(config, job, mark.end(), seen);
        } else if !config.rules.has(Rule::ReservationKept) {
            self.resource_mut(resource).reservation = None;
        }
    }

    fn first_on_its_resource(&self, config: &Config, job: JobIx) -> bool {
        let turn = self.job(job).turn;
        self.open(config, config.resource(job))
            .all(|other| other == job || self.job(other).turn > turn)
    }

    fn free(&self, config: &Config, host: HostIx) -> bool {
        let held = self
            .resources
            .iter()
            .filter(|row| row.reservation == Some(host))
            .count();
        held < usize::from(config.capacity)
    }

    fn at_home(&self, config: &Config, resource: ResourceIx, host: HostIx) -> bool {
        if config.network == Network::None || !config.rules.has(Rule::NetworkHome) {
            return true;
        }
        let others = self
            .resources
            .iter()
            .enumerate()
            .filter(|(ix, _)| *ix != usize::from(resource));
        others
            .filter_map(|(_, row)| row.reservation)
            .all(|home| home == host)
    }

    /// The hosts to which a job may go now. Exclusions lapse when nothing else is left.
    pub fn hosts_for(&self, config: &Config, job: JobIx) -> Vec<HostIx> {
        let row = self.job(job);
        if row.status != Status::Queued
            || !self.first_on_its_resource(config, job)
            || self.is_moot(config, job)
        {
            return Vec::new();
        }
        let resource = config.resource(job);
        let held = row.order.map(|order| order.host).or(match config.action(job) {
            Action::Create => None,
            Action::Repair if !config.rules.has(Rule::RepairAtHome) => None,
            Action::Update | Action::Repair => self.resource(resource).applied,
            Action::Clear if !config.rules.has(Rule::Pinned) => {
                self.resource(resource).applied.or(row.pinned)
            }
            Action::Clear => row.pinned,
            Action::Delete => {
                let row = self.resource(resource);
                row.applied.or(row.left.map(|left| left.order.host))
            }
        });
        if let Some(host) = held {
            return vec![host];
        }
        match config.action(job) {
            Action::Repair if self.resource(resource).applied.is_none() => Vec::new(),
            Action::Update | Action::Delete | Action::Clear => Vec::new(),
            Action::Create | Action::Repair => {
                let fits: Vec<HostIx> = (0..config.hosts)
                    .filter(|host| self.free(config, *host) && self.at_home(config, resource, *host))
                    .collect();
                let fresh: Vec<HostIx> = fits
                    .iter()
                    .copied()
                    .filter(|host| !row.excluded[usize::from(*host)])
                    .collect();
                if fresh.is_empty() { fits } else { fresh }
            }
        }
    }

    /// Whether a job's turn has come, with nothing to do on any host.
    pub fn has_no_steps(&self, config: &Config, job: JobIx) -> bool {
        let row = self.job(job);
        config.action(job) == Action::Delete
            && row.status == Status::Queued
            && row.order.is_none()
            && self.first_on_its_resource(config, job)
            && self.resource(config.resource(job)).applied.is_none()
            && self.resource(config.resource(job)).left.is_none()
    }

    /// Whether a create finds no host at all, so that only its deadline ends it, or an update's create came to nothing.
    pub fn has_nowhere_to_go(&self, config: &Config, job: JobIx) -> bool {
        config.action(job) != Action::Delete
            && self.job(job).status == Status::Queued
            && self.first_on_its_resource(config, job)
            && !self.is_moot(config, job)
            && self.hosts_for(config, job).is_empty()
    }

    /// **dispatch** to a host out of [`Self::hosts_for`]: reserve, draw the fence, run. A marked job goes there to be undone.
    pub fn dispatch(&mut self, config: &Config, job: JobIx, host: HostIx) -> Order {
        let resource = config.resource(job);
        let reserves = match config.action(job) {
            Action::Create | Action::Update | Action::Delete => true,
            // What lives there has its own, and what doesn't gets none.
            Action::Repair | Action::Clear => false,
        };
        if reserves && (config.rules.has(Rule::ReservationKept) || self.job(job).mark.is_none()) {
            self.resource_mut(resource).reservation = Some(host);
        }
        let mode = if self.job(job).mark.is_some() {
            Mode::Undo
        } else {
            Mode::Forward
        };
        self.send(config, job, host, mode)
    }

    /// **dispatch** of a job without steps.
    pub fn dispatch_nothing(&mut self, config: &Config, job: JobIx, seen: &mut Seen) {
        self.end(config, job, Status::Succeeded, seen);
    }

    fn send(&mut self, config: &Config, job: JobIx, host: HostIx, mode: Mode) -> Order {
        self.sequence += 1;
        let frozen = self.job(job).order.map(|order| order.version);
        let version = match config.action(job) {
            Action::Repair => frozen.unwrap_or(self.resource(config.resource(job)).version),
            Action::Create | Action::Update | Action::Delete | Action::Clear => 0,
        };
        let order = Order {
            job,
            host,
            fence: self.sequence,
            epoch: self.epochs[usize::from(host)],
            mode,
            version,
        };
        let row = self.job_mut(job);
        if row.order.is_none() {
            row.first = order.fence;
        }
        row.order = Some(order);
        row.status = Status::Running;
        order
    }

    /// The forward order of a marked job, to be followed by one that undoes.
    pub fn to_recall(&self, job: JobIx) -> Option<Order> {
        let row = self.job(job);
        let order = row.order.filter(|order| order.mode == Mode::Forward)?;
        (row.status == Status::Running && row.mark.is_some()).then_some(order)
    }

    /// **dispatch** in mode undo, of a job whose forward order is out.
    pub fn recall(&mut self, config: &Config, job: JobIx, host: HostIx) -> Order {
        self.send(config, job, host, Mode::Undo)
    }

    /// The order that is out, for **sweep**.
    pub fn out(&self, job: JobIx) -> Option<Order> {
        let row = self.job(job);
        if row.status == Status::Running {
            row.order
        } else {
            None
        }
    }
}
