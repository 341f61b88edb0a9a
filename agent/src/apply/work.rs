//! The steps forward, and their undo in reverse.
//!
//! No effect begins before its intent is durable; no outcome is told before it is. A step that has a result is looked
//! at: still so, the result counts; gone, it is made so again.

use super::answer;
use super::count::{StepOutcome, full_name};
use super::engine::{Begun, Engine};
use super::op::{Fate, Op};
use super::order::Work;
use crate::driver::{Direction, Effect, Seen, StepContext, StepError};
use crate::ledger::record::{Change, Ending};
use crate::ledger::{LedgerError, Tx};
use futures::FutureExt;
use rhyzome_model::job::ErrorClass;
use rhyzome_model::step::{Action, Step};
use rhyzome_proto::agent::ApplyOutcome;
use rhyzome_proto::event::{StepResult, StepState};
use rhyzome_runtime::fault::{self, Mutant, Point, Side};
use serde_json::Value;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

/// Why the steps stop before their end.
enum Stop {
    /// The operation was turned or superseded.
    Doomed,
    /// A step failed.
    Failed(StepError, &'static str),
    /// Nothing can be promised.
    Ledger(LedgerError),
}

impl From<LedgerError> for Stop {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

impl Engine {
    /// Runs an operation to its end, whatever that is.
    pub(super) async fn carry_out(&self, work: &Work, begun: Begun) -> ApplyOutcome {
        if let Some(before) = &begun.before {
            before.gone().await;
        }
        let op = &begun.op;
        let ended = AssertUnwindSafe(self.to_its_end(work, &begun))
            .catch_unwind()
            .await;
        let stop = match ended {
            Ok(Ok(outcome)) => return outcome,
            Ok(Err(stop)) => stop,
            Err(_) => {
                let detail = "The agent met a fault of its own; whether the step happened is unknown.";
                Stop::Failed(StepError::new(ErrorClass::Timeout, "INTERNAL", detail), "")
            }
        };
        match stop {
            Stop::Doomed => match op.fate() {
                Fate::Turned => answer::turn_to_undo(op.results()),
                Fate::Live | Fate::Superseded => answer::stale(
                    "SUPERSEDED",
                    "A later order for the resource, or a new epoch of the host, came before it.",
                ),
            },
            Stop::Failed(error, step) => {
                work.log_failure(step, &error);
                let step = Some(step).filter(|step| !step.is_empty());
                answer::step_failed(&error, step, &work.host, op.results())
            }
            Stop::Ledger(error) => {
                let detail = "The host's agent can't record what it does.";
                let error = StepError::new(ErrorClass::Unavailable, "LEDGER", detail).inside(error);
                work.log_failure("ledger", &error);
                answer::step_failed(&error, None, &work.host, op.results())
            }
        }
    }

    async fn to_its_end(&self, work: &Work, begun: &Begun) -> Result<ApplyOutcome, Stop> {
        fault::point(Point::LedgerIntent, Side::Before);
        begun.ticket.durable().await?;
        fault::point(Point::LedgerIntent, Side::After);
        match begun.op.direction {
            Direction::Forward => self.forward(work, begun).await,
            Direction::Undo => self.undo(work, begun).await,
        }
    }

    async fn forward(&self, work: &Work, begun: &Begun) -> Result<ApplyOutcome, Stop> {
        for (index, step) in work.steps.iter().enumerate() {
            let call = Call::new(work, &begun.op, index, step, Direction::Forward, self.now_ms());
            if let Some(result) = begun.stored.get(index).cloned().flatten()
                && self.still_so(&call, &step.forward).await? == Seen::StillSo
            {
                begun.op.adds(result);
                continue;
            }
            let result = self.make_so(&call, &step.forward).await?;
            self.record(
                work,
                &begun.op,
                &Change::Done {
                    job: work.job,
                    result: result.clone(),
                },
            )?;
            begun.op.adds(result);
        }
        self.finish(work, &begun.op, Ending::Succeeded, Vec::new()).await
    }

    async fn undo(&self, work: &Work, begun: &Begun) -> Result<ApplyOutcome, Stop> {
        for (index, step) in work.steps.iter().enumerate().rev() {
            if fault::is_mutant(Mutant::NoUndo) {
                break;
            }
            let Some(action) = &step.undo else { continue };
            if let Some(result) = begun.stored.get(index).cloned().flatten() {
                begun.op.adds(result);
                continue;
            }
            let call = Call::new(work, &begun.op, index, step, Direction::Undo, self.now_ms());
            let result = self.make_so(&call, action).await?;
            self.record(
                work,
                &begun.op,
                &Change::Undone {
                    job: work.job,
                    result: result.clone(),
                },
            )?;
            begun.op.adds(result);
        }
        let error = answer::error_of(begun.verdict, &begun.cause);
        self.finish(work, &begun.op, Ending::of(begun.verdict), error)
            .await
    }

