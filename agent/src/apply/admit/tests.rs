use super::*;
use crate::ledger::state::StepEntry;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rhyzome_model::job::Verdict;
use uuid::Uuid;

const HASHES: [StepHash; 2] = [[1; 32], [2; 32]];

fn asked() -> Asked<'static> {
    Asked {
        version: 1,
        job: JobId(Uuid::from_u128(1)),
        resource: ResourceId(Uuid::from_u128(9)),
        fence: Fence(10),
        epoch: Epoch(3),
        mode: Mode::Forward,
        hashes: &HASHES,
        expires_at_ms: 0,
        now_ms: 1_000,
    }
}

fn entry(phase: Phase) -> JobEntry {
    let steps = HASHES.map(|hash| StepEntry {
        hash,
        result: None,
        undone: None,
    });
    JobEntry {
        resource: asked().resource,
        fence: Fence(10),
        phase,
        steps: steps.into(),
    }
}

fn known(job: Option<&JobEntry>) -> Known<'_> {
    let fence = job.map(|entry| ResourceFence {
        fence: entry.fence,
        job: asked().job,
    });
    Known {
        version: 1,
        told: Some(Epoch(3)),
        floor: Fence(5),
        fence,
        job,
        running: None,
    }
}

fn undoing() -> Phase {
    Phase::Undoing {
        verdict: Verdict::Cancelled,
        cause: Vec::new(),
    }
}

fn finished(ending: Ending) -> Phase {
    Phase::Finished {
        ending,
        error: Vec::new(),
    }
}

/// What is asked, in which phase, with what running, and what is done.
type Row<'a> = (
    &'static str,
    Option<Phase>,
    Option<Direction>,
    Asked<'a>,
    Admission,
);

#[test]
fn the_table() {
    let undo = Asked {
        mode: Mode::Undo,
        ..asked()
    };
    let higher = Asked {
        fence: Fence(11),
        ..asked()
    };
    let higher_undo = Asked {
        fence: Fence(11),
        ..undo
    };
    let late = Asked {
        expires_at_ms: 999,
        ..asked()
    };
    let late_undo = Asked {
        expires_at_ms: 999,
        ..undo
    };
    let (forward, back) = (Some(Direction::Forward), Some(Direction::Undo));
    let rows: Vec<Row<'_>> = vec![
        ("new", None, None, asked(), Admission::Run(Start::Forward)),
        ("new, undo", None, None, undo, Admission::Run(Start::Turn)),
        ("new, expired", None, None, late, Admission::Expired),
        (
            "new, expired undo",
            None,
            None,
            late_undo,
            Admission::Run(Start::Turn),
        ),
        (
            "stopped",
            Some(Phase::Forward),
            None,
            asked(),
            Admission::Run(Start::ForwardAgain),
        ),
        (
            "stopped, re-attempt",
            Some(Phase::Forward),
            None,
            higher,
            Admission::Run(Start::ForwardAgain),
        ),
        (
            "stopped, expired",
            Some(Phase::Forward),
            None,
            late,
            Admission::Expired,
        ),
        ("running", Some(Phase::Forward), forward, asked(), Admission::Join),
        (
            "running, expired",
            Some(Phase::Forward),
            forward,
            late,
            Admission::Join,
        ),
        (
            "running, re-attempt",
            Some(Phase::Forward),
            forward,
            higher,
            Admission::Join,
        ),
        (
            "running, undo",
            Some(Phase::Forward),
            forward,
            undo,
            Admission::Run(Start::Turn),
        ),
        ("undoing", Some(undoing()), None, asked(), Admission::TurnToUndo),
        (
            "undoing, re-attempt",
            Some(undoing()),
            back,
            higher,
            Admission::TurnToUndo,
        ),
        (
            "undoing, undo",
            Some(undoing()),
            None,
            undo,
            Admission::Run(Start::UndoAgain),
        ),
        (
            "undoing, undo runs",
            Some(undoing()),
            back,
            higher_undo,
            Admission::Join,
        ),
        (
            "succeeded",
            Some(finished(Ending::Succeeded)),
            None,
            asked(),
            Admission::Ended,
        ),
        (
            "succeeded, cancel",
            Some(finished(Ending::Succeeded)),
            None,
            higher_undo,
            Admission::Ended,
        ),
        (
            "cancelled, re-attempt",
            Some(finished(Ending::Cancelled)),
            None,
            higher,
            Admission::Ended,
        ),
        (
            "failed",
            Some(finished(Ending::Failed)),
            None,
            asked(),
            Admission::Ended,
        ),
        (
            "released",
            Some(finished(Ending::Released)),
            None,
            asked(),
            Admission::Ended,
        ),
        (
            "released, higher",
            Some(finished(Ending::Released)),
            None,
            higher,
            Admission::Run(Start::Forward),
        ),
        (
            "released, higher undo",
            Some(finished(Ending::Released)),
            None,
            higher_undo,
            Admission::Run(Start::Turn),
        ),
    ];
    for (name, phase, running, asked, wanted) in rows {
        let entry = phase.map(entry);
        let known = Known {
            running,
            ..known(entry.as_ref())
        };
        assert_eq!(admit(&asked, &known), wanted, "{name}");
    }
}

