//! Hosts that were put back to an older copy of themselves, by what their ledgers say: one has forgotten an end that its agent answered. Pure.
//!
//! An end is durable in the ledger before it is answered, and comes to Postgres after that. So a ledger that doesn't know the end of a
//! job, or the fence of it, that ended before its host was looked at and was answered in the same epoch, is an older one. The highest
//! fence of a ledger, which its agent says first, shows that only where nothing that it accepted before the copy was above all that it
//! answered since.

use super::{HostInventory, Known, KnownJob};
use crate::ids::{Epoch, Fence, HostName};

/// The answer by which a resource's newest job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Whose agent answered.
    pub host: HostName,
    /// In which epoch of the host.
    pub epoch: Epoch,
    /// To which order.
    pub fence: Fence,
}

/// A host with a ledger that is older than what its agent has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Older {
    /// Which.
    pub host: HostName,
    /// In which epoch that was seen.
    pub epoch: Epoch,
}

/// The hosts among these that were put back, as far as their ledgers show it.
pub fn older(inventories: &[HostInventory], known: &Known) -> Vec<Older> {
    let put_back = inventories
        .iter()
        .filter(|i| knows_no_end(i, known) || knows_lower_fence(i, known));
    put_back
        .map(|i| Older {
            host: i.host.clone(),
            epoch: i.epoch,
        })
        .collect()
}

fn knows_no_end(inventory: &HostInventory, known: &Known) -> bool {
    inventory
        .unfinished
        .iter()
        .any(|unfinished| match known.jobs.get(&unfinished.job) {
            Some(KnownJob { ended_at: Some(at) }) => *at < inventory.asked_at,
            Some(KnownJob { ended_at: None }) | None => false,
        })
}

fn knows_lower_fence(inventory: &HostInventory, known: &Known) -> bool {
    inventory.fences.iter().any(|(resource, fence)| {
        let answered = known.answered.get(resource);
        answered.is_some_and(|a| a.host == inventory.host && a.epoch == inventory.epoch && *fence < a.fence)
            && known.is_still(*resource, inventory.asked_at)
    })
}
