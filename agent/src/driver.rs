//! What makes actions so on a host: the trait behind which the real driver (QEMU, bridges, files) and the simulated one stand.
//!
//! The apply engine above it owns fences, phases, the ledger and the order of things; a driver owns effects. What a driver guarantees:
//! *ensuring* is idempotent and finds by the ids in the action what an earlier try left, half of it too; *removing* what isn't there
//! succeeds; it survives the agent (objects and claims are on disk, guests belong to no agent process); it takes an object's lock
//! for the time of an operation on it.

use chrono::{DateTime, Utc};
use rhyzome_model::ids::{HostName, JobId, ResourceId};
use rhyzome_model::job::ErrorClass;
use rhyzome_model::step::{Action, ObjectKind};
use serde_json::Value;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use tokio_util::sync::CancellationToken;

/// A boxed future, so that the trait can be an object.
pub type Fut<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why an action isn't so.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct StepError {
    /// What it means for what comes next.
    pub class: ErrorClass,
    /// Stable, `UPPER_SNAKE`; shown to users.
    pub code: String,
    /// A sentence that a user can act on; no paths, no host names.
    pub detail: String,
    /// For the log alone.
    pub inside: Option<String>,
}

/// See [`StepError::not_defined`].
const NOT_DEFINED: &str = "NOT_DEFINED";
/// See [`StepError::disk_missing`].
const DISK_MISSING: &str = "DISK_MISSING";
/// See [`StepError::image_lost`].
const IMAGE_LOST: &str = "IMAGE_LOST";
/// See [`StepError::missing`].
const MISSING: &str = "MISSING";

impl StepError {
    /// An error of a class; `detail` is for users.
    pub fn new(class: ErrorClass, code: &str, detail: impl Into<String>) -> Self {
        Self {
            class,
            code: code.to_owned(),
            detail: detail.into(),
            inside: None,
        }
    }

    /// Of an instance that its host doesn't have.
    pub fn not_defined() -> Self {
        Self::new(
            ErrorClass::Permanent,
            NOT_DEFINED,
            "the instance is not on the host",
        )
    }

    /// Of an instance whose disk its host doesn't have.
    pub fn disk_missing() -> Self {
        Self::new(
            ErrorClass::Permanent,
            DISK_MISSING,
            "the instance's disk is not on the host",
        )
    }

    /// Of an instance whose disk stands on an image that its host lost. Only a repair, or a create, has the step that fetches it again: a
    /// host that can't do it is what it is to all others, and once that was done a retry helps.
    pub fn image_lost() -> Self {
        Self::new(
            ErrorClass::NotHere,
            IMAGE_LOST,
            "the file of the instance's image is no longer on its host; it is fetched again by itself, try again after that",
        )
    }

    /// Of what an instance needs and its host doesn't have.
    pub fn missing(what: &str) -> Self {
        Self::new(
            ErrorClass::Unavailable,
            MISSING,
            format!("The {what} isn't on the host yet."),
        )
    }

    /// Whether it is of an instance that its host lost, or of which it lost what it needs: nothing but a repair makes that whole.
    pub fn is_of_a_loss(&self) -> bool {
        [NOT_DEFINED, DISK_MISSING, IMAGE_LOST, MISSING].contains(&self.code.as_str())
    }

    /// Of an image that a host doesn't get though another has it: its bytes are known to be good, so the fault is this host's, or lies
    /// between it and the source.
    #[must_use]
    pub fn not_here(self) -> Self {
        let class = match self.class {
            ErrorClass::Permanent => ErrorClass::NotHere,
            ErrorClass::Unavailable => ErrorClass::NotHereNow,
            class @ (ErrorClass::Busy
            | ErrorClass::Timeout
            | ErrorClass::NoRoom
            | ErrorClass::NotHere
            | ErrorClass::NotHereNow) => class,
        };
        Self { class, ..self }
    }

    /// With what only operators read.
    #[must_use]
    pub fn inside(mut self, inside: impl std::fmt::Display) -> Self {
        self.inside = Some(inside.to_string());
        self
    }
}

/// What an action found out: `output` as JSON (an `ImageFacts`), `Null` where nothing; `detail` a sentence for users.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effect {
    /// Shown as the step's detail.
    pub detail: String,
    /// See above.
    pub output: Value,
}

/// What observing an action's object showed.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// It is as the action says.
    StillSo,
    /// It isn't, or not wholly.
    NotSo,
}

/// Who asks: for effects that happen once a job (a reboot), for names in logs.
#[derive(Clone, Debug)]
pub struct StepContext {
    /// The host, one of those that the process serves.
    pub host: HostName,
    /// The job.
    pub job: JobId,
    /// The step's position in the plan.
    pub index: u32,
    /// Whether it is the undo of that step.
    pub direction: Direction,
    /// Set when the effect must stop as soon as it safely can: a download, a wait for a guest to end.
    pub cancel: CancellationToken,
}

/// Which of a step's two actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Its do.
    Forward,
    /// Its undo.
    Undo,
}

/// An object as the inventory lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// What it is.
    pub kind: ObjectKind,
    /// The resource that it is for, or the shared object's own id.
    pub id: ResourceId,
    /// `ready`, `running`, `stopped`, `crashed`, `unknown`.
    pub state: String,
    /// Claiming resources, of a shared object.
    pub claims: Vec<ResourceId>,
    /// Of its content.
    pub generation: i64,
    /// What else is known (`namespace`).
    pub facts: BTreeMap<String, String>,
}

