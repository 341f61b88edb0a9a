//! A scheduler's volatile state: what it still has to do after a commit.
//!
//! Guarantees nothing: a scheduler that dies forgets it, and sweep or the bus repeats it.

use crate::bus::{Event, Order};

/// A scheduler between two transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheduler {
    /// Looks for work.
    Free,
    /// Committed a dispatch, or found an order missing: publish it.
    Publish(Order),
    /// Committed an event: ack it.
    Ack(Event),
    /// Acked an event first, against the rule: commit it.
    Commit(Event),
}
