//! The scheduler: dispatches jobs, settles events, watches hosts, and sweeps what went quiet. Any number may run; none leads.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `dispatch` | the loop: due jobs are decided, committed, published |
//! | `batch` | what is to be done with a batch of them |
//! | `decide` | what is to be done with one due job; pure |
//! | `place` | the view of the hosts that placement works on |
//! | `order` | the order's message |
//! | `late` | the error of a job whose deadline came; pure |
//! | `settle` | the loop: events are reduced, judged, committed, acked |
//! | `made` | what a job that succeeded made so; pure |
//! | `judge` | what one report comes to; pure |
//! | `left_behind` | whether something of an abandoned job is on its host; pure |
//! | `lookout` | whether an order is lost; pure |
//! | `poison` | orders whose workers died of them |
//! | `sweep` | quiet orders, deadlines, streams that went, old rows |
//! | `check` | the books, checked now and then |
//! | `reconcile` | what the check finds amiss on hosts is mended |
//! | `mend` | what is asked for of what is amiss |
//! | `amends` | when what is amiss is mended, and how; pure |
//! | `hosts` | watches of agents: capacity, load, epoch |
//! | `border` | what agents and workers say, made fit to be kept; pure |
//! | `guests` | what agents say of guests, written together |
//! | `inventory` | what a watched host holds, asked for now and then |
//! | `backoff` | when something is tried again |

pub mod amends;
pub mod backoff;
pub mod batch;
mod border;
pub mod check;
pub mod config;
pub mod decide;
pub mod dispatch;
mod guests;
pub mod hosts;
pub mod inventory;
pub mod judge;
mod late;
pub mod left_behind;
pub mod lookout;
pub mod made;
pub mod mend;
pub mod order;
pub mod place;
pub mod poison;
mod reconcile;
pub mod settle;
pub mod stats;
pub mod sweep;

pub use config::{InstanceConfig, SchedulerConfig};

use rhyzome_nats::{Connection, NatsConfig, NatsError};
use rhyzome_runtime::tls::TlsError;
use rhyzome_runtime::{Identity, Process, Shutdown, part};
use rhyzome_store::{Store, StoreError};
use std::sync::Arc;
use tokio::sync::Notify;

/// Why a scheduler can't go on.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// NATS.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// Its certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It can't say that it serves.
    #[error("ready file: {0}")]
    Ready(#[from] std::io::Error),
    /// A part of it was not let end.
    #[error("a part of it: {0}")]
    Part(#[from] tokio::task::JoinError),
}

/// What every part of a scheduler holds.
#[derive(Clone)]
pub struct Context {
    /// Truth.
    pub store: Store,
    /// Transport.
    pub nats: Connection,
    /// As which it calls agents.
    pub identity: Identity,
    /// `[scheduler]`.
    pub config: Arc<SchedulerConfig>,
    /// `[nats]`.
    pub nats_config: Arc<NatsConfig>,
    /// `instance.stop_timeout`, seconds.
    pub stop_timeout_s: u32,
    /// Wakes dispatch.
    pub due: Arc<Notify>,
    /// Wakes the sweep: streams may be gone.
    pub suspicion: Arc<Notify>,
    /// Capacity was freed or came: who waits for it is woken.
    pub freed: Arc<Notify>,
    /// Ends it all.
    pub shutdown: Shutdown,
}

/// Runs until shut down. Streams and consumers are made first; what runs then says that it is ready.
pub async fn run(
    config: SchedulerConfig,
    instance: InstanceConfig,
    nats_config: NatsConfig,
    store: Store,
    process: Process,
) -> Result<(), SchedulerError> {
    stats::register();
    let identity = process.identity()?;
    let tls = rhyzome_runtime::tls::client_config(&identity)?;
    let nats = rhyzome_nats::connect::connect(
        &nats_config,
        rhyzome_nats::Role::Scheduler,
        &process.name,
        Some(tls),
    )
    .await?;
    let context = Context {
        store,
        nats,
        identity,
        config: Arc::new(config),
        nats_config: Arc::new(nats_config),
        stop_timeout_s: u32::try_from(instance.stop_timeout.duration().as_secs()).unwrap_or(u32::MAX),
        due: Arc::new(Notify::new()),
        suspicion: Arc::new(Notify::new()),
        freed: Arc::new(Notify::new()),
        shutdown: process.shutdown.clone(),
    };
    sweep::ensure_streams_until_done(&context).await;
    let parts = [
        part::spawn("dispatch", dispatch::run(context.clone())),
        part::spawn("wake-ups", dispatch::listen(context.clone())),
        part::spawn("settle", settle::run(context.clone())),
        part::spawn("sweep", sweep::run(context.clone())),
        part::spawn("hosts", hosts::run(context.clone())),
        part::spawn("check", check::run(context.clone())),
    ];
    process.ready(None)?;
    let ended = async {
        for part in parts {
            part.await?;
        }
        Ok::<_, SchedulerError>(())
    };
    tokio::select! {
        ended = ended => ended?,
        () = process.shutdown.grace_over() => {
            tracing::warn!("not all was finished when the grace period ended; another scheduler, or the next start, goes on");
        }
    }
    if context.nats.is_connected() {
        context.nats.flush().await?;
    }
    Ok(())
}
