//! Admission under the locks, and the operations that run.
//!
//! Locks are taken in one order: a host's live operations, then the ledger. Both are held while it is decided what an order
//! does, so that the decision, its record and the operation's registration are one.

use super::admit::{Admission, Asked, Known, Start, admit};
use super::answer;
use super::count::StepCounts;
use super::op::{Fate, Op};
use super::order::Work;
use crate::driver::{Direction, Driver, StepError};
use crate::ledger::record::Change;
use crate::ledger::state::{JobEntry, Phase};
use crate::ledger::{Ledger, LedgerError, Ticket, Tx};
use rhyzome_model::ids::{Fence, HostName, JobId, ResourceId};
use rhyzome_model::job::{ErrorClass, Verdict};
use rhyzome_proto::agent::ApplyOutcome;
use rhyzome_proto::convert::WireError;
use rhyzome_proto::event::StepResult;
use rhyzome_proto::job::Order;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// See the module.
pub struct Engine {
    pub(super) ledger: Ledger,
    pub(super) driver: Arc<dyn Driver>,
    pub(super) counts: StepCounts,
    clock: fn() -> i64,
    pub(super) hosts: HashMap<HostName, Arc<HostCell>>,
    tasks: TaskTracker,
}

/// One host's live part.
pub(super) struct HostCell {
    pub(super) name: HostName,
    live: Mutex<Live>,
}

#[derive(Default)]
pub(super) struct Live {
    /// Whether the host was told its epoch since the start.
    pub(super) told: bool,
    /// By resource.
    pub(super) running: HashMap<ResourceId, Arc<Op>>,
}

impl HostCell {
    pub(super) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an order is answered with.
#[derive(Debug)]
pub enum Answer {
    /// At once.
    Now(ApplyOutcome),
    /// By the operation, as it goes.
    Follow(Arc<Op>),
}

/// Why an order isn't answered with an outcome.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It can't be read.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Not one of this process.
    #[error("this agent doesn't serve host {0}")]
    UnknownHost(HostName),
    /// Nothing is applied before the scheduler tells the epoch.
    #[error("host {0} wasn't told its epoch since the agent started: ask again soon")]
    NotTold(HostName),
    /// A known job comes with another step, or for another resource.
    #[error("job {job} is known here with another {what}")]
    Mismatch {
        /// The job.
        job: JobId,
        /// `step 3`, `resource`.
        what: String,
    },
    /// The agent is ending.
    #[error("the agent is ending: ask again soon")]
    Ending,
    /// Nothing can be promised.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// An operation that is to be run.
pub(super) struct Begun {
    pub(super) op: Arc<Op>,
    pub(super) ticket: Ticket,
    pub(super) before: Option<Arc<Op>>,
    /// Of an undo: what it ends in.
    pub(super) verdict: Verdict,
    /// Of an undo: `JobError` as JSON; empty for none.
    pub(super) cause: Vec<u8>,
    /// By step: the recorded result, forward or of the undo as the operation goes.
    pub(super) stored: Vec<Option<StepResult>>,
}

enum Decided {
    Refused(Refusal),
    Answered(ApplyOutcome, Ticket),
    Joined(Arc<Op>),
    Begun(Box<Begun>),
}

impl Engine {
    /// An engine over an open ledger and a started driver. `clock` gives Unix milliseconds.
    pub fn new(ledger: Ledger, driver: Arc<dyn Driver>, clock: fn() -> i64) -> Arc<Self> {
        let cell = |name: HostName| {
            (
                name.clone(),
                Arc::new(HostCell {
                    name,
                    live: Mutex::default(),
                }),
            )
        };
        let hosts = driver.hosts().into_iter().map(cell).collect();
        Arc::new(Self {
            ledger,
            driver,
            counts: StepCounts::register(),
            clock,
            hosts,
            tasks: TaskTracker::new(),
        })
    }

    /// Unix milliseconds.
    pub fn now_ms(&self) -> i64 {
        (self.clock)()
    }

    /// The ledger below.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The driver below.
    pub fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// Whether this process serves a host.
    pub fn serves(&self, host: &HostName) -> bool {
        self.hosts.contains_key(host)
    }

