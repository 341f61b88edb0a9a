//! Fault points and mutants: how a test aborts a process between two of its acts, or takes a rule of the protocol away.
//!
//! Without the feature `faults`, which no shipped binary has, everything here compiles to nothing. With it, the environment variable
//! [`POINTS_FILE`] names a file that arms points (see `fault/armed.rs`), and [`MUTANT`] names the one rule that doesn't hold.

#[cfg(feature = "faults")]
mod armed;

/// The environment variable with the path of the file that arms points.
pub const POINTS_FILE: &str = "RHYZOME_FAULT_POINTS";
/// The environment variable with the name of a mutant.
pub const MUTANT: &str = "RHYZOME_MUTANT";

/// Which side of an act a point is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// It has not happened.
    Before,
    /// It has.
    After,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Before, Self::After];

    /// As in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }

    /// As in the file.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|side| side.as_str() == text)
    }
}

/// An act of the job protocol, in the order of a job's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// The API's transaction.
    AcceptCommit,
    /// The API tells schedulers of a job.
    WakeUp,
    /// The transaction that draws the fence.
    DispatchCommit,
    /// Its orders go to the workers.
    OrderPublish,
    /// A worker takes an order up.
    OrderReceived,
    /// A worker calls an agent.
    StepCall,
    /// An agent's decision becomes durable, before it acts.
    LedgerIntent,
    /// Something is made so on a host.
    Effect,
    /// A step's result goes to the ledger.
    LedgerResult,
    /// An agent answers a call.
    StepReply,
    /// The end of a job becomes durable.
    Finish,
    /// A worker reports an outcome.
    OutcomePublish,
    /// A worker acks an order.
    OrderAck,
    /// The transaction that settles reports.
    SettleCommit,
    /// The settled reports are acked.
    EventAck,
    /// Who watches is told.
    Notify,
}

impl Point {
    /// All, in the order of a job's path.
    pub const ALL: [Self; 16] = [
        Self::AcceptCommit,
        Self::WakeUp,
        Self::DispatchCommit,
        Self::OrderPublish,
        Self::OrderReceived,
        Self::StepCall,
        Self::LedgerIntent,
        Self::Effect,
        Self::LedgerResult,
        Self::StepReply,
        Self::Finish,
        Self::OutcomePublish,
        Self::OrderAck,
        Self::SettleCommit,
        Self::EventAck,
        Self::Notify,
    ];

    /// As in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AcceptCommit => "accept_commit",
            Self::WakeUp => "wake_up",
            Self::DispatchCommit => "dispatch_commit",
            Self::OrderPublish => "order_publish",
            Self::OrderReceived => "order_received",
            Self::StepCall => "step_call",
            Self::LedgerIntent => "ledger_intent",
            Self::Effect => "effect",
            Self::LedgerResult => "ledger_result",
            Self::StepReply => "step_reply",
            Self::Finish => "finish",
            Self::OutcomePublish => "outcome_publish",
            Self::OrderAck => "order_ack",
            Self::SettleCommit => "settle_commit",
            Self::EventAck => "event_ack",
            Self::Notify => "notify",
        }
    }

    /// As in the file.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|point| point.as_str() == text)
    }
}

/// A rule of the protocol that can be taken away, to see that its absence is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// An agent does what a lower fence than the resource's asks for.
    NoFenceCheck,
    /// An event is acked before what it says is committed.
    EventAckedFirst,
    /// A job that is to be undone ends without its undo.
    NoUndo,
    /// A create that is to be tried again gives its host and its reservation back.
    ReservationFreedEarly,
    /// What steps came to stays in the ledger after their undo.
    ResultsKept,
    /// The sweep looks for nothing.
    SweepSleeps,
}

impl Mutant {
    /// All.
    pub const ALL: [Self; 6] = [
        Self::NoFenceCheck,
        Self::EventAckedFirst,
        Self::NoUndo,
        Self::ReservationFreedEarly,
        Self::ResultsKept,
        Self::SweepSleeps,
    ];

    /// As in the environment.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoFenceCheck => "no_fence_check",
            Self::EventAckedFirst => "event_acked_first",
            Self::NoUndo => "no_undo",
            Self::ReservationFreedEarly => "reservation_freed_early",
            Self::ResultsKept => "results_kept",
            Self::SweepSleeps => "sweep_sleeps",
        }
    }

    /// As in the environment.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| mutant.as_str() == text)
    }
}

/// Marks a side of an act. Where it is armed, the process ends here.
#[inline]
pub fn point(point: Point, side: Side) {
    #[cfg(feature = "faults")]
    armed::meet(point, side);
    #[cfg(not(feature = "faults"))]
    let _ = (point, side);
}

/// Whether this rule is taken away. Never without the feature.
#[inline]
pub fn is_mutant(mutant: Mutant) -> bool {
    #[cfg(feature = "faults")]
    return armed::mutant() == Some(mutant);
    #[cfg(not(feature = "faults"))]
    {
        let _ = mutant;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_distinct_and_read_back() {
        let points: BTreeSet<_> = Point::ALL.iter().map(|p| p.as_str()).collect();
        assert_eq!(points.len(), Point::ALL.len());
        assert!(Point::ALL.iter().all(|p| Point::parse(p.as_str()) == Some(*p)));
        assert!(Mutant::ALL.iter().all(|m| Mutant::parse(m.as_str()) == Some(*m)));
        assert!(Side::ALL.iter().all(|s| Side::parse(s.as_str()) == Some(*s)));
    }
}
