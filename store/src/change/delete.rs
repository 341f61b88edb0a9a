//! Delete: in every state, and before all that waits.

use super::cancel::cancel_locked;
use super::rows::{NewJob, delete_job, insert_job, lock_resource, read_resource, stand_in};
use super::types::Deleted;
use crate::accept::{AcceptedNow, Origin, Refusal};
use crate::changes::{self, Change};
use crate::rows::StepRow;
use crate::{Store, StoreError};
use rhyzome_model::change::What;
use rhyzome_model::ids::{JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState};
use rhyzome_model::kinds::Kind;

impl Store {
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
        let mut tx = self.pool.begin().await?;
        let Some((before, now)) = lock_resource(&mut tx, tenant, kind, id).await? else {
            return Ok(Err(Refusal::NotFound));
        };
        if before.deleting
            && let Some(job) = delete_job(&mut tx, id).await?
            && let Some(job) = crate::jobs::job_in(&mut tx, job).await?
        {
            // One that couldn't even begin ends failed, and is forgotten in time: then this one tries again.
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
        let dependants = crate::resources::dependants(&mut *tx, id).await?;
        if !dependants.is_empty() {
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
        let mut told = Vec::new();
        for other in cancel_locked(&mut tx, &open, now).await?.into_iter().flatten() {
            told.push(Change::job(tenant, other.job, other.state, What::Updated));
            cancelled.push(other);
        }
        let still_open = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM job_resources WHERE resource_id = $1) AS "open!""#,
            id.0
        )
        .fetch_one(&mut *tx)
        .await?;
        // What stands in for something on a host goes with that.
        let pinned = stand_in(&mut tx, id).await?;
        let steps = match &pinned {
            Some(pinned) => pinned.pending(),
            None => step_names.iter().map(|s| StepRow::pending(s)).collect(),
        };
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
                steps,
                deadline: None,
                origin,
                retry_of: None,
                pinned,
                now,
            },
        )
        .await?;
        let resource = read_resource(&mut tx, id).await?;
        told.extend(changes::accepted(&resource, Some(&job)));
        changes::write(&mut tx, told).await?;
        tx.commit().await?;
        Ok(Ok(Deleted {
            resource,
            job,
            cancelled,
            now: AcceptedNow::Now,
        }))
    }
}
