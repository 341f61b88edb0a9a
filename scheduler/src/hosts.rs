//! Watches of hosts: one gRPC stream to each agent, held by the scheduler that holds the host's row lease. Up it tells capacity, load
//! and guests; down it tells the epoch and the floor.
//!
//! The lease runs in database time: a scheduler that is frozen loses it, and another takes the host. While nobody hears an agent its
//! host is unreachable: nothing is placed there and no order goes out to it.

use crate::backoff::Pause;
use crate::guests::Guests;
use crate::inventory::{document, keep_fresh};
use crate::reconcile::{ShownBy, put_back, tell_put_back};
use crate::{Context, border};
use chrono::{DateTime, Utc};
use rhyzome_model::check::RawInventory;
use rhyzome_model::ids::HostName;
use rhyzome_model::kinds::Demand;
use rhyzome_proto::agent::agent_client::AgentClient;
use rhyzome_proto::agent::host_report::Report;
use rhyzome_proto::agent::{Heartbeat, HostCapacity, HostHello, Inventory, WatchControl};
use rhyzome_runtime::part;
use rhyzome_runtime::tls::{TlsError, connect_agent};
use rhyzome_store::StoreError;
use rhyzome_store::sweep::Place;
use rhyzome_store::watches::{Greeting, Held, Hello, RIVALS_MEET, Watch, WatchLease};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

/// How often leases are renewed and loads written.
const TICK: Duration = Duration::from_secs(2);
/// How often a host is asked what it holds while something of abandoned jobs may be there.
const LEFT_BEHIND: Duration = Duration::from_secs(5);
/// Jobs that are looked at for each reason when a host comes; the others look again by themselves.
const WOKEN: i64 = 2000;

#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("{0}")]
    Call(#[from] tonic::Status),
    #[error("the agent ended the watch")]
    Ended,
    #[error("nothing heard for {0:?}")]
    Silent(Duration),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("the agent began with something else than its hello")]
    NoHello,
    #[error("the agent knows fence {seen}, and the database only {last}: it was set back")]
    SetBack { seen: i64, last: i64 },
    #[error(
        "two agents say that they are this host: that of ledger {known}, and that of ledger {}",
        other.as_deref().unwrap_or("which was refused before")
    )]
    TwoAgents {
        /// Of the one that is the host.
        known: String,
        /// Of the other, where it is the one that says so.
        other: Option<String>,
    },
}

/// What the watches hear that is written for all hosts together.
#[derive(Clone, Default)]
struct Heard {
    loads: Arc<Mutex<HashMap<HostName, Value>>>,
    guests: Guests,
}

struct Watched {
    lease: watch::Sender<WatchLease>,
    task: JoinHandle<()>,
}

/// The loop: keeps leases, and a task for each.
pub async fn run(context: Context) {
    let owner = format!("{}-{:08x}", context.identity.name(), rand::random::<u32>());
    let heard = Heard::default();
    let guests = part::spawn("guests", heard.guests.clone().write_on(context.clone()));
    let mut watched: HashMap<HostName, Watched> = HashMap::new();
    let lease_s = context.config.watch_lease.duration().as_secs_f64();
    loop {
        match context
            .store
            .watch_take(&owner, lease_s, context.config.watch_take)
            .await
        {
            Ok(leases) => follow(&context, &owner, &heard, &mut watched, leases),
            Err(error) => tracing::warn!(%error, "watches not renewed"),
        }
        write_loads(&context, &heard).await;
        tokio::select! {
            () = context.shutdown.triggered() => break,
            () = tokio::time::sleep(TICK) => {}
        }
    }
    for (_, watched) in watched {
        watched.task.abort();
    }
    guests.abort();
    if let Err(error) = context.store.watch_release(&owner).await {
        tracing::warn!(%error, "watches not given back; they expire");
    }
}

fn follow(
    context: &Context,
    owner: &str,
    heard: &Heard,
    watched: &mut HashMap<HostName, Watched>,
    leases: Vec<WatchLease>,
) {
    let mut gone: HashMap<HostName, Watched> = std::mem::take(watched);
    for lease in leases {
        let host = lease.host.clone();
        let kept = match gone.remove(&host) {
            Some(known)
                if lease.held == Held::Before
                    && known.lease.borrow().address == lease.address
                    && !known.task.is_finished() =>
            {
                known.lease.send_replace(lease);
                known
            }
            other => {
                if let Some(old) = other {
                    old.task.abort();
                }
                let (sender, receiver) = watch::channel(lease);
                let task = tokio::spawn(keep(context.clone(), owner.to_owned(), heard.clone(), receiver));
                Watched { lease: sender, task }
            }
        };
        watched.insert(host, kept);
    }
    for (host, lost) in gone {
        tracing::info!(%host, "watch lost");
        lost.task.abort();
    }
}

