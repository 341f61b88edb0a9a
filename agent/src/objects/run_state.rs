//! What an instance's record says of its run: what is wanted, which process it is, and how the last one ended.
//!
//! ```text
//!            start                    SHUTDOWN by the guest           policy
//!  off ───────────────▶ on (process) ───────────────────────▶ shut down ──────▶ start again, or stays
//!   ▲                     │  │  process gone by itself                  policy
//!   └──── stop, remove ───┘  └──────────────────────────────▶ crashed ────────▶ start again, or stays
//! ```
//!
//! Decisions are pure functions here; `guests` does what they say.

use super::process::ProcessId;
use crate::driver::SeenPower;
use rhyzome_model::ids::JobId;
use rhyzome_model::kinds::{Power, RestartPolicy};
use rhyzome_model::text::{Form, cleaned};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A guest that ran this long is started again without a growing pause, seconds.
const STEADY_AFTER: f64 = 60.0;
/// Longest pause before another start.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Longest word on an end that is passed on, characters.
const LONGEST_WORD: usize = 200;

/// How the last process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ended {
    /// There was none.
    #[default]
    Never,
    /// By us.
    Stopped,
    /// By the guest, in order.
    ShutDown,
    /// By itself, and why as far as it's known.
    Crashed(String),
    /// With the machine.
    WithTheMachine,
}

/// A reboot that a job asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RebootMark {
    pub(crate) job: JobId,
    /// The process that shall end.
    pub(crate) from: Option<ProcessId>,
    pub(crate) done: bool,
}

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunState {
    pub(crate) wanted: Power,
    pub(crate) process: Option<ProcessId>,
    pub(crate) ended: Ended,
    /// Starts in a row after ends that came too soon.
    pub(crate) restarts: u32,
    pub(crate) reboot: Option<RebootMark>,
    /// A job pressed the power button of the process: that it ends in order from then on is no word of the guest's.
    #[serde(default)]
    pub(crate) pressed: bool,
}

impl Default for RunState {
    fn default() -> Self {
        Self {
            wanted: Power::Off,
            process: None,
            ended: Ended::Never,
            restarts: 0,
            reboot: None,
            pressed: false,
        }
    }
}

impl RunState {
    /// The process, if it runs.
    pub(crate) fn alive(&self) -> Option<&ProcessId> {
        self.process.as_ref().filter(|p| p.is_alive())
    }

    /// Notes that a process ended which nobody saw end.
    pub(crate) fn note_lost_process(&mut self) {
        if let Some(process) = self.process.take_if(|p| !p.is_alive()) {
            self.ended = if process.is_of_another_boot() {
                Ended::WithTheMachine
            } else if self.pressed {
                Ended::Stopped
            } else {
                Ended::Crashed("it ended while no agent was there".to_owned())
            };
        }
    }

    /// Notes how a process ended: after the power button was pressed, a shutdown is ours, though the job that pressed it was cancelled.
    pub(crate) fn note_end(&mut self, ended: &Ended) {
        self.ended = match ended {
            Ended::ShutDown if self.pressed => Ended::Stopped,
            ended => ended.clone(),
        };
    }

    /// As seen. How a process ended that is gone and not yet noted can't be told.
    pub(crate) fn power(&self) -> SeenPower {
        if let Some(process) = &self.process {
            return if process.is_alive() {
                SeenPower::On
            } else {
                SeenPower::Unknown
            };
        }
        match &self.ended {
            Ended::Never | Ended::Stopped | Ended::ShutDown | Ended::WithTheMachine => SeenPower::Off,
            Ended::Crashed(_) => SeenPower::Crashed,
        }
    }

    /// A sentence on it, where there is something to say.
    pub(crate) fn detail(&self) -> String {
        match (&self.ended, &self.process) {
            (Ended::Never | Ended::Stopped, _) | (_, Some(_)) => String::new(),
            (Ended::ShutDown, None) => "the guest shut itself down".to_owned(),
            (Ended::Crashed(why), None) => shown(why),
            (Ended::WithTheMachine, None) => "its host was restarted".to_owned(),
        }
    }