    /// Why nothing can be promised any more: the process must end.
    pub fn failure(&self) -> Option<LedgerError> {
        self.ledger.failure()
    }

    /// Does an order, or tells how it went.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn apply(self: &Arc<Self>, order: &Order) -> Result<Answer, Refusal> {
        let work = Work::read(order)?;
        let cell = self
            .hosts
            .get(&work.host)
            .ok_or_else(|| Refusal::UnknownHost(work.host.clone()))?;
        if self.tasks.is_closed() {
            return Err(Refusal::Ending);
        }
        match self.decide(cell, &work) {
            Decided::Refused(refusal) => Err(refusal),
            Decided::Answered(outcome, ticket) => {
                ticket.durable().await?;
                Ok(Answer::Now(outcome))
            }
            Decided::Joined(op) => Ok(Answer::Follow(op)),
            Decided::Begun(begun) => {
                let op = begun.op.clone();
                if let Some(before) = &begun.before {
                    before.cancel.cancel();
                }
                let span = tracing::debug_span!(
                    "order", trace_id = %work.trace.trace_id(), span_id = %work.trace.span_id(), host = %work.host, job = %work.job
                );
                self.tasks
                    .spawn(self.clone().run(cell.clone(), work, *begun).instrument(span));
                Ok(Answer::Follow(op))
            }
        }
    }

    fn decide(&self, cell: &HostCell, work: &Work) -> Decided {
        let now_ms = self.now_ms();
        let mut live = cell.live();
        self.ledger.with(|tx| {
            let current = live.running.get(&work.resource).cloned();
            let Some(state) = tx.host(&cell.name) else {
                return Decided::Refused(Refusal::UnknownHost(work.host.clone()));
            };
            let mine = current.as_ref().filter(|op| op.job == work.job && op.is_live());
            let known = Known {
                version: rhyzome_proto::VERSION,
                told: live.told.then_some(state.epoch),
                floor: state.floor,
                fence: state.fences.get(&work.resource).copied(),
                job: state.jobs.get(&work.job),
                running: mine.map(|op| op.direction),
            };
            let entry_fence = known.job.map(|entry| entry.fence);
            let admission = admit(&asked(work, now_ms), &known);
            match next(admission, work, mine) {
                Next::Refused(refusal) => Decided::Refused(refusal),
                Next::Answered(outcome) => Decided::Answered(outcome, tx.ticket()),
                Next::Ended => {
                    let outcome = known
                        .job
                        .and_then(answer::of_entry)
                        .unwrap_or_else(|| answer::turn_to_undo(Vec::new()));
                    raise(tx, work, entry_fence);
                    Decided::Answered(outcome, tx.ticket())
                }
                Next::Join(op) => {
                    raise(tx, work, entry_fence);
                    Decided::Joined(op)
                }
                Next::Run(start) => {
                    let begun = begin(tx, work, start, entry_fence, current);
                    live.running.insert(work.resource, begun.op.clone());
                    Decided::Begun(Box::new(begun))
                }
            }
        })
    }

    async fn run(self: Arc<Self>, cell: Arc<HostCell>, work: Work, begun: Begun) {
        let op = begun.op.clone();
        let outcome = self.carry_out(&work, begun).await;
        {
            let mut live = cell.live();
            if live
                .running
                .get(&work.resource)
                .is_some_and(|current| Arc::ptr_eq(current, &op))
            {
                live.running.remove(&work.resource);
            }
        }
        op.ends(outcome);
    }

    /// Takes nothing more on, and returns when nothing runs.
    pub async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Writes what is queued. Nothing is promised after.
    pub fn close(&self) {
        self.ledger.close();
    }
}

fn asked(work: &Work, now_ms: i64) -> Asked<'_> {
    Asked {
        version: work.version,
        job: work.job,
        resource: work.resource,
        fence: work.fence,
        epoch: work.epoch,
        mode: work.mode,
        hashes: &work.hashes,
        expires_at_ms: work.expires_at_ms,
        now_ms,
    }
}

