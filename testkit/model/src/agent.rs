//! An agent: its durable ledger, its running effects, and the objects on its host.
//!
//! Guarantees the protocol's **apply**: fences, one durable decision a job, one operation at a time per resource.
//!
//! ```text
//!            first call            undo order · step failed
//! Unknown ─────────────▶ Forward ───────────────────────────▶ Undoing(verdict)
//!    │                    │   ▲                                      │ every step undone
//!    │ undo order         │   └── a higher fence, Released only ──┐  ▼
//!    └──▶ Undoing         └─ every step done ─▶ Finished(Succeeded) · Finished(verdict)
//! ```

mod effects;
mod life;

pub use life::Kept;

use crate::bus::{Mode, Order, Outcome};
use crate::config::{Action, Config, Epoch, Fence, JOBS, JobIx, RESOURCES, ResourceIx, Serial};
use crate::ledger::{Direction, Effect, Entry, Failure, Held, Phase, Record, Run, Scope, Stage, effect};
use crate::rules::Rule;
use crate::state::{Misdeed, Seen};
use crate::worker::Call;

/// An agent and its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Agent {
    /// As told; none after the ledger was lost, until it is told: then nothing is applied.
    pub epoch: Option<Epoch>,
    /// Calls below it are stale.
    pub floor: Fence,
    /// By job.
    pub ledger: [Entry; JOBS],
    /// By resource.
    pub held: [Held; RESOURCES],
    /// Whether the network is on the host.
    pub network: bool,
    /// How each job was ended last, for the checker alone.
    pub decided: [Option<Outcome>; JOBS],
    /// Its holders, where they are only counted ([`Rule::ClaimsAreASet`] left out).
    pub count: u8,
    /// The ledger is new, and Postgres doesn't know it yet.
    pub lost: bool,
    /// How many ends the ledger has recorded; kept where hosts are put back.
    pub serial: Serial,
}

/// What an agent answers to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing yet: the work goes on, or another is before it.
    Waits,
    /// A newer fence is known.
    Stale,
    /// How the job ended, and the serial number of that record.
    Ended(Outcome, Serial),
    /// The job is being undone.
    TurnToUndo(Outcome),
    /// The phase stays.
    StepFailed(Failure),
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            epoch: Some(0),
            floor: 0,
            ledger: Default::default(),
            held: Default::default(),
            network: false,
            decided: [None; JOBS],
            count: 0,
            lost: false,
            serial: 0,
        }
    }
}

impl Agent {
    fn entry(&mut self, job: JobIx) -> &mut Entry {
        &mut self.ledger[usize::from(job)]
    }

    fn of(&mut self, resource: ResourceIx) -> &mut Held {
        &mut self.held[usize::from(resource)]
    }

    /// **apply**: takes a worker's call.
    pub fn call(&mut self, config: &Config, order: Order, call: Call, seen: &mut Seen) -> Answer {
        let rules = config.rules;
        let resource = config.resource(order.job);
        match self.epoch {
            Some(epoch) if epoch != order.epoch && rules.has(Rule::Epoch) => return Answer::Stale,
            Some(_) => {}
            None => return Answer::Waits,
        }
        let held = *self.of(resource);
        if rules.has(Rule::Fence) && (order.fence < held.fence || order.fence < self.floor) {
            return Answer::Stale;
        }
        if held.stray.is_some() && rules.has(Rule::ProbeFirst) {
            return Answer::Waits;
        }
        if order.fence < held.accepted {
            seen.note(Misdeed::FenceWentBack);
        }
        let held = self.of(resource);
        held.fence = held.fence.max(order.fence);
        held.accepted = held.accepted.max(order.fence);
        let running = held.run;
        let entry = self.entry(order.job);
        entry.version = order.version;
        let newer = order.fence > entry.fence;
        entry.fence = entry.fence.max(order.fence);
        match (entry.phase, call) {
            (Phase::Finished(Outcome::Released), Call::Forward) if newer => {
                self.go_on(config, order, running, seen)
            }
            (Phase::Finished(_) | Phase::Undoing(_), Call::Forward) if !rules.has(Rule::Phase) => {
                match running {
                    Some(_) => Answer::Waits,
                    None => self.start_forward(config, order.job, seen),
                }
            }
            (Phase::Finished(outcome), Call::Forward | Call::Undo(_)) => Answer::Ended(outcome, entry.serial),
            (Phase::Undoing(verdict), Call::Forward) => Answer::TurnToUndo(verdict),
            (Phase::Undoing(_), Call::Undo(_)) => match running {
                Some(Run {
                    job,
                    stage: Stage::Failed(failure),
                    ..
                }) if job == order.job => {
                    self.of(resource).run = None;
                    Answer::StepFailed(failure)
                }
                Some(_) => Answer::Waits,
                None => self.start_undo(config, order, seen),
            },
            (Phase::Unknown | Phase::Forward, Call::Forward) => self.go_on(config, order, running, seen),
            (Phase::Unknown | Phase::Forward, Call::Undo(verdict)) => {
                entry.phase = Phase::Undoing(verdict);
                self.stop(config, resource);
                self.start_undo(config, order, seen)
            }
        }
    }

    fn go_on(&mut self, config: &Config, order: Order, running: Option<Run>, seen: &mut Seen) -> Answer {
        self.entry(order.job).phase = Phase::Forward;
        match running {
            Some(Run {
                job,
                stage: Stage::Failed(failure),
                ..
            }) if job == order.job => {
                self.of(config.resource(job)).run = None;
                Answer::StepFailed(failure)
            }
            // What failed has ended.
            None
            | Some(Run {
                stage: Stage::Failed(_),
                ..
            }) => self.start_forward(config, order.job, seen),
            Some(_) => Answer::Waits,
        }
    }

