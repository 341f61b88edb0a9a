//! What is to be done with one due job. Pure: the job as locked and read, and which hosts are up, in; a decision, or what placement
//! shall find a host for, out.
//!
//! ```text
//! has a host ──▶ host down: wait ─ undo wanted: order in mode undo ─ else: the same order again
//! has none   ──▶ cancelled, too late: ends ─ earlier job, reference: waits ─ no steps: succeeds
//!                 ─ the resource has a host: order there ─ else: placement
//! ```

use crate::made::made_so;
use chrono::{DateTime, TimeDelta, Utc};
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_model::job::{Action, JobState, Mode, Verdict};
use rhyzome_model::kinds::{
    AssignedLease, Demand, Kind, KindOps, PlanError, Resolved, ResolvedRef, Venue, kept_gib,
};
use rhyzome_model::place::{ImageNeed, Refusal, Request};
use rhyzome_model::problem::JobError;
use rhyzome_model::step::{HostLease, ImageFacts, Step};
use rhyzome_store::dispatch::{Decision, DueJob, Exclusion, NewOrder, RefRow};
use rhyzome_store::leases::LeaseView;
use rhyzome_store::rows::Waiting;
use rhyzome_store::settle::{Effect, End};
use std::collections::{BTreeMap, BTreeSet};

/// A job is looked at again after this while its host can't be reached.
const LOOK_AGAIN: TimeDelta = TimeDelta::seconds(1);
/// After so many hosts refused it, a job waits until the first of them may be asked again.
const REFUSALS: usize = 3;

/// All that a decision depends on beside the job.
pub struct Around<'a> {
    /// What the job's resource refers to.
    pub refs: &'a [RefRow],
    /// Its leases.
    pub leases: &'a [LeaseView],
    /// Hosts whose watch is up.
    pub up: &'a BTreeSet<HostName>,
    /// `instance.stop_timeout`, seconds.
    pub stop_timeout_s: u32,
    /// The database's time.
    pub now: DateTime<Utc>,
}

/// What comes of looking at a job.
#[derive(Clone, Debug)]
pub enum Next {
    /// Decided.
    Decided(Box<Decision>),
    /// Decided once placement has found a host.
    Place(Box<ToPlace>),
}

/// A job that needs a host.
#[derive(Clone, Debug)]
pub struct ToPlace {
    /// For placement.
    pub request: Request,
    /// The order, but for its host.
    pub order: NewOrder,
    /// Instances, by id or name, on whose hosts it must not be: for `request.apart_from`, which is empty still.
    pub apart_from: Vec<String>,
    /// When a host that refused it may be asked again, if it must wait for that.
    pub refused_until: Option<DateTime<Utc>>,
}

/// Decides one job.
pub fn decide(job: &DueJob, around: &Around<'_>) -> Result<Next, PlanError> {
    match &job.host {
        Some(host) => Ok(Next::Decided(Box::new(on_host(job, host, around)))),
        None => off_host(job, around),
    }
}

/// Its host has something of it, or may have: only that host's word ends it.
fn on_host(job: &DueJob, host: &HostName, around: &Around<'_>) -> Decision {
    if !around.up.contains(host) {
        let detail = "The host that works on it can't be reached; it goes on once it can.";
        return wait(
            job,
            around,
            "host_unreachable",
            detail,
            job.state,
            Some(around.now + LOOK_AGAIN),
        );
    }
    let (mode, verdict) = match way(job, around.now) {
        Way::Forward => (Mode::Forward, None),
        Way::Back(verdict) => (Mode::Undo, Some(verdict)),
        Way::GoesOnBack => (Mode::Undo, None),
    };
    Decision::Order(NewOrder {
        job: job.id,
        host: host.clone(),
        mode,
        verdict,
        frozen: job.frozen.clone().unwrap_or_default(),
        names: None,
        reserve: None,
        image: None,
        networks: Vec::new(),
    })
}

/// Which way a job goes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Forward,
    /// Back, because of this, unless the agent decided before.
    Back(Verdict),
    /// Back, because of what the agent knows: it said that the job is being undone.
    GoesOnBack,
}

fn way(job: &DueJob, now: DateTime<Utc>) -> Way {
    if job.action.forward_only() {
        return Way::Forward;
    }
    match (job.mode, job.verdict) {
        (Mode::Undo, Some(verdict)) => return Way::Back(verdict),
        (Mode::Undo, None) | (Mode::Forward, _) => {}
    }
    if job.cancel_requested_at.is_some() {
        return Way::Back(Verdict::Cancelled);
    }
    if job.mode == Mode::Undo || job.state == JobState::Undoing {
        return Way::GoesOnBack;
    }
    if job.deadline_at.is_some_and(|d| d <= now) {
        return Way::Back(Verdict::Deadline);
    }
    Way::Forward
}

