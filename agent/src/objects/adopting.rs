//! Guests that an earlier agent started: found by their monitors, held and watched again.
//!
//! One whose monitor doesn't answer goes on, and is asked again by itself for as long as it runs and nobody holds it.

use super::aside::aside;
use super::files::{self, storage};
use super::guests::{Guests, Phase, QUITS_WITHIN, connect};
use super::process::ProcessId;
use super::qemu::MONITOR;
use super::qmp::{Event, Qmp};
use super::run_state::RunState;
use super::watching::{FIRST_PAUSE, doubled};
use crate::driver::StepError;
use futures::StreamExt;
use rhyzome_model::ids::ResourceId;
use rhyzome_model::step::ObjectKind;
use rhyzome_runtime::part;
use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// For the monitor of a guest that nobody waits for.
const HEARD_WITHIN: Duration = Duration::from_secs(5);
/// Guests that are adopted at a time.
const AT_ONCE: usize = 32;

/// What became of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adopted {
    Held,
    /// Nothing runs.
    Nobody,
    /// Something runs, and doesn't answer.
    NotHeard,
}

impl Guests {
    fn unheard(&self) -> MutexGuard<'_, HashSet<ResourceId>> {
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adopts a process that an earlier agent started, in the record or not; later, if it can't be now. The instance's lock is held.
    pub(crate) async fn adopt(
        self: &Arc<Self>,
        id: ResourceId,
        run: &mut RunState,
        within: Duration,
    ) -> Result<(), StepError> {
        let done = self.try_to_adopt(id, run, within).await;
        if matches!(done, Ok(Adopted::NotHeard) | Err(_)) {
            self.adopt_later(id);
        }
        done.map(drop)
    }

    /// Asks a guest's monitor again until it answers or nothing runs.
    fn adopt_later(self: &Arc<Self>, id: ResourceId) {
        if !self.unheard().insert(id) {
            return;
        }
        tracing::warn!(instance = %id, "a running guest could not be adopted: nothing is seen of it until it can; again");
        let guests = Arc::clone(self);
        self.tasks.spawn(part::guard("a later adoption", async move {
            let ending = guests.ending.clone();
            let work = async {
                let mut pause = FIRST_PAUSE;
                loop {
                    tokio::time::sleep(pause).await;
                    let for_try = Arc::clone(&guests);
                    let tried = aside(&guests.tasks, async move { for_try.adopt_again(id).await });
                    match tried.await {
                        Ok(true) => return,
                        Ok(false) => tracing::debug!(instance = %id, "a guest's monitor still doesn't answer"),
                        Err(error) => {
                            tracing::warn!(instance = %id, %error, inside = error.inside, "a guest could not be adopted; again");
                        }
                    }
                    pause = doubled(pause);
                }
            };
            tokio::select! {
                () = ending.cancelled() => {}
                () = work => {}
            }
        }));
    }

    /// One more try; whether it was the last.
    async fn adopt_again(self: &Arc<Self>, id: ResourceId) -> Result<bool, StepError> {
        let _lock = self.locks.take(ObjectKind::Instance, id).await;
        let mut run = self.run_state(id)?;
        let ended = run.process.as_ref().filter(|p| !p.is_alive());
        let last = if self.live(id).is_some() {
            true
        } else if let Some(uptime) = ended.map(ProcessId::age_seconds) {
            run.note_lost_process();
            self.go_on_after_end(id, run, uptime).await?;
            true
        } else {
            self.try_to_adopt(id, &mut run, HEARD_WITHIN).await? != Adopted::NotHeard
        };
        if last {
            self.unheard().remove(&id);
        }
        Ok(last)
    }

    async fn try_to_adopt(
        self: &Arc<Self>,
        id: ResourceId,
        run: &mut RunState,
        within: Duration,
    ) -> Result<Adopted, StepError> {
        let folder = self.run_folder(id);
        let (found, runs) = match &run.process {
            Some(process) => {
                let found = connect(&folder, process, within).await;
                (found, process.is_alive())
            }
            None if folder.join(MONITOR).exists() => {
                let found = whoever_answers(&folder, within).await;
                let runs = found.is_none() && self.runs_anywhere(id)?;
                (found, runs)
            }
            None => (None, false),
        };
        let Some((qmp, events)) = found else {
            return Ok(if runs { Adopted::NotHeard } else { Adopted::Nobody });
        };
        let peer = qmp.peer.map(ProcessId::of).transpose();
        let peer = peer.map_err(|e| storage("telling whose monitor it is", &folder, &e))?;
        let process = peer.flatten().filter(|p| runs_in(p, &folder));
        let Some(process) = process else {
            return Ok(Adopted::Nobody);
        };
        let status = match qmp.status().await {
            Ok(status) => status,
            Err(error) => {
                tracing::debug!(instance = %id, %error, "a guest's state can't be asked for");
                return Ok(Adopted::NotHeard);
            }
        };
        let phase = match status.as_str() {
            // Never told to go on: what was to be done before may not be done.
            "prelaunch" | "inmigrate" => {
                tracing::info!(instance = %id, "a guest that was half started is ended");
                process
                    .end(QUITS_WITHIN)
                    .await
                    .map_err(|e| storage("ending a guest", &folder, &e))?;
                run.process = None;
                self.write_run_state(id, run)?;
                return Ok(Adopted::Nobody);
            }
            "shutdown" | "guest-panicked" => Phase::ShutDown,
            _ => Phase::Running,
        };
        tracing::info!(instance = %id, pid = process.pid, status, "a running guest is adopted");
        run.process = Some(process.clone());
        self.write_run_state(id, run)?;
        self.hold(id, process, qmp, events, None, phase);
        Ok(Adopted::Held)
    }

    /// Adopts what runs and notes what doesn't; starts nothing.
    pub(crate) async fn adopt_all(self: &Arc<Self>) -> Result<(), StepError> {
        let ids = files::ids_in(&self.layout.instances(), "")?;
        futures::stream::iter(ids)
            .for_each_concurrent(AT_ONCE, |id| async move {
                let _lock = self.locks.take(ObjectKind::Instance, id).await;
                let settled = async {
                    let mut run = self.run_state(id)?;
                    self.settle(id, &mut run, HEARD_WITHIN).await
                };
                if let Err(error) = settled.await {
                    tracing::warn!(instance = %id, %error, inside = error.inside, "a guest could not be adopted");
                    self.adopt_later(id);
                }
            })
            .await;
        Ok(())
    }
}

async fn whoever_answers(folder: &Path, within: Duration) -> Option<(Qmp, mpsc::Receiver<Event>)> {
    match tokio::time::timeout(within, Qmp::connect(folder, MONITOR)).await {
        Ok(answered) => answered.ok(),
        Err(_) => None,
    }
}

/// Whether a process is a QEMU in this folder of ours: a guest could point its socket to another's.
pub(crate) fn runs_in(process: &ProcessId, folder: &Path) -> bool {
    let here = std::fs::read_link(process.proc("cwd"));
    here.is_ok_and(|here| folder.canonicalize().is_ok_and(|folder| here == folder))
}
