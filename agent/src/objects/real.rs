//! The driver of a real host: it hands each action to the object that it is about, under that object's lock.
//!
//! One for a state folder, which it locks. Dropped or ended, it leaves guests, networks and files as they are; the next one on the
//! same folder adopts them.

mod driver;
mod looks;
mod parts;
mod start;

use looks::Looks;
use parts::Parts;
use start::{identity, lock_folder, look};

use super::accel;
use super::address::AllowList;
use super::aside::aside;
use super::cgroup::Hierarchy;
use super::disk::Disks;
use super::fetch::FetchRules;
use super::files::{self, Layout};
use super::guests::{CGROUPS, Guests};
use super::image::Images;
use super::instance::{Instances, StopOutcome};
use super::locks::Locks;
use super::netns;
use super::network::{Networking, Networks};
use super::settings::{Choice, RealConfig};
use super::spawn;
use super::users::Users;
use crate::driver::{Effect, GuestSeen, Seen, StepContext, StepError};
use nix::fcntl::Flock;
use rhyzome_model::job::ErrorClass;
use rhyzome_model::step::{Action, ObjectKind};
use rhyzome_runtime::part;
use std::fs::File;
use std::path::Path;
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
    looks: Looks,
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
            looks: Looks::default(),
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
            config: self.config.clone(),
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
        let (tasks, ending) = (self.tasks.clone(), self.ending.clone());
        self.tasks.spawn(part::guard("what runs", async move {
            let mut turn = 0_usize;
            while tokio::time::timeout(LOOK_EVERY, ending.cancelled())
                .await
                .is_err()
            {
                turn = turn.wrapping_add(1);
                let parts = Arc::clone(&parts);
                let looked = aside(&tasks, async move { look(&parts, turn).await });
                let Some(errors) = ending.run_until_cancelled(looked).await else {
                    return;
                };
                for error in errors {
                    tracing::warn!(%error, inside = error.inside, "looking after what runs");
                }
            }
        }));
    }

    async fn do_action(&self, context: &StepContext, action: &Action) -> Result<Effect, StepError> {
        let parts = Arc::clone(self.parts()?);
        let (kind, id) = action.object();
        let lock = tokio::select! {
            () = context.cancel.cancelled() => return Err(super::fetch::cancelled()),
            lock = self.locks.take(kind, id) => lock,
        };
        let (context, action) = (context.clone(), action.clone());
        let done = aside(&self.tasks, async move {
            let done = parts.make_so(&context, &action).await;
            drop(lock);
            done
        });
        done.await
    }

    async fn look_at(&self, context: &StepContext, action: &Action) -> Result<Seen, StepError> {
        let parts = Arc::clone(self.parts()?);
        let (context, action) = (context.clone(), action.clone());
        let looked = aside(&self.tasks, async move { parts.look_at(&context, &action).await });
        looked.await
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
}
