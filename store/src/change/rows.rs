//! The rows that every change reads and writes.

use crate::accept::{Accepted, IdempotencyKey, Origin, Refusal, Reply};
use crate::rows::{JobRow, ResourceRow, StepRow, Steps, json};
use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState};
use rhyzome_model::kinds::Kind;
use rhyzome_model::step::Step;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{Postgres, Transaction};

/// A job as it is inserted, first in no line yet.
pub(super) struct NewJob<'a> {
    pub(super) id: JobId,
    pub(super) resource: &'a ResourceRow,
    pub(super) action: Action,
    pub(super) spec: &'a Value,
    pub(super) generation: i64,
    pub(super) state: JobState,
    pub(super) steps: Vec<StepRow>,
    pub(super) deadline: Option<DateTime<Utc>>,
    pub(super) origin: &'a Origin,
    pub(super) retry_of: Option<JobId>,
    /// Where it goes whatever host its resource is on; none goes where that is.
    pub(super) pinned: Option<Pinned>,
    pub(super) now: DateTime<Utc>,
}

/// A host, and what is done there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pinned {
    pub(super) host: HostName,
    pub(super) steps: Vec<Step>,
}

impl Pinned {
    /// The steps as JSON texts.
    fn frozen(&self) -> Result<Vec<String>, StoreError> {
        let text = |step| serde_json::to_string(step).map_err(|e| StoreError::row("jobs", e));
        self.steps.iter().map(text).collect()
    }

    /// As shown before they begin.
    pub(super) fn pending(&self) -> Vec<StepRow> {
        self.steps.iter().map(|s| StepRow::pending(s.name())).collect()
    }
}

/// What a resource stands in for, if it is none but does that. Its row is locked.
pub(super) async fn stand_in(
    tx: &mut Transaction<'_, Postgres>,
    id: ResourceId,
) -> Result<Option<Pinned>, StoreError> {
    let stands = sqlx::query_scalar!("SELECT stand_in FROM resources WHERE id = $1", id.0)
        .fetch_optional(&mut **tx)
        .await?;
    stands.flatten().map(|s| json("resources", s)).transpose()
}

/// Locks the resource's row, then reads it. With the time, by the database's clock.
pub(super) async fn lock_resource(
    tx: &mut Transaction<'_, Postgres>,
    tenant: &TenantId,
    kind: Kind,
    id: ResourceId,
) -> Result<Option<(ResourceRow, DateTime<Utc>)>, StoreError> {
    let locked = sqlx::query_scalar!(
        r#"SELECT now() AS "now!" FROM resources WHERE id = $1 AND tenant = $2 AND kind = $3 FOR NO KEY UPDATE"#,
        id.0,
        tenant.as_str(),
        kind.as_str()
    )
    .fetch_optional(&mut **tx)
    .await?;
    match locked {
        Some(now) => Ok(Some((read_resource(tx, id).await?, now))),
        None => Ok(None),
    }
}

pub(super) async fn read_resource(
    tx: &mut Transaction<'_, Postgres>,
    id: ResourceId,
) -> Result<ResourceRow, StoreError> {
    crate::resources::resource_in(tx, id)
        .await?
        .ok_or_else(|| StoreError::row("resources", format!("{id} went while its row was locked")))
}

