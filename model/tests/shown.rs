//! The shown state, as a table.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use rhyzome_model::job::{Action, JobState};
use rhyzome_model::kinds::{Kind, Power};
use rhyzome_model::shown::{ObservedPower, ResourceState, ShownInput, shown};

fn input(kind: Kind) -> ShownInput {
    ShownInput {
        kind,
        generation: 1,
        applied: true,
        deleting: false,
        active_job: None,
        failed: false,
        observed: None,
        power: (kind == Kind::Instance).then_some(Power::On),
    }
}

const OPEN: [JobState; 4] = [
    JobState::Blocked,
    JobState::Queued,
    JobState::Running,
    JobState::Undoing,
];

#[test]
fn at_rest() {
    use ResourceState as S;
    assert_eq!(shown(&input(Kind::Network)), S::Ready);
    assert_eq!(shown(&input(Kind::Image)), S::Ready);
    let table = [
        (None, Power::On, S::Running),
        (None, Power::Off, S::Stopped),
        (Some(ObservedPower::On), Power::On, S::Running),
        (Some(ObservedPower::On), Power::Off, S::Running),
        (Some(ObservedPower::Off), Power::On, S::Stopped),
        (Some(ObservedPower::Off), Power::Off, S::Stopped),
        (Some(ObservedPower::Crashed), Power::On, S::Crashed),
        (Some(ObservedPower::Crashed), Power::Off, S::Stopped),
        (Some(ObservedPower::Unknown), Power::On, S::Unknown),
        (Some(ObservedPower::Unknown), Power::Off, S::Unknown),
    ];
    for (observed, power, state) in table {
        for failed in [false, true] {
            let input = ShownInput {
                observed,
                power: Some(power),
                failed,
                ..input(Kind::Instance)
            };
            assert_eq!(shown(&input), state, "{input:?}");
        }
    }
}

#[test]
fn under_way() {
    use ResourceState as S;
    for kind in Kind::ALL {
        for state in OPEN {
            let table = [
                (true, Action::Create, S::Creating),
                (false, Action::Create, S::Creating),
                (false, Action::Start, S::Creating),
                (false, Action::Update, S::Creating),
                (false, Action::Reboot, S::Creating),
                (false, Action::Repair, S::Failed),
                (false, Action::Stop, S::Stopping),
                (true, Action::Update, S::Updating),
                (true, Action::Repair, S::Updating),
                (true, Action::Start, S::Updating),
                (true, Action::Reboot, S::Updating),
                (true, Action::Stop, S::Stopping),
                (true, Action::Delete, S::Deleting),
                (false, Action::Delete, S::Deleting),
            ];
            for (applied, action, wanted) in table {
                let input = ShownInput {
                    applied,
                    active_job: Some((action, state)),
                    ..input(*kind)
                };
                assert_eq!(shown(&input), wanted, "{input:?}");
            }
        }
    }
}

#[test]
fn a_deletion_shows_whatever_else_is() {
    for kind in Kind::ALL {
        for applied in [false, true] {
            for active_job in [
                None,
                Some((Action::Create, JobState::Undoing)),
                Some((Action::Delete, JobState::Queued)),
            ] {
                let input = ShownInput {
                    applied,
                    active_job,
                    deleting: true,
                    failed: true,
                    ..input(*kind)
                };
                assert_eq!(shown(&input), ResourceState::Deleting, "{input:?}");
            }
        }
    }
}

#[test]
fn a_create_that_ended_badly() {
    for kind in Kind::ALL {
        for active_job in [
            None,
            Some((Action::Create, JobState::Failed)),
            Some((Action::Create, JobState::Cancelled)),
        ] {
            let input = ShownInput {
                applied: false,
                active_job,
                failed: true,
                ..input(*kind)
            };
            assert_eq!(shown(&input), ResourceState::Failed, "{input:?}");
        }
    }
}

#[test]
fn a_job_that_is_done_shows_nothing() {
    for state in [JobState::Succeeded, JobState::Failed, JobState::Cancelled] {
        let input = ShownInput {
            active_job: Some((Action::Update, state)),
            ..input(Kind::Network)
        };
        assert_eq!(shown(&input), ResourceState::Ready);
    }
}
