//! What happens to guests without a step: ends that nobody asked for, and starts by the restart policy.
//!
//! One task watches each guest that runs. It takes the instance's lock only after the process is gone, so an operation that waits
//! for the end holds the lock meanwhile, and finds in the record whether the end was noted.

use super::aside::aside;
use super::files;
use super::guests::{Guests, Live, Phase, quit};
use super::instance;
use super::pausing::Pausing;
use super::process::ProcessId;
use super::qmp::{Event, Qmp};
use super::run_state::{Ended, LONGEST_PAUSE, RunState};
use crate::driver::StepError;
use rhyzome_model::ids::ResourceId;
use rhyzome_model::step::ObjectKind;
use rhyzome_runtime::part;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};

/// Between tries of what the host's storage or kernel refused, doubled up to [`LONGEST_PAUSE`].
pub(crate) const FIRST_PAUSE: Duration = Duration::from_secs(1);

pub(crate) fn doubled(pause: Duration) -> Duration {
    (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE)
}

/// What there is, as soon as the host's storage tells it: nobody would ask for it again.
pub(crate) async fn until_listed(list: impl Fn() -> Result<Vec<ResourceId>, StepError>) -> Vec<ResourceId> {
    let mut pause = FIRST_PAUSE;
    loop {
        match list() {
            Ok(ids) => return ids,
            Err(error) => {
                tracing::error!(%error, inside = error.inside, "what was on the host could not be listed; again");
            }
        }
        tokio::time::sleep(pause).await;
        pause = doubled(pause);
    }
}

impl Guests {
    /// Holds a guest that runs, and watches it.
    pub(crate) fn hold(
        self: &Arc<Self>,
        id: ResourceId,
        process: ProcessId,
        qmp: Qmp,
        events: mpsc::Receiver<Event>,
        child: Option<Child>,
        phase: Phase,
    ) {
        let (sender, receiver) = watch::channel(phase);
        let live = Arc::new(Live {
            process,
            qmp,
            phase: receiver,
            paused: Mutex::new(None),
        });
        self.held().insert(id, Arc::clone(&live));
        let guests = Arc::clone(self);
        self.tasks.spawn(part::guard("a guest", async move {
            let ending = guests.ending.clone();
            tokio::select! {
                () = ending.cancelled() => {}
                () = guests.watch(id, live, events, child, sender) => {}
            }
        }));
    }