/// The last delete's job. None once it was forgotten: it had failed, and ended jobs are kept for 30 days.
pub(super) async fn delete_job(
    tx: &mut Transaction<'_, Postgres>,
    id: ResourceId,
) -> Result<Option<JobId>, StoreError> {
    let job = sqlx::query_scalar!(
        "SELECT id FROM jobs WHERE resource_id = $1 AND action = 'delete' ORDER BY seq DESC LIMIT 1",
        id.0
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(job.map(JobId))
}

pub(super) async fn insert_job(
    tx: &mut Transaction<'_, Postgres>,
    new: NewJob<'_>,
) -> Result<JobRow, StoreError> {
    let due = new.state == JobState::Queued;
    let frozen = new.pinned.as_ref().map(Pinned::frozen).transpose()?;
    let seq = sqlx::query_scalar!(
        "INSERT INTO jobs (id, tenant, kind, action, resource_id, resource_name, generation, spec, state, steps, due, deadline_at,
                           actor, trace_id, traceparent, retry_of, created_at, pinned_host, frozen)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, CASE WHEN $11::bool THEN now() END, $12, $13, $14, $15, $16, $17, $18, $19)
         RETURNING seq",
        new.id.0,
        new.resource.tenant.as_str(),
        new.resource.kind.as_str(),
        new.action.as_str(),
        new.resource.id.0,
        new.resource.name,
        new.generation,
        new.spec,
        new.state.as_str(),
        Json(new.steps.as_slice()) as Steps<'_>,
        due,
        new.deadline,
        new.origin.actor,
        new.origin.trace_id,
        new.origin.traceparent,
        new.retry_of.map(|j| j.0),
        new.now,
        new.pinned.map(|t| t.host.0),
        frozen.as_deref()
    )
    .fetch_one(&mut **tx)
    .await?;
    sqlx::query!(
        "INSERT INTO job_resources (resource_id, seq, job_id) VALUES ($1, $2, $3)",
        new.resource.id.0,
        seq,
        new.id.0
    )
    .execute(&mut **tx)
    .await?;
    audit(
        tx,
        &new.resource.tenant,
        new.origin,
        new.action,
        new.resource.id,
        Some(new.id),
        new.now,
    )
    .await?;
    crate::jobs::job_in(tx, new.id)
        .await?
        .ok_or_else(|| StoreError::row("jobs", "a job just written is not there"))
}

pub(super) async fn audit(
    tx: &mut Transaction<'_, Postgres>,
    tenant: &TenantId,
    origin: &Origin,
    action: Action,
    resource: ResourceId,
    job: Option<JobId>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO audit (at, tenant, actor, action, resource_id, job_id, trace_id) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        now,
        tenant.as_str(),
        origin.actor,
        action.as_str(),
        resource.0,
        job.map(|j| j.0),
        origin.trace_id
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(super) async fn audit_cancel(
    tx: &mut Transaction<'_, Postgres>,
    tenant: &TenantId,
    origin: &Origin,
    resource: ResourceId,
    job: JobId,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO audit (at, tenant, actor, action, resource_id, job_id, trace_id) VALUES ($1, $2, $3, 'cancel', $4, $5, $6)",
        now,
        tenant.as_str(),
        origin.actor,
        resource.0,
        job.0,
        origin.trace_id
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(super) enum Kept {
    Written,
    TakenMeanwhile,
}

pub(super) async fn keep_reply(
    tx: &mut Transaction<'_, Postgres>,
    tenant: &TenantId,
    key: &IdempotencyKey,
    accepted: &Accepted,
) -> Result<Kept, StoreError> {
    let reply = serde_json::to_value(accepted).map_err(|e| StoreError::row("idempotency", e))?;
    let written = sqlx::query!(
        "INSERT INTO idempotency (tenant, method, path, key, body_hash, reply) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT DO NOTHING",
        tenant.as_str(),
        key.method,
        key.path,
        key.key,
        &key.body_hash[..],
        reply
    )
    .execute(&mut **tx)
    .await?;
    Ok(if written.rows_affected() == 1 {
        Kept::Written
    } else {
        Kept::TakenMeanwhile
    })
}

impl Store {
    /// The answer of the request that has taken the key meanwhile, in place of this one, of which nothing is written.
    pub(super) async fn answer_of_the_first(
        &self,
        tx: Transaction<'_, Postgres>,
        tenant: &TenantId,
        key: &IdempotencyKey,
    ) -> Result<Result<Reply, Refusal>, StoreError> {
        tx.rollback().await?;
        self.idempotency_find(tenant, key)
            .await?
            .ok_or_else(|| StoreError::row("idempotency", "a key in conflict has no row"))
    }
}
