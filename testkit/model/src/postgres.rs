//! Postgres: rows, and the transactions that change them. Each function here is one transaction.
//!
//! Guarantees atomicity, and nothing about what is outside: it learns of hosts only by [`Postgres::settle`].

mod operator;

use crate::bus::{Event, Mode, Order, Outcome, Report};
use crate::config::{
    Action, Config, Epoch, Fence, HOSTS, HostIx, JOBS, JobIx, Network, RESOURCES, ResourceIx,
};
use crate::rules::Rule;
use crate::state::{Misdeed, Seen};

/// A job's state. `blocked` is `Queued` behind another; `undoing` is `Running`, as no transaction tells them apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Status {
    /// Not accepted yet.
    #[default]
    Absent,
    /// Waits for its turn, its host or its next attempt.
    Queued,
    /// An order is out.
    Running,
    /// Ended.
    Succeeded,
    /// Ended.
    Failed,
    /// Ended.
    Cancelled,
}

impl Status {
    /// Whether nothing follows.
    pub fn is_final(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
            Self::Absent | Self::Queued | Self::Running => false,
        }
    }
}

/// Why a job is to be undone although no step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// A user asked.
    Cancel,
    /// Its time is over.
    Deadline,
    /// Its order's workers died of it.
    Poison,
}

impl Mark {
    /// The end of a job that was undone for this.
    fn end(self) -> Status {
        match self {
            Self::Cancel => Status::Cancelled,
            Self::Deadline | Self::Poison => Status::Failed,
        }
    }
}

/// A row of `jobs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct JobRow {
    /// Its state.
    pub status: Status,
    /// Set by a cancel or a deadline.
    pub mark: Option<Mark>,
    /// The last order, until the agent reported it `released` or the job has ended.
    pub order: Option<Order>,
    /// The fence of its first order to that host.
    pub first: Fence,
    /// Hosts that refused it.
    pub excluded: [bool; HOSTS],
}

/// A row of `resources`, with its reservation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResourceRow {
    /// The host that holds capacity for it.
    pub reservation: Option<HostIx>,
    /// The host on which its last success stands.
    pub applied: Option<HostIx>,
    /// As which it was applied.
    pub version: u8,
    /// What an abandoned job may have left.
    pub left: Option<Left>,
    /// Whether such a thing was ever seen gone.
    pub forgotten: bool,
}

/// A row of `abandoned`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    /// Its last order.
    pub order: Order,
    /// The fence of its first order to that host.
    pub first: Fence,
}

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
}

/// What a dispatch came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dispatched {
    /// An order to publish.
    Order(Order),
    /// A plan without steps: done in the transaction.
    Done,
}

