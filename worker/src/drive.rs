//! One order: the agent is called until there is something to report. It may be dropped at any point: the work belongs to no call.

use crate::call;
use crate::channels::Channels;
use crate::config::WorkerConfig;
use crate::course::{Course, Turn};
use crate::decide::{Answer, Hint, phase};
use crate::report::Live;
use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;
use chrono::Utc;
use rhyzome_model::job::Mode;
use rhyzome_proto::convert::WireError;
use rhyzome_proto::event::Outcome;
use std::time::Duration;

/// No pause between tries is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Calls, decides and waits until an outcome is to be reported.
pub(crate) async fn drive(
    config: &WorkerConfig,
    channels: &Channels,
    live: &Live,
) -> Result<Outcome, WireError> {
    let mut course = Course::new(live.order().clone(), config, now_ms())?;
    if let Some(outcome) = course.over() {
        return Ok(outcome);
    }
    let mut pauses = pauses(config);
    loop {
        let order = course.order();
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
        if let Some(phase) = phase(course.mode(), &answer) {
            live.in_phase(phase);
        }
        let hint = if live.hint().is_cancelled() {
            Hint::Undo
        } else {
            Hint::None
        };
        match course.after(answer, now_ms(), hint) {
            Turn::Report(outcome) => return Ok(outcome),
            Turn::ToUndo(verdict) => {
                tracing::info!(host = course.order().host, %verdict, "turning to undo");
                pauses.reset();
            }
            Turn::Pause => {
                let pause = pauses.next_backoff().unwrap_or(LONGEST_PAUSE);
                // A hint ends a pause of an order that goes forward: one more call, and the agent says what is so.
                let forward = course.mode() == Mode::Forward;
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = live.hint().cancelled(), if forward => {}
                }
            }
        }
    }
}

fn now_ms() -> i64 {
    Utc::now().timestamp_millis()
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
