//! The check: who is at it, what it reads in one snapshot, and what of it is noted.

use super::{AmissRow, Books, Job, Resource};
use chrono::{DateTime, TimeDelta, Utc};
use rhyzome_model::check::{Amiss, Answered, HostInventory, Known, KnownJob, KnownResource, Moved, RowOf};
use rhyzome_model::ids::{Epoch, Fence, HostName, ResourceId};
use rhyzome_model::job::{self, JobState};
use rhyzome_model::kinds::Power;
use rhyzome_model::step::Action;
use rhyzome_store::amiss::{Noted, Standing};
use std::collections::{BTreeMap, BTreeSet};

impl Books {
    /// Takes the next check, if it is time and nobody else has it.
    pub fn check_take(&mut self, interval: TimeDelta, lease: TimeDelta, now: DateTime<Utc>) -> bool {
        let free = self.check.taken_until.is_none_or(|until| until <= now)
            && self.check.checked_at.is_none_or(|at| at <= now - interval);
        if free {
            self.check.taken_until = Some(now + lease);
        }
        free
    }

    /// Gives the next one free.
    pub fn check_done(&mut self, now: DateTime<Utc>) {
        self.check.checked_at = Some(now);
        self.check.taken_until = None;
    }

    /// What inventories are compared with.
    pub fn known(&self, inventories: &[HostInventory]) -> Known {
        let since = inventories.iter().map(|i| i.asked_at).min().unwrap_or_default();
        let mut known = Known {
            last_fence: Fence(self.fence),
            resources: self
                .resources
                .keys()
                .filter_map(|id| self.known_resource(*id))
                .collect(),
            ..Known::default()
        };
        let jobs = self.jobs.values();
        for job in jobs.filter(|j| j.ended_at.is_none_or(|at| at >= since)) {
            let moved = job.ended_at.map_or(Moved::Open, Moved::Ended);
            later(&mut known.moved, job.resource, moved);
            if let Some(host) = &job.host {
                later(&mut known.hosts_moved, host.clone(), moved);
            }
        }
        for rest in self.abandoned.values() {
            later(&mut known.moved, rest.resource, Moved::Open);
            later(&mut known.hosts_moved, rest.host.clone(), Moved::Open);
        }
        known.answered = self.answered();
        let unfinished = inventories.iter().flat_map(|i| &i.unfinished);
        known.jobs = unfinished
            .filter_map(|u| {
                let job = self.jobs.get(&u.job)?;
                let ended_at = job.ended_at.filter(|_| !job.given_up);
                Some((u.job, KnownJob { ended_at }))
            })
            .collect();
        known
    }

    /// By the fence of a resource, which is that of its newest order.
    fn answered(&self) -> BTreeMap<ResourceId, Answered> {
        let ended = self.jobs.values().filter(|j| j.ended_at.is_some());
        ended
            .filter_map(|j| {
                let (host, fence) = (j.host.clone()?, j.fence?);
                let newest = self.resources.get(&j.resource)?.fence == fence;
                let answered = Answered {
                    host,
                    epoch: Epoch(j.epoch),
                    fence: Fence(fence),
                };
                newest.then_some((j.resource, answered))
            })
            .collect()
    }

    fn known_resource(&self, id: ResourceId) -> Option<(ResourceId, KnownResource)> {
        let resource = self.resources.get(&id)?;
        let refs = self.refs.iter().filter(|(from, _)| *from == id);
        let host = resource
            .host
            .as_ref()
            .and_then(|h| self.hosts.get(h).map(|row| (h, row)));
        let repaired = |job: &&Job| {
            job.resource == id
                && matches!(job.action, job::Action::Create | job::Action::Repair)
                && job.pinned_host.is_none()
        };
        let ended = |succeeded: bool| {
            let of = self.jobs.values().filter(repaired);
            of.filter(move |j| (j.state == JobState::Succeeded) == succeeded)
                .filter_map(|j| j.ended_at)
                .max()
        };
        let (made, failed) = (ended(true), ended(false));
        let made_anew = |name: &HostName, epoch: i64, since: DateTime<Utc>| {
            self.jobs.values().filter(repaired).any(|j| {
                j.state == JobState::Succeeded
                    && j.ended_at.is_some_and(|at| at > since)
                    && (j.host.as_ref(), j.epoch) == (Some(name), epoch)
            })
        };
        let put_back = host.is_some_and(|(name, row)| {
            row.put_back_at
                .is_some_and(|since| !made_anew(name, row.epoch, since))
        });
        // Neither put back since, nor left half repaired.
        let in_doubt = put_back || made.zip(failed).is_some_and(|(made, failed)| made <= failed);
        let known = KnownResource {
            kind: resource.kind,
            host: resource.host.clone(),
            applied: resource.applied.is_some(),
            off: is_off(resource),
            fence: Fence(resource.fence),
            refs: refs
                .filter_map(|(_, to)| Some((*to, self.resources.get(to)?.kind)))
                .collect(),
            row: if resource.stand_in.is_some() {
                RowOf::StandIn
            } else if in_doubt {
                RowOf::InDoubt
            } else {
                RowOf::Resource
            },
        };
        Some((id, known))
    }

