//! The table of `decide`, row by row.

use super::{Answer, Budget, Hint, Next, Phase, State, Time, Undo, decide, phase};
use rhyzome_model::job::{Action, ErrorClass, Mode, Verdict};
use rhyzome_proto::event::{self, Outcome, OutcomeKind};

const HOST: &str = "host-1";

fn state(mode: Mode, undo: Undo) -> State {
    State {
        mode,
        undo,
        quick: 2,
        unknown: 3,
        time: Time::Left,
        hint: Hint::None,
    }
}

fn failed(class: ErrorClass) -> Answer {
    let outcome = Outcome {
        kind: OutcomeKind::StepFailed.into(),
        error: br#"{"code":"X","detail":"x","retryable":true}"#.to_vec(),
        class: event::ErrorClass::from(class).into(),
    };
    Answer::StepFailed(class, outcome)
}

/// A row's right side, without texts.
#[derive(Debug, PartialEq)]
enum Told {
    Again(Budget),
    Turn(Verdict),
    Report(OutcomeKind),
}

fn told(state: State, answer: Answer) -> Told {
    match decide(state, answer, HOST) {
        Next::Again(budget) => Told::Again(budget),
        Next::TurnToUndo { verdict, cause } => {
            assert!(!cause.is_empty(), "a verdict without a cause");
            Told::Turn(verdict)
        }
        Next::Report(outcome) => Told::Report(outcome.kind()),
    }
}

const SUSPENDED: Told = Told::Report(OutcomeKind::Suspended);

#[test]
fn a_failed_step_going_forward() {
    use ErrorClass::{Busy, NoRoom, NotHere, NotHereNow, Permanent, Timeout, Unavailable};
    use Undo::{AndPlaceAnew, InPlace, Never};
    let rows = [
        (Unavailable, AndPlaceAnew, Told::Again(Budget::Quick)),
        (Unavailable, InPlace, Told::Again(Budget::Quick)),
        (Unavailable, Never, Told::Again(Budget::Quick)),
        (Busy, AndPlaceAnew, Told::Again(Budget::Quick)),
        (Busy, InPlace, Told::Again(Budget::Quick)),
        (Busy, Never, Told::Again(Budget::Quick)),
        (Timeout, AndPlaceAnew, Told::Again(Budget::Unknown)),
        (Timeout, InPlace, Told::Again(Budget::Unknown)),
        (Timeout, Never, Told::Again(Budget::Unknown)),
        (NoRoom, AndPlaceAnew, Told::Turn(Verdict::Released)),
        (NoRoom, InPlace, Told::Turn(Verdict::Failed)),
        (NoRoom, Never, SUSPENDED),
        (Permanent, AndPlaceAnew, Told::Turn(Verdict::Failed)),
        (Permanent, InPlace, Told::Turn(Verdict::Failed)),
        (Permanent, Never, SUSPENDED),
        (NotHere, AndPlaceAnew, Told::Turn(Verdict::Released)),
        (NotHere, InPlace, Told::Turn(Verdict::Failed)),
        (NotHere, Never, SUSPENDED),
        (NotHereNow, AndPlaceAnew, Told::Again(Budget::Quick)),
        (NotHereNow, InPlace, Told::Again(Budget::Quick)),
        (NotHereNow, Never, Told::Again(Budget::Quick)),
    ];
    for (class, undo, want) in rows {
        assert_eq!(
            told(state(Mode::Forward, undo), failed(class)),
            want,
            "{class} {undo:?}"
        );
    }
}

#[test]
fn a_failed_undo_goes_back_to_postgres() {
    for &class in ErrorClass::ALL {
        for undo in [Undo::AndPlaceAnew, Undo::InPlace, Undo::Never] {
            assert_eq!(
                told(state(Mode::Undo, undo), failed(class)),
                SUSPENDED,
                "{class} {undo:?}"
            );
        }
    }
}

#[test]
fn tries_are_used_up() {
    let none = |s: State| State {
        quick: 0,
        unknown: 0,
        ..s
    };
    for mode in [Mode::Forward, Mode::Undo] {
        let state = state(mode, Undo::AndPlaceAnew);
        for (answer, budget) in [
            (Answer::Unreachable, Budget::Quick),
            (Answer::Busy, Budget::Quick),
            (Answer::Broke, Budget::Unknown),
            (Answer::Nonsense, Budget::Unknown),
        ] {
            assert_eq!(
                told(state, answer.clone()),
                Told::Again(budget),
                "{mode} {answer:?}"
            );
            assert_eq!(told(none(state), answer.clone()), SUSPENDED, "{mode} {answer:?}");
        }
    }
    for class in [ErrorClass::Unavailable, ErrorClass::Busy, ErrorClass::Timeout] {
        assert_eq!(
            told(none(state(Mode::Forward, Undo::InPlace)), failed(class)),
            SUSPENDED,
            "{class}"
        );
    }
}