    async fn still_so(&self, call: &Call<'_>, action: &Action) -> Result<Seen, Stop> {
        call.alive()?;
        let seen = self.driver.observe(&call.context, action).await;
        call.alive()?;
        seen.map_err(|error| call.fails(error, self.now_ms()))
    }

    async fn make_so(&self, call: &Call<'_>, action: &Action) -> Result<StepResult, Stop> {
        call.alive()?;
        call.op
            .begins(call.result(StepState::Running, call.started_at_ms));
        let began = Instant::now();
        fault::point(Point::Effect, Side::Before);
        let made = self.driver.make_so(&call.context, action).await;
        fault::point(Point::Effect, Side::After);
        let made = match (made, call.context.direction) {
            // What the host lost, or lost a part of, can't be put back as it was but by a repair; and that, and all that comes after the
            // undo, would wait for ever.
            (Err(error), Direction::Undo) if error.is_of_a_loss() => Ok(Effect {
                detail: format!("{}: nothing is to be taken back", error.detail),
                ..Effect::default()
            }),
            (made, Direction::Undo | Direction::Forward) => made,
        };
        let doomed = call.alive().is_err();
        let outcome = match &made {
            Ok(_) => StepOutcome::Succeeded,
            Err(_) if doomed => StepOutcome::Cancelled,
            Err(error) => StepOutcome::Failed(error.class),
        };
        self.counts
            .count(call.step, call.context.direction, outcome, began.elapsed());
        if doomed {
            // It is taken back, where it can be; what was done is shown all the same.
            if let Ok(effect) = made {
                call.op.adds(call.made(effect, self.now_ms()));
            }
            return Err(Stop::Doomed);
        }
        made.map(|effect| call.made(effect, self.now_ms()))
            .map_err(|error| call.fails(error, self.now_ms()))
    }

    /// Adds to the ledger if the operation may still decide; nobody waits for it, since what is lost is found by looking.
    fn record(&self, work: &Work, op: &Op, change: &Change) -> Result<(), Stop> {
        fault::point(Point::LedgerResult, Side::Before);
        self.ledger.with(|tx| {
            if !op.is_live() {
                return Err(Stop::Doomed);
            }
            tx.write(&work.host, change);
            Ok(())
        })?;
        fault::point(Point::LedgerResult, Side::After);
        Ok(())
    }

    /// The compare-and-set that ends a job, and its durability.
    async fn finish(
        &self,
        work: &Work,
        op: &Op,
        ending: Ending,
        error: Vec<u8>,
    ) -> Result<ApplyOutcome, Stop> {
        let finish = |tx: &mut Tx<'_>| {
            if !op.is_live() {
                return Err(Stop::Doomed);
            }
            tx.write(
                &work.host,
                &Change::Finish {
                    job: work.job,
                    ending,
                    error: error.clone(),
                },
            );
            Ok(tx.ticket())
        };
        fault::point(Point::Finish, Side::Before);
        let ticket = self.ledger.with(finish)?;
        ticket.durable().await?;
        fault::point(Point::Finish, Side::After);
        Ok(answer::ended(ending, error, op.results()))
    }
}

/// One step's call.
struct Call<'a> {
    op: &'a Op,
    step: &'static str,
    context: StepContext,
    started_at_ms: i64,
}

impl<'a> Call<'a> {
    fn new(work: &Work, op: &'a Op, index: usize, step: &Step, direction: Direction, now_ms: i64) -> Self {
        let context = StepContext {
            host: work.host.clone(),
            job: work.job,
            index: index as u32,
            direction,
            cancel: op.cancel.clone(),
        };
        Self {
            op,
            step: step.name(),
            context,
            started_at_ms: now_ms,
        }
    }

    fn alive(&self) -> Result<(), Stop> {
        if self.op.is_live() {
            Ok(())
        } else {
            Err(Stop::Doomed)
        }
    }

    fn name(&self) -> &'static str {
        full_name(self.step, self.context.direction)
    }

    fn result(&self, state: StepState, now_ms: i64) -> StepResult {
        StepResult {
            index: self.context.index,
            name: self.name().to_owned(),
            state: state.into(),
            started_at_ms: self.started_at_ms,
            ended_at_ms: if state == StepState::Running { 0 } else { now_ms },
            detail: String::new(),
            output: Vec::new(),
        }
    }

    fn made(&self, effect: Effect, now_ms: i64) -> StepResult {
        let state = match self.context.direction {
            Direction::Forward => StepState::Succeeded,
            Direction::Undo => StepState::Undone,
        };
        let output = match &effect.output {
            Value::Null => Vec::new(),
            output => output.to_string().into_bytes(),
        };
        StepResult {
            detail: effect.detail,
            output,
            ..self.result(state, now_ms)
        }
    }

    fn fails(&self, error: StepError, now_ms: i64) -> Stop {
        let failed = self.result(StepState::Failed, now_ms);
        self.op.adds(StepResult {
            detail: error.detail.clone(),
            ..failed
        });
        Stop::Failed(error, self.name())
    }
}