#[test]
fn refused_whatever_the_phase() {
    let other_hashes = [[1; 32], [3; 32]];
    let fewer = [[1; 32]];
    let rows: Vec<(&str, Asked<'_>, Admission)> = vec![
        (
            "newer",
            Asked {
                version: 2,
                ..asked()
            },
            Admission::UnknownVersion,
        ),
        (
            "no version",
            Asked {
                version: 0,
                ..asked()
            },
            Admission::UnknownVersion,
        ),
        (
            "old epoch",
            Asked {
                epoch: Epoch(2),
                ..asked()
            },
            Admission::OtherEpoch,
        ),
        (
            "new epoch",
            Asked {
                epoch: Epoch(4),
                ..asked()
            },
            Admission::OtherEpoch,
        ),
        (
            "below the floor",
            Asked {
                fence: Fence(4),
                ..asked()
            },
            Admission::BelowFloor,
        ),
        (
            "lower fence",
            Asked {
                fence: Fence(9),
                ..asked()
            },
            Admission::LowerFence,
        ),
        (
            "another job's fence",
            Asked {
                job: JobId::new(),
                ..asked()
            },
            Admission::LowerFence,
        ),
        (
            "another resource",
            Asked {
                resource: ResourceId::new(),
                ..asked()
            },
            Admission::OtherResource,
        ),
        (
            "another step",
            Asked {
                hashes: &other_hashes,
                ..asked()
            },
            Admission::OtherHash { index: 1 },
        ),
        (
            "fewer steps",
            Asked {
                hashes: &fewer,
                ..asked()
            },
            Admission::OtherHash { index: 1 },
        ),
    ];
    for phase in [Phase::Forward, undoing()] {
        let entry = entry(phase);
        for (name, asked, wanted) in &rows {
            assert_eq!(admit(asked, &known(Some(&entry))), *wanted, "{name}");
        }
        let untold = Known {
            told: None,
            ..known(Some(&entry))
        };
        assert_eq!(admit(&asked(), &untold), Admission::NotTold);
    }
}

/// What must hold for every order in every state.
#[test]
fn properties() {
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..200_000 {
        let phase = match rng.random_range(0..7) {
            0 => None,
            1 => Some(Phase::Forward),
            2 => Some(undoing()),
            3 => Some(finished(Ending::Succeeded)),
            4 => Some(finished(Ending::Failed)),
            5 => Some(finished(Ending::Cancelled)),
            _ => Some(finished(Ending::Released)),
        };
        let entry = phase.map(|phase| JobEntry {
            fence: Fence(rng.random_range(1..14)),
            ..entry(phase)
        });
        let asked = Asked {
            fence: Fence(rng.random_range(1..14)),
            epoch: Epoch(rng.random_range(2..5)),
            mode: if rng.random() { Mode::Forward } else { Mode::Undo },
            expires_at_ms: [0, 999, 1_001][rng.random_range(0..3)],
            ..asked()
        };
        let resource_fence = Fence(rng.random_range(1..14)).max(entry.as_ref().map_or(Fence(0), |e| e.fence));
        let running = match (&entry.as_ref().map(|e| &e.phase), rng.random::<bool>()) {
            (Some(Phase::Forward), true) => Some(Direction::Forward),
            (Some(Phase::Undoing { .. }), true) => Some(Direction::Undo),
            _ => None,
        };
        let known = Known {
            told: rng.random::<bool>().then_some(Epoch(3)),
            fence: Some(ResourceFence {
                fence: resource_fence,
                job: asked.job,
            }),
            running,
            ..known(entry.as_ref())
        };
        let admission = admit(&asked, &known);
        let acts = matches!(admission, Admission::Run(_) | Admission::Join);
        if acts || admission == Admission::Ended || admission == Admission::TurnToUndo {
            assert_eq!(known.told, Some(asked.epoch));
            assert!(
                asked.fence >= known.floor && asked.fence >= resource_fence,
                "{asked:?} {known:?}"
            );
        }
        if let Some(Phase::Finished { ending, .. }) = entry.as_ref().map(|e| &e.phase)
            && *ending != Ending::Released
        {
            assert!(!acts, "an end was opened again: {asked:?} {known:?}");
        }
        if let (Some(Phase::Undoing { .. }), Mode::Forward) = (entry.as_ref().map(|e| &e.phase), asked.mode) {
            assert!(!acts, "forward in phase undoing: {asked:?} {known:?}");
        }
        if asked.mode == Mode::Forward && asked.expires_at_ms == 999 {
            assert!(
                !matches!(admission, Admission::Run(_)),
                "an expired order began: {asked:?} {known:?}"
            );
        }
        if admission == Admission::Join {
            assert!(running.is_some());
        }
    }
}
