//! What a report changes of a job that stays open: its progress, another try, an undo because its workers died of it, another place.

use super::batch::Settlement;
use crate::StoreError;
use crate::dispatch::Exclusion;
use crate::rows::{StepRow, Steps, Waiting};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{HostName, JobId};
use rhyzome_model::job::JobState;
use rhyzome_model::problem::JobError;
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{Postgres, Transaction};
use std::collections::BTreeMap;
use uuid::Uuid;

pub(super) async fn write_progress(
    tx: &mut Transaction<'_, Postgres>,
    progress: &[(JobId, JobState, Vec<StepRow>)],
) -> Result<(), StoreError> {
    if progress.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = progress.iter().map(|p| p.0.0).collect();
    let states: Vec<String> = progress.iter().map(|p| p.1.to_string()).collect();
    let steps: Vec<Steps<'_>> = progress.iter().map(|p| Json(p.2.as_slice())).collect();
    sqlx::query!(
        "UPDATE jobs j SET state = q.state, steps = q.steps
         FROM unnest($1::uuid[], $2::text[], $3::jsonb[]) AS q(id, state, steps) WHERE j.id = q.id",
        &ids,
        &states,
        &steps as &[Steps<'_>]
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Columns of a job that is tried again.
pub(super) struct Again {
    id: Uuid,
    state: &'static str,
    steps: Option<Vec<StepRow>>,
    due: DateTime<Utc>,
    failures: i32,
    waiting: Option<Value>,
    error: Option<Value>,
}

impl Again {
    pub(super) fn of(settlement: Settlement) -> Result<Self, StoreError> {
        let Settlement::Again {
            job,
            state,
            steps,
            due,
            failures,
            waiting,
            error,
        } = settlement
        else {
            return Err(StoreError::row("jobs", "not a re-attempt"));
        };
        let value = |v: Result<Value, serde_json::Error>| v.map_err(|e| StoreError::row("jobs", e));
        Ok(Self {
            id: job.0,
            state: state.as_str(),
            steps,
            due,
            failures,
            waiting: waiting.map(|w| value(serde_json::to_value(w))).transpose()?,
            error: error.map(|e| value(serde_json::to_value(e))).transpose()?,
        })
    }
}

pub(super) async fn write_agains(
    tx: &mut Transaction<'_, Postgres>,
    agains: &[Again],
) -> Result<(), StoreError> {
    if agains.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = agains.iter().map(|a| a.id).collect();
    let states: Vec<String> = agains.iter().map(|a| a.state.to_owned()).collect();
    let steps: Vec<Option<Steps<'_>>> = agains.iter().map(|a| a.steps.as_deref().map(Json)).collect();
    let dues: Vec<DateTime<Utc>> = agains.iter().map(|a| a.due).collect();
    let failures: Vec<i32> = agains.iter().map(|a| a.failures).collect();
    let waiting: Vec<Option<Value>> = agains.iter().map(|a| a.waiting.clone()).collect();
    let errors: Vec<Option<Value>> = agains.iter().map(|a| a.error.clone()).collect();
    sqlx::query!(
        "UPDATE jobs j SET state = q.state, steps = coalesce(q.steps, j.steps), due = q.due, failures = q.failures,
                waiting = q.waiting, error = coalesce(q.error, j.error), holds_slot = false, dispatched_at = NULL
         FROM unnest($1::uuid[], $2::text[], $3::jsonb[], $4::timestamptz[], $5::int4[], $6::jsonb[], $7::jsonb[])
              AS q(id, state, steps, due, failures, waiting, error)
         WHERE j.id = q.id",
        &ids,
        &states,
        &steps as &[Option<Steps<'_>>],
        &dues,
        &failures,
        &waiting as &[Option<Value>],
        &errors as &[Option<Value>]
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(super) type Poison = (JobId, JobError, DateTime<Utc>, Waiting);

pub(super) async fn write_poisoned(
    tx: &mut Transaction<'_, Postgres>,
    poisoned: &[Poison],
) -> Result<(), StoreError> {
    if poisoned.is_empty() {
        return Ok(());
    }
    let value = |v: Result<Value, serde_json::Error>| v.map_err(|e| StoreError::row("jobs", e));
    let ids: Vec<Uuid> = poisoned.iter().map(|p| p.0.0).collect();
    let errors: Vec<Value> = poisoned
        .iter()
        .map(|p| value(serde_json::to_value(&p.1)))
        .collect::<Result<_, _>>()?;
    let dues: Vec<DateTime<Utc>> = poisoned.iter().map(|p| p.2).collect();
    let waiting: Vec<Value> = poisoned
        .iter()
        .map(|p| value(serde_json::to_value(&p.3)))
        .collect::<Result<_, _>>()?;
    sqlx::query!(
        "UPDATE jobs j SET state = CASE WHEN j.state = 'running' THEN 'queued' ELSE j.state END, mode = 'undo', verdict = 'failed',
                error = q.error, due = q.due, waiting = q.waiting, holds_slot = false, dispatched_at = NULL
         FROM unnest($1::uuid[], $2::jsonb[], $3::timestamptz[], $4::jsonb[]) AS q(id, error, due, waiting) WHERE j.id = q.id",
        &ids,
        &errors,
        &dues,
        &waiting
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(super) type Release = (JobId, Vec<StepRow>, BTreeMap<HostName, Exclusion>, DateTime<Utc>);

pub(super) async fn write_releases(
    tx: &mut Transaction<'_, Postgres>,
    releases: &[Release],
) -> Result<(), StoreError> {
    if releases.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = releases.iter().map(|r| r.0.0).collect();
    let steps: Vec<Steps<'_>> = releases.iter().map(|r| Json(r.1.as_slice())).collect();
    let excluded: Vec<Value> = releases
        .iter()
        .map(|r| serde_json::to_value(&r.2).map_err(|e| StoreError::row("jobs", e)))
        .collect::<Result<_, _>>()?;
    let dues: Vec<DateTime<Utc>> = releases.iter().map(|r| r.3).collect();
    sqlx::query!(
        "WITH j AS (
             UPDATE jobs j SET state = 'queued', host = NULL, first_fence = NULL, frozen = NULL, mode = 'forward', verdict = NULL,
                    error = NULL, steps = q.steps, excluded = q.excluded, due = q.due, failures = j.failures + 1,
                    holds_slot = false, dispatched_at = NULL, waiting = NULL
             FROM unnest($1::uuid[], $2::jsonb[], $3::jsonb[], $4::timestamptz[]) AS q(id, steps, excluded, due)
             WHERE j.id = q.id RETURNING j.id
         )
         UPDATE job_resources o SET active = false FROM j WHERE o.job_id = j.id",
        &ids,
        &steps as &[Steps<'_>],
        &excluded,
        &dues
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
