//! A host of its own for each case, its agent, and what is looked at there.

use crate::breaking::{Breaking, Fault, Ground, Side};
use crate::real_support::name;
use crate::samples::{Case, Job};
use rhyzome_agent::apply::{Answer, Engine};
use rhyzome_agent::driver::{Direction, Driver, Held, Seen, StepContext};
use rhyzome_agent::ledger::Ledger;
use rhyzome_agent::simulated::{Settings, SimulatedDriver};
use rhyzome_model::ids::{Epoch, Fence, JobId};
use rhyzome_model::job::{ErrorClass, Verdict};
use rhyzome_model::step::{Action, Step};
use rhyzome_proto::agent::ApplyOutcome;
use rhyzome_proto::event::{self, OutcomeKind};
use rhyzome_proto::job::{self, Order};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Of the jobs that come before.
const BEFORE: i64 = 1;
pub const FIRST: i64 = 100;

/// What is on a host, without what differs from run to run.
type State = BTreeSet<String>;

fn now_ms() -> i64 {
    1_000_000
}

/// A host, its agent, and a case on it.
pub struct Bench<'a> {
    pub case: &'a Case,
    pub driver: Arc<Breaking>,
    engine: Arc<Engine>,
    ledger: tempfile::TempDir,
    pub before: State,
}

pub fn order(of: &Job, fence: i64) -> Order {
    Order {
        version: rhyzome_proto::VERSION,
        job: of.id.0.as_bytes().to_vec(),
        attempt: 1,
        fence,
        epoch: 1,
        mode: job::Mode::Forward.into(),
        host: name().to_string(),
        tenant: "demo".into(),
        resource_kind: of.kind.to_string(),
        resource: of.resource.0.as_bytes().to_vec(),
        action: of.action.to_string(),
        steps: of
            .steps
            .iter()
            .map(|step| serde_json::to_vec(step).unwrap().into())
            .collect(),
        ..Order::default()
    }
}

pub fn undo(of: &Job, fence: i64, verdict: Verdict) -> Order {
    Order {
        mode: job::Mode::Undo.into(),
        verdict: job::Verdict::from(verdict).into(),
        ..order(of, fence)
    }
}

fn open(ledger: &tempfile::TempDir, driver: &Arc<Breaking>) -> Arc<Engine> {
    let ledger = Ledger::open(ledger.path(), &[name()]).unwrap();
    Engine::new(ledger, driver.clone(), now_ms)
}

pub fn context(index: usize, direction: Direction) -> StepContext {
    StepContext {
        host: name(),
        job: JobId::new(),
        index: u32::try_from(index).unwrap(),
        direction,
        cancel: CancellationToken::new(),
    }
}

/// A simulated host with room for everything.
pub fn simulated() -> Ground {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        hosts: vec![name()],
        vcpus: 1000,
        memory_mib: 1 << 20,
        disk_gib: 10_000,
        vcpu_overcommit: 1.0,
        labels: BTreeMap::new(),
        dir: dir.path().to_owned(),
        faults: None,
    };
    Ground::Simulated(SimulatedDriver::open(settings).unwrap(), dir)
}

impl<'a> Bench<'a> {
    pub async fn simulated(case: &'a Case) -> Self {
        Self::over(case, simulated()).await
    }

    /// The jobs before the case's are done.
    pub async fn over(case: &'a Case, ground: Ground) -> Self {
        let driver = Arc::new(Breaking::new(ground));
        let ledger = tempfile::tempdir().unwrap();
        let engine = open(&ledger, &driver);
        assert!(engine.told(&name(), Epoch(1), Fence(0)).await.unwrap());
        let mut bench = Self {
            case,
            driver,
            engine,
            ledger,
            before: State::new(),
        };
        for (n, job) in (BEFORE..).zip(&case.before) {
            bench.is(
                &bench.apply(&order(job, n)).await,
                OutcomeKind::Succeeded,
                "before",
            );
        }
        bench.before = bench.state().await;
        bench
    }

    /// From now on the driver says that it did what it didn't.
    pub fn do_nothing(self, direction: Direction) -> Self {
        self.driver.do_nothing(direction);
        self
    }