    /// Why the last one ended, where it crashed.
    pub(crate) fn last_crash(&self) -> Option<String> {
        match &self.ended {
            Ended::Crashed(why) => Some(shown(why)),
            Ended::Never | Ended::Stopped | Ended::ShutDown | Ended::WithTheMachine => None,
        }
    }

    /// Whether the agent starts it by itself.
    pub(crate) fn should_start(&self, policy: RestartPolicy) -> bool {
        if self.wanted == Power::Off || self.alive().is_some() {
            return false;
        }
        match (&self.ended, policy) {
            (Ended::Never | Ended::Stopped | Ended::WithTheMachine, _)
            | (Ended::ShutDown, RestartPolicy::Always)
            | (Ended::Crashed(_), RestartPolicy::Always | RestartPolicy::OnFailure) => true,
            (Ended::ShutDown, RestartPolicy::OnFailure | RestartPolicy::Never)
            | (Ended::Crashed(_), RestartPolicy::Never) => false,
        }
    }

    /// Counts an end after `uptime` seconds; the pause before the next start.
    pub(crate) fn pause_after(&mut self, uptime: f64) -> Duration {
        self.restarts = if uptime >= STEADY_AFTER {
            0
        } else {
            self.restarts + 1
        };
        Duration::from_secs(1 << self.restarts.saturating_sub(1).min(6)).min(LONGEST_PAUSE)
    }
}

/// A word of a record as others may have it: records hold what a monitor said, and Postgres takes no NUL.
fn shown(why: &str) -> String {
    cleaned(why, Form::Line, LONGEST_WORD).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_started_again() {
        use RestartPolicy::{Always, Never, OnFailure};
        let crashed = Ended::Crashed("x".to_owned());
        let table = [
            (Ended::ShutDown, [true, false, false]),
            (crashed, [true, true, false]),
            (Ended::WithTheMachine, [true, true, true]),
            (Ended::Never, [true, true, true]),
        ];
        for (ended, expected) in table {
            let on = RunState {
                wanted: Power::On,
                ended,
                ..RunState::default()
            };
            assert_eq!(
                [Always, OnFailure, Never].map(|p| on.should_start(p)),
                expected,
                "{on:?}"
            );
            let off = RunState {
                wanted: Power::Off,
                ..on
            };
            assert_eq!(
                [Always, OnFailure, Never].map(|p| off.should_start(p)),
                [false; 3]
            );
        }
    }

    #[test]
    fn what_a_record_holds_is_cleaned_before_it_is_passed_on() {
        let run = RunState {
            ended: Ended::Crashed(format!("the guest ended: a\u{0}b\n{}", "c".repeat(1000))),
            ..RunState::default()
        };
        assert!(run.detail().starts_with("the guest ended: ab cc"));
        assert_eq!(run.detail().chars().count(), LONGEST_WORD);
        assert_eq!(run.last_crash(), Some(run.detail()));
    }

    #[test]
    fn a_guest_that_was_asked_to_shut_down_and_shall_run_is_started_whatever_its_policy() {
        let mut run = RunState {
            wanted: Power::On,
            ..RunState::default()
        };
        run.note_end(&Ended::ShutDown);
        assert!(!run.should_start(RestartPolicy::Never));
        run.pressed = true;
        run.note_end(&Ended::ShutDown);
        assert_eq!(run.ended, Ended::Stopped);
        assert!(run.should_start(RestartPolicy::Never));
        run.wanted = Power::Off;
        assert!(!run.should_start(RestartPolicy::Always));
        let crashed = Ended::Crashed("x".to_owned());
        run.note_end(&crashed);
        assert_eq!(run.ended, crashed);
    }

    #[test]
    fn pauses_grow_and_end_with_a_steady_run() {
        let mut run = RunState::default();
        let pauses: Vec<u64> = (0..9).map(|_| run.pause_after(0.5).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(run.pause_after(90.0).as_secs(), 1);
    }

    #[test]
    fn a_process_of_another_boot_ended_with_the_machine() {
        let process = ProcessId {
            pid: 1,
            started: 0,
            boot: "another".to_owned(),
        };
        let mut run = RunState {
            wanted: Power::On,
            process: Some(process),
            ..RunState::default()
        };
        run.note_lost_process();
        assert_eq!(
            (run.ended.clone(), run.power()),
            (Ended::WithTheMachine, SeenPower::Off)
        );
    }
}
