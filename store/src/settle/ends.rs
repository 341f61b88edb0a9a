//! What the end of a job changes: the job, its resource, what it held, and who waited for it.

use super::books::Books;
use super::resource::{apply, give_reasons, remove};
use crate::StoreError;
use crate::changes::{self, Change};
use crate::rows::{StepRow, Steps};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState};
use rhyzome_model::kinds::{Demand, Kind};
use rhyzome_model::problem::JobError;
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

/// The end of a job. Its row, and its resource's, are locked.
#[derive(Clone, Debug)]
pub struct End {
    /// The job.
    pub job: JobId,
    /// Whose.
    pub tenant: TenantId,
    /// Of what.
    pub kind: Kind,
    /// What was done.
    pub action: Action,
    /// To which.
    pub resource: ResourceId,
    /// `Succeeded`, `Failed` or `Cancelled`.
    pub state: JobState,
    /// Why, where it didn't succeed.
    pub error: Option<JobError>,
    /// As reported; none leaves what is there.
    pub steps: Option<Vec<StepRow>>,
    /// The host that had the job.
    pub host: Option<HostName>,
    /// Whether it counted as running.
    pub held_slot: bool,
    /// Whether an order of it was out.
    pub order_out: bool,
    /// The fence and epoch of the order that its host's agent answered with this end, if that was it.
    pub answered: Option<(i64, i64)>,
    /// When the job was accepted.
    pub created_at: DateTime<Utc>,
    /// What became known of networks on the host: `{namespace}`, for operators.
    pub networks: Vec<(ResourceId, Value)>,
    /// What becomes of the resource.
    pub effect: Effect,
}

impl End {
    /// Whether it is known what has become of the resource on its host.
    fn is_agents_word(&self) -> bool {
        match self.effect {
            Effect::Applied { .. } => self.order_out,
            Effect::Removed | Effect::NotMade { .. } => true,
            Effect::LeftBehind { .. } | Effect::NotChanged { .. } => false,
        }
    }
}

/// What becomes of the resource at the end of a job.
#[derive(Clone, Debug)]
pub enum Effect {
    /// It is as this spec says.
    Applied {
        /// The intent that the job made so.
        spec: Value,
        /// Of it; 0 where it isn't all of that generation's intent (a start after an update that failed).
        generation: i64,
        /// What making it found out; none leaves what is known.
        facts: Option<Value>,
        /// What it has reserved from now on; none leaves it.
        reserve: Option<Kept>,
        /// What is metered from now on; none isn't metered.
        metered: Option<Demand>,
        /// What it was seen as by the step that made it so, and when: unless an agent saw it later.
        observed: Option<(Value, DateTime<Utc>)>,
    },
    /// It is gone.
    Removed,
    /// Its create came to nothing: nothing is left on any host.
    NotMade {
        /// For the resource.
        reason: Value,
    },
    /// An operator gave its undo up: something of it may be on its host still, and keeps what it holds there.
    LeftBehind {
        /// For the resource.
        reason: Value,
    },
    /// A change came to nothing: it is as it was applied.
    NotChanged {
        /// For the resource; none where the user cancelled.
        reason: Option<Value>,
        /// What `applied` needs reserved; none leaves it.
        reserve: Option<Kept>,
    },
}

/// What stays reserved; a dimension that isn't named stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Virtual processors.
    pub vcpus: Option<i64>,
    /// MiB.
    pub memory_mib: Option<i64>,
    /// GiB.
    pub disk_gib: Option<i64>,
}

/// Writes ends: jobs, resources, who waited for them, then the books. Says what changed by them, for the caller to write.
pub(crate) async fn apply_ends(
    tx: &mut Transaction<'_, Postgres>,
    ends: &[End],
    now: DateTime<Utc>,
) -> Result<Vec<Change>, StoreError> {
    apply_ends_with(tx, ends, Books::default(), now).await
}

/// The same, with books that hold more than these ends.
pub(super) async fn apply_ends_with(
    tx: &mut Transaction<'_, Postgres>,
    ends: &[End],
    mut books: Books,
    now: DateTime<Utc>,
) -> Result<Vec<Change>, StoreError> {
    let removed: Vec<Uuid> = ends
        .iter()
        .filter(|e| matches!(e.effect, Effect::Removed))
        .map(|e| e.resource.0)
        .collect();
    if !ends.is_empty() {
        remember_abandoned(tx, ends).await?;
        end_jobs(tx, ends, now).await?;
        let applied: Vec<&End> = ends
            .iter()
            .filter(|e| matches!(e.effect, Effect::Applied { .. }))
            .collect();
        apply(tx, &applied, now).await?;
        give_reasons(tx, ends, now).await?;
        let touched: Vec<Uuid> = ends.iter().map(|e| e.resource.0).collect();
        crate::quotas::jobs_ended(tx, &touched).await?;
        // Others' jobs before any of the books: the order of all locks.
        wake(tx, &touched, &removed).await?;
    }
    for end in ends {
        books.end(end);
    }
    let mut changes: Vec<Change> = changes::ended(ends).collect();
    changes.extend(books.write(tx).await?);
    let told: Vec<Uuid> = ends
        .iter()
        .filter(|e| e.is_agents_word())
        .map(|e| e.resource.0)
        .collect();
    forget_abandoned(tx, &told).await?;
    remove(tx, &removed, now).await?;
    Ok(changes)
}