    /// Whether an action takes from a host what was applied there, as it was applied.
    pub fn is_needed(&self, host: &HostName, action: &Action) -> bool {
        let lives = |id: ResourceId| {
            let resource = self.resources.get(&id);
            resource.filter(|r| r.applied.is_some() && r.host.as_ref() == Some(host))
        };
        let claimed = |object: ResourceId, holder: ResourceId| {
            let needs = object == holder || self.refs.contains(&(holder, object));
            needs && lives(holder).is_some()
        };
        match action {
            Action::RemoveInstance(a) => lives(a.instance).is_some(),
            Action::RemoveDisk(a) => lives(a.disk).is_some(),
            Action::DropNetwork(a) | Action::DropImage(a) => claimed(a.object, a.holder),
            Action::SetPower(a) if a.power == Power::Off => lives(a.instance).is_some_and(|r| !is_off(r)),
            Action::SetPower(_)
            | Action::EnsureNetwork(_)
            | Action::EnsureImage(_)
            | Action::EnsureDisk(_)
            | Action::EnsureInstance(_)
            | Action::Reboot(_) => false,
        }
    }

    /// Notes what was found amiss on the hosts that were looked at.
    pub fn amiss_note(&mut self, looked: &[HostInventory], found: &[Amiss], now: DateTime<Utc>) -> Noted {
        let keys: BTreeSet<_> = found.iter().map(|a| (a.host.clone(), a.resource)).collect();
        let jobs = &self.jobs;
        let moved = |resource: ResourceId, asked_at: DateTime<Utc>| {
            jobs.values()
                .any(|j| j.resource == resource && j.ended_at.is_none_or(|at| at >= asked_at))
        };
        for inventory in looked {
            self.amiss.retain(|key, _| {
                key.0 != inventory.host || keys.contains(key) || moved(key.1, inventory.asked_at)
            });
        }
        let anew = Standing {
            since: now,
            tries: 0,
            tried_at: None,
        };
        for amiss in found {
            let new = AmissRow {
                wrong: amiss.wrong.as_str(),
                standing: anew,
            };
            let row = self
                .amiss
                .entry((amiss.host.clone(), amiss.resource))
                .or_insert(new);
            if row.wrong != new.wrong {
                *row = new;
            }
        }
        for inventory in looked {
            let name = &inventory.host;
            let lacks = self
                .amiss
                .iter()
                .any(|((host, _), row)| host == name && row.wrong == "incomplete");
            let quiet = !self.jobs.values().any(|j| {
                j.host.as_ref() == Some(name) && j.ended_at.is_none_or(|at| at >= inventory.asked_at)
            });
            if let Some(host) = self.hosts.get_mut(name)
                && host.put_back_at.is_some_and(|at| at < inventory.asked_at)
                && !lacks
                && quiet
            {
                host.put_back_at = None;
            }
        }
        self.note_how_it_is(looked);
        let standing = keys
            .into_iter()
            .filter_map(|key| Some((key.clone(), self.amiss.get(&key)?.standing)))
            .collect();
        Noted { now, standing }
    }

    /// For who waits for rest: since when each host is as it is to be.
    fn note_how_it_is(&mut self, looked: &[HostInventory]) {
        let since = looked.iter().map(|i| i.asked_at).min();
        let well = looked.len() == self.hosts.len()
            && self.amiss.is_empty()
            && self.hosts.values().all(|h| h.put_back_at.is_none());
        self.check.well_since = since.filter(|_| well);
    }

    /// What is amiss, and stays so.
    pub fn unmended(&self) -> Vec<String> {
        let amiss = self.amiss.iter().map(|((host, resource), row)| {
            format!(
                "7: {resource} on {host} is {} since {}, tried {} times",
                row.wrong, row.standing.since, row.standing.tries
            )
        });
        let stand_ins = self.resources.values().filter_map(|r| {
            let stands = r.stand_in.as_ref()?;
            Some(format!("7: {} stands in for something on {}", r.id, stands.host))
        });
        let hosts = self.hosts.iter().filter_map(|(name, host)| {
            Some(format!(
                "7: {name} was put back at {}, and is in doubt",
                host.put_back_at?
            ))
        });
        let rests = self
            .abandoned
            .iter()
            .map(|(job, rest)| format!("4: something of {job}, abandoned, may be on {}", rest.host));
        amiss.chain(stand_ins).chain(hosts).chain(rests).collect()
    }

    /// Whether nothing is amiss by a check that looked after the last job ended, and after then.
    pub fn is_well(&self, after: DateTime<Utc>) -> bool {
        let last = self.jobs.values().filter_map(|j| j.ended_at).max();
        let last = last.map_or(after, |at| at.max(after));
        self.check.well_since.is_some_and(|since| last < since)
            && self.amiss.is_empty()
            && self.abandoned.is_empty()
            && self.resources.values().all(|r| r.stand_in.is_none())
    }
}

fn is_off(resource: &Resource) -> bool {
    let power = resource.applied.as_ref().and_then(|a| a.get("power"));
    power.and_then(|p| p.as_str()) == Some("off")
}

fn later<K: Ord>(all: &mut BTreeMap<K, Moved>, key: K, moved: Moved) {
    let last = all.entry(key).or_insert(moved);
    *last = match (*last, moved) {
        (Moved::Open, _) | (_, Moved::Open) => Moved::Open,
        (Moved::Ended(a), Moved::Ended(b)) => Moved::Ended(a.max(b)),
    };
}
