//! The loop: pulls no more than there are free slots, and nothing while an order is to run alone, until it is told to end; then hands back
//! what isn't done in time.

use crate::channels::Channels;
use crate::config::WorkerConfig;
use crate::counters::register_metrics;
use crate::report::Reporter;
use crate::slot::{Room, Rooms, Shop};
use rhyzome_nats::notices::Controls;
use rhyzome_nats::{Delivery, NatsConfig, NatsError, Puller, Role, orders};
use rhyzome_runtime::tls::{TlsError, client_config};
use rhyzome_runtime::{Process, Shutdown, part};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Why a worker can't run.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The identity is of no use.
    #[error("worker: TLS: {0}")]
    Tls(#[from] TlsError),
    /// The connection to NATS can't be made, or is closed for good.
    #[error("worker: {0}")]
    Nats(#[from] NatsError),
    /// The ready file can't be written.
    #[error("worker: ready file: {0}")]
    Ready(#[from] std::io::Error),
    /// A setting can't be.
    #[error("worker.{key}: {why}")]
    Setting {
        /// Which.
        key: &'static str,
        /// What would be right.
        why: &'static str,
    },
}

/// Between looks when NATS refuses to be pulled from.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs a worker until its process is told to end, and the grace period that this gives. It says that it serves once it is
/// connected and listens.
pub async fn run(config: WorkerConfig, nats: NatsConfig, process: Process) -> Result<(), WorkerError> {
    register_metrics();
    if config.slots == 0 {
        return Err(WorkerError::Setting {
            key: "slots",
            why: "must be 1 or more",
        });
    }
    let identity = process.identity()?;
    let tls = client_config(&identity)?;
    let connection = rhyzome_nats::connect::connect(&nats, Role::Worker, &process.name, Some(tls)).await?;
    let controls = Controls::new(&connection).await?;
    let puller = orders::puller(&connection).await?;
    tokio::select! {
        connected = connection.connected() => connected?,
        () = process.shutdown.triggered() => return Ok(()),
    }
    let shop = Arc::new(Shop {
        reporter: Reporter::new(
            connection.clone(),
            process.name.clone(),
            config.progress_after.duration(),
        ),
        channels: Channels::new(identity),
        ack_wait: nats.ack_wait,
        max_deliver: u64::try_from(nats.max_deliver).unwrap_or(u64::MAX),
        rooms: Rooms::new(),
        stop: CancellationToken::new(),
        connection: connection.clone(),
        config,
    });
    let helpers = [
        part::spawn("controls", listen(Arc::clone(&shop), controls)),
        part::spawn("progress", {
            let shop = Arc::clone(&shop);
            async move { shop.reporter.tell(&shop.stop).await }
        }),
    ];
    process.ready(None)?;
    let mut running = JoinSet::new();
    let (puller, ended) = pull(&shop, puller, &process.shutdown, &mut running).await;
    finish(&shop, puller, running, process.shutdown.grace).await;
    for helper in helpers {
        helper.abort();
    }
    if connection.is_connected() {
        connection.flush().await?;
    }
    tracing::info!("worker ended");
    ended.map_err(WorkerError::from)
}

async fn listen(shop: Arc<Shop>, mut controls: Controls) {
    while let Some((job, control)) = controls.next().await {
        shop.reporter.hint(job, &control);
    }
}

/// Fills free slots until it is told to end.
async fn pull(
    shop: &Arc<Shop>,
    mut puller: Puller,
    shutdown: &Shutdown,
    running: &mut JoinSet<()>,
) -> (Puller, Result<(), NatsError>) {
    let mut suspects = shop.rooms.suspects();
    loop {
        let free = shop.config.slots.saturating_sub(running.len());
        let alone = *suspects.borrow_and_update() > 0;
        tokio::select! {
            biased;
            () = shutdown.triggered() => return (puller, Ok(())),
            Some(ended) = running.join_next() => slot_ended(ended),
            _ = suspects.changed() => {}
            pulled = puller.next(free), if free > 0 && !alone => match pulled {
                Ok(delivery) => begin(shop, delivery, &mut puller, running).await,
                Err(error) => {
                    tracing::error!(%error, "can't pull orders");
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = shutdown.triggered() => return (puller, Err(error)),
                    }
                }
            },
        }
    }
}

/// One that is to run alone keeps others away first: what was asked for goes to other workers, and what came is handed back.
async fn begin(shop: &Arc<Shop>, delivery: Delivery, puller: &mut Puller, running: &mut JoinSet<()>) {
    let room = shop.rooms.for_order(delivery.delivered());
    if let Some(Room::Alone(_)) = room {
        for came in puller.let_go().await {
            let room = shop.rooms.for_order(came.delivered());
            occupy(shop, came, room, running);
        }
    }
    occupy(shop, delivery, room, running);
}

fn occupy(shop: &Arc<Shop>, delivery: Delivery, room: Option<Room>, running: &mut JoinSet<()>) {
    match room {
        Some(room) => running.spawn(Arc::clone(shop).occupy(delivery, room)),
        None => running.spawn(Arc::clone(shop).turn_away(delivery)),
    };
}

fn slot_ended(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        // Its order isn't acked, and comes again.
        tracing::error!(%error, "a slot died");
    }
}

/// Nothing more is pulled: what hasn't begun is handed back, the rest gets the grace period.
async fn finish(shop: &Arc<Shop>, puller: Puller, mut running: JoinSet<()>, grace: Duration) {
    tracing::info!(running = running.len(), ?grace, "worker ends: no more orders");
    let mut unbegun = JoinSet::new();
    for delivery in puller.close().await {
        let shop = Arc::clone(shop);
        unbegun.spawn(async move { shop.hand_back(&delivery, None).await });
    }
    while unbegun.join_next().await.is_some() {}
    let grace = tokio::time::sleep(grace);
    tokio::pin!(grace);
    loop {
        tokio::select! {
            ended = running.join_next() => match ended {
                Some(ended) => slot_ended(ended),
                None => break,
            },
            () = &mut grace, if !shop.stop.is_cancelled() => {
                tracing::warn!(running = running.len(), "the grace period is over: orders are handed back");
                shop.stop.cancel();
            }
        }
    }
    shop.stop.cancel();
}
