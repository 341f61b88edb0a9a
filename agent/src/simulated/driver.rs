//! The trait's face of the simulated hosts.

use super::faults::{Fault, Faults, LOOK, Stamp, When};
use super::log::{EffectsError, EffectsLog};
use super::world::{Size, World};
use crate::driver::{
    Capacity, ConsolePart, Direction, Driver, Effect, Fut, GuestCounts, GuestSeen, Held, Load, Seen,
    SeenPower, StepContext, StepError,
};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{HostName, JobId, ResourceId};
use rhyzome_model::job::ErrorClass;
use rhyzome_model::step::{Action, ObjectKind};
use rhyzome_runtime::part;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// Changes of guests that a slow listener may be behind.
const SEEN: usize = 4096;

/// What the simulated hosts are.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Their names.
    pub hosts: Vec<HostName>,
    /// Processors, each.
    pub vcpus: u32,
    /// MiB, each.
    pub memory_mib: u64,
    /// GiB, each.
    pub disk_gib: u64,
    /// Virtual processors offered for each processor.
    pub vcpu_overcommit: f64,
    /// For placement.
    pub labels: BTreeMap<String, String>,
    /// Where effects are kept.
    pub dir: PathBuf,
    /// `faults.toml`; need not be there.
    pub faults: Option<PathBuf>,
}

/// See the module.
#[derive(Debug)]
pub struct SimulatedDriver {
    settings: Settings,
    size: Size,
    /// Read to make an effect, written to compact the log, so that a snapshot is of one instant.
    still: RwLock<()>,
    worlds: HashMap<HostName, Mutex<World>>,
    /// None in memory alone.
    log: Option<Mutex<EffectsLog>>,
    faults: Arc<Faults>,
    seen: broadcast::Sender<GuestSeen>,
    stop: CancellationToken,
}

impl SimulatedDriver {
    /// Hosts with what an earlier process made on them.
    ///
    /// # Errors
    /// The effects can't be read or written.
    pub fn open(settings: Settings) -> Result<Self, EffectsError> {
        let (log, made) = EffectsLog::open(&settings.dir)?;
        Ok(Self::with(settings, Some(log), made, SEEN))
    }

    /// Empty hosts that last as long as the driver: `dir` isn't used.
    pub fn in_memory(settings: Settings) -> Self {
        Self::with(settings, None, HashMap::new(), 16)
    }

    fn with(
        settings: Settings,
        log: Option<EffectsLog>,
        mut made: HashMap<HostName, World>,
        seen: usize,
    ) -> Self {
        let world = |host: &HostName| (host.clone(), Mutex::new(made.remove(host).unwrap_or_default()));
        let worlds = settings.hosts.iter().map(world).collect();
        let size = Size {
            vcpus: (f64::from(settings.vcpus) * settings.vcpu_overcommit).floor() as u64,
            memory_mib: settings.memory_mib,
            disk_gib: settings.disk_gib,
        };
        let folder = log.is_some().then_some(settings.dir.as_path());
        let faults = Arc::new(Faults::of(settings.faults.clone(), folder));
        let stop = CancellationToken::new();
        let (seen, _) = broadcast::channel(seen);
        Self {
            settings,
            size,
            still: RwLock::default(),
            worlds,
            log: log.map(Mutex::new),
            faults,
            seen,
            stop,
        }
    }

    /// Other hosts, in memory, that hold what these hold now.
    #[must_use]
    pub fn copied(&self) -> Self {
        let worlds = self.worlds.iter().map(|(host, world)| {
            let world = world.lock().unwrap_or_else(PoisonError::into_inner);
            (host.clone(), world.clone())
        });
        Self::with(self.settings.clone(), None, worlds.collect(), 16)
    }

    fn world(&self, host: &HostName) -> Result<MutexGuard<'_, World>, StepError> {
        let unknown = || {
            StepError::new(
                ErrorClass::Permanent,
                "UNKNOWN_HOST",
                "This agent doesn't serve that host.",
            )
        };
        Ok(self
            .worlds
            .get(host)
            .ok_or_else(unknown)?
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
    }

