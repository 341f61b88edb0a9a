//! Accepting: new resources with their jobs, and what changes those that are there.

use super::{Books, Job, Pinned, Resource};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState, Mode};
use rhyzome_model::kinds::Kind;
use rhyzome_store::leases::LeaseView;
use rhyzome_store::rows::StepRow;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// When something is asked, and when it must be done.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Now.
    pub now: DateTime<Utc>,
    /// Of its job.
    pub deadline: DateTime<Utc>,
    /// Of its job.
    pub job: JobId,
}

/// A create.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Its resource.
    pub id: ResourceId,
    /// Whose.
    pub tenant: TenantId,
    /// What.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// As parsed; references by id.
    pub spec: Value,
}

/// Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str);

impl Books {
    /// A create: the resource, its references, its addresses, its job.
    pub fn accept_create(&mut self, ask: Ask, origin: Origin) -> Result<(), Refused> {
        let ops = ask.kind.ops();
        let unreadable = |_| Refused("unreadable");
        let mut targets = BTreeSet::new();
        for reference in ops.references(&ask.spec).map_err(unreadable)? {
            let id: ResourceId = reference
                .target
                .parse()
                .map_err(|_| Refused("no such reference"))?;
            let there = self
                .resources
                .get(&id)
                .filter(|r| r.kind == reference.kind && r.tenant == ask.tenant && !r.deleting);
            if there.is_none() {
                return Err(Refused("no such reference"));
            }
            targets.insert(id);
        }
        let mut leases = Vec::new();
        for (position, request) in ops
            .lease_requests(&ask.spec)
            .map_err(unreadable)?
            .into_iter()
            .enumerate()
        {
            let network: ResourceId = request.network.parse().map_err(|_| Refused("no such network"))?;
            leases.push(self.free_address(network, ask.id, position)?);
        }
        let names = ops
            .step_names(Action::Create, &ask.spec, None)
            .map_err(unreadable)?;
        self.refs.extend(targets.into_iter().map(|to| (ask.id, to)));
        if ask.kind == Kind::Instance {
            self.leases.insert(ask.id, leases);
        }
        let resource = Resource::new(ask.id, ask.tenant, ask.kind, ask.name, ask.spec);
        self.insert_job(&resource, Action::Create, JobState::Queued, &names, origin);
        self.resources.insert(resource.id, resource);
        Ok(())
    }

    /// Of a /28: 14 addresses, the first of which is the gateway's.
    fn free_address(
        &self,
        network: ResourceId,
        instance: ResourceId,
        position: usize,
    ) -> Result<LeaseView, Refused> {
        let taken: BTreeSet<Ipv4Addr> = self
            .leases
            .values()
            .flatten()
            .filter(|l| l.network == network)
            .map(|l| l.ip)
            .collect();
        let ip = (2..15)
            .map(|last| Ipv4Addr::new(10, 0, 0, last))
            .find(|ip| !taken.contains(ip))
            .ok_or(Refused("no address is free"))?;
        let [a, b, ..] = instance.0.into_bytes();
        Ok(LeaseView {
            network,
            ip,
            mac: format!("02:00:{a:02x}:{b:02x}:00:{:02x}", ip.octets()[3]),
            hostname: None,
            instance: Some(instance),
            position: position as i32,
            automatic: true,
        })
    }

