//! The driver of a real host: it hands each action to the object that it is about, under that object's lock.
//!
//! One for a state folder, which it locks. Dropped or ended, it leaves guests, networks and files as they are; the next one on the
//! same folder adopts them.

mod driver;
mod start;

use start::{identity, lock_folder, look};

use super::accel;
use super::address::AllowList;
use super::capacity;
use super::cgroup::Hierarchy;
use super::disk::Disks;
use super::fetch::FetchRules;
use super::files::{self, Layout};
use super::guests::{self, CGROUPS, Guests};
use super::image::Images;
use super::instance::{Instances, StopOutcome};
use super::locks::Locks;
use super::netns;
use super::network::{Networking, Networks};
use super::settings::{Choice, RealConfig};
use super::spawn;
use super::users::Users;
use crate::driver::{Capacity, Effect, GuestSeen, Held, Load, Seen, SeenPower, StepContext, StepError};
use nix::fcntl::Flock;
use rhyzome_model::ids::ResourceId;
use rhyzome_model::job::ErrorClass;
use rhyzome_model::step::{Action, EnsureDisk, ObjectKind};
use rhyzome_runtime::part;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;
use tokio::sync::{OnceCell, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Between looks at what nobody tells us of: consoles that grow, dnsmasqs that ended.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Changes of guests kept for a slow listener.
const CHANGES: usize = 1024;

/// What is known after the start.
struct Parts {
    networks: Arc<Networks>,
    images: Images,
    disks: Arc<Disks>,
    guests: Arc<Guests>,
    instances: Instances,
}

/// See the module.
pub struct RealDriver {
    config: RealConfig,
    allow: AllowList,
    layout: Layout,
    owner: String,
    locks: Arc<Locks>,
    seen: broadcast::Sender<GuestSeen>,
    tasks: TaskTracker,
    ending: CancellationToken,
    told: AtomicBool,
    parts: OnceCell<Arc<Parts>>,
    _alone: Flock<File>,
}

impl Drop for RealDriver {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}

impl RealDriver {
    /// Opens the state folder. An error where another agent has it open, or the configuration can't be.
    pub fn open(config: RealConfig) -> Result<Self, StepError> {
        // reqwest finds the process's provider of cryptography; whoever installed one first did the same.
        if rustls::crypto::ring::default_provider()
            .install_default()
            .is_err()
        {
            tracing::trace!("a provider of cryptography is installed already");
        }
        let allow = AllowList::new(&config.image_allow)?;
        let layout = Layout::open(config.state_dir.join("objects"))?;
        let alone = lock_folder(&layout)?;
        let owner = identity(&layout, &config.host)?;
        Ok(Self {
            config,
            allow,
            layout,
            owner,
            locks: Arc::default(),
            seen: broadcast::channel(CHANGES).0,
            tasks: TaskTracker::new(),
            ending: CancellationToken::new(),
            told: AtomicBool::new(false),
            parts: OnceCell::new(),
            _alone: alone,
        })
    }

    /// Ends what this agent does by itself and waits for it; guests go on.
    pub async fn end(self) {
        self.ending.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn parts(&self) -> Result<&Arc<Parts>, StepError> {
        self.parts.get().ok_or_else(|| {
            StepError::new(
                ErrorClass::Unavailable,
                "NOT_STARTED",
                "the host's agent is still starting",
            )
        })
    }

    async fn begin(&self) -> Result<(), StepError> {
        self.parts.get_or_try_init(|| self.make_parts()).await.map(drop)
    }

    async fn make_parts(&self) -> Result<Arc<Parts>, StepError> {
        for tool in ["qemu-system-x86_64", "qemu-img", "prlimit", "setsid"] {
            spawn::find_tool(tool)?;
        }
        let users = Users::open(self.layout.clone(), &self.owner)?;
        let networking = self.networking().await;
        let accelerator = match self.config.accelerator {
            Choice::Fixed(accelerator) => accelerator,
            Choice::Probe => accel::probe(self.layout.root(), users.of_nobody()).await?,
        };
        let try_name = format!("rhyzome-try-{}", std::process::id());
        let hierarchy = Hierarchy::probe(Path::new(CGROUPS), &try_name);
        let rules = FetchRules {
            image_dir: self.config.image_dir.clone(),
            allow: self.allow.clone(),
            max_bytes: self.config.image_max_bytes,
            disk_reserve: self.config.disk_reserve_gib * super::disk::GIB,
            within: self.config.image_timeout,
        };
        let images = Images::new(self.layout.clone(), rules, users.of_nobody());
        images.start()?;
        let networks = Arc::new(Networks::new(self.layout.clone(), self.owner.clone(), networking));
        let disks = Arc::new(Disks::new(self.layout.clone()));
        let guests = Arc::new(Guests {
            host: self.config.host.clone(),
            owner: self.owner.clone(),
            layout: self.layout.clone(),
            networks: Arc::clone(&networks),
            disks: Arc::clone(&disks),
            locks: Arc::clone(&self.locks),
            networking,
            accelerator,
            hierarchy,
            users,
            seen: self.seen.clone(),
            tasks: self.tasks.clone(),
            ending: self.ending.clone(),
            told: AtomicBool::new(false),
            live: std::sync::Mutex::default(),
            later: std::sync::Mutex::default(),
            turns: AtomicU64::new(0),
            unheard: std::sync::Mutex::default(),
        });
        guests.adopt_all().await?;
        let instances = Instances::new(Arc::clone(&guests));
        let parts = Arc::new(Parts {
            networks,
            images,
            disks,
            guests,
            instances,
        });
        self.look_after(Arc::clone(&parts));
        Ok(parts)
    }

    async fn networking(&self) -> Networking {
        match self.config.networking {
            Choice::Fixed(networking) => networking,
            Choice::Probe if !nix::unistd::geteuid().is_root() => Networking::User,
            Choice::Probe => match spawn::find_tool("dnsmasq")
                .map(drop)
                .and(netns::can_make_networks().await)
            {
                Ok(()) => Networking::Bridge,
                Err(error) => {
                    tracing::warn!(%error, inside = error.inside, "no bridges on this host: guests use QEMU's user network");
                    Networking::User
                }
            },
        }
    }

    /// Looks now and then at what nobody tells us of.
    fn look_after(&self, parts: Arc<Parts>) {
        let (locks, ending, layout) = (Arc::clone(&self.locks), self.ending.clone(), self.layout.clone());
        self.tasks.spawn(part::guard("what runs", async move {
            let mut turn = 0_usize;
            while tokio::time::timeout(LOOK_EVERY, ending.cancelled())
                .await
                .is_err()
            {
                turn = turn.wrapping_add(1);
                for error in look(&parts, &locks, &layout, turn).await {
                    tracing::warn!(%error, inside = error.inside, "looking after what runs");
                }
            }
        }));
    }

    async fn do_action(&self, context: &StepContext, action: &Action) -> Result<Effect, StepError> {
        let parts = self.parts()?;
        let (kind, id) = action.object();
        let _lock = tokio::select! {
            () = context.cancel.cancelled() => return Err(super::fetch::cancelled()),
            lock = self.locks.take(kind, id) => lock,
        };
        match action {
            Action::EnsureNetwork(a) => parts.networks.ensure(a).await,
            Action::DropNetwork(a) => parts.networks.release(a).await,
            Action::EnsureImage(a) => parts.images.ensure(a, &context.cancel).await,
            Action::DropImage(a) => parts.images.release(a).await,
            Action::EnsureDisk(a) => self.ensure_disk(parts, a).await,
            Action::RemoveDisk(a) => {
                let gone = parts.disks.remove(a)?;
                parts.guests.users.let_go(a.disk)?;
                Ok(gone)
            }
            Action::EnsureInstance(a) => parts.instances.ensure(a).await,
            Action::RemoveInstance(a) => parts.instances.remove(a.instance, context).await,
            Action::SetPower(a) => parts.instances.set_power(a, context).await,
            Action::Reboot(a) => parts.instances.reboot(a, context).await,
        }
    }

    /// A disk that grows does so in the guest that has it open.
    async fn ensure_disk(&self, parts: &Parts, action: &EnsureDisk) -> Result<Effect, StepError> {
        // A root disk has its instance's id, and so its instance's user.
        let owner = parts.guests.users.of(action.disk)?;
        let Some(size_gib) = parts.disks.ensure(action, &parts.images, owner).await? else {
            return Ok(Effect {
                detail: "the disk is there".to_owned(),
                ..Effect::default()
            });
        };
        let _instance = self.locks.take(ObjectKind::Instance, action.disk).await;
        match parts.guests.live(action.disk) {
            Some(live) => guests::grow_running(&live, size_gib).await?,
            None => parts.disks.grow_file(action.disk, size_gib, owner).await?,
        }
        parts.disks.grown(action.disk, size_gib)?;
        Ok(Effect {
            detail: format!("the disk has grown to {size_gib} GiB"),
            ..Effect::default()
        })
    }

    async fn look_at(&self, context: &StepContext, action: &Action) -> Result<Seen, StepError> {
        let parts = self.parts()?;
        let gone = |gone: bool| if gone { Seen::StillSo } else { Seen::NotSo };
        match action {
            Action::EnsureNetwork(a) => parts.networks.observe(a).await,
            Action::DropNetwork(a) => Ok(gone(!parts.networks.holds(a)?)),
            Action::EnsureImage(a) => parts.images.observe(a),
            Action::DropImage(a) => Ok(gone(!parts.images.holds(a)?)),
            Action::EnsureDisk(a) => parts.disks.observe(a),
            Action::RemoveDisk(a) => Ok(gone(parts.disks.is_gone(a.disk))),
            Action::EnsureInstance(a) => parts.instances.observe(a),
            Action::RemoveInstance(a) => Ok(gone(parts.instances.is_gone(a.instance)?)),
            Action::SetPower(a) => parts.instances.observe_power(a),
            Action::Reboot(a) => parts.instances.observe_reboot(a, context),
        }
    }

    /// Ends every guest in order, all at once, and takes the networks down; what they shall be stays written.
    async fn stop_all(&self) -> Result<usize, StepError> {
        self.begin().await?;
        let parts = self.parts()?;
        let ids = files::ids_in(&self.layout.instances(), "")?;
        let stops = futures::future::join_all(ids.into_iter().map(|id| async move {
            let _lock = self.locks.take(ObjectKind::Instance, id).await;
            parts.instances.stop_keeping_intent(id).await
        }));
        let mut stopped = 0;
        let mut failed = None;
        for done in stops.await {
            match done {
                Ok(StopOutcome::Stopped) => stopped += 1,
                Ok(StopOutcome::WasOff) => {}
                Err(error) => failed = Some(error),
            }
        }
        for id in parts.guests.running()?.into_keys() {
            let _lock = self.locks.take(ObjectKind::Instance, id).await;
            match parts.guests.end_all(id).await {
                Ok(()) => stopped += 1,
                Err(error) => failed = Some(error),
            }
        }
        for id in parts.networks.ids()? {
            let _lock = self.locks.take(ObjectKind::Network, id).await;
            if let Err(error) = parts.networks.take_down(id).await {
                failed = Some(error);
            }
        }
        failed.map_or(Ok(stopped), Err)
    }

    fn list(&self) -> Result<Vec<Held>, StepError> {
        let parts = self.parts()?;
        let mut all = parts.networks.inventory()?;
        all.extend(parts.images.inventory()?);
        all.extend(parts.disks.inventory()?);
        all.extend(parts.instances.inventory()?);
        Ok(all)
    }

    fn measure(&self) -> Result<Capacity, StepError> {
        let guests = &self.parts()?.guests;
        let mut labels = self.config.labels.clone();
        labels
            .entry("limits".to_owned())
            .or_insert_with(|| guests.hierarchy.as_str().to_owned());
        Ok(Capacity {
            vcpus: capacity::processors(),
            memory_mib: capacity::memory_mib()
                .0
                .saturating_sub(self.config.memory_reserve_mib),
            disk_gib: capacity::disk_gib(&self.layout, self.config.disk_reserve_gib)?,
            labels,
            driver: "qemu".to_owned(),
            accelerator: guests.accelerator.as_str().to_owned(),
            networking: guests.networking.as_str().to_owned(),
        })
    }

    fn weigh(&self) -> Result<Load, StepError> {
        let (all, free) = capacity::memory_mib();
        let running = self
            .parts()?
            .instances
            .look()?
            .iter()
            .filter(|g| g.power == SeenPower::On)
            .count();
        Ok(Load {
            load1: capacity::load1(),
            memory_used_mib: all.saturating_sub(free),
            disk_used_gib: capacity::disk_used_gib(&self.layout),
            guests_running: u32::try_from(running).unwrap_or(u32::MAX),
        })
    }

    /// The folder of an instance that is here.
    fn console_folder(&self, instance: ResourceId) -> Option<PathBuf> {
        Some(self.layout.instance(instance)).filter(|folder| folder.is_dir())
    }
}
