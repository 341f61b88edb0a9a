//! One due job: whether a host has it, who wants it undone, what stands in its way.

use super::ends::{cancelled, ended, given_up, succeeded, too_late};
use super::plan::{new_order, resolve, to_place};
use super::types::{Around, Next};
use super::wait::{since, wait};
use chrono::{DateTime, TimeDelta, Utc};
use rhyzome_model::ids::HostName;
use rhyzome_model::job::{Action, JobState, Mode, Verdict};
use rhyzome_model::kinds::{Kind, PlanError, Venue};
use rhyzome_model::problem::JobError;
use rhyzome_store::dispatch::{Decision, DueJob, NewOrder, Wanted};
use rhyzome_store::settle::{Effect, End};

/// When a job is looked at again whose host can't be reached: the later, the longer it has waited. A host that comes back wakes who waits for
/// it; this is for those that it misses.
fn look_again(job: &DueJob, now: DateTime<Utc>) -> DateTime<Utc> {
    let waited = now - since(job, "host_unreachable", now);
    now + (waited / 4).clamp(TimeDelta::seconds(1), TimeDelta::seconds(15))
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
            Some(look_again(job, around.now)),
        );
    }
    if moot(job) {
        return Decision::End(given_up(job));
    }
    let (mode, verdict) = match way(job, around.now) {
        Way::Forward => (Mode::Forward, None),
        Way::Back(verdict) => (Mode::Undo, Some(verdict)),
        Way::GoesOnBack => (Mode::Undo, None),
    };
    Decision::Order(order_as_frozen(job, host, mode, verdict))
}

/// Whether taking a change back was tried in vain, and its resource is being deleted: that takes back all of it.
fn moot(job: &DueJob) -> bool {
    job.wanted == Wanted::Gone
        && job.state == JobState::Undoing
        && !matches!(job.action, Action::Create | Action::Delete)
        && job.failures > 0
        && !job.order_out
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
            return decided(Decision::End(ended(job, JobState::Failed, too_late(job, around))));
        }
        Way::Forward => {}
    }
    if job.earlier_open {
        return decided(wait(
            job,
            around,
            "earlier_job",
            EARLIER_JOB,
            JobState::Blocked,
            None,
        ));
    }
    if let Some(host) = &job.pinned_host {
        return decided(pinned(job, host, around));
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

    let resolved = resolve(job, around)?;
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
            let due = Some(look_again(job, around.now));
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

/// What is done on a host that isn't the resource's: as it was frozen when it was accepted.
fn pinned(job: &DueJob, host: &HostName, around: &Around<'_>) -> Decision {
    if !around.up.contains(host) {
        let detail = "The host that it is about can't be reached; it goes on once it can.";
        let due = Some(look_again(job, around.now));
        return wait(job, around, "host_unreachable", detail, job.state, due);
    }
    Decision::Order(order_as_frozen(job, host, Mode::Forward, None))
}

fn order_as_frozen(job: &DueJob, host: &HostName, mode: Mode, verdict: Option<Verdict>) -> NewOrder {
    NewOrder {
        job: job.id,
        host: host.clone(),
        mode,
        verdict,
        frozen: job.frozen.clone().unwrap_or_default(),
        names: None,
        reserve: None,
        image: None,
        networks: Vec::new(),
    }
}

pub(super) const EARLIER_JOB: &str = "It comes after an earlier job on the same resource.";

/// What it needs that is still being made, as a sentence.
pub(super) fn still_coming(around: &Around<'_>) -> Option<String> {
    let coming = around.refs.iter().find(|r| !r.applied)?;
    Some(format!(
        "It needs the {} {:?}, which is still being made.",
        coming.kind, coming.name
    ))
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
    let detail = still_coming(around)?;
    Some(wait(job, around, "reference", &detail, JobState::Blocked, None))
}