    fn insert_job(
        &mut self,
        resource: &Resource,
        action: Action,
        state: JobState,
        names: &[&'static str],
        origin: Origin,
    ) {
        let spec = resource.spec.clone();
        self.insert(resource, action, state, spec, names, None, origin);
    }

    /// With the spec that it makes so, and where it goes if not where its resource is.
    #[allow(clippy::too_many_arguments, reason = "what a job is, and nothing else")]
    pub(super) fn insert(
        &mut self,
        resource: &Resource,
        action: Action,
        state: JobState,
        spec: Value,
        names: &[&'static str],
        pinned: Option<&Pinned>,
        origin: Origin,
    ) {
        self.changed = true;
        self.seq += 1;
        let job = Job {
            id: origin.job,
            seq: self.seq,
            tenant: resource.tenant.clone(),
            kind: resource.kind,
            action,
            resource: resource.id,
            generation: resource.generation,
            spec,
            state,
            steps: match pinned {
                Some(pinned) => pinned.steps.iter().map(|s| StepRow::pending(s.name())).collect(),
                None => names.iter().map(|s| StepRow::pending(s)).collect(),
            },
            host: None,
            pinned_host: pinned.map(|p| p.host.clone()),
            first_fence: None,
            fence: None,
            epoch: 0,
            mode: Mode::Forward,
            verdict: None,
            frozen: pinned.map(Pinned::frozen),
            error: None,
            attempt: 0,
            failures: 0,
            excluded: BTreeMap::new(),
            due: (state == JobState::Queued).then_some(origin.now),
            deadline_at: (action != Action::Delete).then_some(origin.deadline),
            cancel_requested_at: None,
            holds_slot: false,
            dispatched_at: None,
            waiting: None,
            created_at: origin.now,
            ended_at: None,
            given_up: false,
        };
        self.line
            .entry(resource.id)
            .or_default()
            .insert(job.seq, (job.id, false));
        self.jobs.insert(job.id, job);
    }

    /// New intent.
    pub fn accept_change(
        &mut self,
        id: ResourceId,
        action: Action,
        spec: Value,
        origin: Origin,
    ) -> Result<(), Refused> {
        let busy = self.line.contains_key(&id);
        let resource = self.resources.get_mut(&id).ok_or(Refused("gone"))?;
        if resource.deleting {
            return Err(Refused("it is being deleted"));
        }
        if resource.applied.is_none() && !busy {
            return Err(Refused("its create failed"));
        }
        resource.spec = spec;
        resource.generation += 1;
        let resource = resource.clone();
        let names = resource
            .kind
            .ops()
            .step_names(action, &resource.spec, resource.applied.as_ref())
            .map_err(|_| Refused("unreadable"))?;
        let state = if busy { JobState::Blocked } else { JobState::Queued };
        self.insert_job(&resource, action, state, &names, origin);
        Ok(())
    }

    /// Cancel.
    pub fn accept_cancel(&mut self, id: JobId, now: DateTime<Utc>) -> Result<(), Refused> {
        let job = self.jobs.get_mut(&id).ok_or(Refused("no such job"))?;
        if job.state.is_done() {
            return Err(Refused("it is done"));
        }
        if job.host.is_none() {
            if job.action == Action::Delete {
                return Err(Refused("a delete can't be cancelled"));
            }
            job.cancel_requested_at.get_or_insert(now);
            job.ended_at = Some(now);
            job.due = None;
            job.waiting = None;
            let resource = job.resource;
            self.turn(id, JobState::Cancelled);
            self.leave_line(id);
            self.wake(&[resource], &[], now);
            return Ok(());
        }
        if job.action.forward_only() {
            return Err(Refused("it only goes forward"));
        }
        if job.cancel_requested_at.is_none() {
            job.cancel_requested_at = Some(now);
            if job.mode != Mode::Undo {
                job.due = Some(now);
            }
        }
        self.changed = true;
        Ok(())
    }

    /// Delete: in every state, and before all that waits.
    pub fn accept_delete(&mut self, id: ResourceId, origin: Origin) -> Result<(), Refused> {
        let resource = self.resources.get(&id).ok_or(Refused("gone"))?;
        if resource.deleting {
            let under_way = self
                .open_jobs()
                .any(|j| j.resource == id && j.action == Action::Delete);
            if under_way {
                return Ok(());
            }
        }
        let needed = self
            .refs
            .iter()
            .any(|(from, to)| *to == id && self.resources.get(from).is_some_and(|r| !r.deleting));
        if needed {
            return Err(Refused("others need it"));
        }
        let names = resource
            .kind
            .ops()
            .step_names(Action::Delete, &resource.spec, resource.applied.as_ref())
            .map_err(|_| Refused("unreadable"))?;
        for other in self.in_line(id) {
            // What can't be cancelled is waited for.
            let _ = self.accept_cancel(other, origin.now);
        }
        let busy = self.line.contains_key(&id);
        let Some(resource) = self.resources.get_mut(&id) else {
            return Err(Refused("gone"));
        };
        resource.deleting = true;
        resource.generation += 1;
        let resource = resource.clone();
        let state = if busy { JobState::Blocked } else { JobState::Queued };
        // What stands in for something on a host goes with that.
        let (spec, pinned) = (resource.spec.clone(), resource.stand_in.as_ref());
        self.insert(&resource, Action::Delete, state, spec, &names, pinned, origin);
        Ok(())
    }

    /// Tries a job that failed again.
    pub fn accept_retry(&mut self, id: JobId, origin: Origin) -> Result<(), Refused> {
        let old = self.jobs.get(&id).ok_or(Refused("no such job"))?;
        let resource = self.resources.get(&old.resource).ok_or(Refused("gone"))?;
        if !matches!(old.state, JobState::Failed | JobState::Cancelled) {
            return Err(Refused("it didn't fail"));
        }
        if old.action == Action::Repair || resource.stand_in.is_some() {
            return Err(Refused("it is made anew by itself"));
        }
        if resource.deleting {
            return Err(Refused("it is being deleted"));
        }
        if resource.generation != old.generation
            || resource.observed_generation >= old.generation
            || self.line.contains_key(&old.resource)
        {
            return Err(Refused("it moved on"));
        }
        let action = if resource.applied.is_none() {
            Action::Create
        } else {
            old.action
        };
        let names = resource
            .kind
            .ops()
            .step_names(action, &resource.spec, resource.applied.as_ref())
            .map_err(|_| Refused("unreadable"))?;
        let resource = resource.clone();
        self.insert_job(&resource, action, JobState::Queued, &names, origin);
        Ok(())
    }
}
