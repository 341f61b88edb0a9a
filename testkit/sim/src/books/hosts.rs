//! What agents say: hellos, inventories, and of these what is left of abandoned jobs.

use super::Books;
use super::ends::Back;
use crate::mutant::Mutant;
use chrono::{DateTime, Utc};
use rhyzome_model::check::{HostInventory, RawInventory};
use rhyzome_model::ids::{Epoch, Fence, HostName};
use rhyzome_store::settle::Abandoned;
use rhyzome_store::watches::{Greeting, Hello};
use serde_json::Value;

impl Books {
    /// The highest fence of the host's epoch that its agent has answered with an end.
    pub fn host_answered(&self, host: &HostName) -> i64 {
        self.hosts.get(host).map_or(0, |h| h.answered_fence)
    }

    /// Answers an agent's hello. Not while a dispatch draws: it has the host's row.
    pub fn host_greet(&mut self, host: &HostName, hello: &Hello, now: DateTime<Utc>) -> Greeting {
        let (seen, last) = (hello.max_fence, self.fence);
        // Under a mutant agents know fences that were never drawn.
        if seen > last && self.mutant != Some(Mutant::NoFenceCheck) {
            self.faults
                .push(format!("3: {host} knows fence {seen}, {last} were drawn"));
            return Greeting::SetBack { seen, last };
        }
        let unnoticed = self.mutant == Some(Mutant::PutBackUnnoticed);
        let Some(row) = self.hosts.get_mut(host) else {
            return Greeting::SetBack { seen, last };
        };
        let answered = row.answered_fence;
        let same = row.ledger_id.as_ref() == Some(&hello.ledger_id);
        let older = seen < hello.answered.min(answered) && !unnoticed;
        row.epoch = row.epoch.max(hello.epoch);
        if !same || older {
            row.epoch += 1;
            row.answered_fence = 0;
        }
        if same && older {
            row.put_back_at = Some(now);
        }
        row.ledger_id = Some(hello.ledger_id.clone());
        Greeting::Epoch {
            epoch: row.epoch,
            behind: (same && older).then_some(answered),
        }
    }

    /// A host's ledger was seen to be older than what its agent answered in an epoch.
    pub fn host_older(&mut self, host: &HostName, epoch: Epoch, now: DateTime<Utc>) -> bool {
        let unnoticed = self.mutant == Some(Mutant::PutBackUnnoticed);
        let Some(row) = self
            .hosts
            .get_mut(host)
            .filter(|h| h.epoch == epoch.0 && !unnoticed)
        else {
            return false;
        };
        row.epoch += 1;
        row.answered_fence = 0;
        row.put_back_at = Some(now);
        row.up = false;
        true
    }

    /// Keeps a host's inventory, with a moment before its agent began to look.
    pub fn host_inventory(&mut self, host: &HostName, inventory: Value, asked_at: DateTime<Utc>) {
        let read = serde_json::from_value::<RawInventory>(inventory)
            .map_err(|e| e.to_string())
            .and_then(|raw| raw.read(host.clone(), asked_at).map_err(|e| e.to_string()));
        match read {
            Ok(read) => {
                if let Some(row) = self.hosts.get_mut(host) {
                    row.inventory = Some(read);
                }
            }
            Err(error) => self
                .faults
                .push(format!("3: an inventory that can't be read: {error}")),
        }
    }

    /// What the watches have stored; none of a host whose watch is down, or that wasn't asked yet.
    pub fn inventories_stored(&self) -> Vec<HostInventory> {
        let up = self.hosts.values().filter(|h| h.up);
        up.filter_map(|h| h.inventory.clone()).collect()
    }

    /// What was abandoned on a host, and may have left something.
    pub fn abandoned_on(&self, host: &HostName) -> Vec<Abandoned> {
        let of = self.abandoned.iter().filter(|(_, rest)| rest.host == *host);
        of.filter_map(|(id, rest)| {
            let job = self.jobs.get(id)?;
            Some(Abandoned {
                job: *id,
                resource: rest.resource,
                tenant: job.tenant.clone(),
                host: rest.host.clone(),
                fence: Fence(rest.fence),
                epoch: Epoch(job.epoch),
                made: self
                    .resources
                    .get(&rest.resource)
                    .is_some_and(|r| r.applied.is_some()),
                at: rest.at,
            })
        })
        .collect()
    }

    /// The host of an abandoned job was seen to hold nothing of it.
    pub fn abandoned_gone(&mut self, gone: &Abandoned) -> bool {
        let at_work = self
            .open_jobs()
            .any(|j| j.resource == gone.resource && j.host.is_some());
        if at_work || self.abandoned.remove(&gone.job).is_none() {
            return false;
        }
        let held = self
            .resources
            .get(&gone.resource)
            .is_some_and(|r| r.applied.is_none() && r.host.as_ref() == Some(&gone.host));
        if held {
            let mut back = Back::default();
            back.leaving.push(gone.resource);
            self.give_back(back);
        }
        self.changed = true;
        true
    }
}
