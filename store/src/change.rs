//! Accepts what changes a resource that is there: update, actions, delete, cancel, retry. One transaction each, the resource's row
//! locked first, so that jobs of one resource are numbered in the order in which their intents were written.

use crate::accept::{Accepted, AcceptedNow, IdempotencyKey, Origin, Refusal, Reply, StaticLeaseRequest};
use crate::rows::{JobRow, ResourceRow, StepRow};
use crate::{Store, StoreError};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use rhyzome_model::ids::{JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState};
use rhyzome_model::kinds::Kind;
use serde_json::Value;
use sqlx::{Postgres, Transaction};
use std::collections::BTreeMap;

/// New intent for a resource, judged by the API against the generation that it read.
#[derive(Clone, Debug)]
pub struct ChangeRequest {
    /// Made by the API; the id of the job, if one is needed.
    pub job: JobId,
    /// Whose.
    pub tenant: TenantId,
    /// What.
    pub kind: Kind,
    /// Which.
    pub id: ResourceId,
    /// The generation that the new intent was made from.
    pub from_generation: i64,
    /// `Update`, `Start`, `Stop`, `Reboot`.
    pub action: Action,
    /// New name.
    pub name: String,
    /// New tags.
    pub tags: BTreeMap<String, String>,
    /// New spec.
    pub spec: Value,
    /// Others may refer to it.
    pub public: bool,
    /// A network's static leases as they shall be; none for other kinds.
    pub static_leases: Option<Vec<StaticLeaseRequest>>,
    /// Whether a job has to make it so.
    pub work: Work,
    /// As shown from the acceptance on.
    pub step_names: Vec<&'static str>,
    /// Header of that name.
    pub idempotency: Option<IdempotencyKey>,
    /// Who asks.
    pub origin: Origin,
}

/// Whether a change needs a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Tags or name alone: written, and done.
    None,
    /// A job makes it so.
    Job,
}

/// What `DELETE` did.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// As it is.
    pub resource: ResourceRow,
    /// The delete's job.
    pub job: JobRow,
    /// Jobs that were cancelled with it: those that never were dispatched are done, the others are told.
    pub cancelled: Vec<JobId>,
    /// Of now, or of an earlier `DELETE`.
    pub now: AcceptedNow,
}

struct NewJob<'a> {
    id: JobId,
    resource: &'a ResourceRow,
    action: Action,
    spec: &'a Value,
    generation: i64,
    state: JobState,
    steps: Vec<StepRow>,
    deadline: Option<DateTime<Utc>>,
    origin: &'a Origin,
    retry_of: Option<JobId>,
    now: DateTime<Utc>,
}

impl Store {
    /// Writes new intent and its job.
    pub async fn accept_change(&self, request: &ChangeRequest) -> Result<Result<Reply, Refusal>, StoreError> {
        if let Some(key) = &request.idempotency
            && let Some(earlier) = self.idempotency_find(&request.tenant, key).await?
        {
            return Ok(earlier);
        }
        let answer = self.change_once(request).await?;
        // The same request, sent twice, may have been refused because of itself: then its first answer counts.
        if let (Err(_), Some(key)) = (&answer, &request.idempotency)
            && let Some(earlier) = self.idempotency_find(&request.tenant, key).await?
        {
            return Ok(earlier);
        }
        Ok(answer)
    }