async fn write_loads(context: &Context, heard: &Heard) {
    let batch: Vec<(HostName, Value)> = heard
        .loads
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .drain()
        .collect();
    if batch.is_empty() {
        return;
    }
    if let Err(error) = context.store.host_loads(&batch).await {
        tracing::warn!(%error, "loads not written");
    }
}

/// Watches one host for as long as its lease is held.
async fn keep(context: Context, owner: String, heard: Heard, mut lease: watch::Receiver<WatchLease>) {
    let host = lease.borrow().host.clone();
    let mut pause = Pause::new();
    loop {
        let error = match watch_once(&context, &owner, &heard, &mut lease, &mut pause).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        match &error {
            WatchError::SetBack { .. } => {
                tracing::error!(%host, %error, "nothing is dispatched to any host until an operator has looked: `rhyzome admin postgres-set-back`");
            }
            WatchError::TwoAgents { .. } => {
                tracing::error!(%host, %error, minutes = RIVALS_MEET.as_secs() / 60, "nothing is dispatched to the host until one of them has been stopped for so long");
            }
            WatchError::Tls(_)
            | WatchError::Call(_)
            | WatchError::Ended
            | WatchError::Silent(_)
            | WatchError::Store(_)
            | WatchError::NoHello => {
                if pause.is_news() {
                    tracing::warn!(%host, %error, "watch broke off; it is tried again until it holds");
                } else {
                    tracing::debug!(%host, %error, "still no watch");
                }
            }
        }
        if let Err(error) = context.store.watch_set(&owner, &host, Watch::Down).await {
            tracing::warn!(%host, %error, "the broken watch is not written; its lease expires");
        }
        tokio::time::sleep(pause.longer()).await;
    }
}

async fn watch_once(
    context: &Context,
    owner: &str,
    heard: &Heard,
    lease: &mut watch::Receiver<WatchLease>,
    pause: &mut Pause,
) -> Result<std::convert::Infallible, WatchError> {
    let (host, address) = {
        let lease = lease.borrow();
        (lease.host.clone(), lease.address.clone())
    };
    let channel = connect_agent(&address, host.as_str(), &context.identity)?;
    // What the agent tells of what it holds, it looked at after this.
    let opened_at = context.store.now().await?;
    let (say, said) = mpsc::channel(8);
    let send = |control: WatchControl| {
        let say = say.clone();
        async move { say.send(control).await.map_err(|_| WatchError::Ended) }
    };
    let control = |epoch: i64, floor: i64, inventory: bool| WatchControl {
        host: host.to_string(),
        epoch,
        floor,
        inventory,
    };
    send(control(0, 0, false)).await?;
    let silence = context.config.host_silence.duration();
    let mut asking = JoinSet::new();
    asking.spawn(keep_fresh(context.clone(), host.clone(), channel.clone()));
    let answered = context.store.host_answered(&host).await?;
    let mut client = AgentClient::new(channel).max_decoding_message_size(64 << 20);
    let call = client.watch(tokio_stream::wrappers::ReceiverStream::new(said));
    let mut reports = tokio::time::timeout(silence, call)
        .await
        .map_err(|_| WatchError::Silent(silence))??
        .into_inner();

    let mut epoch = 0;
    let mut floor = 0;
    let mut asked_at = Instant::now();
    // What connects and has no heartbeat isn't up: it would come and go with each watch.
    let (mut capacity_told, mut beats) = (false, false);
    let mut heard_at = tokio::time::Instant::now();
    loop {
        let next = tokio::select! {
            // The lease is renewed more often than silence lasts: that must not begin the silence anew.
            next = tokio::time::timeout_at(heard_at + silence, reports.message()) => next.map_err(|_| WatchError::Silent(silence))??,
            changed = lease.changed() => {
                changed.map_err(|_| WatchError::Ended)?;
                let (now, left_behind) = {
                    let lease = lease.borrow_and_update();
                    (lease.floor, lease.left_behind)
                };
                // Whether what was left behind is gone, only an inventory tells.
                let ask = left_behind && asked_at.elapsed() >= LEFT_BEHIND;
                if epoch > 0 && (now != floor || ask) {
                    floor = now;
                    send(control(epoch, floor, ask)).await?;
                    if ask {
                        asked_at = Instant::now();
                    }
                }
                continue;
            }
        };
        heard_at = tokio::time::Instant::now();
        let report = next.ok_or(WatchError::Ended)?.report;
        match report {
            Some(Report::Hello(hello)) => {
                epoch = greet(context, &host, &hello, answered).await?;
                floor = lease.borrow().floor;
                send(control(epoch, floor, true)).await?;
            }
            _ if epoch == 0 => return Err(WatchError::NoHello),
            Some(Report::Capacity(capacity)) => {
                write_capacity(context, &host, &capacity).await?;
                capacity_told = true;
                if beats {
                    comes_up(context, owner, &host).await?;
                }
            }
            Some(Report::Heartbeat(beat)) => {
                if !beats && capacity_told {
                    comes_up(context, owner, &host).await?;
                }
                beats = true;
                heard
                    .loads
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(host.clone(), load(&beat));
            }
            Some(Report::Inventory(inventory)) => {
                write_inventory(context, &host, &inventory, opened_at).await?;
                // All that a watch begins with has been taken: the next one that breaks off is tried again at once.
                pause.reset();
            }
            Some(Report::Guest(guest)) => heard.guests.hear(&host, &guest),
            None => {}
        }
    }
}

