//! The orders that run here, and their reports.
//!
//! Reports are cumulative, so that of those not sent yet only the newest of an order counts: an order's progress is kept in
//! one place, and one task sends what moved, many at a time, and looks again when the last batch is stored. An order that is over
//! soon is reported once, by its outcome.

use crate::decide::Phase;
use chrono::Utc;
use rhyzome_model::ids::JobId;
use rhyzome_nats::{Connection, NatsError, Outgoing, events};
use rhyzome_proto::VERSION;
use rhyzome_proto::event::{Outcome, Report, StepResult, StepState};
use rhyzome_proto::job::{Control, Order};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// An order that runs here.
#[derive(Debug)]
pub struct Live {
    order: Order,
    /// Its place in the stream of orders.
    order_at: u64,
    job: JobId,
    worker: String,
    started_at_ms: i64,
    begun: Instant,
    steps: Mutex<Progress>,
    /// Cancelled when somebody wants the job undone.
    hint: CancellationToken,
}

#[derive(Debug)]
struct Progress {
    steps: Vec<StepResult>,
    moved: Moved,
    phase: Phase,
}

/// Whether there is something that no report told yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moved {
    Yes,
    No,
}

impl Live {
    /// An order, by its place in the stream of orders, as it is taken up.
    pub fn new(worker: &str, job: JobId, order: Order, order_at: u64, now_ms: i64) -> Self {
        Self {
            order,
            order_at,
            job,
            worker: worker.to_owned(),
            started_at_ms: now_ms,
            begun: Instant::now(),
            steps: Mutex::new(Progress {
                steps: Vec::new(),
                moved: Moved::Yes,
                phase: Phase::Forward,
            }),
            hint: CancellationToken::new(),
        }
    }

    /// The order as it came.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// Cancelled when somebody wants the job undone.
    pub fn hint(&self) -> &CancellationToken {
        &self.hint
    }

    /// Takes in what the agent said about steps: later words of a step replace earlier ones.
    pub fn learn(&self, results: Vec<StepResult>) {
        let mut progress = self.progress();
        for result in results {
            if result.state() == StepState::Undone || result.name.starts_with("undo_") {
                progress.phase = Phase::Undoing;
            }
            match progress
                .steps
                .iter_mut()
                .find(|s| s.index == result.index && s.name == result.name)
            {
                Some(known) => *known = result,
                None => progress.steps.push(result),
            }
            progress.moved = Moved::Yes;
        }
    }

    /// Takes in what the agent said about the job's phase.
    pub fn in_phase(&self, phase: Phase) {
        let mut progress = self.progress();
        if progress.phase != phase {
            progress.phase = phase;
            progress.moved = Moved::Yes;
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A report of all that is known now.
    pub fn report(&self, outcome: Option<Outcome>, now_ms: i64) -> Report {
        let (steps, phase) = self.known();
        self.report_of(steps, phase, outcome, now_ms)
    }

    fn report_of(
        &self,
        steps: Vec<StepResult>,
        phase: Phase,
        outcome: Option<Outcome>,
        now_ms: i64,
    ) -> Report {
        let order = &self.order;
        Report {
            version: VERSION,
            job: order.job.clone(),
            fence: order.fence,
            tenant: order.tenant.clone(),
            host: order.host.clone(),
            resource: order.resource.clone(),
            worker: self.worker.clone(),
            attempt: order.attempt,
            steps,
            outcome,
            at_ms: now_ms,
            started_at_ms: self.started_at_ms,
            undoing: phase == Phase::Undoing,
        }
    }

    fn known(&self) -> (Vec<StepResult>, Phase) {
        let progress = self.progress();
        (progress.steps.clone(), progress.phase)
    }

    /// What there is to say that wasn't said, as a message.
    fn news(&self) -> Option<Outgoing> {
        let mut progress = self.progress();
        if progress.moved == Moved::No {
            return None;
        }
        progress.moved = Moved::No;
        let report = self.report_of(progress.steps.clone(), progress.phase, None, now_ms());
        events::message(&report, self.order_at).ok()
    }

    /// What [`Self::news`] said last was not stored: it is to be said again.
    fn unsaid(&self) {
        self.progress().moved = Moved::Yes;
    }
}

fn now_ms() -> i64 {
    Utc::now().timestamp_millis()
}

/// All that run here.
#[derive(Debug)]
pub(crate) struct Reporter {
    connection: Connection,
    worker: String,
    after: Duration,
    running: Mutex<HashMap<u64, Arc<Live>>>,
    counter: std::sync::atomic::AtomicU64,
    begun: Notify,
}

/// An order's place among those that run; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    reporter: &'a Reporter,
    key: u64,
    pub(crate) live: Arc<Live>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.reporter.running().remove(&self.key);
    }
}