    pub fn job(&self) -> &'a Job {
        &self.case.job
    }

    pub fn last(&self) -> usize {
        self.job().steps.len() - 1
    }

    /// Whether the job can be taken back wholly: each step by its own undo, or with an earlier one's of the same object.
    pub fn undoable(&self) -> bool {
        let steps = &self.job().steps;
        let taken_back = |(n, step): (usize, &Step)| {
            let with = steps.iter().take(n).filter(|earlier| earlier.undo.is_some());
            step.undo.is_some()
                || with
                    .into_iter()
                    .any(|earlier| earlier.forward.object() == step.forward.object())
        };
        !self.job().action.forward_only() && steps.iter().enumerate().all(taken_back)
    }

    pub async fn apply(&self, order: &Order) -> ApplyOutcome {
        match self.engine.apply(order).await.unwrap() {
            Answer::Now(outcome) => outcome,
            Answer::Follow(op) => op.outcome().await,
        }
    }

    fn is(&self, outcome: &ApplyOutcome, kind: OutcomeKind, when: &str) {
        let said = outcome.outcome.as_ref().unwrap();
        let error = String::from_utf8_lossy(&said.error);
        assert_eq!(said.kind(), kind, "{}, {when}: {error}", self.case.name);
    }

    pub async fn goes(&self, order: &Order, kind: OutcomeKind, when: &str) -> ApplyOutcome {
        let outcome = self.apply(order).await;
        self.is(&outcome, kind, when);
        outcome
    }

    /// The agent's process ends and comes again; its host stays.
    pub async fn crash(&mut self) {
        let ledger = tempfile::tempdir().unwrap();
        std::fs::copy(self.ledger.path().join("ledger"), ledger.path().join("ledger")).unwrap();
        self.engine = open(&ledger, &self.driver);
        self.ledger = ledger;
        assert!(self.engine.told(&name(), Epoch(1), Fence(0)).await.unwrap());
    }

    pub async fn state(&self) -> State {
        let held = self.driver.inventory(&name()).await.unwrap();
        held.into_iter().map(|h| line(&h)).collect()
    }

    async fn is_so(&self, action: &Action, when: &str) {
        let seen = self
            .driver
            .observe(&context(0, Direction::Forward), action)
            .await
            .unwrap();
        assert_eq!(
            seen,
            Seen::StillSo,
            "{}, {when}: {}",
            self.case.name,
            action.name()
        );
    }

    /// All is as the job makes it.
    pub async fn is_done(&self, when: &str) {
        for step in &self.job().steps {
            // What happens once a job is no state.
            if !matches!(step.forward, Action::Reboot(_)) {
                self.is_so(&step.forward, when).await;
            }
        }
    }

    /// All is as it was before the job.
    pub async fn is_undone(&self, when: &str) {
        if self.undoable() {
            for step in &self.job().steps {
                if let Some(undo) = &step.undo {
                    self.is_so(undo, when).await;
                }
            }
            assert_eq!(self.state().await, self.before, "{}, {when}", self.case.name);
        }
    }

    pub async fn fails(&self, order: &Order, fault: Fault) {
        self.driver.fail(fault);
        let when = format!("{fault:?}");
        let outcome = self.goes(order, OutcomeKind::StepFailed, &when).await;
        assert!(
            self.driver.has_failed(),
            "{}, {when}: never came there",
            self.case.name
        );
        let said = outcome.outcome.unwrap();
        assert_eq!(said.class(), event::ErrorClass::from(fault.class), "{when}");
        let error = said.model_error().unwrap().unwrap();
        assert_eq!(error.code, "TEST", "{when}");
        let step = &self.job().steps[fault.index];
        assert_eq!(error.step.as_deref(), Some(step.name()), "{when}");
    }

    pub fn fault(index: usize, side: Side, class: ErrorClass) -> Fault {
        Fault {
            index,
            direction: Direction::Forward,
            side,
            class,
        }
    }

    pub fn fault_of_undo(index: usize, side: Side, class: ErrorClass) -> Fault {
        Fault {
            direction: Direction::Undo,
            ..Self::fault(index, side, class)
        }
    }
}

fn line(held: &Held) -> String {
    let mut claims: Vec<String> = held.claims.iter().map(ToString::to_string).collect();
    claims.sort_unstable();
    format!("{} {} {} {claims:?}", held.kind.as_str(), held.id, held.state)
}
