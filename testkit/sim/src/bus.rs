//! What JetStream stores, in memory: two streams with acks. Delivery is at least once, in no order to rely on; what is stored may be
//! lost, stored twice, or wiped whole. An ack is no lock: one of a delivery that expired counts all the same.

use rand::Rng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet};

/// Deliveries of an order, until it is given up.
pub const MOST_DELIVERIES: u32 = 5;
/// How long a delivery may go without a sign, milliseconds.
pub const ACK_WAIT_MS: i64 = 4_000;

/// A message that somebody has.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its place.
    pub sequence: u64,
    /// Of the stream, which counts from 1 again when it was wiped.
    life: u32,
    /// Its bytes.
    pub payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waits,
    /// Delivered; until then, if its holder gives no more sign.
    Out(Option<i64>),
    GivenUp,
}

#[derive(Clone, Debug)]
struct Message {
    /// The job.
    key: u128,
    payload: Vec<u8>,
    delivered: u32,
    state: State,
}

/// One stream with its consumer.
#[derive(Debug)]
pub struct Stream {
    messages: BTreeMap<u64, Message>,
    last: u64,
    life: u32,
    most: u32,
    /// Message ids of a while.
    ids: BTreeSet<String>,
    /// Places that were given up, and of which nobody was told yet.
    advisories: Vec<u64>,
}

/// Where the order of a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nowhere.
    Absent,
    /// Waits, or a worker has it.
    Live,
    /// Its deliveries are used up.
    Exhausted(u64),
}

impl Stream {
    /// An empty one that gives a message up after so many deliveries.
    pub fn new(most: u32) -> Self {
        Self {
            messages: BTreeMap::new(),
            last: 0,
            life: 0,
            most,
            ids: BTreeSet::new(),
            advisories: Vec::new(),
        }
    }

    /// Stores a message, unless one with its id is known; whether it did. One that was lost since is known all the same.
    pub fn store(&mut self, key: u128, id: &str, payload: Vec<u8>) -> bool {
        let new = self.ids.insert(id.to_owned());
        if new {
            self.store_anyway(key, payload);
        }
        new
    }

    /// Stores a message.
    pub fn store_anyway(&mut self, key: u128, payload: Vec<u8>) {
        self.last += 1;
        let message = Message {
            key,
            payload,
            delivered: 0,
            state: State::Waits,
        };
        self.messages.insert(self.last, message);
    }

    /// Ids are forgotten: their window is over, or the server was restarted.
    pub fn forget_ids(&mut self) {
        self.ids.clear();
    }

    /// Storage is gone.
    pub fn wipe(&mut self) {
        let life = self.life + 1;
        *self = Self {
            life,
            ..Self::new(self.most)
        };
    }

    /// One of the messages is lost, whatever was promised; its key.
    pub fn lose_one(&mut self, dice: &mut StdRng) -> Option<u128> {
        let places: Vec<u64> = self.messages.keys().copied().collect();
        let place = *places.get(dice.random_range(0..places.len().max(1)))?;
        self.messages.remove(&place).map(|m| m.key)
    }

    /// The next message, mostly the oldest; out of turn as often as `reorder` says.
    pub fn pull(&mut self, now_ms: i64, reorder: f64, dice: &mut StdRng) -> Option<Delivery> {
        self.expire(now_ms);
        let waiting: Vec<u64> = self
            .messages
            .iter()
            .filter(|(_, m)| m.state == State::Waits)
            .map(|(place, _)| *place)
            .collect();
        let turn = if waiting.len() > 1 && dice.random_bool(reorder) {
            dice.random_range(0..waiting.len())
        } else {
            0
        };
        let sequence = *waiting.get(turn)?;
        let message = self.messages.get_mut(&sequence)?;
        message.delivered += 1;
        message.state = State::Out(None);
        Some(Delivery {
            sequence,
            life: self.life,
            payload: message.payload.clone(),
        })
    }

    fn expire(&mut self, now_ms: i64) {
        for (place, message) in &mut self.messages {
            if let State::Out(Some(until)) = message.state
                && until <= now_ms
            {
                message.state = if message.delivered >= self.most {
                    self.advisories.push(*place);
                    State::GivenUp
                } else {
                    State::Waits
                };
            }
        }
    }

    fn of(&mut self, delivery: &Delivery) -> Option<&mut Message> {
        (delivery.life == self.life)
            .then(|| self.messages.get_mut(&delivery.sequence))
            .flatten()
    }

    /// Its holder gives no more sign from now on: it died, or stands still.
    pub fn silent(&mut self, delivery: &Delivery, now_ms: i64) {
        if let Some(message) = self.of(delivery)
            && message.state == State::Out(None)
        {
            message.state = State::Out(Some(now_ms + ACK_WAIT_MS));
        }
    }

    /// Its holder goes on.
    pub fn sign(&mut self, delivery: &Delivery) {
        if let Some(message) = self.of(delivery)
            && matches!(message.state, State::Out(Some(_)))
        {
            message.state = State::Out(None);
        }
    }

    /// It is dealt with.
    pub fn ack(&mut self, delivery: &Delivery) {
        if delivery.life == self.life {
            self.messages.remove(&delivery.sequence);
        }
    }

    /// It is handed back.
    pub fn nak(&mut self, delivery: &Delivery) {
        if let Some(message) = self.of(delivery) {
            message.state = State::Waits;
        }
    }

    /// Where the last message of a job is.
    pub fn presence(&mut self, key: u128, now_ms: i64) -> Presence {
        self.expire(now_ms);
        match self.messages.iter().rev().find(|(_, m)| m.key == key) {
            None => Presence::Absent,
            Some((place, m)) if m.state == State::GivenUp => Presence::Exhausted(*place),
            Some(_) => Presence::Live,
        }
    }

    /// Whether any message of a job is there.
    pub fn has(&self, key: u128) -> bool {
        self.messages.values().any(|m| m.key == key)
    }

    /// Takes one out.
    pub fn remove(&mut self, place: u64) {
        self.messages.remove(&place);
    }

    /// What was given up since it was last asked, with its bytes.
    pub fn given_up(&mut self, now_ms: i64) -> Vec<(u64, Vec<u8>)> {
        self.expire(now_ms);
        std::mem::take(&mut self.advisories)
            .into_iter()
            .filter_map(|place| Some((place, self.messages.get(&place)?.payload.clone())))
            .collect()
    }

    /// The place of the last message.
    pub fn position(&self) -> u64 {
        self.last
    }

    /// Whether every message up to a place is acked, or none is there at all.
    pub fn drained_past(&self, position: u64) -> bool {
        let floor = self.messages.keys().next().map_or(self.last, |first| first - 1);
        floor >= position || self.messages.is_empty()
    }

    /// How many somebody has or will get. What was given up, of which no advisory came, and whose job went on, stays: nothing looks for it.
    pub fn under_way(&self) -> usize {
        self.messages
            .values()
            .filter(|m| m.state != State::GivenUp)
            .count()
    }
}

/// All that the bus stores.
#[derive(Debug)]
pub struct Bus {
    /// To workers.
    pub orders: Stream,
    /// From workers.
    pub events: Stream,
    /// Whether the streams are there: after a wipe they aren't, until they are made anew.
    pub is_there: bool,
}

impl Default for Bus {
    fn default() -> Self {
        Self {
            orders: Stream::new(MOST_DELIVERIES),
            events: Stream::new(u32::MAX),
            is_there: true,
        }
    }
}

impl Bus {
    /// All is gone.
    pub fn wipe(&mut self) {
        self.orders.wipe();
        self.events.wipe();
        self.is_there = false;
    }
}
