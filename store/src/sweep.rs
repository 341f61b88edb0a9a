//! What the sweep looks for: jobs that went quiet. It takes no input; rows are taken `SKIP LOCKED`, so that any number may run it.

use crate::dispatch::OrderRow;
use crate::rows::{json, parse};
use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState, Mode, Verdict};
use rhyzome_model::kinds::Kind;

/// Counts for metrics and alarms.
#[derive(Clone, Debug, Default)]
pub struct Backlog {
    /// Open jobs that wait, by reason.
    pub waiting: Vec<(String, i64)>,
    /// Seconds that the oldest of them waits.
    pub oldest_s: f64,
    /// Jobs in `undoing`.
    pub undoing: i64,
    /// Hosts by state.
    pub hosts: Vec<(String, i64)>,
}

impl Store {
    /// Orders that went out before `before` and have no outcome: to be looked for in the stream, and published again with the same fence.
    /// Those of jobs that are due are left out: a later order takes their place.
    pub async fn orders_quiet(&self, before: DateTime<Utc>, limit: i64) -> Result<Vec<OrderRow>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT j.id, j.tenant, j.kind, j.action, j.resource_id, j.generation, h.name AS host, h.address, j.epoch AS "epoch!",
                      j.fence AS "fence!", j.mode, j.verdict, j.error, j.attempt, j.frozen AS "frozen!", j.deadline_at, j.traceparent
               FROM jobs j JOIN hosts h ON h.name = j.host
               WHERE j.ended_at IS NULL AND j.dispatched_at < $1 AND j.state IN ('running', 'undoing') AND j.due IS NULL
               ORDER BY j.dispatched_at LIMIT $2"#,
            before,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                Ok(OrderRow {
                    job: JobId(r.id),
                    tenant: TenantId(r.tenant),
                    kind: parse("jobs", &r.kind, Kind::parse)?,
                    action: parse("jobs", &r.action, Action::parse)?,
                    resource: ResourceId(r.resource_id),
                    generation: r.generation,
                    host: HostName(r.host),
                    address: r.address,
                    epoch: r.epoch,
                    fence: r.fence,
                    mode: parse("jobs", &r.mode, Mode::parse)?,
                    verdict: r
                        .verdict
                        .as_deref()
                        .map(|v| parse("jobs", v, Verdict::parse))
                        .transpose()?,
                    cause: r.error.map(|e| json("jobs", e)).transpose()?,
                    attempt: r.attempt,
                    frozen: r.frozen,
                    deadline_at: r.deadline_at,
                    traceparent: r.traceparent,
                })
            })
            .collect()
    }

    /// The order was published again: it is quiet from now on anew.
    pub async fn orders_published_again(&self, jobs: &[(JobId, i64)]) -> Result<(), StoreError> {
        let ids: Vec<uuid::Uuid> = jobs.iter().map(|j| j.0.0).collect();
        let fences: Vec<i64> = jobs.iter().map(|j| j.1).collect();
        sqlx::query!(
            "WITH l AS (SELECT id FROM jobs WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE)
             UPDATE jobs j SET dispatched_at = now() FROM l, unnest($1::uuid[], $2::int8[]) AS q(id, fence)
             WHERE j.id = q.id AND l.id = j.id AND j.fence = q.fence AND j.dispatched_at IS NOT NULL",
            &ids,
            &fences
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Makes due what passed its deadline going forward, and marks what a host has for undo. Delete and repair have none.
    pub async fn deadlines_pass(&self, limit: i64) -> Result<u64, StoreError> {
        let done = sqlx::query!(
            "WITH l AS (
                 SELECT id FROM jobs WHERE ended_at IS NULL AND deadline_at < now() AND mode = 'forward'
                    AND action NOT IN ('delete', 'repair') AND (host IS NOT NULL OR due IS NULL OR due > now())
                 LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
             )
             UPDATE jobs j SET due = now(), state = CASE WHEN j.state = 'blocked' THEN 'queued' ELSE j.state END,
                    mode = CASE WHEN j.host IS NULL THEN j.mode ELSE 'undo' END,
                    verdict = CASE WHEN j.host IS NULL THEN j.verdict
                                   WHEN j.cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE 'deadline' END
             FROM l WHERE j.id = l.id",
            limit
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    /// Wakes blocked jobs that wait for nothing any more and that nothing woke: a belt beside the braces.
    pub async fn blocked_recheck(&self, limit: i64) -> Result<u64, StoreError> {
        let done = sqlx::query!(
            "WITH l AS (
                 SELECT j.id FROM jobs j
                 WHERE j.ended_at IS NULL AND j.state = 'blocked' AND j.due IS NULL
                   AND NOT EXISTS (SELECT FROM job_resources own JOIN job_resources q ON q.resource_id = own.resource_id AND q.seq < own.seq
                                   WHERE own.job_id = j.id)
                   AND CASE WHEN j.action = 'delete'
                       THEN NOT EXISTS (SELECT FROM resource_refs f WHERE f.to_id = j.resource_id)
                       ELSE NOT EXISTS (SELECT FROM resource_refs f JOIN resources r ON r.id = f.to_id
                                        WHERE f.from_id = j.resource_id AND r.applied IS NULL
                                          AND EXISTS (SELECT FROM job_resources q WHERE q.resource_id = r.id)) END
                 LIMIT $1 FOR NO KEY UPDATE OF j SKIP LOCKED
             )
             UPDATE jobs j SET state = 'queued', due = now() FROM l WHERE j.id = l.id",
            limit
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    /// Makes due what waits for capacity or for a host: hosts changed.
    pub async fn capacity_wake(&self, reasons: &[&str], limit: i64) -> Result<u64, StoreError> {
        let reasons: Vec<String> = reasons.iter().map(|r| (*r).to_owned()).collect();
        let done = sqlx::query!(
            "WITH l AS (SELECT id FROM jobs WHERE ended_at IS NULL AND due > now() AND waiting ->> 'reason' = ANY($1) ORDER BY seq LIMIT $2
                        FOR NO KEY UPDATE SKIP LOCKED)
             UPDATE jobs j SET due = now() FROM l WHERE j.id = l.id",
            &reasons,
            limit
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    /// Forgets what is older than it is kept: idempotency keys 7 days, ended jobs 30.
    pub async fn forget_old(&self, limit: i64) -> Result<(), StoreError> {
        sqlx::query!(
            "DELETE FROM idempotency WHERE ctid = ANY(ARRAY(
                 SELECT ctid FROM idempotency WHERE created_at < now() - interval '7 days' LIMIT $1))",
            limit
        )
        .execute(&self.pool)
        .await?;
        sqlx::query!(
            "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE ended_at < now() - interval '30 days' LIMIT $1)",
            limit
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Counts for metrics.
    pub async fn backlog(&self) -> Result<Backlog, StoreError> {
        let waiting = sqlx::query!(
            r#"SELECT coalesce(waiting ->> 'reason', CASE WHEN state = 'blocked' THEN 'reference' ELSE 'turn' END) AS "reason!",
                      count(*) AS "n!", extract(epoch FROM max(now() - created_at))::float8 AS "oldest!"
               FROM jobs WHERE ended_at IS NULL AND dispatched_at IS NULL GROUP BY 1"#
        )
        .fetch_all(&self.pool)
        .await?;
        let undoing = sqlx::query_scalar!(
            r#"SELECT count(*) AS "n!" FROM jobs WHERE ended_at IS NULL AND state = 'undoing'"#
        )
        .fetch_one(&self.pool)
        .await?;
        let hosts = sqlx::query!(
            r#"SELECT CASE WHEN NOT (watch_up AND coalesce(watch_until > now(), false)) THEN 'unreachable'
                           WHEN cordoned THEN 'cordoned' ELSE 'ready' END AS "state!", count(*) AS "n!"
               FROM hosts GROUP BY 1"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(Backlog {
            oldest_s: waiting.iter().map(|w| w.oldest).fold(0.0, f64::max),
            waiting: waiting.into_iter().map(|w| (w.reason, w.n)).collect(),
            undoing,
            hosts: hosts.into_iter().map(|h| (h.state, h.n)).collect(),
        })
    }

    /// The state of one job by id, for tests and tools.
    pub async fn job_state(&self, job: JobId) -> Result<Option<JobState>, StoreError> {
        sqlx::query_scalar!("SELECT state FROM jobs WHERE id = $1", job.0)
            .fetch_optional(&self.pool)
            .await?
            .map(|s| parse("jobs", &s, JobState::parse))
            .transpose()
    }
}