impl Postgres {
    /// With the jobs that are accepted at first.
    pub fn new(config: &Config) -> Self {
        let mut jobs = [JobRow::default(); JOBS];
        for (row, spec) in jobs.iter_mut().zip(config.jobs) {
            if spec.asked == crate::config::Asked::AtFirst {
                row.status = Status::Queued;
            }
        }
        Self {
            sequence: 0,
            epochs: [0; HOSTS],
            jobs,
            resources: [ResourceRow::default(); RESOURCES],
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

    fn earlier(config: &Config, job: JobIx) -> impl Iterator<Item = JobIx> {
        let resource = config.resource(job);
        let jobs = config.jobs;
        (0..job).filter(move |other| jobs[usize::from(*other)].resource == resource)
    }

    /// Whether a job may be accepted now.
    pub fn acceptable(&self, config: &Config, job: JobIx) -> bool {
        self.job(job).status == Status::Absent
            && Self::earlier(config, job).all(|other| self.job(other).status != Status::Absent)
    }

    /// **accept**. A delete cancels what it comes after.
    pub fn accept(&mut self, config: &Config, job: JobIx, seen: &mut Seen) {
        self.job_mut(job).status = Status::Queued;
        match config.action(job) {
            Action::Create | Action::Update => {}
            Action::Delete => {
                for other in Self::earlier(config, job).collect::<Vec<_>>() {
                    self.mark(config, other, Mark::Cancel, seen);
                }
            }
        }
    }

    /// Whether a job can still be cancelled, or pass its deadline.
    pub fn markable(&self, config: &Config, job: JobIx) -> bool {
        let row = self.job(job);
        match (config.action(job), row.status) {
            (Action::Create | Action::Update, Status::Queued | Status::Running) => row.mark.is_none(),
            (
                Action::Create | Action::Update,
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
        Self::earlier(config, job).all(|other| self.job(other).status.is_final())
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
        if row.status != Status::Queued || !self.first_on_its_resource(config, job) {
            return Vec::new();
        }
        let resource = config.resource(job);
        let held = row.order.map(|order| order.host).or(match config.action(job) {
            Action::Create => None,
            Action::Update => self.resource(resource).applied,
            Action::Delete => {
                let row = self.resource(resource);
                row.applied.or(row.left.map(|left| left.order.host))
            }
        });
        if let Some(host) = held {
            return vec![host];
        }
        match config.action(job) {
            Action::Update | Action::Delete => Vec::new(),
            Action::Create => {
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
            && self.hosts_for(config, job).is_empty()
    }

    /// **dispatch** to a host out of [`Self::hosts_for`]: reserve, draw the fence, run. A marked job goes there to be undone.
    pub fn dispatch(&mut self, config: &Config, job: JobIx, host: HostIx) -> Order {
        let resource = config.resource(job);
        if config.rules.has(Rule::ReservationKept) || self.job(job).mark.is_none() {
            self.resource_mut(resource).reservation = Some(host);
        }
        let mode = if self.job(job).mark.is_some() {
            Mode::Undo
        } else {
            Mode::Forward
        };
        self.send(job, host, mode)
    }

    /// **dispatch** of a job without steps.
    pub fn dispatch_nothing(&mut self, config: &Config, job: JobIx, seen: &mut Seen) {
        self.end(config, job, Status::Succeeded, seen);
    }

    fn send(&mut self, job: JobIx, host: HostIx, mode: Mode) -> Order {
        self.sequence += 1;
        let order = Order {
            job,
            host,
            fence: self.sequence,
            epoch: self.epochs[usize::from(host)],
            mode,
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
    pub fn recall(&mut self, job: JobIx, host: HostIx) -> Order {
        self.send(job, host, Mode::Undo)
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

    /// A host's floor: the lowest fence that it may still hear of. With `unseen`, that fence isn't committed yet.
    pub fn floor(&self, config: &Config, host: HostIx, unseen: Option<Fence>) -> Fence {
        let first = config.rules.has(Rule::FloorByFirstFence);
        let rows = self
            .jobs
            .iter()
            .filter(|row| first || row.status == Status::Running);
        let orders = rows.filter_map(|row| row.order.map(|order| (row, order)));
        let fences = orders
            .filter(|(_, order)| order.host == host)
            .map(|(row, order)| if first { row.first } else { order.fence });
        let left = self.resources.iter().filter_map(|row| row.left);
        fences
            .chain(left.filter(|left| left.order.host == host).map(|left| left.first))
            .filter(|fence| Some(*fence) != unseen)
            .min()
            .unwrap_or(self.sequence + 1)
    }

    /// **settle** of one event.
    pub fn settle(&mut self, config: &Config, event: Event, seen: &mut Seen) {
        let job = event.job;
        let row = *self.job(job);
        let own = row.order.is_some_and(|order| order.fence == event.fence);
        if config.rules.has(Rule::SettleGuard) && !(row.status == Status::Running && own) {
            return;
        }
        match event.report {
            Report::Ended(Outcome::Succeeded) => {
                let resource = config.resource(job);
                match config.action(job) {
                    Action::Create => {
                        let made = self.resource_mut(resource);
                        made.applied = row.order.map(|o| o.host);
                        made.version = 1;
                    }
                    Action::Update => self.resource_mut(resource).version = 2,
                    Action::Delete => {
                        let gone = self.resource_mut(resource);
                        gone.applied = None;
                        gone.version = 0;
                    }
                }
                // On its host's word: whatever was left behind is its own now, or gone.
                self.resource_mut(resource).left = None;
                self.end(config, job, Status::Succeeded, seen);
            }
            Report::Ended(Outcome::Cancelled) => {
                let end = row.mark.map_or(Status::Cancelled, Mark::end);
                self.end(config, job, end, seen);
            }
            Report::Ended(Outcome::Failed) => self.end(config, job, Status::Failed, seen),
            Report::Ended(Outcome::Released) | Report::NoRoom => self.release(config, job, seen),
            Report::Stale if !config.rules.has(Rule::StaleDispatchedAnew) => {}
            Report::Suspended | Report::Stale => self.job_mut(job).status = Status::Queued,
        }
    }

    fn release(&mut self, config: &Config, job: JobIx, seen: &mut Seen) {
        let row = *self.job(job);
        if let Some(mark) = row.mark {
            self.end(config, job, mark.end(), seen);
            return;
        }
        if row.status.is_final() {
            seen.note(Misdeed::EndedTwice);
        }
        let resource = config.resource(job);
        self.resource_mut(resource).reservation = None;
        let row = self.job_mut(job);
        row.status = Status::Queued;
        row.first = 0;
        if let Some(order) = row.order.take() {
            row.excluded[usize::from(order.host)] = true;
        }
    }

    /// Ends a job in the running transaction.
    fn end(&mut self, config: &Config, job: JobIx, status: Status, seen: &mut Seen) {
        if self.job(job).status.is_final() {
            seen.note(Misdeed::EndedTwice);
        }
        *self.job_mut(job) = JobRow {
            status,
            ..JobRow::default()
        };
        let resource = config.resource(job);
        match (config.action(job), status) {
            (Action::Create, Status::Succeeded) | (Action::Update, _) => {}
            (Action::Create | Action::Delete, _) => self.resource_mut(resource).reservation = None,
        }
    }

    /// The deadline of a job that waits for a host in vain.
    pub fn give_up(&mut self, config: &Config, job: JobIx, seen: &mut Seen) {
        self.end(config, job, Status::Failed, seen);
    }
}
