//! What a report of an order changes, how a job ends, and a host's floor.
//!
//! Guarantees that a job ends only here.

use super::{JobRow, Mark, Postgres, Status};
use crate::bus::{Event, Mode, Outcome, Report};
use crate::config::{Action, Config, Fence, HostIx, JobIx, Serial};
use crate::rules::Rule;
use crate::state::{Misdeed, Seen};

impl Postgres {
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
        if let (Report::Ended(_, serial), Some(order)) = (event.report, row.order) {
            self.answer(config, order, serial, seen);
        }
        match event.report {
            Report::Ended(Outcome::Succeeded, serial) => self.succeed(config, job, serial, seen),
            Report::Ended(Outcome::Cancelled, _) => {
                let end = row.mark.map_or(Status::Cancelled, Mark::end);
                self.end(config, job, end, seen);
            }
            Report::Ended(Outcome::Failed, _) => self.end(config, job, Status::Failed, seen),
            Report::Ended(Outcome::Released, _) | Report::NoRoom => self.release(config, job, seen),
            Report::Stale if !config.rules.has(Rule::StaleDispatchedAnew) => {}
            Report::Stale => self.job_mut(job).status = Status::Queued,
            Report::Suspended | Report::UndoFailed => {
                let undone = row.order.is_some_and(|order| order.mode == Mode::Undo);
                let change = match config.action(job) {
                    Action::Update | Action::Repair | Action::Clear => true,
                    Action::Create | Action::Delete => false,
                };
                let row = self.job_mut(job);
                row.status = Status::Queued;
                row.in_vain |= change && (undone || event.report == Report::UndoFailed);
            }
        }
    }

    fn succeed(&mut self, config: &Config, job: JobIx, serial: Serial, seen: &mut Seen) {
        let order = self.job(job).order;
        let doubt = order.is_some_and(|order| self.is_lost(config, order, serial));
        let row = self.resource_mut(config.resource(job));
        match config.action(job) {
            Action::Create => {
                row.applied = order.map(|o| o.host);
                row.version = 1;
                row.doubt = doubt;
            }
            Action::Update => row.version = 2,
            Action::Repair => row.doubt = doubt,
            Action::Clear if config.rules.has(Rule::ClearChangesNothing) => {}
            Action::Delete | Action::Clear => {
                row.applied = None;
                row.version = 0;
                row.doubt = false;
                row.reservation = None;
            }
        }
        // On its host's word: whatever was left behind is its own now, or gone.
        if config.action(job) != Action::Clear {
            row.left = None;
        }
        self.end(config, job, Status::Succeeded, seen);
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
    pub(super) fn end(&mut self, config: &Config, job: JobIx, status: Status, seen: &mut Seen) {
        if self.job(job).status.is_final() {
            seen.note(Misdeed::EndedTwice);
        }
        let turn = self.job(job).turn;
        for other in self.open(config, config.resource(job)).collect::<Vec<_>>() {
            let row = self.job_mut(other);
            row.turn -= u8::from(row.turn > turn);
        }
        *self.job_mut(job) = JobRow {
            status,
            ..JobRow::default()
        };
        let resource = config.resource(job);
        self.forget_found(config, resource);
        match (config.action(job), status) {
            (Action::Create, Status::Succeeded) | (Action::Update | Action::Repair | Action::Clear, _) => {}
            (Action::Create | Action::Delete, _) => self.resource_mut(resource).reservation = None,
        }
    }

    /// The deadline of a job that waits for a host in vain.
    pub fn give_up(&mut self, config: &Config, job: JobIx, seen: &mut Seen) {
        self.end(config, job, Status::Failed, seen);
    }
}