    /// Stops what runs for a resource; without [`Rule::UndoWaits`] it may still land.
    fn stop(&mut self, config: &Config, resource: ResourceIx) {
        let waits = config.rules.has(Rule::UndoWaits);
        let run = self.of(resource).run.take();
        if let (Some(run), false) = (run, waits)
            && run.stage == Stage::Begun
        {
            self.of(resource).stray = Some(self.effect(config, run));
        }
    }

    fn start_forward(&mut self, config: &Config, job: JobIx, seen: &mut Seen) -> Answer {
        for record in &mut self.entry(job).steps[..config.steps()] {
            if *record == Record::Nothing {
                *record = Record::Intent;
            }
        }
        self.forward_from(config, job, 0, seen)
    }

    fn forward_from(&mut self, config: &Config, job: JobIx, from: u8, seen: &mut Seen) -> Answer {
        let todo = (from..config.steps() as u8).find(|step| !self.stands(config, job, *step));
        match todo {
            Some(step) => self.begin(config, job, Direction::Forward, step),
            None => self.finish(config, job, Outcome::Succeeded, seen),
        }
    }

    /// Whether a step is recorded, and what it made is observed: the object, as the claim can't be seen from outside.
    fn stands(&self, config: &Config, job: JobIx, step: u8) -> bool {
        let held = self.held[usize::from(config.resource(job))];
        let version = self.ledger[usize::from(job)].version;
        let observed = match effect(config, job, Direction::Forward, step, version) {
            Effect::TakeClaim => self.network,
            Effect::DropClaim => true,
            Effect::MakeInstance => held.instance,
            Effect::RemoveInstance => !held.instance,
            Effect::Redefine(version) => held.version == version,
            Effect::Restore(version) => held.instance && held.version == version,
        };
        observed && self.ledger[usize::from(job)].steps[usize::from(step)] == Record::Done
    }

    fn start_undo(&mut self, config: &Config, order: Order, seen: &mut Seen) -> Answer {
        let scope = match order.mode {
            Mode::Undo => Scope::All,
            Mode::Forward => Scope::Known,
        };
        self.undo_below(config, order.job, scope, config.steps() as u8, seen)
    }

    fn undo_below(
        &mut self,
        config: &Config,
        job: JobIx,
        scope: Scope,
        below: u8,
        seen: &mut Seen,
    ) -> Answer {
        let steps = self.entry(job).steps;
        let undoable = match config.action(job) {
            Action::Create | Action::Update => true,
            Action::Delete | Action::Repair | Action::Clear => false,
        };
        let todo = (0..below)
            .rev()
            .find(|step| undoable && (scope == Scope::All || steps[usize::from(*step)] != Record::Nothing));
        match (todo, self.entry(job).phase) {
            (Some(step), _) => self.begin(config, job, Direction::Undo(scope), step),
            (None, Phase::Undoing(verdict)) => self.finish(config, job, verdict, seen),
            (None, Phase::Unknown | Phase::Forward | Phase::Finished(_)) => Answer::Waits,
        }
    }

    fn begin(&mut self, config: &Config, job: JobIx, direction: Direction, step: u8) -> Answer {
        self.of(config.resource(job)).run = Some(Run {
            job,
            direction,
            step,
            stage: Stage::Begun,
        });
        Answer::Waits
    }

    fn finish(&mut self, config: &Config, job: JobIx, outcome: Outcome, seen: &mut Seen) -> Answer {
        let before = self.decided[usize::from(job)].replace(outcome);
        // Only `released` may be followed by another decision, here or pruned and placed here again.
        if before.is_some_and(|before| before != outcome && before != Outcome::Released) {
            seen.note(Misdeed::DecidedTwice);
        }
        self.serial += u8::from(config.faults.put_back > 0);
        let serial = self.serial;
        let entry = self.entry(job);
        entry.phase = Phase::Finished(outcome);
        entry.serial = serial;
        self.of(config.resource(job)).run = None;
        Answer::Ended(outcome, serial)
    }

    /// What a run does to the host.
    pub(crate) fn effect(&self, config: &Config, run: Run) -> Effect {
        let version = self.ledger[usize::from(run.job)].version;
        effect(config, run.job, run.direction, run.step, version)
    }

    /// Whether nothing of a resource is here, and nothing works on it.
    pub fn has_nothing_of(&self, resource: ResourceIx) -> bool {
        let held = self.held[usize::from(resource)];
        !held.instance && !held.claim && self.rests(resource)
    }

    /// Whether nothing works on a resource.
    pub fn rests(&self, resource: ResourceIx) -> bool {
        let held = self.held[usize::from(resource)];
        held.run.is_none() && held.stray.is_none()
    }

    /// Whether a floor would prune anything.
    pub fn prunes(&self, floor: Fence) -> bool {
        floor > self.floor
            && self.ledger.iter().any(|entry| match entry.phase {
                Phase::Finished(_) => entry.fence < floor,
                Phase::Unknown | Phase::Forward | Phase::Undoing(_) => false,
            })
    }

    /// Takes the floor, and prunes what it settles.
    pub fn raise_floor(&mut self, floor: Fence) {
        self.floor = self.floor.max(floor);
        for entry in &mut self.ledger {
            match entry.phase {
                Phase::Finished(_) if entry.fence < floor => *entry = Entry::default(),
                Phase::Finished(_) | Phase::Unknown | Phase::Forward | Phase::Undoing(_) => {}
            }
        }
        for held in &mut self.held {
            if held.fence < floor {
                held.fence = 0;
            }
        }
    }
}
