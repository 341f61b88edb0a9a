//! Agents that do as chance says, within what a real one may answer.

use rand::Rng;
use rand::rngs::StdRng;
use rhyzome_model::ids::JobId;
use rhyzome_model::job::{Action, Mode, Verdict};
use rhyzome_model::problem::JobError;
use rhyzome_model::step::{ImageFacts, Step};
use rhyzome_proto::convert::{bytes, error_bytes};
use rhyzome_proto::event::{Outcome, OutcomeKind, Report, StepResult, StepState};
use rhyzome_store::dispatch::OrderRow;
use std::collections::BTreeMap;

/// What the ledgers of all hosts know of a job since it was last placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Undoing(Verdict),
    Finished(OutcomeKind),
}

/// All agents.
#[derive(Default)]
pub struct Agents {
    phases: BTreeMap<JobId, Phase>,
}

/// How an order goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Luck {
    /// By chance.
    Chance,
    /// All goes well.
    Good,
}

pub fn report(
    order: &OrderRow,
    kind: Option<OutcomeKind>,
    undoing: bool,
    error: Option<&JobError>,
) -> Report {
    let steps = order
        .frozen
        .iter()
        .map(|s| serde_json::from_str::<Step>(s).unwrap())
        .enumerate()
        .map(|(index, step)| {
            let facts = ImageFacts {
                sha256: "ab".repeat(32),
                size_bytes: 1 << 30,
                virtual_size_bytes: 1 << 30,
            };
            let output = if step.name() == "ensure_image" {
                serde_json::to_vec(&facts).unwrap()
            } else {
                Vec::new()
            };
            StepResult {
                index: u32::try_from(index).unwrap(),
                name: step.name().to_owned(),
                state: StepState::Succeeded.into(),
                output,
                ..StepResult::default()
            }
        });
    Report {
        version: 1,
        job: bytes(order.job.0),
        fence: order.fence,
        steps: steps.collect(),
        outcome: kind.map(|kind| Outcome {
            kind: kind.into(),
            error: error_bytes(error),
            class: 0,
        }),
        undoing,
        ..Report::default()
    }
}

fn of(verdict: Verdict) -> OutcomeKind {
    match verdict {
        Verdict::Failed | Verdict::Deadline => OutcomeKind::Failed,
        Verdict::Cancelled => OutcomeKind::Cancelled,
        Verdict::Released => OutcomeKind::Released,
    }
}

impl Agents {
    /// What comes of an order: a report, or nothing.
    pub fn apply(&mut self, order: &OrderRow, rng: &mut StdRng, luck: Luck) -> Option<Report> {
        let error = JobError::new("BAD_LUCK", "It went wrong");
        if luck == Luck::Chance {
            match rng.random_range(0..10) {
                0 => return None,
                1 => {
                    return Some(report(
                        order,
                        None,
                        matches!(self.phases.get(&order.job), Some(Phase::Undoing(_))),
                        None,
                    ));
                }
                2 => return Some(report(order, Some(OutcomeKind::Stale), false, None)),
                _ => {}
            }
        }
        let phase = self.phases.get(&order.job).copied();
        let turned = match (phase, order.mode) {
            // Released is opened again by a higher fence; it is a new placement then.
            (Some(Phase::Finished(kind)), _) if kind != OutcomeKind::Released => {
                return Some(report(
                    order,
                    Some(kind),
                    kind != OutcomeKind::Succeeded,
                    Some(&error),
                ));
            }
            (Some(Phase::Undoing(verdict)), _) => Some(verdict),
            (Some(Phase::Finished(_)) | None, Mode::Undo) => Some(order.verdict.unwrap_or(Verdict::Failed)),
            (Some(Phase::Finished(_)) | None, Mode::Forward) => Self::forward(order, rng, luck),
        };
        let Some(verdict) = turned else {
            if luck == Luck::Chance && rng.random_bool(0.2) {
                return Some(report(order, Some(OutcomeKind::Suspended), false, Some(&error)));
            }
            self.phases
                .insert(order.job, Phase::Finished(OutcomeKind::Succeeded));
            return Some(report(order, Some(OutcomeKind::Succeeded), false, None));
        };
        if luck == Luck::Chance && rng.random_bool(0.3) {
            self.phases.insert(order.job, Phase::Undoing(verdict));
            return Some(report(order, Some(OutcomeKind::Suspended), true, Some(&error)));
        }
        let kind = of(verdict);
        self.phases.insert(order.job, Phase::Finished(kind));
        Some(report(
            order,
            Some(kind),
            true,
            (kind != OutcomeKind::Cancelled).then_some(&error),
        ))
    }

    /// Why a forward order turns to undo, if it does.
    fn forward(order: &OrderRow, rng: &mut StdRng, luck: Luck) -> Option<Verdict> {
        if luck == Luck::Good || order.action.forward_only() {
            return None;
        }
        match rng.random_range(0..10) {
            0 => Some(Verdict::Failed),
            // Only a create may; the others are judged sanely all the same.
            1 if order.action == Action::Create || rng.random_bool(0.3) => Some(Verdict::Released),
            _ => None,
        }
    }
}
