//! Guests' processes: starting, stopping, adopting and watching them.
//!
//! A guest's process is in the record before the guest runs its first instruction, and is found by its monitor's socket even if it
//! isn't; it belongs to no agent. One task watches each guest that runs and, when it ends, does what its restart policy says.
//! Before the host was told its epoch nothing is started.

mod monitor;
mod seen;

use monitor::press_and_wait;
pub(crate) use monitor::{connect, grow_running, quit};

use super::accel::{Accelerator, DEVICE};
use super::adopting::runs_in;
use super::cgroup::{Hierarchy, Limits};
use super::disk::Disks;
use super::files::{self, Layout, storage};
use super::instance::{self, tap_name};
use super::locks::Locks;
use super::logs;
use super::names::short_hash;
use super::network::{Networking, Networks};
use super::process::ProcessId;
use super::qemu::{self, Card, MONITOR};
use super::qmp::{Qmp, QmpError};
use super::run_state::{Ended, RunState};
use super::spawn::{self, Streams, Surroundings, WhenDropped};
use super::users::Users;
use crate::driver::{GuestSeen, StepError};
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_model::job::ErrorClass;
use rhyzome_model::kinds::Power;
use rhyzome_model::step::EnsureInstance;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// For a process that a step is about to answer on its monitor.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
/// For a process that was told to quit.
pub(crate) const QUITS_WITHIN: Duration = Duration::from_secs(5);
/// Between two presses of the power button: a guest that is still booting doesn't hear the first.
const PRESS_EVERY: Duration = Duration::from_secs(5);
/// Where control groups are mounted.
pub(crate) const CGROUPS: &str = "/sys/fs/cgroup";

/// Where a guest is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// The guest has ended, its process not yet.
    ShutDown,
    Gone,
}

/// A guest that runs, as this agent holds it.
pub(crate) struct Live {
    pub(crate) process: ProcessId,
    pub(crate) qmp: Qmp,
    pub(crate) phase: watch::Receiver<Phase>,
    /// Why it is paused, if it is.
    pub(crate) paused: Mutex<Option<&'static str>>,
}

/// Whether a guest is asked to end or made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The power button first, for so long.
    InOrder(Duration),
    /// At once.
    Hard,
}

/// What guests of this host have in common.
pub(crate) struct Guests {
    pub(crate) host: HostName,
    pub(crate) owner: String,
    pub(crate) layout: Layout,
    pub(crate) networks: Arc<Networks>,
    pub(crate) disks: Arc<Disks>,
    pub(crate) locks: Arc<Locks>,
    pub(crate) networking: Networking,
    pub(crate) accelerator: Accelerator,
    pub(crate) hierarchy: Hierarchy,
    pub(crate) users: Users,
    pub(crate) seen: broadcast::Sender<GuestSeen>,
    pub(crate) tasks: TaskTracker,
    /// Set when this agent ends; guests go on.
    pub(crate) ending: CancellationToken,
    pub(crate) told: AtomicBool,
    pub(crate) live: Mutex<HashMap<ResourceId, Arc<Live>>>,
    /// Who starts a guest by itself later: the newest that was asked for, by its number.
    pub(crate) later: Mutex<HashMap<ResourceId, u64>>,
    /// The numbers of these.
    pub(crate) turns: AtomicU64,
    /// Which guests run and could not be adopted yet.
    pub(crate) unheard: Mutex<HashSet<ResourceId>>,
}

pub(crate) fn qmp_failed(error: &QmpError) -> StepError {
    StepError::new(
        ErrorClass::Unavailable,
        "MONITOR_FAILED",
        "the guest's monitor on the host didn't answer as it should",
    )
    .inside(error)
}

impl Guests {
    /// The folder that QEMU runs in.
    pub(crate) fn run_folder(&self, id: ResourceId) -> PathBuf {
        self.layout.instance(id).join("run")
    }

    /// Of its control group.
    fn group(&self, id: ResourceId) -> String {
        format!("rhyzome-{}", short_hash(&self.owner, id))
    }

    /// As recorded; none where that was lost.
    pub(crate) fn recorded_run(&self, id: ResourceId) -> Result<Option<RunState>, StepError> {
        files::read_or_lost(&instance::run_record(&self.layout, id))
    }

    pub(crate) fn run_state(&self, id: ResourceId) -> Result<RunState, StepError> {
        Ok(self.recorded_run(id)?.unwrap_or_default())
    }