    fn effect(&self, host: &HostName, job: JobId, action: &Action) -> Result<Effect, StepError> {
        let still = self.still.read().unwrap_or_else(PoisonError::into_inner);
        let mut world = self.world(host)?;
        if world.is_so(job, action) {
            return Ok(world.found(action));
        }
        world.check(action, self.size)?;
        let grown = match &self.log {
            Some(log) => {
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                log.made(host, job, action).map_err(unwritten)?;
                log.has_grown()
            }
            None => false,
        };
        world.apply(job, action);
        let effect = world.found(action);
        self.tell(host, action, &world);
        drop(world);
        drop(still);
        if grown {
            self.compact()?;
        }
        Ok(effect)
    }

    fn tell(&self, host: &HostName, action: &Action, world: &World) {
        let power = matches!(
            action,
            Action::SetPower(_) | Action::Reboot(_) | Action::RemoveInstance(_)
        );
        if power && self.seen.receiver_count() > 0 {
            let (ObjectKind::Instance, instance) = action.object() else {
                return;
            };
            // Nobody listening any more is no fault.
            let _ = self
                .seen
                .send(guest(host, instance, world.guest(instance), Utc::now()));
        }
    }

    fn compact(&self) -> Result<(), StepError> {
        let Some(log) = &self.log else { return Ok(()) };
        let _still = self.still.write().unwrap_or_else(PoisonError::into_inner);
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if !log.has_grown() {
            return Ok(());
        }
        let lock = |(host, world): (&HostName, &'_ Mutex<World>)| {
            (
                host.clone(),
                world.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            )
        };
        let worlds: Vec<(HostName, World)> = self.worlds.iter().map(lock).collect();
        log.compact(worlds.iter().map(|(host, world)| (host, world)))
            .map_err(unwritten)
    }
}

impl Drop for SimulatedDriver {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn unwritten(error: EffectsError) -> StepError {
    StepError::new(
        ErrorClass::Unavailable,
        "HOST_DISK",
        "The host can't write to its disk.",
    )
    .inside(error)
}

fn guest(host: &HostName, instance: ResourceId, power: SeenPower, at: DateTime<Utc>) -> GuestSeen {
    GuestSeen {
        host: host.clone(),
        instance,
        power,
        at,
        detail: String::new(),
        metrics: BTreeMap::new(),
    }
}

/// The name in `faults.toml`.
fn fault_name(context: &StepContext, action: &Action) -> String {
    // The action of an undo is what takes the step back, so its name says what it does, not which step it undoes.
    match context.direction {
        Direction::Forward => action.name().to_owned(),
        Direction::Undo => format!("undo_{}", undone_by(action)),
    }
}

/// The step that an undo's action takes back: for a removal what it removes, for an update the step itself.
fn undone_by(action: &Action) -> &'static str {
    match action {
        Action::DropNetwork(_) => "ensure_network",
        Action::DropImage(_) => "ensure_image",
        Action::RemoveDisk(_) => "ensure_disk",
        Action::RemoveInstance(_) => "ensure_instance",
        Action::EnsureNetwork(_)
        | Action::EnsureImage(_)
        | Action::EnsureDisk(_)
        | Action::EnsureInstance(_)
        | Action::SetPower(_)
        | Action::Reboot(_) => action.name(),
    }
}

async fn wait(delay: Duration, cancel: &CancellationToken) -> Result<(), StepError> {
    if delay.is_zero() {
        return Ok(());
    }
    tokio::select! {
        () = tokio::time::sleep(delay) => Ok(()),
        () = cancel.cancelled() => {
            Err(StepError::new(ErrorClass::Unavailable, "STOPPED", "The step was stopped before its effect."))
        }
    }
}

/// The side of an effect on which a fault strikes.
fn strike(fault: Fault, side: When, step: &str, host: &HostName) -> Result<(), StepError> {
    if fault.when != side {
        return Ok(());
    }
    if fault.crash {
        tracing::error!(step, %host, "a fault says that the agent crashes now");
        std::process::abort();
    }
    fault.error.map_or(Ok(()), |error| Err(error.at(step)))
}

