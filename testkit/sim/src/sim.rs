//! What all parts of a schedule share.

use crate::books::Books;
use crate::bus::{ACK_WAIT_MS, Bus, Delivery, Stream};
use crate::clock::{BEGIN_MS, Clock};
use crate::host::Host;
use crate::lock;
use crate::mutant::Mutant;
use crate::odds::Odds;
use crate::trace::Trace;
use chrono::{DateTime, TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::{Rng, RngCore};
use rhyzome_model::ids::{HostName, JobId};
use rhyzome_runtime::fault::{Point, Side};
use rhyzome_worker::report::Live;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use uuid::Uuid;

/// A process died at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Died;

/// See the module.
pub(crate) struct Sim {
    pub(crate) clock: Clock,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) books: Mutex<Books>,
    pub(crate) bus: Mutex<Bus>,
    pub(crate) hosts: BTreeMap<HostName, Arc<Host>>,
    /// Orders that workers have, for hints.
    pub(crate) lives: Mutex<BTreeMap<u64, Arc<Live>>>,
    /// Outcomes that were stored and neither settled nor lost since: job and fence.
    pub(crate) told: Mutex<BTreeSet<(JobId, i64)>>,
    /// An order may be there to pull.
    pub(crate) orders: Notify,
    /// An event may be.
    pub(crate) events: Notify,
    /// A job may be due.
    pub(crate) due: Notify,
    /// Capacity was given back.
    pub(crate) freed: AtomicBool,
    /// Processes that have something in hand.
    pub(crate) busy: AtomicU32,
    /// The schedulers' clocks are ahead by this, milliseconds.
    pub(crate) schedulers_ahead: AtomicI64,
    healed: AtomicBool,
    odds: Odds,
    dice: Mutex<StdRng>,
    trace: Mutex<Trace>,
    faults: Mutex<Vec<String>>,
}

impl Sim {
    pub(crate) fn new(
        odds: Odds,
        dice: StdRng,
        mutant: Option<Mutant>,
        books: Books,
        hosts: BTreeMap<HostName, Arc<Host>>,
    ) -> Self {
        Self {
            clock: Clock::new(odds.agents_ahead_ms),
            mutant,
            books: Mutex::new(books),
            bus: Mutex::default(),
            hosts,
            lives: Mutex::default(),
            told: Mutex::default(),
            orders: Notify::new(),
            events: Notify::new(),
            due: Notify::new(),
            freed: AtomicBool::new(false),
            busy: AtomicU32::new(0),
            schedulers_ahead: AtomicI64::new(0),
            healed: AtomicBool::new(false),
            odds,
            dice: Mutex::new(dice),
            trace: Mutex::default(),
            faults: Mutex::default(),
        }
    }

    pub(crate) fn is_mutant(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// The database's time.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// The time by a scheduler's own clock.
    pub(crate) fn scheduler_now(&self) -> DateTime<Utc> {
        self.now() + TimeDelta::milliseconds(self.schedulers_ahead.load(Ordering::Relaxed))
    }

    /// Adds to the trace.
    pub(crate) fn say(&self, what: std::fmt::Arguments<'_>) {
        lock(&self.trace).add(self.clock.now_ms() - BEGIN_MS, what);
    }

    /// Something is broken: the invariant's number comes first.
    pub(crate) fn broken(&self, what: String) {
        self.say(format_args!("BROKEN {what}"));
        lock(&self.faults).push(what);
    }

    pub(crate) fn is_broken(&self) -> bool {
        !lock(&self.faults).is_empty()
    }

    pub(crate) fn results(&self) -> (Vec<String>, Vec<String>, u64) {
        let mut trace = lock(&self.trace);
        let hash = trace.hash();
        (std::mem::take(&mut *lock(&self.faults)), trace.take(), hash)
    }

    /// Nothing goes wrong any more.
    pub(crate) fn heal(&self) {
        self.healed.store(true, Ordering::Relaxed);
        self.schedulers_ahead.store(0, Ordering::Relaxed);
        self.clock.set_right();
        for host in self.hosts.values() {
            host.reach(true);
        }
        self.say(format_args!("all is well from now on"));
    }

    pub(crate) fn is_healed(&self) -> bool {
        self.healed.load(Ordering::Relaxed)
    }

    pub(crate) fn odds(&self) -> &Odds {
        &self.odds
    }

    /// Whether something goes wrong, as often as the odds say. Never once all is well.
    pub(crate) fn wrong(&self, rate: fn(&Odds) -> f64) -> bool {
        !self.is_healed() && self.chance(rate(&self.odds))
    }

    pub(crate) fn chance(&self, rate: f64) -> bool {
        rate > 0.0 && lock(&self.dice).random_bool(rate)
    }

    /// From `low` to `high`, the latter not included.
    pub(crate) fn between(&self, low: u64, high: u64) -> u64 {
        lock(&self.dice).random_range(low..high)
    }

    pub(crate) fn roll(&self) -> f64 {
        lock(&self.dice).random()
    }

    pub(crate) fn dice(&self) -> std::sync::MutexGuard<'_, StdRng> {
        lock(&self.dice)
    }