fn off_host(job: &DueJob, around: &Around<'_>) -> Result<Next, PlanError> {
    let decided = |d: Decision| Ok(Next::Decided(Box::new(d)));
    match way(job, around.now) {
        Way::Back(Verdict::Cancelled) => {
            return decided(Decision::End(ended(job, JobState::Cancelled, cancelled())));
        }
        Way::Back(Verdict::Deadline | Verdict::Failed | Verdict::Released) | Way::GoesOnBack => {
            return decided(Decision::End(ended(job, JobState::Failed, too_late(job))));
        }
        Way::Forward => {}
    }
    if job.earlier_open {
        let detail = "It comes after an earlier job on the same resource.";
        return decided(wait(job, around, "earlier_job", detail, JobState::Blocked, None));
    }
    if job.action == Action::Delete && job.referrers > 0 {
        let detail = "It comes after the deletes of the resources that need this one.";
        return decided(wait(job, around, "reference", detail, JobState::Blocked, None));
    }
    if !matches!(job.action, Action::Create | Action::Delete) && job.applied.is_none() {
        let error = JobError::new(
            "PREDECESSOR_FAILED",
            format!(
                "The {} was never made: its create failed or was cancelled.",
                job.kind
            ),
        );
        // The resource's own reason is that of its create.
        let effect = Effect::NotChanged {
            reason: None,
            reserve: None,
        };
        return decided(Decision::End(End {
            effect,
            ..ended(job, JobState::Failed, error)
        }));
    }
    if job.action != Action::Delete
        && let Some(decision) = references(job, around)
    {
        return decided(decision);
    }

    let resolved = resolve(job, around);
    let ops = job.kind.ops();
    let steps = ops.plan(job.action, &resolved)?;
    if steps.is_empty() {
        return decided(Decision::End(succeeded(job, ops)?));
    }
    let order = new_order(job, around, ops, &resolved, &steps)?;
    let host = if job.kind == Kind::Network {
        job.home.clone()
    } else {
        job.resource_host.clone()
    };
    match (host, ops.venue(job.action)) {
        (Some(host), _) if !around.up.contains(&host) => {
            let detail = "The host that holds it can't be reached; it goes on once it can.";
            let due = Some(around.now + LOOK_AGAIN);
            decided(wait(job, around, "host_unreachable", detail, job.state, due))
        }
        (Some(host), _) => decided(Decision::Order(NewOrder { host, ..order })),
        (None, Venue::Placed) => to_place(job, around, ops, &resolved, order),
        (None, Venue::WhereItIs) => {
            let error = JobError::new("NOWHERE", format!("The {} is on no host.", job.kind));
            decided(Decision::End(ended(job, JobState::Failed, error)))
        }
    }
}

fn references(job: &DueJob, around: &Around<'_>) -> Option<Decision> {
    if let Some(failed) = around.refs.iter().find(|r| !r.applied && !r.open) {
        let error = JobError::new(
            "REFERENCE_FAILED",
            format!(
                "It needs the {} {:?}, whose create failed or was cancelled.",
                failed.kind, failed.name
            ),
        );
        return Some(Decision::End(ended(job, JobState::Failed, error)));
    }
    let coming = around.refs.iter().find(|r| !r.applied)?;
    let detail = format!(
        "It needs the {} {:?}, which is still being made.",
        coming.kind, coming.name
    );
    Some(wait(job, around, "reference", &detail, JobState::Blocked, None))
}

fn facts_of(reference: &RefRow) -> Option<ImageFacts> {
    reference
        .facts
        .clone()
        .and_then(|f| serde_json::from_value(f).ok())
}

fn resolve(job: &DueJob, around: &Around<'_>) -> Resolved {
    let references = around
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
    Resolved {
        id: job.resource,
        tenant: job.tenant.clone(),
        name: job.name.clone(),
        generation: job.generation,
        spec: job.spec.clone(),
        applied: job.applied.clone(),
        leases,
        references,
        host,
        stop_timeout_s: around.stop_timeout_s,
    }
}

fn new_order(
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
    let brings = matches!(job.action, Action::Create | Action::Repair);
    let reserve = match job.action {
        Action::Create | Action::Repair => Some(ops.demand_resolved(resolved)?),
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
        Action::Delete | Action::Start | Action::Stop | Action::Reboot => None,
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

fn to_place(
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
    let refused_until =
        (live.len() >= REFUSALS).then(|| live.values().map(|e| e.until).min().unwrap_or(around.now));
    let request = Request {
        demand: ops.demand_resolved(resolved)?,
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
    })))
}

