//! Every check: its invariant, and what to do. `docs/CHECK.md` has a paragraph on each.

use super::Invariant;
use crate::job::text_enum;
use serde::{Deserialize, Serialize};

text_enum! {
    /// A rule that can be read from Postgres and the agents' inventories.
    Check {
        /// A host's used capacity is the sum of its reservations.
        ReservedSum = "reserved_sum",
        /// A host's count of orders is the number of its jobs that are out.
        OrdersOut = "orders_out",
        /// Nothing is reserved above what a host offers that nobody judged so.
        OverOffered = "over_offered",
        /// What is on a host has its reservation there.
        ReservationMissing = "reservation_missing",
        /// What isn't on a host has none there.
        ReservationStray = "reservation_stray",
        /// A tenant's count of running jobs is the number of those that hold a slot.
        SlotsCount = "slots_count",
        /// No tenant has more running jobs than its cap.
        SlotsCap = "slots_cap",
        /// What counts against a tenant's quotas is what its resources and their open jobs ask for.
        QuotaUse = "quota_use",
        /// An order that is out and goes forward holds a slot; without an order out nothing does.
        SlotWithoutOrder = "slot_without_order",
        /// An automatic lease belongs to an interface of a living instance.
        LeaseOwner = "lease_owner",
        /// An interface of an instance has its lease.
        LeaseMissing = "lease_missing",
        /// An address, or a MAC, has one holder on a network.
        LeaseTwice = "lease_twice",
        /// An address lies in its network's range, and isn't the gateway's.
        LeaseAddress = "lease_address",
        /// A resource's references are what its spec refers to.
        Reference = "reference",
        /// A resource refers to its own tenant's, or to what is public.
        ReferenceForeign = "reference_foreign",
        /// A job that ended holds nothing.
        EndHolds = "end_holds",
        /// An open job is due, or out, or waits for something that is really open.
        JobStuck = "job_stuck",
        /// A job stands in line on its resource while it is open, and not after.
        JobLine = "job_line",
        /// A job that has a host is active on its resource, and the first in line.
        JobTurn = "job_turn",
        /// A job's host is there, and is its resource's.
        JobHost = "job_host",
        /// A resource's fence is that of its newest order.
        JobFence = "job_fence",
        /// No fence is above the sequence that they are drawn from.
        FenceAhead = "fence_ahead",
        /// The job that a kept reply names is there.
        ReplyWithoutJob = "reply_without_job",
        /// One usage interval is open for what is applied, none for what isn't.
        UsageOpen = "usage_open",
        /// The open interval meters what is applied.
        UsageFigures = "usage_figures",
        /// Usage intervals of a resource don't overlap.
        UsageOverlap = "usage_overlap",
        /// A network lives where its instances are, and nowhere else.
        NetworkHome = "network_home",
        /// What is being deleted has an open delete.
        DeleteLost = "delete_lost",
        /// What was deleted is gone.
        DeleteLeft = "delete_left",
        /// What is being deleted is needed only by what is being deleted too.
        DeleteNeeded = "delete_needed",
        /// A host holds only what lives there.
        ObjectOrphan = "object_orphan",
        /// A resource is on one host.
        ObjectElsewhere = "object_elsewhere",
        /// What is applied is on its host.
        ObjectMissing = "object_missing",
        /// What was turned off doesn't run.
        GuestRuns = "guest_runs",
        /// A shared object is claimed by who needs it, and by nobody else.
        ClaimStray = "claim_stray",
        /// A create that failed or was cancelled left nothing.
        LeftAfterEnd = "left_after_end",
        /// A job that has ended is finished in the agent's ledger.
        LedgerUnfinished = "ledger_unfinished",
        /// A job in an agent's ledger is a committed one.
        LedgerPhantom = "ledger_phantom",
    }
}

/// What shows that a rule is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Postgres alone.
    Postgres,
    /// A host's inventory against Postgres; the host is the first of the ids.
    Inventory,
    /// The one or the other.
    Both,
}

impl Check {
    /// What shows it.
    pub fn source(self) -> Source {
        match self {
            Self::ObjectOrphan
            | Self::ObjectElsewhere
            | Self::ObjectMissing
            | Self::GuestRuns
            | Self::ClaimStray
            | Self::LeftAfterEnd
            | Self::LedgerUnfinished
            | Self::LedgerPhantom => Source::Inventory,
            Self::JobFence | Self::FenceAhead => Source::Both,
            Self::ReservedSum
            | Self::OrdersOut
            | Self::OverOffered
            | Self::ReservationMissing
            | Self::ReservationStray
            | Self::SlotsCount
            | Self::SlotsCap
            | Self::QuotaUse
            | Self::SlotWithoutOrder
            | Self::LeaseOwner
            | Self::LeaseMissing
            | Self::LeaseTwice
            | Self::LeaseAddress
            | Self::Reference
            | Self::ReferenceForeign
            | Self::EndHolds
            | Self::JobStuck
            | Self::JobLine
            | Self::JobTurn
            | Self::JobHost
            | Self::ReplyWithoutJob
            | Self::UsageOpen
            | Self::UsageFigures
            | Self::UsageOverlap
            | Self::NetworkHome
            | Self::DeleteLost
            | Self::DeleteLeft
            | Self::DeleteNeeded => Source::Postgres,
        }
    }

