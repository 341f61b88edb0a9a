//! One delivery, from reading to ack. Acks come last: after the outcome's publish ack.

mod room;

pub(crate) use room::{Room, Rooms};

use crate::channels::Channels;
use crate::config::WorkerConfig;
use crate::drive::drive;
use crate::report::{Live, Reporter};
use crate::words::Word;
use prost::Message;
use rhyzome_model::ids::JobId;
use rhyzome_nats::{Connection, Delivery, ErrorKind, NatsError, dead, orders};
use rhyzome_proto::convert::WireError;
use rhyzome_proto::job::Order;
use rhyzome_runtime::fault::{self, Point, Side};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What may be said at the very end takes no longer.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What all slots share.
pub(crate) struct Shop {
    pub(crate) config: WorkerConfig,
    pub(crate) connection: Connection,
    pub(crate) channels: Channels,
    pub(crate) reporter: Reporter,
    pub(crate) ack_wait: Duration,
    pub(crate) max_deliver: u64,
    pub(crate) rooms: Rooms,
    /// The grace period is over.
    pub(crate) stop: CancellationToken,
}

impl Shop {
    /// Deals with one delivery until it is acked, handed back or buried.
    pub(crate) async fn occupy(self: Arc<Self>, delivery: Delivery, room: Room) {
        fault::point(Point::OrderReceived, Side::Before);
        let third = (self.ack_wait / 3).max(Duration::from_millis(10));
        let mut sign = tokio::time::interval_at(tokio::time::Instant::now() + third, third);
        sign.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let live = OnceLock::new();
        let work = self.deal(&delivery, room, &live);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = &mut work => return,
                () = self.stop.cancelled() => break,
                _ = sign.tick() => delivery.in_progress().await,
            }
        }
        self.hand_back(&delivery, live.get()).await;
    }

    async fn deal(&self, delivery: &Delivery, room: Room, live: &OnceLock<Arc<Live>>) {
        match orders::read(delivery.payload()) {
            Ok(order) => match order.job_id() {
                Ok(job) => self.work(job, order, delivery, room, live).await,
                Err(error) => self.bury(delivery, &error.to_string()).await,
            },
            Err(WireError::Newer(version)) => self.newer(delivery, version).await,
            Err(error @ WireError::Broken(_)) => self.bury(delivery, &error.to_string()).await,
        }
    }

    async fn work(
        &self,
        job: JobId,
        order: Order,
        delivery: &Delivery,
        room: Room,
        begun: &OnceLock<Arc<Live>>,
    ) {
        let fence = order.fence;
        if let Room::Alone(_) = room {
            tracing::warn!(%job, delivered = delivery.delivered(), most = self.max_deliver, "delivered again and again: runs alone");
        }
        let _room = self.rooms.enter(room, self.config.alone_wait.duration()).await;
        let place = self.reporter.begin(job, order, delivery.sequence());
        fault::point(Point::OrderReceived, Side::After);
        let live = begun.get_or_init(|| Arc::clone(&place.live));
        let outcome = match drive(&self.config, &self.channels, live).await {
            Ok(outcome) => outcome,
            Err(error) => return self.bury(delivery, &error.to_string()).await,
        };
        let kind = outcome.kind();
        fault::point(Point::OutcomePublish, Side::Before);
        match self.reporter.outcome(place, outcome, &self.stop).await {
            Ok(()) => {
                fault::point(Point::OutcomePublish, Side::After);
                tracing::debug!(%job, fence, outcome = kind.as_str_name(), "order done");
                fault::point(Point::OrderAck, Side::Before);
                delivery.ack().await;
                fault::point(Point::OrderAck, Side::After);
            }
            // The outer loop hands it back.
            Err(NatsError::Shutdown) => std::future::pending().await,
            Err(error) => {
                tracing::error!(%error, %job, fence, "an outcome can't be reported; the order is handed back");
                delivery.nak().await;
            }
        }
    }

    /// Nobody can read it: kept as a dead letter, never delivered again.
    async fn bury(&self, delivery: &Delivery, why: &str) {
        ErrorKind::Broken.count();
        dead::bury(&self.connection, delivery, why).await;
    }

    /// Another worker may know it: reported, so that Postgres tries again at a time, and handed back.
    async fn newer(&self, delivery: &Delivery, version: u32) {
        tracing::warn!(
            version,
            subject = delivery.subject(),
            "an order of a newer version"
        );
        if self.give_up(delivery, Word::Newer, None).await && delivery.delivered() >= self.max_deliver {
            delivery.ack().await;
        } else {
            delivery.nak().await;
        }
    }

    /// To another worker, by way of Postgres: a nak would use up a delivery, and five of them are what an order's workers may die of.
    pub(crate) async fn hand_back(&self, delivery: &Delivery, begun: Option<&Arc<Live>>) {
        self.hand_on(delivery, Word::Stopped, begun).await;
    }

    /// The same for one that was pulled while another is to run alone.
    pub(crate) async fn turn_away(self: Arc<Self>, delivery: Delivery) {
        self.hand_on(&delivery, Word::Alone, None).await;
    }

    async fn hand_on(&self, delivery: &Delivery, word: Word, begun: Option<&Arc<Live>>) {
        if self.give_up(delivery, word, begun).await {
            delivery.ack().await;
        } else {
            delivery.nak().await;
        }
    }

    /// Reports a delivery's order as suspended, whatever its version, with what is known of it; true if that is stored.
    async fn give_up(&self, delivery: &Delivery, word: Word, begun: Option<&Arc<Live>>) -> bool {
        let live = match begun {
            Some(live) => Arc::clone(live),
            None => match self.unbegun(delivery) {
                Some(live) => Arc::new(live),
                None => return false,
            },
        };
        let told = self
            .reporter
            .outcome_once(&live, word.suspended(&live.order().host));
        match tokio::time::timeout(LAST_WORDS, told).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(%error, subject = delivery.subject(), "a report was not stored; the sweep finds the order");
                false
            }
            Err(_) => false,
        }
    }

    fn unbegun(&self, delivery: &Delivery) -> Option<Live> {
        let order = Order::decode(delivery.payload().clone()).ok()?;
        Some(
            self.reporter
                .live(order.job_id().ok()?, order, delivery.sequence()),
        )
    }
}