    async fn watch(
        self: &Arc<Self>,
        id: ResourceId,
        live: Arc<Live>,
        mut events: mpsc::Receiver<Event>,
        child: Option<Child>,
        phase: watch::Sender<Phase>,
    ) {
        let mut ended;
        let mut pausing = Pausing::default();
        let begun_ended = *phase.borrow() == Phase::ShutDown;
        if begun_ended {
            ended = Some(Ended::ShutDown);
            quit(&live).await;
        } else {
            // It may have stopped before anybody listened.
            ended = self.end_of_broken(id, &live, &mut pausing, &phase).await;
        }
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = pausing.due(), if ended.is_none() => {
                    self.see_to_pause(id, &live, &mut pausing).await;
                    continue;
                }
            };
            let Some(event) = event else { break };
            match event.name.as_str() {
                "SHUTDOWN" => {
                    ended.get_or_insert(how_it_ended(&event));
                    phase.send_replace(Phase::ShutDown);
                    quit(&live).await;
                }
                "STOP" if ended.is_none() => {
                    ended = self.end_of_broken(id, &live, &mut pausing, &phase).await;
                }
                "RESUME" => pausing.resumed(tokio::time::Instant::now()),
                _ => {}
            }
        }
        let uptime = live.process.age_seconds();
        while !live.process.ended_within(Duration::from_hours(1)).await {}
        let status = match child {
            Some(mut child) => child.wait().await.map(|s| s.to_string()).unwrap_or_default(),
            None => String::new(),
        };
        let ended = ended.unwrap_or_else(|| {
            let detail = if status.is_empty() {
                String::new()
            } else {
                format!(" ({status})")
            };
            Ended::Crashed(format!("the guest's process ended by itself{detail}"))
        });
        phase.send_replace(Phase::Gone);
        // Nobody else would look whether it is to be started again.
        let mut pause = FIRST_PAUSE;
        while let Err(error) = self.note_end(id, &live.process, &ended, uptime).await {
            tracing::error!(instance = %id, %error, inside = error.inside, "a guest's end could not be noted; again");
            tokio::time::sleep(pause).await;
            pause = doubled(pause);
        }
    }

    /// [`Self::after_end`], aside.
    async fn note_end(
        self: &Arc<Self>,
        id: ResourceId,
        process: &ProcessId,
        ended: &Ended,
        uptime: f64,
    ) -> Result<(), StepError> {
        let (guests, process, ended) = (Arc::clone(self), process.clone(), ended.clone());
        let noted = aside(&self.tasks, async move {
            guests.after_end(id, &process, &ended, uptime).await
        });
        noted.await
    }

    /// Looks whether a guest stopped; one that can't go on is told to quit, and this is its end.
    async fn end_of_broken(
        self: &Arc<Self>,
        id: ResourceId,
        live: &Live,
        pausing: &mut Pausing,
        phase: &watch::Sender<Phase>,
    ) -> Option<Ended> {
        let ended = self.note_stop(id, live, pausing).await?;
        phase.send_replace(Phase::ShutDown);
        quit(live).await;
        Some(ended)
    }

    /// Notes an end that nobody asked for, and starts again where the policy says so. Where it fails, nothing is noted.
    async fn after_end(
        self: &Arc<Self>,
        id: ResourceId,
        process: &ProcessId,
        ended: &Ended,
        uptime: f64,
    ) -> Result<(), StepError> {
        let _lock = self.locks.take(ObjectKind::Instance, id).await;
        let mut run = self.run_state(id)?;
        let ours = match &run.process {
            Some(recorded) => recorded == process,
            // An operation found it gone meanwhile, and could not tell how it ended.
            None => matches!(run.ended, Ended::Crashed(_)),
        };
        if !ours {
            return Ok(());
        }
        run.note_end(ended);
        self.go_on_after_end(id, run, uptime).await
    }

    /// Writes that a guest ended which ran for `uptime` seconds, tells it, and starts it again where the policy says so. The instance's
    /// lock is held.
    pub(crate) async fn go_on_after_end(
        self: &Arc<Self>,
        id: ResourceId,
        mut run: RunState,
        uptime: f64,
    ) -> Result<(), StepError> {
        let pause = run.pause_after(uptime);
        self.forget(id, &mut run).await?;
        self.tell(id, &run);
        self.start_later(id, pause);
        if let Err(error) = self.remove_group(id).await {
            // The next start takes it over, and the next end removes it.
            tracing::warn!(instance = %id, %error, inside = error.inside, "an ended guest's control group stays");
        }
        Ok(())
    }

    /// Starts a guest by itself after a pause, if it should run then; tried until it runs, or should run no more. Whoever asked for the
    /// same before tries no more.
    pub(crate) fn start_later(self: &Arc<Self>, id: ResourceId, pause: Duration) {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        self.later().insert(id, turn);
        let guests = Arc::clone(self);
        self.tasks.spawn(part::guard("a later start", async move {
            let ending = guests.ending.clone();
            let work = async {
                let mut pause = pause;
                loop {
                    tokio::time::sleep(pause).await;
                    if guests.later().get(&id) != Some(&turn) {
                        return;
                    }
                    let for_start = Arc::clone(&guests);
                    let tried = aside(
                        &guests.tasks,
                        async move { for_start.try_to_start(id, pause).await },
                    );
                    let Err(longer) = tried.await else { break };
                    pause = longer;
                }
                let mut later = guests.later();
                if later.get(&id) == Some(&turn) {
                    later.remove(&id);
                }
            };
            tokio::select! {
                () = ending.cancelled() => {}
                () = work => {}
            }
        }));
    }

    fn later(&self) -> MutexGuard<'_, HashMap<ResourceId, u64>> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a guest if it should run; where that fails, the pause before another try.
    async fn try_to_start(self: &Arc<Self>, id: ResourceId, last: Duration) -> Result<(), Duration> {
        let Err(error) = self.start_if_wanted(id).await else {
            return Ok(());
        };
        tracing::warn!(instance = %id, %error, inside = error.inside, "a guest that should run could not be started");
        Err(self.after_failed_start(id, last).await)
    }

    async fn start_if_wanted(self: &Arc<Self>, id: ResourceId) -> Result<(), StepError> {
        if !self.told.load(Ordering::Acquire) {
            return Ok(());
        }
        let _lock = self.locks.take(ObjectKind::Instance, id).await;
        let Some(definition) = instance::definition(&self.layout, id)? else {
            return Ok(());
        };
        if self.run_state(id)?.should_start(definition.restart) {
            self.start(id).await?;
        }
        Ok(())
    }

    /// The pause before another try: counted in the record, for later agents too, where that can be written.
    async fn after_failed_start(&self, id: ResourceId, last: Duration) -> Duration {
        let _lock = self.locks.take(ObjectKind::Instance, id).await;
        let counted = || -> Result<Option<Duration>, StepError> {
            // One that is lost stays so: it is found by that.
            let Some(mut run) = self.recorded_run(id)? else {
                return Ok(None);
            };
            let pause = run.pause_after(0.0);
            self.write_run_state(id, &run)?;
            Ok(Some(pause))
        };
        counted().ok().flatten().unwrap_or_else(|| doubled(last))
    }

    /// Starts what should run, now that the host was told its epoch.
    pub(crate) async fn resume(self: &Arc<Self>) {
        let folder = self.layout.instances();
        for id in until_listed(|| files::ids_in(&folder, "")).await {
            self.start_later(id, Duration::ZERO);
        }
    }
}

/// Source: `ShutdownCause` in QEMU's schema. A guest may have taken QEMU over: what its monitor says is compared, and never passed on.
fn how_it_ended(event: &Event) -> Ended {
    let crashed = |why: &str| Ended::Crashed(why.to_owned());
    match event.data["reason"].as_str().unwrap_or_default() {
        "guest-shutdown" => Ended::ShutDown,
        "host-qmp-quit" => Ended::Stopped,
        "guest-panic" => crashed("the guest's kernel panicked"),
        "guest-reset" | "subsystem-reset" => crashed("the guest reset itself, and its process ended"),
        "host-signal" => crashed("the guest's process was ended by a signal from outside"),
        "host-error" => crashed("QEMU met an error on the host, and ended"),
        _ => crashed("the guest ended, and QEMU didn't say why"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_monitor_says_of_an_end_is_not_passed_on() {
        let ended = |reason: serde_json::Value| {
            how_it_ended(&Event {
                name: "SHUTDOWN".to_owned(),
                data: json!({ "guest": true, "reason": reason }),
            })
        };
        assert_eq!(ended(json!("guest-shutdown")), Ended::ShutDown);
        assert_eq!(ended(json!("host-qmp-quit")), Ended::Stopped);
        for strange in [json!("a\u{0}b"), json!("host-ui"), json!(7), json!(null)] {
            let Ended::Crashed(why) = ended(strange) else {
                panic!("it crashed")
            };
            assert_eq!(why, "the guest ended, and QEMU didn't say why");
        }
    }
}
