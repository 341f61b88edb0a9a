//! The order of a job that nothing stands in the way of, and what placement is asked for it.

use super::types::{Around, Next, ToPlace};
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_model::job::{Action, Mode};
use rhyzome_model::kinds::{
    AssignedLease, Demand, Kind, KindOps, PlanError, Resolved, ResolvedRef, kept_gib,
};
use rhyzome_model::place::{ImageNeed, Request};
use rhyzome_model::step::{HostLease, ImageFacts, Step};
use rhyzome_store::dispatch::{DueJob, Exclusion, NewOrder, RefRow};
use std::collections::{BTreeMap, BTreeSet};

/// After so many hosts refused it, a job waits until the first of them may be asked again.
const REFUSALS: usize = 3;

fn facts_of(reference: &RefRow) -> Option<ImageFacts> {
    reference
        .facts
        .clone()
        .and_then(|f| serde_json::from_value(f).ok())
}

pub(super) fn resolve(job: &DueJob, around: &Around<'_>) -> Result<Resolved, PlanError> {
    let mut references: BTreeMap<ResourceId, ResolvedRef> = around
        .refs
        .iter()
        .map(|r| {
            let resolved = ResolvedRef {
                kind: r.kind,
                tenant: r.tenant.clone(),
                generation: r.generation,
                spec: r.spec.clone(),
                image: facts_of(r),
            };
            (r.id, resolved)
        })
        .collect();
    // What making it found out is of itself.
    if job.kind == Kind::Image
        && let Some(facts) = job.facts.clone().and_then(|f| serde_json::from_value(f).ok())
    {
        let own = ResolvedRef {
            kind: job.kind,
            tenant: job.tenant.clone(),
            generation: job.generation,
            spec: job.spec.clone(),
            image: Some(facts),
        };
        references.insert(job.resource, own);
    }
    let leases = around
        .leases
        .iter()
        .map(|l| AssignedLease {
            network: l.network,
            position: l.position,
            lease: HostLease {
                mac: l.mac.clone(),
                ip: l.ip,
                hostname: l.hostname.clone(),
            },
        })
        .collect();
    let host = if job.kind == Kind::Network {
        job.home.clone()
    } else {
        job.resource_host.clone()
    };
    let applied = job
        .kind
        .ops()
        .planned_against(job.action, job.applied.as_ref(), job.observed.as_ref())?;
    Ok(Resolved {
        id: job.resource,
        tenant: job.tenant.clone(),
        name: job.name.clone(),
        generation: job.generation,
        spec: job.spec.clone(),
        applied,
        leases,
        references,
        host,
        stop_timeout_s: around.stop_timeout_s,
    })
}

pub(super) fn new_order(
    job: &DueJob,
    around: &Around<'_>,
    ops: &dyn KindOps,
    resolved: &Resolved,
    steps: &[Step],
) -> Result<NewOrder, PlanError> {
    let frozen = steps
        .iter()
        .map(|s| {
            serde_json::to_string(s).map_err(|source| PlanError::Spec {
                kind: job.kind,
                source,
            })
        })
        .collect::<Result<_, _>>()?;
    let brings = job.action == Action::Create;
    let reserve = match job.action {
        Action::Create => Some(ops.demand_resolved(resolved)?),
        Action::Update => {
            let applied = job.applied.clone().map(|spec| Resolved {
                spec,
                ..resolved.clone()
            });
            let before = applied
                .map(|r| ops.demand_resolved(&r))
                .transpose()?
                .unwrap_or_default();
            Some(ops.demand_resolved(resolved)?.max(before))
        }
        // What lives on a host has its room there.
        Action::Delete | Action::Start | Action::Stop | Action::Reboot | Action::Repair => None,
    };
    Ok(NewOrder {
        job: job.id,
        host: HostName(String::new()),
        mode: Mode::Forward,
        verdict: None,
        frozen,
        names: Some(steps.iter().map(|s| s.name().to_owned()).collect()),
        reserve: reserve.filter(|d| *d != Demand::default()),
        image: if brings {
            image_need(around).map(|n| (n.image, n.disk_gib))
        } else {
            None
        },
        networks: if brings { networks(around) } else { Vec::new() },
    })
}

fn image_need(around: &Around<'_>) -> Option<ImageNeed> {
    let image = around.refs.iter().find(|r| r.kind == Kind::Image)?;
    let disk_gib = facts_of(image).map_or(1, |f| kept_gib(&f));
    Some(ImageNeed {
        image: image.id,
        disk_gib,
    })
}

fn networks(around: &Around<'_>) -> Vec<ResourceId> {
    let distinct: BTreeSet<ResourceId> = around
        .refs
        .iter()
        .filter(|r| r.kind == Kind::Network)
        .map(|r| r.id)
        .collect();
    distinct.into_iter().collect()
}

/// What is asked of placement when enough hosts have refused a job: none of those that could take it is asked further, so that it
/// waits, and each host is counted under its own cause.
pub fn held_back(to_place: &ToPlace, up: &BTreeSet<HostName>) -> Request {
    Request {
        refused: up.iter().cloned().collect(),
        ..to_place.request.clone()
    }
}

pub(super) fn to_place(
    job: &DueJob,
    around: &Around<'_>,
    ops: &dyn KindOps,
    resolved: &Resolved,
    order: NewOrder,
) -> Result<Next, PlanError> {
    let live: BTreeMap<&HostName, &Exclusion> = job
        .excluded
        .iter()
        .filter(|(_, e)| e.until > around.now)
        .collect();
    let hosts = |reason: &str| -> Vec<HostName> {
        live.iter()
            .filter(|(_, e)| e.reason == reason)
            .map(|(h, _)| (*h).clone())
            .collect()
    };
    let lapses = live.values().map(|e| e.until).min();
    let refused_until = lapses.filter(|_| live.len() >= REFUSALS);
    let request = Request {
        demand: ops.demand_resolved(resolved)?,
        least: ops.least_resolved(resolved)?,
        host_labels: ops.host_labels(&job.spec)?,
        networks: networks(around),
        image: image_need(around),
        apart_from: Vec::new(),
        refused: hosts("no_room"),
        image_refused: hosts("image"),
    };
    let apart_from = ops.apart_from(&job.spec)?.into_iter().map(|r| r.target).collect();
    Ok(Next::Place(Box::new(ToPlace {
        request,
        order,
        apart_from,
        refused_until,
        lapses,
    })))
}
