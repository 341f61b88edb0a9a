//! One operation on a resource: an order on its way forward, or its undo. Calls follow it; none owns it.

use crate::driver::Direction;
use rhyzome_model::ids::JobId;
use rhyzome_proto::agent::ApplyOutcome;
use rhyzome_proto::event::StepResult;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;

/// Whether an operation may still decide anything. Read and changed under the ledger's lock alone, so that one of *finish* and *turn* is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Fate {
    /// It may.
    Live = 0,
    /// Its job is being undone by another operation.
    Turned = 1,
    /// Another job, or a higher epoch, has the resource.
    Superseded = 2,
}

/// See the module.
#[derive(Debug)]
pub struct Op {
    pub(super) job: JobId,
    pub(super) direction: Direction,
    pub(super) cancel: CancellationToken,
    fate: AtomicU8,
    progress: Mutex<Progress>,
    outcome: SetOnce<ApplyOutcome>,
    gone: SetOnce<()>,
}

#[derive(Debug, Default)]
struct Progress {
    results: Vec<StepResult>,
    running: Option<StepResult>,
}

/// How much of an operation a follower has told on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Followed {
    results: usize,
    running: Option<(u32, i64)>,
}

impl Op {
    pub(super) fn new(job: JobId, direction: Direction) -> Self {
        Self {
            job,
            direction,
            cancel: CancellationToken::new(),
            fate: AtomicU8::new(Fate::Live as u8),
            progress: Mutex::default(),
            outcome: SetOnce::new(),
            gone: SetOnce::new(),
        }
    }

    pub(super) fn fate(&self) -> Fate {
        match self.fate.load(Ordering::Acquire) {
            0 => Fate::Live,
            1 => Fate::Turned,
            _ => Fate::Superseded,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.fate() == Fate::Live
    }

    /// Under the ledger's lock. An operation that isn't live keeps its fate.
    pub(super) fn doom(&self, fate: Fate) {
        if self.is_live() {
            self.fate.store(fate as u8, Ordering::Release);
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step began.
    pub(super) fn begins(&self, step: StepResult) {
        self.progress().running = Some(step);
    }

    /// A step ended.
    pub(super) fn adds(&self, result: StepResult) {
        let mut progress = self.progress();
        progress.running = None;
        progress.results.push(result);
    }

    /// Every result so far.
    pub(super) fn results(&self) -> Vec<StepResult> {
        self.progress().results.clone()
    }

    /// Its last word; then it is gone. Only the first counts.
    pub(super) fn ends(&self, outcome: ApplyOutcome) {
        // Set already only if a follower of a panicked operation was answered.
        let _ = self.outcome.set(outcome);
        let _ = self.gone.set(());
    }

    /// Returns when its effect is gone.
    pub(super) async fn gone(&self) {
        self.gone.wait().await;
    }

    /// Waits for its last word.
    pub async fn outcome(&self) -> ApplyOutcome {
        self.outcome.wait().await.clone()
    }

    /// What happened since a follower looked last: results, and the step that runs now.
    pub fn news(&self, followed: &mut Followed) -> Vec<StepResult> {
        let progress = self.progress();
        let mut news = progress
            .results
            .get(followed.results..)
            .unwrap_or_default()
            .to_vec();
        followed.results = progress.results.len();
        let running = progress
            .running
            .as_ref()
            .map(|step| (step.index, step.started_at_ms));
        if followed.running != running {
            followed.running = running;
            news.extend(progress.running.clone());
        }
        news
    }
}
