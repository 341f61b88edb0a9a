//! What the scheduler says of a host, and what is held there.

use super::engine::{Engine, Live, Refusal};
use super::op::Fate;
use crate::driver::{Held, StepError};
use crate::ledger::Ticket;
use crate::ledger::record::Change;
use crate::ledger::state::HostState;
use rhyzome_model::ids::{Epoch, Fence, HostName, JobId, ResourceId};
use rhyzome_model::job::ErrorClass;
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// What the ledger says of a host.
#[derive(Clone, Debug, PartialEq)]
pub struct Books {
    /// Made with the ledger.
    pub ledger_id: Uuid,
    /// As last told; 0 if never.
    pub epoch: Epoch,
    /// The highest fence ever accepted.
    pub max_fence: Fence,
    /// By resource; without those on which an operation runs, since what is held of them is changing.
    pub fences: HashMap<ResourceId, Fence>,
    /// Jobs that aren't pruned, with their phase.
    pub jobs: Vec<(JobId, &'static str)>,
}

impl Engine {
    /// The scheduler's word on a host. An epoch of 0 isn't known yet; a lower one than known is not believed. False if
    /// the host still applies nothing.
    ///
    /// # Errors
    /// The ledger can't be written, or the host isn't one of this process.
    pub async fn told(&self, host: &HostName, epoch: Epoch, floor: Fence) -> Result<bool, Refusal> {
        let unknown = || Refusal::UnknownHost(host.clone());
        let cell = self.hosts.get(host).ok_or_else(unknown)?;
        let (told, first, ticket) = {
            let mut live = cell.live();
            let mut superseded = Vec::new();
            let ticket = self.ledger.with(|tx| {
                let state = tx.host(host)?;
                let known = state.epoch;
                let floor_rose = floor > state.floor;
                if epoch < known || epoch == Epoch(0) {
                    return Some(None);
                }
                if epoch > known {
                    tx.write(host, &Change::Epoch(epoch));
                    let mut running: Vec<_> = live.running.iter().collect();
                    running.sort_by_key(|(resource, _)| **resource);
                    for (_, op) in running {
                        op.doom(Fate::Superseded);
                        superseded.push(op.clone());
                    }
                }
                if floor_rose {
                    tx.write(host, &Change::Floor(floor));
                }
                // A floor alone may be lost: it is told again.
                Some(Some(if epoch > known {
                    tx.ticket()
                } else {
                    Ticket::ready()
                }))
            });
            for op in &superseded {
                op.cancel.cancel();
            }
            match ticket.ok_or_else(unknown)? {
                Some(ticket) => {
                    let first = !std::mem::replace(&mut live.told, true);
                    (true, first || !superseded.is_empty(), ticket)
                }
                None => (live.told, false, Ticket::ready()),
            }
        };
        ticket.durable().await?;
        if first {
            self.driver.epoch_told(host);
        }
        Ok(told)
    }

    /// What the ledger says of a host.
    pub fn books(&self, host: &HostName) -> Option<Books> {
        let cell = self.hosts.get(host)?;
        let live = cell.live();
        self.ledger
            .with(|tx| tx.host(host).map(|state| books(state, &live)))
    }

    /// What is held on a host, with what the ledger says of it. A resource's fence is there only if it was the same
    /// before and after looking, and nothing ran on it.
    ///
    /// # Errors
    /// The driver can't tell.
    pub async fn inventory(&self, host: &HostName) -> Result<(Books, Vec<Held>), StepError> {
        let unknown = || {
            StepError::new(
                ErrorClass::Permanent,
                "UNKNOWN_HOST",
                "This agent doesn't serve that host.",
            )
        };
        let mut books = self.books(host).ok_or_else(unknown)?;
        let held = self.driver.inventory(host).await?;
        let after = self.books(host).ok_or_else(unknown)?;
        books
            .fences
            .retain(|resource, fence| after.fences.get(resource) == Some(fence));
        self.forget(host, &held);
        Ok((books, held))
    }

    /// Fences below the floor say nothing that the floor doesn't; those of things that are here stay, for comparison.
    fn forget(&self, host: &HostName, held: &[Held]) {
        let here: HashSet<ResourceId> = held
            .iter()
            .flat_map(|object| object.claims.iter().copied().chain([object.id]))
            .collect();
        self.ledger.with(|tx| {
            let gone = tx
                .host(host)
                .map(|state| state.forgettable(|resource| here.contains(&resource)));
            if let Some(gone) = gone.filter(|gone| gone.len() >= 64) {
                tx.write(host, &Change::Forget(gone));
            }
        });
    }

    /// The fence of the job that last changed a resource on a host.
    pub fn fence_of(&self, host: &HostName, resource: ResourceId) -> Option<Fence> {
        self.ledger
            .with(|tx| Some(tx.host(host)?.fences.get(&resource)?.fence))
    }
}

fn books(state: &HostState, live: &Live) -> Books {
    let quiet = state
        .fences
        .iter()
        .filter(|(resource, _)| !live.running.contains_key(*resource));
    Books {
        ledger_id: state.ledger_id,
        epoch: state.epoch,
        max_fence: state.max_fence,
        fences: quiet.map(|(resource, held)| (*resource, held.fence)).collect(),
        jobs: state
            .jobs
            .iter()
            .map(|(job, entry)| (*job, entry.phase.as_str()))
            .collect(),
    }
}
