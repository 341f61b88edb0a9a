//! What a guest is told by its monitor: to end, to be gone, that its disk grew.

use super::{Live, PRESS_EVERY, Phase, QUITS_WITHIN, qmp_failed};
use crate::driver::StepError;
use crate::objects::process::ProcessId;
use crate::objects::qemu::{self, MONITOR};
use crate::objects::qmp::{Event, Qmp};
use rhyzome_model::job::ErrorClass;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Presses the power button until the guest has ended or the time is up. That QEMU doesn't hear it is no error: then the guest is cut off.
pub(super) async fn press_and_wait(
    live: &Live,
    within: Duration,
    cancel: &CancellationToken,
) -> Result<(), StepError> {
    let until = tokio::time::Instant::now() + within;
    let mut phase = live.phase.clone();
    let press = async {
        loop {
            let next = tokio::time::Instant::now() + PRESS_EVERY;
            if let Err(error) = live.qmp.execute("system_powerdown", Value::Null).await {
                tracing::warn!(pid = live.process.pid, %error, "a guest's power button was pressed in vain");
            }
            tokio::time::sleep_until(next).await;
        }
    };
    let ended = async {
        if phase.wait_for(|p| *p != Phase::Running).await.is_err() {
            // Nobody watches it any more, as this agent ends.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        () = ended => Ok(()),
        () = tokio::time::sleep_until(until) => Ok(()),
        () = cancel.cancelled() => {
            Err(StepError::new(ErrorClass::Busy, "CANCELLED", "waiting for the guest to end was stopped"))
        }
        () = press => Ok(()),
    }
}

/// Tells QEMU to end; that it is gone before it answers is as good, and one that doesn't answer is ended otherwise.
pub(crate) async fn quit(live: &Live) {
    match tokio::time::timeout(QUITS_WITHIN, live.qmp.execute("quit", Value::Null)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%error, "quit"),
        Err(_) => tracing::warn!(
            pid = live.process.pid,
            "a guest's monitor doesn't answer: it can't be told to quit"
        ),
    }
}

/// Connects to the monitor of a process that may only just have been started.
pub(crate) async fn connect(
    folder: &Path,
    process: &ProcessId,
    within: Duration,
) -> Option<(Qmp, mpsc::Receiver<Event>)> {
    let until = tokio::time::Instant::now() + within;
    while process.is_alive() && tokio::time::Instant::now() < until {
        match tokio::time::timeout_at(until, Qmp::connect(folder, MONITOR)).await {
            Ok(Ok((qmp, events))) if qmp.peer == Some(process.pid) => return Some((qmp, events)),
            Ok(Ok((qmp, _))) => {
                tracing::warn!(peer = ?qmp.peer, pid = process.pid, "another process answers on a guest's monitor");
            }
            Ok(Err(error)) => tracing::trace!(%error, "a monitor doesn't answer yet"),
            Err(_) => return None,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    None
}

/// Makes a running guest's root disk larger.
pub(crate) async fn grow_running(live: &Live, size_gib: u32) -> Result<(), StepError> {
    let size = u64::from(size_gib) * crate::objects::disk::GIB;
    let arguments = json!({ "node-name": qemu::ROOT_NODE, "size": size });
    live.qmp
        .execute("block_resize", arguments)
        .await
        .map(drop)
        .map_err(|e| qmp_failed(&e))
}
