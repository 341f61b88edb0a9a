//! New intent: an update or an action, with its job where one is needed.

use super::rows::{Kept, NewJob, audit, delete_job, insert_job, keep_reply, lock_resource, read_resource};
use super::static_leases;
use super::types::{ChangeRequest, Work};
use crate::accept::{Accepted, AcceptedNow, Refusal, Reply, StaticLeaseRequest};
use crate::changes;
use crate::resources::name_holder;
use crate::rows::{ResourceRow, StepRow};
use crate::{Store, StoreError, quotas};
use chrono::TimeDelta;
use rhyzome_model::job::JobState;
use rhyzome_model::kinds::Demand;
use rhyzome_model::quota::{Amounts, exceeded};
use serde_json::Value;
use sqlx::{Postgres, Transaction};
use std::collections::BTreeSet;

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

    /// Whether a network can have these static leases, where they change, and the tenant may have what new intent asks for; nothing is
    /// written.
    pub async fn check_change(
        &self,
        before: &ResourceRow,
        spec: &Value,
        leases: Option<&[StaticLeaseRequest]>,
    ) -> Result<Result<(), Refusal>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let taken = match leases {
            Some(leases) => static_leases::judge(&mut tx, before.id, leases).await?,
            None => None,
        };
        let refusal = match taken {
            Some(taken) => Some(taken),
            None => judge_quota(&mut tx, before, spec).await?,
        };
        tx.rollback().await?;
        Ok(refusal.map_or(Ok(()), Err))
    }

    async fn change_once(&self, request: &ChangeRequest) -> Result<Result<Reply, Refusal>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some((before, now)) = lock_resource(&mut tx, &request.tenant, request.kind, request.id).await?
        else {
            return Ok(Err(Refusal::NotFound));
        };
        if let Some(refusal) = refuse_change(&mut tx, &before).await? {
            return Ok(Err(refusal));
        }
        if before.generation != request.from_generation {
            return Ok(Err(Refusal::Moved));
        }
        if before.name != request.name
            && let Some(holder) = name_holder(&mut tx, &request.tenant, request.kind, &request.name).await?
        {
            return Ok(Err(Refusal::NameTaken { holder }));
        }
        if let Some(leases) = &request.static_leases
            && let Some(refusal) = static_leases::replace(&mut tx, request.id, leases).await?
        {
            return Ok(Err(refusal));
        }
        if let Some(refusal) = judge_quota(&mut tx, &before, &request.spec).await? {
            return Ok(Err(refusal));
        }
        let asks = quotas::asks(before.kind, &request.spec, before.applied.as_ref())?;
        let generation = before.generation + 1;
        let updated = sqlx::query!(
            "UPDATE resources SET name = $2, tags = $3, spec = $4, generation = $5, public = $6, updated_at = $7,
                    observed_generation = CASE WHEN $8 AND observed_generation = generation THEN $5 ELSE observed_generation END,
                    asked_vcpus = CASE WHEN $9 THEN greatest(asked_vcpus, $10) ELSE $10 END,
                    asked_memory_mib = CASE WHEN $9 THEN greatest(asked_memory_mib, $11) ELSE $11 END,
                    asked_disk_gib = CASE WHEN $9 THEN greatest(asked_disk_gib, $12) ELSE $12 END
             WHERE id = $1",
            request.id.0,
            request.name,
            crate::rows::tags_json(&request.tags),
            request.spec,
            generation,
            request.public,
            now,
            request.work == Work::None,
            before.active_job.is_some(),
            asks.vcpus,
            asks.memory_mib,
            asks.disk_gib
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
                        pinned: None,
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
                    return self.answer_of_the_first(tx, &request.tenant, key).await;
                }
            }
        }
        changes::write(
            &mut tx,
            changes::accepted(&accepted.resource, accepted.job.as_ref()),
        )
        .await?;
        tx.commit().await?;
        Ok(Ok(Reply {
            accepted,
            now: AcceptedNow::Now,
        }))
    }
}

/// Refuses a change by which the tenant would have more than it may.
async fn judge_quota(
    tx: &mut Transaction<'_, Postgres>,
    before: &ResourceRow,
    spec: &Value,
) -> Result<Option<Refusal>, StoreError> {
    let (was, wanted) = (
        quotas::asks(before.kind, &before.spec, None)?,
        quotas::asks(before.kind, spec, None)?,
    );
    if was.max(wanted) == was {
        return Ok(None);
    }
    let tenants = BTreeSet::from([&before.tenant]);
    let Some(limits) = quotas::lock(tx, &tenants).await?.remove(&before.tenant) else {
        return Ok(Some(Refusal::TenantGone));
    };
    if limits.is_empty() {
        return Ok(None);
    }
    let counted = quotas::used_by(tx, before.id).await?;
    let asked = Amounts::of_demand(Demand {
        vcpus: wanted.vcpus - counted.vcpus,
        memory_mib: wanted.memory_mib - counted.memory_mib,
        disk_gib: wanted.disk_gib - counted.disk_gib,
    });
    let over = exceeded(&limits, &quotas::used(tx, &before.tenant).await?, &asked);
    Ok((!over.is_empty()).then_some(Refusal::QuotaExceeded { over }))
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
    if before.in_quarantine {
        return Ok(Some(Refusal::Quarantined));
    }
    if before.applied.is_none() && before.active_job.is_none() {
        return Ok(Some(Refusal::ResourceFailed));
    }
    Ok(None)
}
