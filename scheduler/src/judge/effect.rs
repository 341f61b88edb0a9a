//! What a job's end means for its resource: what is applied now, what stays reserved, what was seen, and the reason that is shown.

use super::JudgeError;
use crate::made::made_so;
use chrono::{DateTime, Utc};
use rhyzome_model::ids::ResourceId;
use rhyzome_model::job::Action;
use rhyzome_model::kinds::{Demand, Kind, kept_gib};
use rhyzome_model::problem::JobError;
use rhyzome_model::step::ImageFacts;
use rhyzome_proto::convert::WireError;
use rhyzome_proto::event::{Report, StepResult};
use rhyzome_store::settle::{Effect, Kept, OpenJob};
use serde::Deserialize;
use serde_json::Value;

fn output<T: for<'a> Deserialize<'a>>(report: &Report, name: &str) -> Option<T> {
    report
        .steps
        .iter()
        .filter(|s| s.name == name && !s.output.is_empty())
        .find_map(|s| serde_json::from_slice(&s.output).ok())
}

pub(super) fn applied(job: &OpenJob, report: &Report) -> Result<Effect, JudgeError> {
    let (spec, generation) = made_so(
        job.kind,
        job.action,
        &job.spec,
        job.applied.as_ref(),
        job.generation,
    )?;
    let demand = job.kind.ops().demand(&spec)?;
    let facts: Option<ImageFacts> = match job.kind {
        Kind::Image => output(report, "ensure_image"),
        Kind::Network | Kind::Instance => None,
    };
    let reserve = match (job.kind, &facts) {
        (Kind::Image, Some(facts)) => Some(Kept {
            disk_gib: Some(kept_gib(facts)),
            ..Kept::default()
        }),
        (Kind::Image | Kind::Network, _) => None,
        (Kind::Instance, _) => kept_reservation(job, &job.spec)?,
    };
    Ok(Effect::Applied {
        observed: powered(job.action, report, &spec),
        spec,
        generation,
        facts: facts
            .map(serde_json::to_value)
            .transpose()
            .map_err(|e| WireError::Broken(e.to_string()))?,
        reserve,
        metered: Some(demand),
    })
}

/// What an update leaves reserved: its own demand, no longer the larger of before and after. Only what an update can change is judged
/// here; the disk stays as it was reserved.
fn kept_reservation(job: &OpenJob, spec: &Value) -> Result<Option<Kept>, JudgeError> {
    if job.action != Action::Update {
        return Ok(None);
    }
    let demand = job.kind.ops().demand(spec)?;
    let kept = Kept {
        vcpus: Some(demand.vcpus),
        memory_mib: Some(demand.memory_mib),
        disk_gib: None,
    };
    Ok((demand != Demand::default()).then_some(kept))
}

/// A step that set the power saw it set when it ended; what an agent saw since then is newer. What is newly defined is off.
fn powered(action: Action, report: &Report, spec: &Value) -> Option<(Value, DateTime<Utc>)> {
    let power = spec.get("power")?.as_str()?;
    let sets = |step: &&StepResult| match step.name.as_str() {
        "set_power" | "reboot" => true,
        "ensure_instance" => action == Action::Create,
        _ => false,
    };
    let ended_at_ms = report.steps.iter().rev().find(sets)?.ended_at_ms;
    let observed = serde_json::json!({ "power": power, "detail": "", "metrics": {} });
    Some((observed, DateTime::from_timestamp_millis(ended_at_ms)?))
}

/// What was done on a host that isn't its resource's changes nothing of that.
pub(super) fn elsewhere() -> Effect {
    Effect::NotChanged {
        reason: None,
        reserve: None,
    }
}

pub(super) fn came_to_nothing(job: &OpenJob, error: Option<&JobError>) -> Result<Effect, JudgeError> {
    if job.pinned {
        return Ok(elsewhere());
    }
    let reason = error.map(|e| e.reason(job.id));
    if job.applied.is_none() {
        let cancelled = || JobError::new("CANCELLED", "Its create was cancelled.").reason(job.id);
        return Ok(Effect::NotMade {
            reason: reason.unwrap_or_else(cancelled),
        });
    }
    let reserve = job
        .applied
        .as_ref()
        .map(|spec| kept_reservation(job, spec))
        .transpose()?
        .flatten();
    Ok(Effect::NotChanged { reason, reserve })
}

/// Networks that the host told something about: `{network, namespace}` as the output of `ensure_network`.
pub(super) fn networks(report: &Report) -> Vec<(ResourceId, Value)> {
    report
        .steps
        .iter()
        .filter(|s| s.name == "ensure_network" && !s.output.is_empty())
        .filter_map(|s| serde_json::from_slice::<Value>(&s.output).ok())
        .filter_map(|facts| Some((facts.get("network")?.as_str()?.parse().ok()?, facts)))
        .collect()
}