/// What an abandoned job may have left on its host is remembered with the fences that it had there.
async fn remember_abandoned(tx: &mut Transaction<'_, Postgres>, ends: &[End]) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = ends
        .iter()
        .filter(|e| matches!(e.effect, Effect::LeftBehind { .. }))
        .map(|e| e.job.0)
        .collect();
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO abandoned (job_id, resource_id, tenant, host, first_fence, fence)
         SELECT id, resource_id, tenant, host, first_fence, fence FROM jobs
         WHERE id = ANY($1) AND host IS NOT NULL AND first_fence IS NOT NULL AND fence IS NOT NULL
         ON CONFLICT (job_id) DO NOTHING",
        &ids
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A later job of these resources ended on their host's word: whatever was left behind is its own now, or gone.
pub(super) async fn forget_abandoned(
    tx: &mut Transaction<'_, Postgres>,
    resources: &[Uuid],
) -> Result<(), StoreError> {
    if resources.is_empty() {
        return Ok(());
    }
    sqlx::query!("DELETE FROM abandoned WHERE resource_id = ANY($1)", resources)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn end_jobs(
    tx: &mut Transaction<'_, Postgres>,
    ends: &[End],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = ends.iter().map(|e| e.job.0).collect();
    let states: Vec<String> = ends.iter().map(|e| e.state.to_string()).collect();
    let errors: Vec<Option<Value>> = ends
        .iter()
        .map(|e| {
            e.error
                .as_ref()
                .map(serde_json::to_value)
                .transpose()
                .map_err(|e| StoreError::row("jobs", e))
        })
        .collect::<Result<_, _>>()?;
    let steps: Vec<Option<Steps<'_>>> = ends.iter().map(|e| e.steps.as_deref().map(Json)).collect();
    sqlx::query!(
        "WITH j AS (
             UPDATE jobs j SET state = q.state, error = q.error, steps = coalesce(q.steps, j.steps), ended_at = $5, due = NULL,
                    waiting = NULL, holds_slot = false, dispatched_at = NULL, frozen = NULL
             FROM unnest($1::uuid[], $2::text[], $3::jsonb[], $4::jsonb[]) AS q(id, state, error, steps)
             WHERE j.id = q.id RETURNING j.id
         )
         DELETE FROM job_resources o USING j WHERE o.job_id = j.id",
        &ids,
        &states,
        &errors as &[Option<Value>],
        &steps as &[Option<Steps<'_>>],
        now
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Wakes who waited: the next in line on `ended` resources, the jobs of resources that refer to these, and those of what `removed` ones
/// referred to. Dispatch judges anew. The rows of `ended` resources are locked, so that who is first there stays so, and who stands
/// behind it has its turn with its end; on the others somebody else may be ending the first one just now, so that all in line are woken.
///
/// A job that is due and held by a dispatch is waited for: should it be put to wait on what was read before this end, it is woken. What
/// `removed` ones referred to is held until they are gone: a delete of it that is accepted, or judged, in between would wait for them, and
/// nobody would wake it.
pub(crate) async fn wake(
    tx: &mut Transaction<'_, Postgres>,
    ended: &[Uuid],
    removed: &[Uuid],
) -> Result<(), StoreError> {
    if !removed.is_empty() {
        sqlx::query!(
            "SELECT id FROM resources WHERE id = ANY(ARRAY(SELECT f.to_id FROM resource_refs f WHERE f.from_id = ANY($1)))
             ORDER BY id FOR SHARE",
            removed
        )
        .fetch_all(&mut **tx)
        .await?;
    }
    sqlx::query!(
        // From what is given to what hangs on it, each by its index: merged into one join (`OFFSET 0` forbids it), all that is open may
        // be read instead.
        "WITH c AS MATERIALIZED (
             SELECT o.job_id FROM unnest($1::uuid[]) AS e(id)
             CROSS JOIN LATERAL (SELECT o.job_id FROM job_resources o WHERE o.resource_id = e.id ORDER BY o.seq LIMIT 1) o
             UNION
             SELECT o.job_id FROM unnest($1::uuid[]) AS e(id)
             CROSS JOIN LATERAL (SELECT f.from_id FROM resource_refs f WHERE f.to_id = e.id OFFSET 0) f
             CROSS JOIN LATERAL (SELECT o.job_id FROM job_resources o WHERE o.resource_id = f.from_id OFFSET 0) o
             UNION
             SELECT o.job_id FROM unnest($2::uuid[]) AS e(id)
             CROSS JOIN LATERAL (SELECT f.to_id FROM resource_refs f WHERE f.from_id = e.id OFFSET 0) f
             CROSS JOIN LATERAL (SELECT o.job_id FROM job_resources o WHERE o.resource_id = f.to_id OFFSET 0) o
         ), w AS (
             SELECT j.id FROM jobs j
             WHERE j.id = ANY(ARRAY(SELECT job_id FROM c)) AND j.host IS NULL
               AND (j.state = 'blocked' OR (j.state = 'queued' AND j.due <= clock_timestamp()))
             ORDER BY j.id FOR NO KEY UPDATE
         )
         UPDATE jobs j SET state = 'queued', due = least(j.due, now()) FROM w WHERE j.id = w.id",
        ended,
        removed
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