impl Driver for SimulatedDriver {
    fn start(&self) -> Fut<'_, Result<(), StepError>> {
        let (faults, stop) = (self.faults.clone(), self.stop.clone());
        part::spawn("faults", async move {
            let mut stamp = Stamp::default();
            while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
                stamp = faults.look(&stamp);
            }
        });
        Box::pin(async { Ok(()) })
    }

    fn hosts(&self) -> Vec<HostName> {
        self.settings.hosts.clone()
    }

    fn make_so<'a>(
        &'a self,
        context: &'a StepContext,
        action: &'a Action,
    ) -> Fut<'a, Result<Effect, StepError>> {
        Box::pin(async move {
            match self.with_faults(context, action).await {
                Err(error) if self.world(&context.host)?.is_elsewhere(action) => Err(error.not_here()),
                done => done,
            }
        })
    }

    fn observe<'a>(
        &'a self,
        context: &'a StepContext,
        action: &'a Action,
    ) -> Fut<'a, Result<Seen, StepError>> {
        Box::pin(async move {
            let so = self.world(&context.host)?.is_so(context.job, action);
            Ok(if so { Seen::StillSo } else { Seen::NotSo })
        })
    }

    fn inventory<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Vec<Held>, StepError>> {
        Box::pin(async move {
            self.disturb("inventory", host).await?;
            Ok(self.world(host)?.held())
        })
    }

    fn capacity<'a>(&'a self, _host: &'a HostName) -> Fut<'a, Result<Capacity, StepError>> {
        Box::pin(async move {
            Ok(Capacity {
                vcpus: self.settings.vcpus,
                memory_mib: self.settings.memory_mib,
                disk_gib: self.settings.disk_gib,
                labels: self.settings.labels.clone(),
                driver: "simulated".into(),
                accelerator: "simulated".into(),
                networking: "simulated".into(),
            })
        })
    }

    fn load<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Load, StepError>> {
        Box::pin(async move {
            self.disturb("heartbeat", host).await?;
            Ok(self.world(host)?.load())
        })
    }

    fn guests<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Vec<GuestSeen>, StepError>> {
        Box::pin(async move {
            let at = Utc::now();
            let world = self.world(host)?;
            Ok(world
                .guests()
                .map(|(instance, power)| guest(host, instance, power, at))
                .collect())
        })
    }

    fn watch_guests(&self) -> broadcast::Receiver<GuestSeen> {
        self.seen.subscribe()
    }

    fn console_tail<'a>(
        &'a self,
        host: &'a HostName,
        instance: ResourceId,
        lines: usize,
    ) -> Fut<'a, Result<Option<Vec<u8>>, StepError>> {
        Box::pin(async move {
            let world = self.world(host)?;
            Ok(world.name(instance).map(|name| {
                let text = format!("simulated guest\nrhyzome-guest: name={name}\n");
                let all: Vec<&str> = text.split_inclusive('\n').collect();
                all[all.len().saturating_sub(lines)..].concat().into_bytes()
            }))
        })
    }

    fn console_part<'a>(
        &'a self,
        host: &'a HostName,
        instance: ResourceId,
        from: Option<u64>,
    ) -> Fut<'a, Result<Option<ConsolePart>, StepError>> {
        Box::pin(async move {
            let there = self.world(host)?.name(instance).is_some();
            Ok(there.then(|| ConsolePart {
                data: Vec::new(),
                next: from.unwrap_or_default(),
            }))
        })
    }

    fn guest_counts(&self) -> Fut<'_, Result<GuestCounts, StepError>> {
        Box::pin(async {
            let mut counts = GuestCounts::default();
            for world in self.worlds.values() {
                let (on, all) = world.lock().unwrap_or_else(PoisonError::into_inner).counts();
                counts.on += on;
                counts.off += all - on;
            }
            Ok(counts)
        })
    }
}

impl SimulatedDriver {
    async fn with_faults(&self, context: &StepContext, action: &Action) -> Result<Effect, StepError> {
        if !self.faults.any() {
            return self.effect(&context.host, context.job, action);
        }
        let step = fault_name(context, action);
        let Some(fault) = self.faults.pick(&step, &context.host) else {
            return self.effect(&context.host, context.job, action);
        };
        wait(fault.delay, &context.cancel).await?;
        strike(fault, When::Before, &step, &context.host)?;
        let effect = self.effect(&context.host, context.job, action)?;
        strike(fault, When::After, &step, &context.host)?;
        Ok(effect)
    }

    async fn disturb(&self, what: &str, host: &HostName) -> Result<(), StepError> {
        if let Some(fault) = self.faults.pick(what, host) {
            wait(fault.delay, &CancellationToken::new()).await?;
            strike(fault, When::Before, what, host)?;
            strike(fault, When::After, what, host)?;
        }
        Ok(())
    }
}
