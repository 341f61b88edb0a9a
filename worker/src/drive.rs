//! One order: the agent is called until there is something to report. It may be dropped at any point: the work belongs to no call.

use crate::call;
use crate::channels::Channels;
use crate::config::WorkerConfig;
use crate::decide::{Answer, Budget, Hint, Next, State, Time, Undo, decide, phase};
use crate::report::Live;
use crate::words::Word;
use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;
use chrono::Utc;
use rhyzome_model::job::Mode;
use rhyzome_proto::convert::WireError;
use rhyzome_proto::event::Outcome;
use rhyzome_proto::job::{self, Order};
use std::time::Duration;

/// No pause between tries is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Calls, decides and waits until an outcome is to be reported.
pub(crate) async fn drive(
    config: &WorkerConfig,
    channels: &Channels,
    live: &Live,
) -> Result<Outcome, WireError> {
    let mut order = live.order().clone();
    let mut state = State {
        mode: order.model_mode()?,
        undo: Undo::of(&order.action),
        quick: config.quick_tries,
        unknown: config.unknown_tries,
        time: time(&order),
        hint: Hint::None,
    };
    if (state.mode, state.time) == (Mode::Forward, Time::Over) {
        return Ok(Word::Expired.suspended(&order.host));
    }
    let mut pauses = pauses(config);
    loop {
        let answer = match channels.agent(&order.host, &order.address) {
            Ok(agent) => {
                call::apply(agent, order.clone(), config.silence.duration(), |steps| {
                    live.learn(steps);
                })
                .await
            }
            Err(error) => {
                tracing::error!(%error, host = order.host, address = order.address, "no channel to the agent");
                Answer::Refused
            }
        };
        if let Some(phase) = phase(state.mode, &answer) {
            live.in_phase(phase);
        }
        state.time = time(&order);
        state.hint = if live.hint().is_cancelled() {
            Hint::Undo
        } else {
            Hint::None
        };
        match decide(state, answer, &order.host) {
            Next::Report(outcome) => return Ok(outcome),
            Next::TurnToUndo { verdict, cause } => {
                tracing::info!(host = order.host, %verdict, "turning to undo");
                order.mode = job::Mode::Undo.into();
                order.verdict = job::Verdict::from(verdict).into();
                order.cause = cause;
                state.mode = Mode::Undo;
                state.quick = config.quick_tries;
                state.unknown = config.unknown_tries;
                pauses.reset();
            }
            Next::Again(budget) => {
                match budget {
                    Budget::Quick => state.quick = state.quick.saturating_sub(1),
                    Budget::Unknown => state.unknown = state.unknown.saturating_sub(1),
                }
                let pause = pauses.next_backoff().unwrap_or(LONGEST_PAUSE);
                // A hint ends a pause of an order that goes forward: one more call, and the agent says what is so.
                let forward = state.mode == Mode::Forward;
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = live.hint().cancelled(), if forward => {}
                }
            }
        }
    }
}

fn time(order: &Order) -> Time {
    if order.expires_at_ms != 0 && Utc::now().timestamp_millis() >= order.expires_at_ms {
        Time::Over
    } else {
        Time::Left
    }
}

/// Doubling, with jitter; the number of tries is counted by the state.
fn pauses(config: &WorkerConfig) -> ExponentialBackoff {
    ExponentialBackoff {
        initial_interval: config.quick_pause.duration(),
        current_interval: config.quick_pause.duration(),
        multiplier: 2.0,
        randomization_factor: 0.5,
        max_interval: LONGEST_PAUSE,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    }
}