/// The host gets orders from now on. Who waited for it, or for any room, looks again; who watches its guests is told where they were
/// unknown.
async fn comes_up(context: &Context, owner: &str, host: &HostName) -> Result<(), StoreError> {
    let known_again = context.store.watch_set(owner, host, Watch::Up).await?;
    crate::dispatch::notify(context, &known_again).await;
    for reason in ["capacity", "host_unreachable"] {
        context.store.capacity_wake(reason, Place::START, WOKEN).await?;
    }
    context.due.notify_one();
    Ok(())
}

async fn greet(
    context: &Context,
    host: &HostName,
    hello: &HostHello,
    answered: i64,
) -> Result<i64, WatchError> {
    match context
        .store
        .host_greet(
            host,
            &Hello {
                ledger_id: border::ledger(hello),
                epoch: hello.epoch,
                max_fence: hello.max_fence,
                answered,
            },
        )
        .await?
    {
        Greeting::Epoch { epoch, behind } => {
            if let Some(answered) = behind {
                let knows = hello.max_fence;
                tell_put_back(host, epoch, ShownBy::Hello { knows, answered });
            }
            tracing::info!(%host, epoch, ledger = hello.ledger_id, version = hello.version, "watching");
            Ok(epoch)
        }
        Greeting::SetBack { seen, last } => Err(WatchError::SetBack { seen, last }),
        Greeting::TwoAgents { known } => {
            let other = Some(border::ledger(hello)).filter(|ledger| *ledger != known);
            Err(WatchError::TwoAgents { known, other })
        }
    }
}

async fn write_capacity(
    context: &Context,
    host: &HostName,
    capacity: &HostCapacity,
) -> Result<(), StoreError> {
    let offered = Demand {
        vcpus: (f64::from(capacity.vcpus) * capacity.vcpu_overcommit).floor() as i64,
        memory_mib: i64::try_from(capacity.memory_mib).unwrap_or(i64::MAX),
        disk_gib: i64::try_from(capacity.disk_gib).unwrap_or(i64::MAX),
    };
    let facts = border::document(json!({
        "driver": capacity.driver,
        "accelerator": capacity.accelerator,
        "networking": capacity.networking,
        "vcpus": capacity.vcpus,
        "vcpu_overcommit": capacity.vcpu_overcommit,
    }));
    let labels = border::labels(capacity);
    context.store.host_capacity(host, offered, &labels, &facts).await
}

fn load(beat: &Heartbeat) -> Value {
    json!({
        "load1": beat.load1,
        "memory_used_mib": beat.memory_used_mib,
        "disk_used_gib": beat.disk_used_gib,
        "guests_running": beat.guests_running,
    })
}

async fn write_inventory(
    context: &Context,
    host: &HostName,
    inventory: &Inventory,
    opened_at: DateTime<Utc>,
) -> Result<(), StoreError> {
    let document = document(inventory);
    context.store.host_inventory(host, &document, opened_at).await?;
    let read = serde_json::from_value::<RawInventory>(document).map(|raw| raw.read(host.clone(), opened_at));
    // One that can't be read the check tells of.
    if let Ok(Ok(looked)) = read
        && let Some(older) = context.store.host_is_older(&looked).await?
    {
        put_back(context, &[older]).await?;
    }
    for rest in context.store.abandoned(Some(host)).await? {
        if crate::left_behind::is_gone(&rest, inventory) && context.store.abandoned_gone(&rest).await? {
            tracing::info!(%host, job = %rest.job, resource = %rest.resource, "nothing is left of an abandoned job");
            context.freed.notify_one();
        }
    }
    Ok(())
}