    pub(crate) fn write_run_state(&self, id: ResourceId, run: &RunState) -> Result<(), StepError> {
        files::write_record(&instance::run_record(&self.layout, id), run)
    }

    pub(crate) fn held(&self) -> std::sync::MutexGuard<'_, HashMap<ResourceId, Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn live(&self, id: ResourceId) -> Option<Arc<Live>> {
        self.held().get(&id).cloned()
    }

    /// Makes a guest run; `Ok(false)` where it ran already. The instance's lock is held.
    pub(crate) async fn start(self: &Arc<Self>, id: ResourceId) -> Result<bool, StepError> {
        let Some(definition) = instance::definition(&self.layout, id)? else {
            return Err(StepError::not_defined());
        };
        let mut run = self.run_state(id)?;
        run.wanted = Power::On;
        self.write_run_state(id, &run)?;
        self.settle(id, &mut run, ANSWERS_WITHIN).await?;
        // Two of one guest never run.
        self.end_strays(id, run.alive()).await?;
        if run.alive().is_some() {
            if let Some(live) = self.live(id).filter(|l| l.paused().is_some())
                && let Err(error) = live.go_on().await
            {
                tracing::warn!(instance = %id, %error, inside = error.inside, "a paused guest could not be told to go on");
            }
            return Ok(false);
        }
        match self.launch(id, &definition, &mut run).await {
            Ok(()) => {
                self.tell(id, &run);
                Ok(true)
            }
            Err(error) => {
                self.clear(id, &mut run).await?;
                Err(error)
            }
        }
    }

    /// Brings the record to what is: finds a process that isn't in it, waits for one that is about to end. A monitor that isn't connected
    /// to answers `within` this time, or is asked again later.
    pub(crate) async fn settle(
        self: &Arc<Self>,
        id: ResourceId,
        run: &mut RunState,
        within: Duration,
    ) -> Result<(), StepError> {
        if let Some(live) = self.live(id) {
            let mut phase = live.phase.clone();
            let gone = phase.wait_for(|p| *p == Phase::Gone);
            if *live.phase.borrow() != Phase::Running
                && tokio::time::timeout(QUITS_WITHIN, gone).await.is_err()
            {
                live.process
                    .end(QUITS_WITHIN)
                    .await
                    .map_err(|e| storage("ending a guest", &self.run_folder(id), &e))?;
            }
        }
        if run.process.is_some() && run.alive().is_none() {
            run.note_lost_process();
            self.held().remove(&id);
            self.write_run_state(id, run)?;
        }
        match self.live(id) {
            // Its record was lost.
            Some(live) if run.process.is_none() && runs_in(&live.process, &self.run_folder(id)) => {
                run.process = Some(live.process.clone());
                self.write_run_state(id, run)
            }
            Some(_) => Ok(()),
            None => self.adopt(id, run, within).await,
        }
    }

    async fn launch(
        self: &Arc<Self>,
        id: ResourceId,
        definition: &EnsureInstance,
        run: &mut RunState,
    ) -> Result<(), StepError> {
        let file = self.layout.disk(id);
        let disk = self.disks.bootable(id)?;
        let identity = self.users.of(id)?;
        let folder = self.run_folder(id);
        // What the definition says can be made again, and whoever put files back need not know whose they are.
        instance::ensure_seed(&self.layout, definition, identity)?;
        instance::ensure_console_log(&self.layout, id, identity)?;
        files::give(&file, identity)?;
        files::give(&folder, identity)?;
        for socket in [MONITOR, qemu::CONSOLE] {
            files::remove_file(&folder.join(socket))?;
        }
        self.make_taps(definition).await?;
        let group = self.group(id);
        let limits = Limits {
            vcpus: definition.vcpus,
            memory_mib: definition.memory_mib,
        };
        self.hierarchy
            .make(&group, limits)
            .map_err(|e| storage("limiting a guest", Path::new(CGROUPS), &e))?;
        let cards = definition
            .interfaces
            .iter()
            .enumerate()
            .map(|(i, nic)| match self.networking {
                Networking::Bridge => Card::Tap {
                    nic,
                    tap: tap_name(&self.owner, id, i),
                },
                Networking::User => Card::User {
                    nic,
                    name: &definition.name,
                },
            });
        let guest = qemu::Guest {
            definition,
            image_sha256: &disk.image_sha256,
            image_format: disk.image_format,
            cards: cards.collect(),
            accelerator: self.accelerator,
        };
        let mut args = vec![spawn::find_tool(qemu::PROGRAM)?.display().to_string()];
        args.extend(qemu::args(&guest));
        let around = Surroundings {
            netns: self.home(definition).map(|n| n.file()),
            identity,
            folder: Some(folder.clone()),
            devices: vec![PathBuf::from("/dev/net/tun"), PathBuf::from(DEVICE)],
            ..Surroundings::default()
        };
        let log_path = qemu::log(&self.layout.instance(id));
        let log = logs::begin(&log_path)?;
        // `setsid` execs in place: the pid is QEMU's, and no terminal's hang-up reaches it.
        let child = spawn::start(
            "setsid",
            &args,
            around,
            Streams::errors_to(log),
            WhenDropped::GoesOn,
        )
        .await?;
        let failed = |why: &str| {
            let said = std::fs::read_to_string(&log_path).unwrap_or_default();
            StepError::new(
                ErrorClass::Unavailable,
                "GUEST_NOT_STARTED",
                "QEMU couldn't start the guest on the host",
            )
            .inside(format_args!("{why}: {}", said.trim()))
        };
        let process = ProcessId::of_child(&child).map_err(|e| failed(&e.to_string()))?;
        run.process = Some(process.clone());
        run.pressed = false;
        self.write_run_state(id, run)?;
        self.hierarchy
            .enter(&group, process.pid)
            .map_err(|e| storage("limiting a guest", Path::new(CGROUPS), &e))?;
        let (qmp, events) = connect(&folder, &process, ANSWERS_WITHIN)
            .await
            .ok_or_else(|| failed("no monitor"))?;
        self.attach_taps(definition).await?;
        qmp.execute("cont", Value::Null)
            .await
            .map_err(|e| failed(&e.to_string()))?;
        self.hold(id, process, qmp, events, Some(child), Phase::Running);
        Ok(())
    }

    /// Takes what a process that has ended leaves: its record, its group.
    pub(crate) async fn clear(&self, id: ResourceId, run: &mut RunState) -> Result<(), StepError> {
        self.forget(id, run).await?;
        self.remove_group(id).await
    }

    /// Takes a process out of the record, once it has ended.
    pub(crate) async fn forget(&self, id: ResourceId, run: &mut RunState) -> Result<(), StepError> {
        if let Some(process) = run.process.take() {
            process
                .end(QUITS_WITHIN)
                .await
                .map_err(|e| storage("ending a guest", &self.run_folder(id), &e))?;
        }
        self.held().remove(&id);
        self.write_run_state(id, run)
    }

    pub(crate) async fn remove_group(&self, id: ResourceId) -> Result<(), StepError> {
        let mut tries = 0;
        loop {
            match self.hierarchy.remove(&self.group(id)) {
                Ok(()) => return Ok(()),
                // The kernel lets go of an ended process's group a moment after the process.
                Err(error) if tries >= 100 => {
                    return Err(storage("removing a control group", Path::new(CGROUPS), &error));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
            tries += 1;
        }
    }

    /// Makes a guest not run. The instance's lock is held. What is wanted isn't changed here.
    pub(crate) async fn stop(
        self: &Arc<Self>,
        id: ResourceId,
        how: Stop,
        cancel: &CancellationToken,
    ) -> Result<(), StepError> {
        let mut run = self.run_state(id)?;
        self.settle(id, &mut run, ANSWERS_WITHIN).await?;
        if run.alive().is_some() {
            if let Some(live) = self.live(id) {
                if let Stop::InOrder(within) = how {
                    run.pressed = true;
                    self.write_run_state(id, &run)?;
                    press_and_wait(&live, within, cancel).await?;
                }
                if *live.phase.borrow() == Phase::Running {
                    quit(&live).await;
                }
                live.process.ended_within(QUITS_WITHIN).await;
            }
            run.ended = Ended::Stopped;
        } else if matches!(run.ended, Ended::Crashed(_) | Ended::WithTheMachine) {
            run.ended = Ended::Stopped;
        }
        self.end_strays(id, run.alive()).await?;
        self.clear(id, &mut run).await?;
        self.tell(id, &run);
        Ok(())
    }

    /// The same for one that has no definition any more, and so no record: whatever runs of it is ended, and its taps go.
    pub(crate) async fn end_all(&self, id: ResourceId) -> Result<(), StepError> {
        self.end_strays(id, None).await?;
        self.held().remove(&id);
        self.remove_any_taps(id).await?;
        self.remove_group(id).await
    }
}