/// It waits for room: says what excluded how many hosts.
pub fn wait_for_room(job: &DueJob, refusal: &Refusal, due: DateTime<Utc>, now: DateTime<Utc>) -> Decision {
    let detail = room_sentence(refusal);
    let hosts = serde_json::json!({ "total": refusal.total, "excluded": refusal.excluded });
    let waiting = Waiting {
        reason: "capacity".to_owned(),
        since: since(job, "capacity", now),
        detail,
        until: Some(due),
        hosts: Some(hosts),
        fits_with: refusal.fits_with.and_then(|f| serde_json::to_value(f).ok()),
    };
    Decision::Wait {
        job: job.id,
        state: JobState::Queued,
        waiting,
        due: Some(due),
    }
}

fn room_sentence(refusal: &Refusal) -> String {
    if refusal.total == 0 {
        return "There is no host yet; it starts by itself when one joins.".to_owned();
    }
    let causes: Vec<String> = refusal
        .excluded
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(reason, n)| format!("{n} by {reason}"))
        .collect();
    format!(
        "None of {} hosts can take it ({}); it starts by itself when one can.",
        refusal.total,
        causes.join(", ")
    )
}

fn since(job: &DueJob, reason: &str, now: DateTime<Utc>) -> DateTime<Utc> {
    job.waiting
        .as_ref()
        .filter(|w| w.reason == reason)
        .map_or(now, |w| w.since)
}

fn wait(
    job: &DueJob,
    around: &Around<'_>,
    reason: &str,
    detail: &str,
    state: JobState,
    due: Option<DateTime<Utc>>,
) -> Decision {
    let waiting = Waiting {
        reason: reason.to_owned(),
        detail: detail.to_owned(),
        since: since(job, reason, around.now),
        until: due.filter(|_| reason == "host_unreachable"),
        hosts: None,
        fits_with: None,
    };
    Decision::Wait {
        job: job.id,
        state,
        waiting,
        due,
    }
}

fn cancelled() -> JobError {
    JobError::new("CANCELLED", "It was cancelled before anything was done.")
}

fn too_late(job: &DueJob) -> JobError {
    let waited = job
        .waiting
        .as_ref()
        .map_or_else(String::new, |w| format!(" It waited: {}", w.detail));
    JobError {
        retryable: true,
        ..JobError::new(
            "DEADLINE_EXCEEDED",
            format!("It was not done before its deadline.{waited}"),
        )
    }
}

/// An end without an order: it did nothing on any host.
fn ended(job: &DueJob, state: JobState, error: JobError) -> End {
    let reason = serde_json::json!({ "code": error.code, "detail": error.detail, "job": job.id });
    let effect = if job.applied.is_none() && job.action != Action::Delete {
        // What an abandoned job may have left on a host keeps what it holds there.
        Effect::NotChanged {
            reason: Some(reason),
            reserve: None,
        }
    } else {
        Effect::NotChanged {
            reason: (state == JobState::Failed).then_some(reason),
            reserve: None,
        }
    };
    End {
        error: (state == JobState::Failed).then_some(error),
        ..end(job, state, effect)
    }
}

/// What is stored of it can't be planned: a fault of ours, which looking again doesn't mend.
pub fn unplannable(job: &DueJob) -> Decision {
    let error = JobError::new(
        "INTERNAL",
        "It could not be planned, because of a fault of the service.",
    );
    Decision::End(ended(job, JobState::Failed, error))
}

fn succeeded(job: &DueJob, ops: &dyn KindOps) -> Result<End, PlanError> {
    let effect = if job.action == Action::Delete {
        Effect::Removed
    } else {
        let (spec, generation) = made_so(
            job.kind,
            job.action,
            &job.spec,
            job.applied.as_ref(),
            job.generation,
        )?;
        Effect::Applied {
            metered: Some(ops.demand(&spec)?),
            spec,
            generation,
            facts: None,
            reserve: None,
            observed: None,
        }
    };
    Ok(End {
        steps: Some(Vec::new()),
        ..end(job, JobState::Succeeded, effect)
    })
}

fn end(job: &DueJob, state: JobState, effect: Effect) -> End {
    End {
        job: job.id,
        tenant: job.tenant.clone(),
        kind: job.kind,
        action: job.action,
        resource: job.resource,
        state,
        error: None,
        steps: None,
        host: job.host.clone(),
        held_slot: job.holds_slot,
        order_out: job.order_out,
        created_at: job.created_at,
        networks: Vec::new(),
        effect,
    }
}