#[test]
fn what_only_another_host_gets_goes_there_after_the_quick_tries() {
    let late = |undo| State {
        time: Time::Over,
        ..used_up(undo)
    };
    let hinted = |undo| State {
        hint: Hint::Undo,
        ..used_up(undo)
    };
    let rows = [
        (
            used_up(Undo::AndPlaceAnew),
            ErrorClass::NotHereNow,
            Told::Turn(Verdict::Released),
        ),
        (used_up(Undo::InPlace), ErrorClass::NotHereNow, SUSPENDED),
        (used_up(Undo::Never), ErrorClass::NotHereNow, SUSPENDED),
        // An order in mode undo is on its way, with another verdict.
        (hinted(Undo::AndPlaceAnew), ErrorClass::NotHereNow, SUSPENDED),
        (late(Undo::AndPlaceAnew), ErrorClass::NotHereNow, SUSPENDED),
        (
            used_up(Undo::AndPlaceAnew),
            ErrorClass::NotHere,
            Told::Turn(Verdict::Released),
        ),
        // The same without another host that has it.
        (used_up(Undo::AndPlaceAnew), ErrorClass::Unavailable, SUSPENDED),
    ];
    for (state, class, want) in rows {
        assert_eq!(told(state, failed(class)), want, "{class} {state:?}");
    }
}

fn used_up(undo: Undo) -> State {
    State {
        quick: 0,
        unknown: 0,
        ..state(Mode::Forward, undo)
    }
}

#[test]
fn a_failed_step_keeps_its_error_and_class() {
    let Next::Report(outcome) = decide(state(Mode::Undo, Undo::InPlace), failed(ErrorClass::Busy), HOST)
    else {
        panic!("not reported");
    };
    assert_eq!(outcome.model_class(), Some(ErrorClass::Busy));
    assert_eq!(outcome.model_error().unwrap().unwrap().code, "X");
}

#[test]
fn the_agents_end_is_passed_on() {
    for kind in [
        OutcomeKind::Succeeded,
        OutcomeKind::Failed,
        OutcomeKind::Cancelled,
        OutcomeKind::Released,
    ] {
        let outcome = Outcome {
            kind: kind.into(),
            ..Default::default()
        };
        for mode in [Mode::Forward, Mode::Undo] {
            let next = decide(state(mode, Undo::Never), Answer::Finished(outcome.clone()), HOST);
            assert_eq!(next, Next::Report(outcome.clone()));
        }
    }
    let stale = Outcome {
        kind: OutcomeKind::Stale.into(),
        ..Default::default()
    };
    assert_eq!(
        told(state(Mode::Forward, Undo::InPlace), Answer::Stale(stale)),
        Told::Report(OutcomeKind::Stale)
    );
}

#[test]
fn told_to_turn() {
    for undo in [Undo::AndPlaceAnew, Undo::InPlace] {
        assert_eq!(
            told(state(Mode::Forward, undo), Answer::TurnToUndo),
            Told::Turn(Verdict::Failed)
        );
        assert_eq!(
            told(state(Mode::Undo, undo), Answer::TurnToUndo),
            Told::Again(Budget::Unknown)
        );
    }
    assert_eq!(
        told(state(Mode::Forward, Undo::Never), Answer::TurnToUndo),
        Told::Again(Budget::Unknown)
    );
}

#[test]
fn a_refused_call_is_not_tried_again_here() {
    assert_eq!(
        told(state(Mode::Forward, Undo::InPlace), Answer::Refused),
        SUSPENDED
    );
}

#[test]
fn a_hint_and_the_end_of_time_end_forward_tries_only() {
    let hinted = |s: State| State {
        hint: Hint::Undo,
        ..s
    };
    let late = |s: State| State {
        time: Time::Over,
        ..s
    };
    let forward = state(Mode::Forward, Undo::AndPlaceAnew);
    assert_eq!(told(hinted(forward), Answer::Unreachable), SUSPENDED);
    let Next::Report(outcome) = decide(late(forward), Answer::Broke, HOST) else {
        panic!("not reported")
    };
    assert_eq!(outcome.model_error().unwrap().unwrap().code, "EXPIRED");
    let undo = state(Mode::Undo, Undo::AndPlaceAnew);
    assert_eq!(
        told(hinted(late(undo)), Answer::Broke),
        Told::Again(Budget::Unknown)
    );
}

#[test]
fn what_an_action_allows() {
    for &action in Action::ALL {
        let never = Undo::of(action.as_str()) == Undo::Never;
        assert_eq!(never, action.forward_only(), "{action}");
    }
    assert_eq!(Undo::of("levitate"), Undo::Never);
}

#[test]
fn only_the_agent_says_what_phase_it_is() {
    let ended = |kind: OutcomeKind| {
        Answer::Finished(Outcome {
            kind: kind.into(),
            ..Default::default()
        })
    };
    let (forward, undo) = (Mode::Forward, Mode::Undo);
    let rows = [
        (forward, ended(OutcomeKind::Succeeded), Some(Phase::Forward)),
        (undo, ended(OutcomeKind::Succeeded), Some(Phase::Forward)),
        (forward, ended(OutcomeKind::Failed), Some(Phase::Undoing)),
        (undo, ended(OutcomeKind::Cancelled), Some(Phase::Undoing)),
        (undo, ended(OutcomeKind::Released), Some(Phase::Undoing)),
        (forward, Answer::TurnToUndo, Some(Phase::Undoing)),
        (undo, failed(ErrorClass::Busy), Some(Phase::Undoing)),
        (forward, failed(ErrorClass::Busy), Some(Phase::Forward)),
        (undo, Answer::Unreachable, None),
        (undo, Answer::Broke, None),
        (undo, Answer::Refused, None),
    ];
    for (mode, answer, want) in rows {
        assert_eq!(phase(mode, &answer), want, "{mode} {answer:?}");
    }
}
