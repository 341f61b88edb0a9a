//! Settle: the open jobs that reports are about, and what is written of what these come to.

use super::Books;
use super::ends::Back;
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{Fence, JobId};
use rhyzome_model::job::{JobState, Mode, Verdict};
use rhyzome_store::settle::{OpenJob, Settled, Settlement};

impl Books {
    /// The open ones among these.
    pub fn settle_begin(&self, ids: &[JobId]) -> Vec<OpenJob> {
        ids.iter().filter_map(|id| self.open_job(*id)).collect()
    }

    fn open_job(&self, id: JobId) -> Option<OpenJob> {
        let job = self.jobs.get(&id).filter(|j| j.ended_at.is_none())?;
        let resource = self.resources.get(&job.resource)?;
        Some(OpenJob {
            pinned: job.pinned_host.is_some(),
            id,
            tenant: job.tenant.clone(),
            kind: job.kind,
            action: job.action,
            resource: job.resource,
            generation: job.generation,
            spec: job.spec.clone(),
            applied: resource.applied.clone(),
            state: job.state,
            fence: job.fence.map(Fence),
            host: job.host.clone(),
            mode: job.mode,
            verdict: job.verdict,
            cause: job.error.clone(),
            failures: job.failures,
            excluded: job.excluded.clone(),
            holds_slot: job.holds_slot,
            epoch: Some(job.epoch),
            order_out: job.dispatched_at.is_some(),
            steps: job.steps.clone(),
            waiting: job.waiting.clone(),
            cancel_requested_at: job.cancel_requested_at,
            created_at: job.created_at,
        })
    }

    /// Writes the settlements.
    pub fn settle_commit(&mut self, settlements: Vec<Settlement>, now: DateTime<Utc>) -> Settled {
        let mut settled = Settled::default();
        let mut back = Back::default();
        let mut released = Vec::new();
        for settlement in settlements {
            match settlement {
                Settlement::End(end) => settled.ended.push(end),
                Settlement::Progress { job, state, steps } => {
                    self.turn(job, state);
                    if let Some(job) = self.jobs.get_mut(&job) {
                        job.steps = steps;
                    }
                }
                Settlement::Again {
                    job: id,
                    state,
                    steps,
                    due,
                    failures,
                    waiting,
                    error,
                } => {
                    self.order_over(id, &mut back);
                    self.turn(id, state);
                    let Some(job) = self.jobs.get_mut(&id) else {
                        continue;
                    };
                    job.steps = steps.unwrap_or_else(|| std::mem::take(&mut job.steps));
                    job.due = Some(due);
                    job.failures = failures;
                    job.waiting = waiting;
                    job.error = error.or_else(|| job.error.take());
                }
                Settlement::Released {
                    job: id,
                    steps,
                    excluded,
                    due,
                } => {
                    self.released_by(id, &mut back);
                    self.order_over(id, &mut back);
                    self.turn(id, JobState::Queued);
                    let Some(job) = self.jobs.get_mut(&id) else {
                        continue;
                    };
                    back.leaving.push(job.resource);
                    released.push(job.resource);
                    job.host = None;
                    job.first_fence = None;
                    job.frozen = None;
                    job.mode = Mode::Forward;
                    job.verdict = None;
                    job.error = None;
                    job.steps = steps;
                    job.excluded = excluded;
                    job.due = Some(due);
                    job.failures += 1;
                    job.waiting = None;
                    let (resource, seq) = (job.resource, job.seq);
                    if let Some((_, active)) = self.line.get_mut(&resource).and_then(|l| l.get_mut(&seq)) {
                        *active = false;
                    }
                }
                Settlement::Poisoned {
                    job: id,
                    error,
                    due,
                    waiting,
                } => {
                    self.order_over(id, &mut back);
                    if self.jobs.get(&id).is_some_and(|j| j.state == JobState::Running) {
                        self.turn(id, JobState::Queued);
                    }
                    let Some(job) = self.jobs.get_mut(&id) else {
                        continue;
                    };
                    job.mode = Mode::Undo;
                    job.verdict = Some(Verdict::Failed);
                    job.error = Some(error);
                    job.due = Some(due);
                    job.waiting = Some(waiting);
                }
            }
        }
        self.abandoned
            .retain(|_, rest| !released.contains(&rest.resource));
        let ended = settled.ended.clone();
        self.apply_ends(&ended, back, now);
        settled
    }

    /// Its agent has answered that nothing is left.
    fn released_by(&self, id: JobId, back: &mut Back) {
        if let Some(job) = self.jobs.get(&id)
            && let (Some(host), Some(fence)) = (&job.host, job.fence)
        {
            back.answered.push((host.clone(), fence, job.epoch));
        }
    }

    /// Slot and place on the host go back.
    fn order_over(&mut self, id: JobId, back: &mut Back) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if std::mem::take(&mut job.holds_slot) {
            back.slots.push(job.tenant.clone());
        }
        if job.dispatched_at.take().is_some()
            && let Some(host) = &job.host
        {
            back.orders.push(host.clone());
        }
    }
}