/// What a host has.
#[derive(Clone, Debug, PartialEq)]
pub struct Capacity {
    /// Processors.
    pub vcpus: u32,
    /// MiB, less the reserve.
    pub memory_mib: u64,
    /// GiB, less the reserve.
    pub disk_gib: u64,
    /// For placement.
    pub labels: BTreeMap<String, String>,
    /// `qemu` or `simulated`.
    pub driver: String,
    /// `kvm`, `tcg` or `simulated`.
    pub accelerator: String,
    /// `bridge`, `user` or `simulated`.
    pub networking: String,
}

/// How busy a host is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// 1-minute load average.
    pub load1: f64,
    /// MiB.
    pub memory_used_mib: u64,
    /// GiB.
    pub disk_used_gib: u64,
    /// Guests that run.
    pub guests_running: u32,
}

/// A guest's power as seen.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestSeen {
    /// The host.
    pub host: HostName,
    /// The instance.
    pub instance: ResourceId,
    /// As seen.
    pub power: SeenPower,
    /// No later than it was looked at, by the agent's clock: it orders this against the ends of steps.
    pub at: DateTime<Utc>,
    /// A sentence, where there is something to say.
    pub detail: String,
    /// Read-only figures for users: `cpu_seconds`, `memory_rss_mib`, `uptime_seconds`.
    pub metrics: BTreeMap<String, f64>,
}

/// A guest's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeenPower {
    /// Its process runs.
    On,
    /// Ended in order.
    Off,
    /// Ended by itself and wasn't meant to.
    Crashed,
    /// Can't be told.
    Unknown,
}

impl SeenPower {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Crashed => "crashed",
            Self::Unknown => "unknown",
        }
    }
}

/// See the module.
pub trait Driver: Send + Sync + 'static {
    /// Adopts what an earlier process left; called once, before anything else. Never stops a guest.
    fn start(&self) -> Fut<'_, Result<(), StepError>>;

    /// The hosts that this process serves.
    fn hosts(&self) -> Vec<HostName>;

    /// Makes the action so, whatever was there before.
    fn make_so<'a>(
        &'a self,
        context: &'a StepContext,
        action: &'a Action,
    ) -> Fut<'a, Result<Effect, StepError>>;

    /// Looks whether it is so, changing nothing.
    fn observe<'a>(
        &'a self,
        context: &'a StepContext,
        action: &'a Action,
    ) -> Fut<'a, Result<Seen, StepError>>;

    /// All that is held on a host.
    fn inventory<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Vec<Held>, StepError>>;

    /// What a host has.
    fn capacity<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Capacity, StepError>>;

    /// How busy a host is.
    fn load<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Load, StepError>>;

    /// Every guest's power now, of one host.
    fn guests<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Vec<GuestSeen>, StepError>>;

    /// Changes of guests' power as they happen, of all hosts.
    fn watch_guests(&self) -> tokio::sync::broadcast::Receiver<GuestSeen>;

    /// The last `lines` lines of a guest's serial console; what an unknown guest has is nothing (`None`).
    fn console_tail<'a>(
        &'a self,
        host: &'a HostName,
        instance: ResourceId,
        lines: usize,
    ) -> Fut<'a, Result<Option<Vec<u8>>, StepError>>;

    /// The bytes of a guest's console log from an offset on (at most 64 KiB of them), for callers that follow it. `from` is `None` to
    /// learn where the log ends now (no data). A log that became shorter than `from` begins again at 0. `None` for an unknown guest,
    /// and where the driver can't follow (as by default): the caller then has the tail alone.
    fn console_part<'a>(
        &'a self,
        _host: &'a HostName,
        _instance: ResourceId,
        _from: Option<u64>,
    ) -> Fut<'a, Result<Option<ConsolePart>, StepError>> {
        Box::pin(async { Ok(None) })
    }

    /// Called each time a host was told its epoch: from the first time on, the driver may start what should run there (guests
    /// that ended while no agent was there). Before, it starts nothing. Must not block.
    fn epoch_told(&self, _host: &HostName) {}

    /// Stops every guest of every host in order (ACPI, then off) and takes down what the networks are made of; records, disks and claims
    /// stay, so that the next start finds what should run. For `rhyzome down`, in a process of its own after the agent ended. How many
    /// guests it stopped; none by default (a simulated guest is no process).
    fn stop_guests(&self) -> Fut<'_, Result<usize, StepError>> {
        Box::pin(async { Ok(0) })
    }

    /// Guests by power over all hosts, for the metric `rhyzome_guests`: on, off, crashed, unknown.
    fn guest_counts(&self) -> Fut<'_, Result<GuestCounts, StepError>> {
        Box::pin(async {
            let mut counts = GuestCounts::default();
            for host in self.hosts() {
                for guest in self.guests(&host).await? {
                    match guest.power {
                        SeenPower::On => counts.on += 1,
                        SeenPower::Off => counts.off += 1,
                        SeenPower::Crashed => counts.crashed += 1,
                        SeenPower::Unknown => counts.unknown += 1,
                    }
                }
            }
            Ok(counts)
        })
    }
}

/// Part of a console log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsolePart {
    /// The bytes.
    pub data: Vec<u8>,
    /// The offset after them.
    pub next: u64,
}

/// Guests by power.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestCounts {
    /// Their processes run.
    pub on: u64,
    /// Ended in order.
    pub off: u64,
    /// Ended by themselves.
    pub crashed: u64,
    /// Can't be told.
    pub unknown: u64,
}
