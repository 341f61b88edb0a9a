//! JetStream: a work queue of orders and a stream of events, both sets, so that any order of delivery happens.
//!
//! Guarantees only what the real one does: what is stored and not acked is delivered at some time, unless it is lost.

use crate::config::{Epoch, Fence, HostIx, JobIx, Serial};

/// The direction in which an order drives its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// Do the steps.
    Forward,
    /// Undo them.
    Undo,
}

/// A dispatch of a job to one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Order {
    /// The job.
    pub job: JobIx,
    /// The host whose agent decides.
    pub host: HostIx,
    /// The resource's fence.
    pub fence: Fence,
    /// The host's epoch at the dispatch.
    pub epoch: Epoch,
    /// The direction.
    pub mode: Mode,
    /// As which a repair makes the instance; of others nothing.
    pub version: u8,
}

/// An order in the work queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueuedOrder {
    /// The order.
    pub order: Order,
    /// Whether its ack wait runs.
    pub delivered: bool,
}

/// How an agent says that a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Done, and applied.
    Succeeded,
    /// Undone, because of a cancel or a deadline.
    Cancelled,
    /// Undone, because it can't succeed.
    Failed,
    /// Undone, because there was no room: it may be placed anew.
    Released,
}

/// What a worker reports of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Report {
    /// The agent's word, and the serial number of its ledger's record of it.
    Ended(Outcome, Serial),
    /// The agent couldn't be reached, or was busy: to be dispatched again later.
    Suspended,
    /// The agent knows a newer fence, or has pruned this one.
    Stale,
    /// Taking it back failed: to be tried again later.
    UndoFailed,
    /// The host had no room. Only a protocol without [`crate::Rule::ReleasedFirst`] acts on it.
    NoRoom,
}

/// An event in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Event {
    /// The job.
    pub job: JobIx,
    /// The order's fence.
    pub fence: Fence,
    /// What is reported.
    pub report: Report,
}

/// Both streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bus {
    /// The work queue, sorted.
    pub orders: Vec<QueuedOrder>,
    /// Events not acked, sorted.
    pub events: Vec<Event>,
}

impl Bus {
    /// Stores an order; a repeated one counts as delivered again.
    pub fn publish_order(&mut self, order: Order) {
        self.ack_order(order);
        let queued = QueuedOrder {
            order,
            delivered: false,
        };
        let at = self.orders.partition_point(|q| *q < queued);
        self.orders.insert(at, queued);
    }

    /// Takes an order out, whoever has it: acks of expired deliveries are accepted.
    pub fn ack_order(&mut self, order: Order) {
        self.orders.retain(|q| q.order != order);
    }

    /// Marks an order as delivered, or its ack wait as run out.
    pub fn set_delivered(&mut self, order: Order, delivered: bool) {
        for queued in self.orders.iter_mut().filter(|q| q.order == order) {
            queued.delivered = delivered;
        }
        self.orders.sort_unstable();
    }

    /// Whether the subject of an order is empty.
    pub fn holds(&self, job: JobIx, fence: Fence) -> bool {
        self.orders
            .iter()
            .any(|q| q.order.job == job && q.order.fence == fence)
    }

    /// Stores an event.
    pub fn publish_event(&mut self, event: Event) {
        if let Err(at) = self.events.binary_search(&event) {
            self.events.insert(at, event);
        }
    }

    /// Takes an event out.
    pub fn ack_event(&mut self, event: Event) {
        self.events.retain(|e| *e != event);
    }

    /// Loses everything.
    pub fn wipe(&mut self) {
        self.orders.clear();
        self.events.clear();
    }
}