    pub(crate) fn id(&self) -> Uuid {
        let mut dice = lock(&self.dice);
        let mut bytes = [0; 16];
        dice.fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// Sleeps for something from `low` to `high` milliseconds.
    pub(crate) async fn doze(&self, low: u64, high: u64) {
        let ms = self.between(low, high);
        self.clock.sleep(ms).await;
    }

    /// A point on a process's path: here it may die, or stand still for a while with what it has in hand.
    pub(crate) async fn point(
        self: &Arc<Self>,
        who: &str,
        point: Point,
        side: Side,
        hand: Hand<'_>,
    ) -> Result<(), Died> {
        let at = format!("{} {}", side.as_str(), point.as_str());
        self.stumble(who, &at, hand).await
    }

    /// Somewhere else on its path.
    pub(crate) async fn stumble(self: &Arc<Self>, who: &str, at: &str, hand: Hand<'_>) -> Result<(), Died> {
        if self.wrong(|o| o.crash) {
            self.say(format_args!("{who} dies {at}"));
            hand.silent(self);
            return Err(Died);
        }
        if self.wrong(|o| o.pause) {
            let ms = if self.chance(0.2) {
                self.between(20_000, 90_000)
            } else {
                self.between(500, 12_000)
            };
            self.say(format_args!("{who} stands still for {ms} ms {at}"));
            hand.silent(self);
            self.clock.sleep(ms).await;
            self.say(format_args!("{who} goes on"));
            hand.sign(self);
        }
        Ok(())
    }

    /// Waits until no dispatch holds rows.
    pub(crate) async fn quiet(&self) {
        while !lock(&self.books).is_quiet() {
            self.clock.sleep(1).await;
        }
    }

    /// What a transaction left behind is looked at.
    pub(crate) fn audit(&self) {
        let faults = lock(&self.books).audit();
        for fault in faults {
            self.broken(fault);
        }
    }
}

/// The messages that a process has in hand.
#[derive(Clone, Copy)]
pub(crate) enum Hand<'a> {
    Empty,
    Order(&'a Delivery),
    Events(&'a [Delivery]),
}

impl Hand<'_> {
    fn each(self, sim: &Sim, mut what: impl FnMut(&mut Stream, &Delivery)) {
        let mut bus = lock(&sim.bus);
        match self {
            Self::Empty => {}
            Self::Order(delivery) => what(&mut bus.orders, delivery),
            Self::Events(deliveries) => {
                for delivery in deliveries {
                    what(&mut bus.events, delivery);
                }
            }
        }
    }

    pub(crate) fn silent(self, sim: &Arc<Sim>) {
        let now_ms = sim.clock.now_ms();
        self.each(sim, |stream, delivery| stream.silent(delivery, now_ms));
        let sim = sim.clone();
        tokio::spawn(async move {
            sim.clock.sleep(ACK_WAIT_MS as u64).await;
            sim.orders.notify_waiters();
            sim.events.notify_waiters();
        });
    }

    /// An event's delivery is not held up by signs: who stands still with one has lost it.
    fn sign(self, sim: &Sim) {
        match self {
            Self::Order(_) => self.each(sim, Stream::sign),
            Self::Empty | Self::Events(_) => {}
        }
    }
}

/// Counts a process as busy while it lives.
pub(crate) struct Busy(Arc<Sim>);

impl Busy {
    pub(crate) fn new(sim: &Arc<Sim>) -> Self {
        sim.busy.fetch_add(1, Ordering::Relaxed);
        Self(sim.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
