//! What an agent does on its host: effects, and their records.
//!
//! Guarantees that an effect is one step, and its record another where the agent may die between them.

use super::Agent;
use crate::config::{Action, Config, ResourceIx};
use crate::ledger::{Direction, Effect, Failure, Record, Stage};
use crate::rules::Rule;
use crate::state::Seen;

impl Agent {
    /// Whether the running effect of a resource can make progress.
    pub fn can_advance(&self, resource: ResourceIx) -> bool {
        self.held[usize::from(resource)]
            .run
            .is_some_and(|run| match run.stage {
                Stage::Begun | Stage::Emptied | Stage::Effected => true,
                Stage::Failed(_) => false,
            })
    }

    /// Makes the effect, records its result, begins the next step or finishes; in two goes where `apart`.
    pub fn advance(&mut self, config: &Config, resource: ResourceIx, apart: bool, seen: &mut Seen) {
        let Some(mut run) = self.of(resource).run else {
            return;
        };
        match run.stage {
            Stage::Begun => {
                let undone = matches!(run.direction, Direction::Undo(_));
                if undone && self.of(resource).stuck && config.action(run.job) == Action::Update {
                    self.fail(resource, Failure::Broken);
                    return;
                }
                let effect = self.effect(config, run);
                run.stage = self.make(config, resource, effect);
                self.of(resource).run = Some(run);
                if apart || run.stage == Stage::Emptied {
                    return;
                }
            }
            Stage::Emptied => self.network = false,
            Stage::Effected => {}
            Stage::Failed(_) => return,
        }
        let record = &mut self.entry(run.job).steps[usize::from(run.step)];
        match run.direction {
            Direction::Forward => {
                *record = Record::Done;
                self.forward_from(config, run.job, run.step + 1, seen);
            }
            Direction::Undo(scope) => {
                if config.rules.has(Rule::ResultsDeleted) {
                    *record = Record::Nothing;
                }
                self.undo_below(config, run.job, scope, run.step, seen);
            }
        }
    }

    /// Makes a change; how far it got.
    pub(super) fn make(&mut self, config: &Config, resource: ResourceIx, effect: Effect) -> Stage {
        let counted = !config.rules.has(Rule::ClaimsAreASet);
        match effect {
            Effect::TakeClaim => {
                self.of(resource).claim = true;
                self.network = true;
                if counted {
                    self.count += 1;
                }
            }
            Effect::DropClaim => {
                self.of(resource).claim = false;
                let claimed = if counted {
                    self.count = self.count.saturating_sub(1);
                    self.count > 0
                } else {
                    self.held.iter().any(|other| other.claim) && config.rules.has(Rule::ClaimsHold)
                };
                if !claimed && !config.rules.has(Rule::ObjectLocked) {
                    return Stage::Emptied;
                }
                self.network = claimed;
            }
            Effect::MakeInstance => {
                let held = self.of(resource);
                held.instance = true;
                held.version = 1;
                held.revived = false;
            }
            Effect::Restore(version) => {
                let held = self.of(resource);
                held.instance = true;
                held.version = version;
                held.revived = false;
            }
            Effect::RemoveInstance => {
                let held = self.of(resource);
                held.instance = false;
                held.version = 0;
            }
            Effect::Redefine(version) => {
                let held = self.of(resource);
                if held.instance {
                    held.version = version;
                }
            }
        }
        let held = self.of(resource);
        held.revived &= held.instance || held.claim;
        Stage::Effected
    }

    /// Whether the step that runs for a resource can fail on this host.
    pub fn can_fail(&self, config: &Config, resource: ResourceIx) -> bool {
        self.held[usize::from(resource)].run.is_some_and(|run| {
            run.stage == Stage::Begun
                && run.direction == Direction::Forward
                && matches!(
                    self.effect(config, run),
                    Effect::MakeInstance | Effect::Redefine(_) | Effect::Restore(_)
                )
        })
    }

    /// Whether an update is being taken back, which may turn out not to work.
    pub fn can_stick(&self, config: &Config, resource: ResourceIx) -> bool {
        self.held[usize::from(resource)].run.is_some_and(|run| {
            run.stage == Stage::Begun
                && matches!(run.direction, Direction::Undo(_))
                && config.action(run.job) == Action::Update
        })
    }

    /// The running step fails.
    pub fn fail(&mut self, resource: ResourceIx, failure: Failure) {
        if let Some(run) = &mut self.of(resource).run {
            run.stage = Stage::Failed(failure);
        }
    }
}
