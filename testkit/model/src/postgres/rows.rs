//! The rows of a job and of a resource.
//!
//! Guarantees nothing: the transactions do.

use crate::bus::Order;
use crate::config::{Fence, HOSTS, HostIx};

/// A job's state. `blocked` is `Queued` behind another; `undoing` is `Running`, as no transaction tells them apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Status {
    /// Not accepted yet.
    #[default]
    Absent,
    /// Waits for its turn, its host or its next attempt.
    Queued,
    /// An order is out.
    Running,
    /// Ended.
    Succeeded,
    /// Ended.
    Failed,
    /// Ended.
    Cancelled,
}

impl Status {
    /// Whether nothing follows.
    pub fn is_final(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
            Self::Absent | Self::Queued | Self::Running => false,
        }
    }
}

/// Why a job is to be undone although no step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// A user asked.
    Cancel,
    /// Its time is over.
    Deadline,
    /// Its order's workers died of it.
    Poison,
}

impl Mark {
    /// The end of a job that was undone for this.
    pub fn end(self) -> Status {
        match self {
            Self::Cancel => Status::Cancelled,
            Self::Deadline | Self::Poison => Status::Failed,
        }
    }
}

/// A row of `jobs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct JobRow {
    /// Its state.
    pub status: Status,
    /// Set by a cancel or a deadline.
    pub mark: Option<Mark>,
    /// The last order, until the agent reported it `released` or the job has ended.
    pub order: Option<Order>,
    /// The fence of its first order to that host.
    pub first: Fence,
    /// Hosts that refused it.
    pub excluded: [bool; HOSTS],
    /// How many jobs that are open on its resource come before it.
    pub turn: u8,
    /// The host that reconcile found something on.
    pub pinned: Option<HostIx>,
    /// Taking it back was tried in vain.
    pub in_vain: bool,
}

impl JobRow {
    /// Whether it is accepted and hasn't ended.
    pub fn is_open(&self) -> bool {
        self.status != Status::Absent && !self.status.is_final()
    }
}

/// A row of `resources`, with its reservation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResourceRow {
    /// The host that holds capacity for it.
    pub reservation: Option<HostIx>,
    /// The host on which its last success stands.
    pub applied: Option<HostIx>,
    /// As which it was applied.
    pub version: u8,
    /// What an abandoned job may have left.
    pub left: Option<Left>,
    /// Whether such a thing was ever seen gone.
    pub forgotten: bool,
    /// Its host may hold it as it was once.
    pub doubt: bool,
}

/// A row of `abandoned`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    /// Its last order.
    pub order: Order,
    /// The fence of its first order to that host.
    pub first: Fence,
}
