//! What reconcile asks for, each judged again in its transaction.

use super::{Books, Job, Origin, Pinned, Resource};
use chrono::{DateTime, Utc};
use rhyzome_model::check::{Amiss, Owner, Wrong};
use rhyzome_model::ids::{ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState};
use rhyzome_model::step::Step;

/// The tenant of what nobody owns.
pub const NOBODYS: &str = "system";

impl Books {
    /// Makes again what its host lacks of a resource.
    pub fn accept_repair(&mut self, amiss: &Amiss, origin: Origin) -> Option<()> {
        let Wrong::Incomplete { .. } = amiss.wrong else {
            return None;
        };
        let before = self.at_rest(amiss)?;
        let applied = before.applied.clone()?;
        if before.host.as_ref() != Some(&amiss.host) {
            return None;
        }
        let names = before
            .kind
            .ops()
            .step_names(Action::Repair, &applied, Some(&applied))
            .ok()?;
        self.insert(
            &before,
            Action::Repair,
            JobState::Queued,
            applied,
            &names,
            None,
            origin,
        );
        self.tried(amiss, origin.now);
        Some(())
    }

    /// Does on a host what rids it of something that a resource, which is elsewhere or not made, left there; or turns that off.
    pub fn accept_clearing(&mut self, amiss: &Amiss, steps: Vec<Step>, origin: Origin) -> Option<()> {
        let before = self.at_rest(amiss)?;
        let lives_there = before.host.as_ref() == Some(&amiss.host);
        let owns = match &amiss.wrong {
            Wrong::Stray(stray) => {
                stray.owner == Owner::Resource && (!lives_there || stray.objects.is_empty())
            }
            Wrong::Incomplete { .. } => false,
        };
        if !owns || before.stand_in.is_some() {
            return None;
        }
        self.there(amiss, steps, &before, Action::Repair, origin);
        Some(())
    }

    /// Puts what nobody owns in quarantine.
    pub fn accept_quarantine(&mut self, amiss: &Amiss, origin: Origin) -> Option<()> {
        let Wrong::Stray(stray) = &amiss.wrong else {
            return None;
        };
        if stray.owner != Owner::Nobody {
            return None;
        }
        let stands = Pinned {
            host: amiss.host.clone(),
            steps: amiss.removal(),
        };
        let made = !self.resources.contains_key(&amiss.resource);
        if made {
            self.insert_stand_in(amiss, stands.clone());
        }
        // Where it isn't gone on with, the transaction is rolled back.
        let Some(before) = self.at_rest(amiss) else {
            if made {
                self.resources.remove(&amiss.resource);
            }
            return None;
        };
        let is = before.stand_in.as_ref().filter(|s| s.host == amiss.host)?;
        if *is != stands
            && let Some(row) = self.resources.get_mut(&amiss.resource)
        {
            row.stand_in = Some(stands);
        }
        let off = amiss.quarantine();
        let turns_off = !off.is_empty();
        if turns_off {
            self.there(amiss, off, &before, Action::Stop, origin);
        }
        (turns_off || made).then_some(())
    }

    /// Deletes what stands in for something on a host, and that with it.
    pub fn accept_removal(&mut self, amiss: &Amiss, origin: Origin) -> Option<()> {
        let mut before = self.at_rest(amiss)?;
        let stands = before.stand_in.clone().filter(|s| s.host == amiss.host)?;
        if let Some(row) = self.resources.get_mut(&before.id) {
            row.deleting = true;
            row.generation += 1;
            before = row.clone();
        }
        self.there(amiss, stands.steps, &before, Action::Delete, origin);
        Some(())
    }

    /// What stands in for something that its host no longer holds goes; how many went.
    pub fn stand_ins_gone(&mut self) -> usize {
        let gone: Vec<ResourceId> = self
            .resources
            .values()
            .filter(|r| {
                r.stand_in.as_ref().is_some_and(|s| {
                    !self.line.contains_key(&r.id) && !self.amiss.contains_key(&(s.host.clone(), r.id))
                })
            })
            .map(|r| r.id)
            .collect();
        for id in &gone {
            self.resources.remove(id);
        }
        self.changed |= !gone.is_empty();
        gone.len()
    }

    /// The resource, if nothing is done with it.
    fn at_rest(&self, amiss: &Amiss) -> Option<Resource> {
        let before = self
            .resources
            .get(&amiss.resource)
            .filter(|r| r.kind == amiss.kind)?;
        let may = self.amiss.contains_key(&(amiss.host.clone(), amiss.resource))
            && !self.abandoned.values().any(|rest| rest.resource == before.id);
        let ended_since =
            |job: &Job| job.resource == before.id && job.ended_at.is_some_and(|at| at >= amiss.asked_at);
        let busy =
            before.deleting || self.line.contains_key(&before.id) || self.jobs.values().any(ended_since);
        (may && !busy).then(|| before.clone())
    }

    /// A job with steps that are done on the host that something is amiss on.
    fn there(&mut self, amiss: &Amiss, steps: Vec<Step>, before: &Resource, action: Action, origin: Origin) {
        let spec = before.applied.clone().unwrap_or_else(|| before.spec.clone());
        let pinned = Pinned {
            host: amiss.host.clone(),
            steps,
        };
        self.insert(before, action, JobState::Queued, spec, &[], Some(&pinned), origin);
        self.tried(amiss, origin.now);
    }

    fn tried(&mut self, amiss: &Amiss, now: DateTime<Utc>) {
        if let Some(row) = self.amiss.get_mut(&(amiss.host.clone(), amiss.resource)) {
            row.standing.tries += 1;
            row.standing.tried_at = Some(now);
        }
    }

    fn insert_stand_in(&mut self, amiss: &Amiss, stands: Pinned) {
        let spec = amiss.kind.ops().stand_in().unwrap_or_default();
        let row = Resource {
            stand_in: Some(stands),
            ..Resource::new(
                amiss.resource,
                TenantId::from(NOBODYS),
                amiss.kind,
                format!("quarantined-{}", amiss.resource),
                spec,
            )
        };
        self.changed = true;
        self.resources.insert(row.id, row);
    }
}
