//! The laws, each on a host on which all that comes before a job was done.

use crate::bench::{Bench, FIRST, context, order, undo};
use crate::breaking::Side;
use crate::samples::Job;
use rhyzome_agent::driver::{Direction, Driver};
use rhyzome_model::ids::JobId;
use rhyzome_model::job::{ErrorClass, Verdict};
use rhyzome_model::step::Action;
use rhyzome_proto::agent::ApplyOutcome;
use rhyzome_proto::event::OutcomeKind;

impl Bench<'_> {
    /// It is done, without a fault.
    pub async fn done(self) {
        self.goes(&order(self.job(), FIRST), OutcomeKind::Succeeded, "done")
            .await;
        self.is_done("done").await;
    }

    /// It fails before and after its effect, the agent crashes, and the same order makes it so.
    pub async fn again_after(mut self, step: usize, class: ErrorClass) {
        let order = order(self.job(), FIRST);
        for side in [Side::Before, Side::After] {
            self.fails(&order, Self::fault(step, side, class)).await;
            self.crash().await;
        }
        self.goes(&order, OutcomeKind::Succeeded, "again").await;
        self.is_done("again").await;
    }

    /// It fails, before its effect or after it, and is taken back; the agent crashes in between.
    pub async fn undone_after(self, step: usize, class: ErrorClass) {
        if self.job().action.forward_only() {
            return;
        }
        let mut bench = self;
        for (n, side) in (0..).zip([Side::Before, Side::After]) {
            if n > 0 {
                bench = Self::simulated(bench.case).await;
            }
            bench
                .fails(&order(bench.job(), FIRST), Self::fault(step, side, class))
                .await;
            bench.crash().await;
            let ended = bench
                .goes(
                    &undo(bench.job(), FIRST + 1, Verdict::Failed),
                    OutcomeKind::Failed,
                    "undo",
                )
                .await;
            bench.is_undone("after the undo").await;
            let again = bench
                .apply(&undo(bench.job(), FIRST + 1, Verdict::Cancelled))
                .await;
            assert_eq!(absorbed(again), absorbed(ended), "an end absorbs");
        }
    }

    /// All was done; the step's undo fails before and after its effect, and goes on.
    pub async fn undo_fails(mut self, step: usize, class: ErrorClass) {
        if self.job().action.forward_only() || self.job().steps[step].undo.is_none() {
            return;
        }
        // The last step's effect is there, unheard: all is to be undone.
        self.fails(
            &order(self.job(), FIRST),
            Self::fault(self.last(), Side::After, ErrorClass::Timeout),
        )
        .await;
        let back = undo(self.job(), FIRST + 1, Verdict::Cancelled);
        for side in [Side::Before, Side::After] {
            self.driver.fail(Self::fault_of_undo(step, side, class));
            self.goes(&back, OutcomeKind::StepFailed, "a failing undo").await;
            assert!(
                self.driver.has_failed(),
                "{}: undo of {step} never came",
                self.case.name
            );
            self.crash().await;
        }
        self.goes(&back, OutcomeKind::Cancelled, "undo").await;
        self.is_undone("after an undo that failed").await;
    }

    /// Straight at the driver, as after a crash between effect and record: each effect up to the step's twice, then each undo twice; and
    /// by the engine, where a job that is over does nothing.
    pub async fn twice(mut self, step: usize) {
        let steps = &self.job().steps[..=step];
        for (index, step) in steps.iter().enumerate() {
            let context = context(index, Direction::Forward);
            let first = self.driver.make_so(&context, &step.forward).await.unwrap();
            let once = self.state().await;
            let second = self.driver.make_so(&context, &step.forward).await.unwrap();
            assert_eq!(first.output, second.output, "{}: {}", self.case.name, step.name());
            assert_eq!(once, self.state().await, "{}: {}", self.case.name, step.name());
        }
        if self.undoable() {
            for (index, step) in steps.iter().enumerate().rev() {
                let Some(undo) = &step.undo else { continue };
                for _ in 0..2 {
                    self.driver
                        .make_so(&context(index, Direction::Undo), undo)
                        .await
                        .unwrap();
                }
            }
            assert_eq!(
                self.state().await,
                self.before,
                "{}: undone twice",
                self.case.name
            );
        }
        let order = order(self.job(), FIRST);
        let first = self.goes(&order, OutcomeKind::Succeeded, "once").await;
        let (done, calls) = (self.state().await, self.driver.calls());
        self.crash().await;
        assert_eq!(self.apply(&order).await, first, "{}: twice", self.case.name);
        assert_eq!(
            (self.state().await, self.driver.calls()),
            (done, calls),
            "{}",
            self.case.name
        );
    }

    /// Whatever comes after its undo, under whatever fence, is answered with its end.
    pub async fn do_after_undo(mut self, step: usize) {
        if self.job().action.forward_only() {
            return;
        }
        self.fails(
            &order(self.job(), FIRST),
            Self::fault(step, Side::After, ErrorClass::Permanent),
        )
        .await;
        self.goes(
            &undo(self.job(), FIRST + 1, Verdict::Failed),
            OutcomeKind::Failed,
            "undo",
        )
        .await;
        let (gone, calls) = (self.state().await, self.driver.calls());
        self.crash().await;
        self.goes(
            &order(self.job(), FIRST),
            OutcomeKind::Stale,
            "the order before the undo's",
        )
        .await;
        for fence in [FIRST + 1, FIRST + 2] {
            self.goes(&order(self.job(), fence), OutcomeKind::Failed, "do after undo")
                .await;
        }
        assert_eq!(
            (self.state().await, self.driver.calls()),
            (gone, calls),
            "{}",
            self.case.name
        );
    }

    /// Released, it may be done again: by a higher fence alone, and wholly.
    pub async fn reopened(mut self, step: usize) {
        if !self.undoable() {
            return;
        }
        self.fails(
            &order(self.job(), FIRST),
            Self::fault(step, Side::Before, ErrorClass::NoRoom),
        )
        .await;
        let released = undo(self.job(), FIRST + 1, Verdict::Released);
        self.goes(&released, OutcomeKind::Released, "release").await;
        self.is_undone("released").await;
        self.crash().await;
        self.goes(
            &order(self.job(), FIRST + 1),
            OutcomeKind::Released,
            "the same fence",
        )
        .await;
        self.is_undone("the same fence").await;
        self.goes(
            &order(self.job(), FIRST + 2),
            OutcomeKind::Succeeded,
            "a higher fence",
        )
        .await;
        self.is_done("a higher fence").await;
    }

    /// An order that comes after a later job of the same resource changes nothing, whatever of it was done.
    pub async fn late(mut self, step: usize) {
        self.fails(
            &order(self.job(), FIRST),
            Self::fault(step, Side::After, ErrorClass::Timeout),
        )
        .await;
        let next = Job {
            id: JobId::new(),
            ..self.job().clone()
        };
        self.goes(&order(&next, FIRST + 2), OutcomeKind::Succeeded, "the later job")
            .await;
        self.is_done("the later job").await;
        let (done, calls) = (self.state().await, self.driver.calls());
        self.crash().await;
        for late in [
            order(self.job(), FIRST),
            order(self.job(), FIRST + 1),
            undo(self.job(), FIRST + 1, Verdict::Cancelled),
        ] {
            self.goes(&late, OutcomeKind::Stale, "late").await;
        }
        assert_eq!(
            (self.state().await, self.driver.calls()),
            (done, calls),
            "{}",
            self.case.name
        );
    }

    /// On a host where effects take their time: several laws in a row.
    pub async fn whole_life(mut self, step: usize) {
        let first = order(self.job(), FIRST);
        self.fails(&first, Self::fault(step, Side::After, ErrorClass::Timeout))
            .await;
        self.crash().await;
        if self.undoable() {
            let back = undo(self.job(), FIRST + 1, Verdict::Released);
            if self.job().steps[step].undo.is_some() {
                self.driver
                    .fail(Self::fault_of_undo(step, Side::After, ErrorClass::Unavailable));
                self.goes(&back, OutcomeKind::StepFailed, "a failing undo").await;
            }
            self.goes(&back, OutcomeKind::Released, "undo").await;
            self.is_undone("after the undo").await;
        }
        let again = order(self.job(), FIRST + 2);
        self.fails(&again, Self::fault(step, Side::Before, ErrorClass::Unavailable))
            .await;
        let done = self.goes(&again, OutcomeKind::Succeeded, "again").await;
        self.is_done("again").await;
        for (index, step) in self.job().steps.iter().enumerate() {
            if !matches!(step.forward, Action::Reboot(_)) {
                let context = context(index, Direction::Forward);
                self.driver.make_so(&context, &step.forward).await.unwrap();
            }
        }
        let (so, calls) = (self.state().await, self.driver.calls());
        assert_eq!(self.apply(&again).await, done, "{}: twice", self.case.name);
        self.goes(&first, OutcomeKind::Stale, "late").await;
        assert_eq!(
            (self.state().await, self.driver.calls()),
            (so, calls),
            "{}",
            self.case.name
        );
    }
}

/// An end as it is told again: what was done first is told once, as far as the ledger had it.
fn absorbed(mut outcome: ApplyOutcome) -> ApplyOutcome {
    outcome.steps.retain(|step| step.name.starts_with("undo_"));
    outcome
}