impl Reporter {
    pub(crate) fn new(connection: Connection, worker: String, after: Duration) -> Self {
        Self {
            connection,
            worker,
            after,
            running: Mutex::default(),
            counter: std::sync::atomic::AtomicU64::new(0),
            begun: Notify::new(),
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u64, Arc<Live>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An order begins here.
    pub(crate) fn begin(&self, job: JobId, order: Order, order_at: u64) -> Place<'_> {
        let live = Arc::new(self.live(job, order, order_at));
        let key = self.counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut running = self.running();
        if running.is_empty() {
            self.begun.notify_one();
        }
        running.insert(key, Arc::clone(&live));
        Place {
            reporter: self,
            key,
            live,
        }
    }

    /// An order that isn't counted among those that run.
    pub(crate) fn live(&self, job: JobId, order: Order, order_at: u64) -> Live {
        Live::new(&self.worker, job, order, order_at, now_ms())
    }

    /// An order's outcome is stored when this returns: it is tried until then, or until `stop`.
    pub(crate) async fn outcome(
        &self,
        place: Place<'_>,
        outcome: Outcome,
        stop: &CancellationToken,
    ) -> Result<(), NatsError> {
        let live = Arc::clone(&place.live);
        // No progress is told after the outcome.
        drop(place);
        let mut report = live.report(Some(outcome), now_ms());
        match self
            .connection
            .publish_until(&events::message(&report, live.order_at)?, stop)
            .await
        {
            Err(NatsError::TooBig { .. }) => {
                // The end counts more than what the steps said.
                for step in &mut report.steps {
                    step.output.clear();
                    step.detail.clear();
                }
                self.connection
                    .publish_until(&events::message(&report, live.order_at)?, stop)
                    .await
                    .map(drop)
            }
            stored => stored.map(drop),
        }
    }

    /// The outcome of an order that is given up here, tried a few times.
    pub(crate) async fn outcome_once(&self, live: &Live, outcome: Outcome) -> Result<(), NatsError> {
        let report = live.report(Some(outcome), now_ms());
        self.connection
            .publish(&events::message(&report, live.order_at)?)
            .await
            .map(drop)
    }

    /// Somebody wants a job undone.
    pub(crate) fn hint(&self, job: JobId, control: &Control) {
        for live in self.running().values() {
            if live.job == job && live.order.fence <= control.fence {
                tracing::info!(%job, fence = live.order.fence, "told that the job is to be undone");
                live.hint.cancel();
            }
        }
    }

    /// Sends progress until `stop`.
    pub(crate) async fn tell(&self, stop: &CancellationToken) {
        loop {
            let parked = self.running().is_empty();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.begun.notified(), if parked => {}
                () = tokio::time::sleep(self.after), if !parked => {}
            }
            let (told, news): (Vec<Arc<Live>>, Vec<Outgoing>) = {
                let running = self.running();
                running
                    .values()
                    .filter(|l| l.begun.elapsed() >= self.after)
                    .filter_map(|l| Some((Arc::clone(l), l.news()?)))
                    .unzip()
            };
            if news.is_empty() {
                continue;
            }
            let mut failed = None;
            for (live, stored) in told.iter().zip(self.connection.publish_all(news).await) {
                match stored {
                    Ok(_) => {}
                    // Again would be no smaller.
                    Err(error @ NatsError::TooBig { .. }) => failed = Some(error),
                    Err(error) => {
                        live.unsaid();
                        failed = Some(error);
                    }
                }
            }
            if let Some(error) = failed {
                tracing::warn!(%error, "progress was not stored; a later report says the same");
            }
        }
    }
}