    async fn change_once(&self, request: &ChangeRequest) -> Result<Result<Reply, Refusal>, StoreError> {
        let now = Utc::now().trunc_subsecs(6);
        let mut tx = self.pool.begin().await?;
        let Some(before) = lock_resource(&mut tx, &request.tenant, request.kind, request.id).await? else {
            return Ok(Err(Refusal::NotFound));
        };
        if let Some(refusal) = refuse_change(&mut tx, &before).await? {
            return Ok(Err(refusal));
        }
        if before.generation != request.from_generation {
            return Ok(Err(Refusal::Moved));
        }
        if before.name != request.name
            && let Some(holder) = sqlx::query_scalar!(
                "SELECT id FROM resources WHERE tenant = $1 AND kind = $2 AND name = $3",
                request.tenant.as_str(),
                request.kind.as_str(),
                request.name
            )
            .fetch_optional(&mut *tx)
            .await?
        {
            return Ok(Err(Refusal::NameTaken {
                holder: ResourceId(holder),
            }));
        }
        if let Some(leases) = &request.static_leases
            && let Some(refusal) = replace_static_leases(&mut tx, request.id, leases).await?
        {
            return Ok(Err(refusal));
        }
        let generation = before.generation + 1;
        let updated = sqlx::query!(
            "UPDATE resources SET name = $2, tags = $3, spec = $4, generation = $5, public = $6, updated_at = $7,
                    observed_generation = CASE WHEN $8 AND observed_generation = generation THEN $5 ELSE observed_generation END
             WHERE id = $1",
            request.id.0,
            request.name,
            crate::rows::tags_json(&request.tags),
            request.spec,
            generation,
            request.public,
            now,
            request.work == Work::None
        )
        .execute(&mut *tx)
        .await;
        match updated.map_err(StoreError::from) {
            Ok(_) => {}
            Err(e) if e.constraint() == Some("resources_name") => return Ok(Err(Refusal::Moved)),
            Err(e) => return Err(e),
        }
        let job = match request.work {
            Work::None => None,
            Work::Job => Some(
                insert_job(
                    &mut tx,
                    NewJob {
                        id: request.job,
                        resource: &before,
                        action: request.action,
                        spec: &request.spec,
                        generation,
                        state: if before.active_job.is_some() {
                            JobState::Blocked
                        } else {
                            JobState::Queued
                        },
                        steps: request.step_names.iter().map(|s| StepRow::pending(s)).collect(),
                        deadline: Some(now + TimeDelta::seconds(request.origin.deadline_s)),
                        origin: &request.origin,
                        retry_of: None,
                        now,
                    },
                )
                .await?,
            ),
        };
        if job.is_none() {
            audit(
                &mut tx,
                &request.tenant,
                &request.origin,
                request.action,
                request.id,
                None,
                now,
            )
            .await?;
        }
        let resource = read_resource(&mut tx, request.id).await?;
        let accepted = Accepted {
            resource,
            job,
            addresses: None,
        };
        if let Some(key) = &request.idempotency {
            match keep_reply(&mut tx, &request.tenant, key, &accepted).await? {
                Kept::Written => {}
                Kept::TakenMeanwhile => {
                    tx.rollback().await?;
                    return self
                        .idempotency_find(&request.tenant, key)
                        .await?
                        .ok_or_else(|| StoreError::row("idempotency", "a key in conflict has no row"));
                }
            }
        }
        tx.commit().await?;
        Ok(Ok(Reply {
            accepted,
            now: AcceptedNow::Now,
        }))
    }