    /// The invariant that it is about.
    pub fn invariant(self) -> Invariant {
        match self {
            Self::JobStuck | Self::ReplyWithoutJob | Self::DeleteLost | Self::DeleteNeeded => {
                Invariant::ACCEPTED
            }
            Self::LedgerPhantom => Invariant::NO_PHANTOM,
            Self::ReservationMissing
            | Self::ReservationStray
            | Self::LeaseOwner
            | Self::LeaseMissing
            | Self::Reference
            | Self::EndHolds
            | Self::JobLine
            | Self::UsageOpen
            | Self::UsageFigures
            | Self::UsageOverlap
            | Self::DeleteLeft => Invariant::ONCE,
            Self::JobTurn | Self::JobFence | Self::FenceAhead => Invariant::FENCED,
            Self::LeftAfterEnd | Self::LedgerUnfinished => Invariant::NOTHING_AFTER,
            Self::JobHost
            | Self::NetworkHome
            | Self::ObjectOrphan
            | Self::ObjectElsewhere
            | Self::ObjectMissing
            | Self::GuestRuns
            | Self::ClaimStray => Invariant::AGREEMENT,
            Self::ReservedSum
            | Self::OrdersOut
            | Self::OverOffered
            | Self::LeaseTwice
            | Self::LeaseAddress => Invariant::CAPACITY,
            Self::SlotsCount
            | Self::SlotsCap
            | Self::QuotaUse
            | Self::SlotWithoutOrder
            | Self::ReferenceForeign => Invariant::APART,
        }
    }

    /// What an operator does.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::ReservedSum | Self::OverOffered => {
                "Cordon the host until its counts are put right: nothing may be placed by wrong ones."
            }
            Self::OrdersOut => {
                "Put the count right: too high, it keeps orders from the host; too low, it lets too many out."
            }
            Self::ReservationMissing => {
                "Cordon the host, and reserve what the resource takes; its room may be given away."
            }
            Self::ReservationStray => {
                "Look whether the host holds anything of the resource; if not, take the reservation back with the host's counts."
            }
            Self::SlotsCount | Self::SlotsCap | Self::SlotWithoutOrder => {
                "Put the tenant's count right; too high, it keeps the tenant's jobs waiting for their turn."
            }
            Self::QuotaUse => {
                "Set the resource's asked_* to what its spec asks for: too high, it takes of its tenant's quota for nothing."
            }
            Self::LeaseOwner => "Take the lease away; the address is lost to its network while it is there.",
            Self::LeaseMissing => {
                "Delete the instance and make it anew: its address may be given to another."
            }
            Self::LeaseTwice => "Stop one of the two: both answer to one address. Restore the constraint.",
            Self::LeaseAddress => "Delete what holds the address and make it anew with another.",
            Self::Reference => {
                "Write the references as the spec has them; what is needed could be deleted otherwise."
            }
            Self::ReferenceForeign => "Delete what refers to it: a tenant uses what isn't its own.",
            Self::EndHolds => "Clear what the ended job holds.",
            Self::JobStuck => {
                "Set the job due; it goes on from where it is. Then look for what forgot to wake it."
            }
            Self::JobLine => {
                "An ended job: take its row away and wake who is next. An open one: put it in line again."
            }
            Self::JobTurn => "Cancel the later of the two jobs; then look at what the host holds.",
            Self::JobHost => "Look where the resource is, and set both to that host.",
            Self::JobFence => {
                "Raise the resource's fence to its newest order's before anything else is dispatched."
            }
            Self::FenceAhead => {
                "Postgres was set back (a restore, a failover). Stop dispatch; see the operators' page before going on."
            }
            Self::ReplyWithoutJob => {
                "Postgres lost a committed job: look for what was set back, and ask who made the request to make it again."
            }
            Self::UsageOpen | Self::UsageFigures | Self::UsageOverlap => {
                "Correct the interval before it is billed."
            }
            Self::NetworkHome => {
                "Delete the instances that are not where most of the network is, and make them anew."
            }
            Self::DeleteLost => "DELETE the resource again: it makes a new job.",
            Self::DeleteLeft => "DELETE the resource again, and look at what its host still holds.",
            Self::DeleteNeeded => "Delete what needs it; the delete goes on by itself then.",
            Self::ObjectOrphan | Self::ClaimStray => {
                "It comes into quarantine by itself, and is removed after scheduler.quarantine_grace."
            }
            Self::ObjectElsewhere | Self::LeftAfterEnd => {
                "It is turned off by itself, and removed after scheduler.quarantine_grace."
            }
            Self::ObjectMissing => {
                "It is made again by itself after scheduler.repair_after; cordon the host first if its disks only aren't mounted."
            }
            Self::GuestRuns => "It is turned off again by itself; a stop does it at once.",
            Self::LedgerUnfinished => {
                "Look at the agent's log for the job; restart the agent if it still works on it."
            }
            Self::LedgerPhantom => {
                "Find who made the order: nothing of ours did, or Postgres was set back. Renew the workers' certificates if in doubt."
            }
        }
    }
}
