//! What the books are checked for: each check with the invariant of the protocol that it is about, what it found, and what an
//! operator does about it.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `list` | every check: its invariant, and what to do |
//! | `inventory` | what hosts hold against what Postgres says; pure |
//! | `compare` | one host's inventory, object by object |
//! | `amiss` | what of that is to be mended, by resource; pure |
//! | `older` | hosts that were put back to an older copy of themselves; pure |
//!
//! Invariants 9, 10 and 13 are about moments (an ack, a watcher, a restart) and leave nothing behind that could be read; 2 and 11 are
//! constraints and a way to recover. No check has their numbers, and their counts stay 0.

mod amiss;
mod compare;
mod inventory;
mod list;
mod older;

pub use amiss::{Amiss, Owner, Stray, Wrong, amiss};
pub use inventory::{
    HeldObject, HostInventory, InventoryError, Known, KnownJob, KnownResource, Moved, Part, RawFence,
    RawInventory, RawJob, RawObject, RowOf, Unfinished, compare,
};
pub use list::{Check, Source};
pub use older::{Answered, Older, older};

use crate::ids::HostName;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

/// An invariant of the protocol, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Invariant(u8);

impl Invariant {
    /// After a 202 there is exactly one job, and it ends.
    pub const ACCEPTED: Self = Self(1);
    /// Every message and every agent call names a committed job.
    pub const NO_PHANTOM: Self = Self(3);
    /// Transitions are legal, terminal is final, each effect, lease, reservation and usage interval exists once.
    pub const ONCE: Self = Self(4);
    /// Fences never decrease; effects of two jobs on one resource never overlap.
    pub const FENCED: Self = Self(5);
    /// A failed or cancelled create leaves nothing on any host.
    pub const NOTHING_AFTER: Self = Self(6);
    /// At rest, what agents hold is what Postgres says was applied.
    pub const AGREEMENT: Self = Self(7);
    /// Capacity is judged when reserving; one live holder per network and address.
    pub const CAPACITY: Self = Self(8);
    /// Tenants are apart; running jobs never exceed the cap.
    pub const APART: Self = Self(12);

    /// All thirteen, checked here or not.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=13).map(Self)
    }

    /// As tests and metrics name it.
    pub fn number(self) -> u8 {
        self.0
    }
}

/// A rule that was found broken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Violation {
    /// Which.
    pub check: Check,
    /// What it is about: ids of resources and jobs, names of hosts and tenants.
    pub ids: Vec<String>,
    /// A sentence.
    pub found: String,
}

impl Violation {
    /// Of one thing.
    pub fn of(check: Check, id: &(impl ToString + ?Sized), found: impl Into<String>) -> Self {
        Self::of_all(check, [id.to_string()], found)
    }

    /// Of several things, the one that it is mainly about first.
    pub fn of_all(check: Check, ids: impl IntoIterator<Item = String>, found: impl Into<String>) -> Self {
        Self {
            check,
            ids: ids.into_iter().collect(),
            found: found.into(),
        }
    }

    /// The host whose inventory shows it; none where Postgres does.
    pub fn host(&self) -> Option<HostName> {
        match (self.check.source(), self.ids.as_slice()) {
            (Source::Inventory | Source::Both, [host, _, ..]) => Some(HostName(host.clone())),
            (Source::Inventory | Source::Both | Source::Postgres, _) => None,
        }
    }

    /// Whether it is about the same as another, whatever was found of it.
    pub fn is_same(&self, other: &Self) -> bool {
        self.check == other.check && self.ids == other.ids
    }
}

impl Serialize for Violation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut doc = serializer.serialize_struct("Violation", 5)?;
        doc.serialize_field("invariant", &self.check.invariant().number())?;
        doc.serialize_field("check", &self.check)?;
        doc.serialize_field("ids", &self.ids)?;
        doc.serialize_field("found", &self.found)?;
        doc.serialize_field("remedy", self.check.remedy())?;
        doc.end()
    }
}