enum Next {
    Refused(Refusal),
    Answered(ApplyOutcome),
    Ended,
    Join(Arc<Op>),
    Run(Start),
}

fn next(admission: Admission, work: &Work, running: Option<&Arc<Op>>) -> Next {
    let mismatch = |what: String| Next::Refused(Refusal::Mismatch { job: work.job, what });
    let stale = |code, detail| Next::Answered(answer::stale(code, detail));
    match admission {
        Admission::UnknownVersion => Next::Refused(WireError::Newer(work.version).into()),
        Admission::NotTold => Next::Refused(Refusal::NotTold(work.host.clone())),
        Admission::OtherEpoch => stale("STALE_EPOCH", "The host has another epoch."),
        Admission::BelowFloor => stale("STALE_FLOOR", "The order is below the host's floor."),
        Admission::LowerFence => stale("STALE_FENCE", "A later order for the resource was accepted."),
        Admission::OtherResource => mismatch("resource".into()),
        Admission::OtherHash { index } => mismatch(format!("step {index}")),
        Admission::TurnToUndo => Next::Answered(answer::turn_to_undo(Vec::new())),
        Admission::Expired => {
            let error = StepError::new(
                ErrorClass::Unavailable,
                "EXPIRED",
                "The order expired before it began.",
            );
            Next::Answered(answer::step_failed(&error, None, &work.host, Vec::new()))
        }
        Admission::Ended => Next::Ended,
        Admission::Join => running.map_or(Next::Refused(Refusal::Ending), |op| Next::Join(op.clone())),
        Admission::Run(start) => Next::Run(start),
    }
}

fn raise(tx: &mut Tx<'_>, work: &Work, known: Option<Fence>) {
    if known.is_some_and(|fence| fence < work.fence) {
        tx.write(
            &work.host,
            &Change::Raise {
                job: work.job,
                fence: work.fence,
            },
        );
    }
}

fn begin(
    tx: &mut Tx<'_>,
    work: &Work,
    start: Start,
    known: Option<Fence>,
    current: Option<Arc<Op>>,
) -> Begun {
    let (direction, fate) = match start {
        Start::Forward => {
            tx.write(&work.host, &Change::Begin(work.accepted()));
            (Direction::Forward, Fate::Superseded)
        }
        Start::ForwardAgain => {
            raise(tx, work, known);
            (Direction::Forward, Fate::Superseded)
        }
        Start::Turn => {
            let turn = Change::Turn {
                accepted: work.accepted(),
                verdict: work.verdict,
                cause: work.cause.clone(),
            };
            tx.write(&work.host, &turn);
            (Direction::Undo, Fate::Turned)
        }
        Start::UndoAgain => {
            raise(tx, work, known);
            (Direction::Undo, Fate::Superseded)
        }
    };
    if let Some(current) = &current {
        current.doom(if current.job == work.job {
            fate
        } else {
            Fate::Superseded
        });
    }
    let entry = tx.host(&work.host).and_then(|state| state.jobs.get(&work.job));
    let (verdict, cause) = match entry.map(|entry| &entry.phase) {
        Some(Phase::Undoing { verdict, cause }) => (*verdict, cause.clone()),
        Some(Phase::Forward | Phase::Finished { .. }) | None => (work.verdict, work.cause.clone()),
    };
    let stored = entry.map_or_else(Vec::new, |entry| stored(entry, direction));
    let op = Arc::new(Op::new(work.job, direction));
    if direction == Direction::Undo
        && let Some(entry) = entry
    {
        for result in entry.steps.iter().filter_map(|step| step.result.clone()) {
            op.adds(result);
        }
    }
    Begun {
        op,
        ticket: tx.ticket(),
        before: current,
        verdict,
        cause,
        stored,
    }
}

fn stored(entry: &JobEntry, direction: Direction) -> Vec<Option<StepResult>> {
    let pick = |step: &crate::ledger::state::StepEntry| match direction {
        Direction::Forward => step.result.clone(),
        Direction::Undo => step.undone.clone(),
    };
    entry.steps.iter().map(pick).collect()
}