    /// Accepts a delete in every state: cancels what runs and what waits, and comes next.
    #[allow(clippy::too_many_arguments, reason = "what a delete is, and nothing else")]
    pub async fn accept_delete(
        &self,
        tenant: &TenantId,
        kind: Kind,
        id: ResourceId,
        from_generation: Option<i64>,
        job: JobId,
        step_names: &[&'static str],
        origin: &Origin,
    ) -> Result<Result<Deleted, Refusal>, StoreError> {
        let now = Utc::now().trunc_subsecs(6);
        let mut tx = self.pool.begin().await?;
        let Some(before) = lock_resource(&mut tx, tenant, kind, id).await? else {
            return Ok(Err(Refusal::NotFound));
        };
        if before.deleting {
            let job = delete_job(&mut tx, id).await?;
            let job = crate::jobs::job_in(&mut tx, job)
                .await?
                .ok_or_else(|| StoreError::row("jobs", "a delete without its job"))?;
            // One that couldn't even begin ends failed: then this one tries again.
            if !job.state.is_done() {
                return Ok(Ok(Deleted {
                    resource: before,
                    job,
                    cancelled: Vec::new(),
                    now: AcceptedNow::Earlier,
                }));
            }
        }
        if from_generation.is_some_and(|g| g != before.generation) {
            return Ok(Err(Refusal::Moved));
        }
        let dependants = sqlx::query!(
            "SELECT r.id, r.kind, r.name FROM resource_refs f JOIN resources r ON r.id = f.from_id
             WHERE f.to_id = $1 AND NOT r.deleting ORDER BY r.name LIMIT 20",
            id.0
        )
        .fetch_all(&mut *tx)
        .await?;
        if !dependants.is_empty() {
            let dependants = dependants
                .into_iter()
                .map(|d| {
                    Ok((
                        crate::rows::parse("resources", &d.kind, Kind::parse)?,
                        ResourceId(d.id),
                        d.name,
                    ))
                })
                .collect::<Result<Vec<_>, StoreError>>()?;
            return Ok(Err(Refusal::HasDependants { dependants }));
        }
        sqlx::query!(
            "UPDATE resources SET deleting = true, generation = generation + 1, updated_at = $2 WHERE id = $1",
            id.0,
            now
        )
        .execute(&mut *tx)
        .await?;
        let open = sqlx::query_scalar!(
            "SELECT job_id FROM job_resources WHERE resource_id = $1 ORDER BY seq",
            id.0
        )
        .fetch_all(&mut *tx)
        .await?;
        let mut cancelled = Vec::new();
        for other in open {
            if cancel_locked(&mut tx, JobId(other), now).await?.is_ok() {
                cancelled.push(JobId(other));
            }
        }
        let still_open = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM job_resources WHERE resource_id = $1) AS "open!""#,
            id.0
        )
        .fetch_one(&mut *tx)
        .await?;
        let job = insert_job(
            &mut tx,
            NewJob {
                id: job,
                resource: &before,
                action: Action::Delete,
                spec: &before.spec,
                generation: before.generation + 1,
                state: if still_open {
                    JobState::Blocked
                } else {
                    JobState::Queued
                },
                steps: step_names.iter().map(|s| StepRow::pending(s)).collect(),
                deadline: None,
                origin,
                retry_of: None,
                now,
            },
        )
        .await?;
        let resource = read_resource(&mut tx, id).await?;
        tx.commit().await?;
        Ok(Ok(Deleted {
            resource,
            job,
            cancelled,
            now: AcceptedNow::Now,
        }))
    }

    /// Cancels a job: at once where it was never dispatched, else by an order in mode undo. Asking twice is the same.
    pub async fn accept_cancel(
        &self,
        tenant: &TenantId,
        job: JobId,
        origin: &Origin,
    ) -> Result<Result<JobRow, Refusal>, StoreError> {
        let now = Utc::now().trunc_subsecs(6);
        let Some(row) = self.job_get(job).await?.filter(|j| j.tenant == *tenant) else {
            return Ok(Err(Refusal::NotFound));
        };
        let mut tx = self.pool.begin().await?;
        sqlx::query!(
            "SELECT id FROM resources WHERE id = $1 FOR NO KEY UPDATE",
            row.resource_id.0
        )
        .fetch_optional(&mut *tx)
        .await?;
        if let Err(refusal) = cancel_locked(&mut tx, job, now).await? {
            return Ok(Err(refusal));
        }
        audit_cancel(&mut tx, tenant, origin, row.resource_id, job, now).await?;
        tx.commit().await?;
        self.job_get(job)
            .await?
            .map(Ok)
            .map_or(Ok(Err(Refusal::NotFound)), Ok)
    }

    /// A new job that tries a failed or cancelled one again, where its resource has not moved on since.
    pub async fn accept_retry(
        &self,
        tenant: &TenantId,
        job: JobId,
        new_job: JobId,
        step_names: &[&'static str],
        idempotency: Option<&IdempotencyKey>,
        origin: &Origin,
    ) -> Result<Result<Reply, Refusal>, StoreError> {
        if let Some(key) = idempotency
            && let Some(earlier) = self.idempotency_find(tenant, key).await?
        {
            return Ok(earlier);
        }
        let answer = self
            .retry_once(tenant, job, new_job, step_names, idempotency, origin)
            .await?;
        if let (Err(_), Some(key)) = (&answer, idempotency)
            && let Some(earlier) = self.idempotency_find(tenant, key).await?
        {
            return Ok(earlier);
        }
        Ok(answer)
    }

    async fn retry_once(
        &self,
        tenant: &TenantId,
        job: JobId,
        new_job: JobId,
        step_names: &[&'static str],
        idempotency: Option<&IdempotencyKey>,
        origin: &Origin,
    ) -> Result<Result<Reply, Refusal>, StoreError> {
        let now = Utc::now().trunc_subsecs(6);
        let Some(old) = self.job_get(job).await?.filter(|j| j.tenant == *tenant) else {
            return Ok(Err(Refusal::NotFound));
        };
        let mut tx = self.pool.begin().await?;
        let Some(before) = lock_resource(&mut tx, tenant, old.kind, old.resource_id).await? else {
            return Ok(Err(Refusal::NotRetryable {
                detail: format!("the {} is gone", old.kind),
            }));
        };
        if !matches!(old.state, JobState::Failed | JobState::Cancelled) {
            return Ok(Err(Refusal::NotRetryable {
                detail: format!("the job is {}", old.state.shown()),
            }));
        }
        if before.deleting {
            let job = delete_job(&mut tx, before.id).await?;
            return Ok(Err(Refusal::Deleting { job }));
        }
        if before.generation != old.generation
            || before.observed_generation >= old.generation
            || before.active_job.is_some()
        {
            return Ok(Err(Refusal::NotRetryable {
                detail: format!(
                    "the {} has moved on since: it is at generation {}",
                    old.kind, before.generation
                ),
            }));
        }
        sqlx::query!(
            "UPDATE resources SET reason = NULL, updated_at = $2 WHERE id = $1",
            before.id.0,
            now
        )
        .execute(&mut *tx)
        .await?;
        // What was never made must be made first, whatever the job was.
        let action = if before.applied.is_none() {
            Action::Create
        } else {
            old.action
        };
        let job = insert_job(
            &mut tx,
            NewJob {
                id: new_job,
                resource: &before,
                action,
                spec: &before.spec,
                generation: before.generation,
                // Whether it waits for a reference, dispatch judges.
                state: JobState::Queued,
                steps: step_names.iter().map(|s| StepRow::pending(s)).collect(),
                deadline: Some(now + TimeDelta::seconds(origin.deadline_s)),
                origin,
                retry_of: Some(old.id),
                now,
            },
        )
        .await?;
        let resource = read_resource(&mut tx, before.id).await?;
        let accepted = Accepted {
            resource,
            job: Some(job),
            addresses: None,
        };
        if let Some(key) = idempotency
            && matches!(
                keep_reply(&mut tx, tenant, key, &accepted).await?,
                Kept::TakenMeanwhile
            )
        {
            tx.rollback().await?;
            return self
                .idempotency_find(tenant, key)
                .await?
                .ok_or_else(|| StoreError::row("idempotency", "a key in conflict has no row"));
        }
        tx.commit().await?;
        Ok(Ok(Reply {
            accepted,
            now: AcceptedNow::Now,
        }))
    }
}

/// Locks the resource's row, then reads it.
async fn lock_resource(
    tx: &mut Transaction<'_, Postgres>,
    tenant: &TenantId,
    kind: Kind,
    id: ResourceId,
) -> Result<Option<ResourceRow>, StoreError> {
    let locked = sqlx::query_scalar!(
        "SELECT id FROM resources WHERE id = $1 AND tenant = $2 AND kind = $3 FOR NO KEY UPDATE",
        id.0,
        tenant.as_str(),
        kind.as_str()
    )
    .fetch_optional(&mut **tx)
    .await?;
    match locked {
        Some(_) => read_resource(tx, id).await.map(Some),
        None => Ok(None),
    }
}

async fn read_resource(
    tx: &mut Transaction<'_, Postgres>,
    id: ResourceId,
) -> Result<ResourceRow, StoreError> {
    crate::resources::resource_in(tx, id)
        .await?
        .ok_or_else(|| StoreError::row("resources", format!("{id} went while its row was locked")))
}

async fn refuse_change(
    tx: &mut Transaction<'_, Postgres>,
    before: &ResourceRow,
) -> Result<Option<Refusal>, StoreError> {
    if before.deleting {
        return Ok(Some(Refusal::Deleting {
            job: delete_job(tx, before.id).await?,
        }));
    }
    if before.applied.is_none() && before.active_job.is_none() {
        return Ok(Some(Refusal::ResourceFailed));
    }
    Ok(None)
}

async fn delete_job(tx: &mut Transaction<'_, Postgres>, id: ResourceId) -> Result<JobId, StoreError> {
    sqlx::query_scalar!(
        "SELECT id FROM jobs WHERE resource_id = $1 AND action = 'delete' ORDER BY seq DESC LIMIT 1",
        id.0
    )
    .fetch_one(&mut **tx)
    .await
    .map(JobId)
    .map_err(StoreError::from)
}

/// Cancels an open job whose resource's row is locked.
async fn cancel_locked(
    tx: &mut Transaction<'_, Postgres>,
    job: JobId,
    now: DateTime<Utc>,
) -> Result<Result<(), Refusal>, StoreError> {
    let row = sqlx::query!(
        "SELECT state, action, host, resource_id FROM jobs WHERE id = $1 FOR NO KEY UPDATE",
        job.0
    )
    .fetch_one(&mut **tx)
    .await?;
    let state = crate::rows::parse("jobs", &row.state, JobState::parse)?;
    let action = crate::rows::parse("jobs", &row.action, Action::parse)?;
    if state.is_done() {
        return Ok(Err(Refusal::JobDone));
    }
    // No host has it: never dispatched, or its last order was reported released.
    if row.host.is_none() {
        if action == Action::Delete {
            return Ok(Err(Refusal::NotCancellable));
        }
        let reason = serde_json::json!({
            "code": "CANCELLED", "detail": "The request was cancelled before anything was done.", "job": job
        });
        sqlx::query!(
            "UPDATE jobs SET state = 'cancelled', cancel_requested_at = coalesce(cancel_requested_at, $2), ended_at = $2,
                    due = NULL, waiting = NULL
             WHERE id = $1",
            job.0,
            now
        )
        .execute(&mut **tx)
        .await?;
        sqlx::query!("DELETE FROM job_resources WHERE job_id = $1", job.0)
            .execute(&mut **tx)
            .await?;
        sqlx::query!(
            "UPDATE resources SET reason = $2, updated_at = $3 WHERE id = $1 AND (applied IS NULL OR $4 = 'update')",
            row.resource_id,
            reason,
            now,
            row.action
        )
        .execute(&mut **tx)
        .await?;
        crate::settle::wake(tx, &[row.resource_id], &[]).await?;
        return Ok(Ok(()));
    }
    if action.forward_only() {
        return Ok(Err(Refusal::NotCancellable));
    }
    sqlx::query!(
        "UPDATE jobs SET cancel_requested_at = $2, due = CASE WHEN mode = 'undo' THEN due ELSE now() END
         WHERE id = $1 AND cancel_requested_at IS NULL",
        job.0,
        now
    )
    .execute(&mut **tx)
    .await?;
    Ok(Ok(()))
}

async fn replace_static_leases(
    tx: &mut Transaction<'_, Postgres>,
    network: ResourceId,
    leases: &[StaticLeaseRequest],
) -> Result<Option<Refusal>, StoreError> {
    sqlx::query!(
        "SELECT next FROM lease_cursors WHERE network_id = $1 FOR UPDATE",
        network.0
    )
    .fetch_optional(&mut **tx)
    .await?;
    sqlx::query!(
        "DELETE FROM leases WHERE network_id = $1 AND NOT automatic",
        network.0
    )
    .execute(&mut **tx)
    .await?;
    for lease in leases {
        let taken = sqlx::query!(
            r#"SELECT instance_id, host(ip) AS "ip!" FROM leases
               WHERE network_id = $1 AND (ip = $2::text::inet OR mac = $3::text::macaddr) LIMIT 1"#,
            network.0,
            lease.ip.to_string(),
            lease.mac
        )
        .fetch_optional(&mut **tx)
        .await?;
        if let Some(row) = taken {
            let by_ip = row.ip == lease.ip.to_string();
            return Ok(Some(Refusal::AddressTaken {
                pointer: format!("{}/{}", lease.pointer, if by_ip { "ip" } else { "mac" }),
                value: if by_ip { row.ip } else { lease.mac.clone() },
                holder: row.instance_id.map(ResourceId),
            }));
        }
        sqlx::query!(
            "INSERT INTO leases (network_id, ip, mac, hostname, automatic)
             VALUES ($1, $2::text::inet, $3::text::macaddr, $4, false)",
            network.0,
            lease.ip.to_string(),
            lease.mac,
            lease.hostname
        )
        .execute(&mut **tx)
        .await?;
    }
    Ok(None)
}

async fn insert_job(tx: &mut Transaction<'_, Postgres>, new: NewJob<'_>) -> Result<JobRow, StoreError> {
    let due = new.state == JobState::Queued;
    let seq = sqlx::query_scalar!(
        "INSERT INTO jobs (id, tenant, kind, action, resource_id, resource_name, generation, spec, state, steps, due, deadline_at,
                           actor, trace_id, traceparent, retry_of, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, CASE WHEN $11::bool THEN now() END, $12, $13, $14, $15, $16, $17) RETURNING seq",
        new.id.0,
        new.resource.tenant.as_str(),
        new.resource.kind.as_str(),
        new.action.as_str(),
        new.resource.id.0,
        new.resource.name,
        new.generation,
        new.spec,
        new.state.as_str(),
        crate::rows::steps_json(&new.steps),
        due,
        new.deadline,
        new.origin.actor,
        new.origin.trace_id,
        new.origin.traceparent,
        new.retry_of.map(|j| j.0),
        new.now
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

async fn audit(
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

async fn audit_cancel(
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

enum Kept {
    Written,
    TakenMeanwhile,
}

async fn keep_reply(
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
