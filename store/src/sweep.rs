//! What the sweep looks for: jobs that went quiet. It takes no input; rows are taken `SKIP LOCKED`, so that any number may run it.
//!
//! Each scan reads a page, from a [`Place`] on, and says where the next one begins: what is looked at costs the same however much there
//! is, and whatever stays as it is at the front keeps nothing behind it from being looked at.

use crate::dispatch::{OrderRow, Unread};
use crate::rows::{json_some, parse, parse_some};
use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState, Mode, Verdict};
use rhyzome_model::kinds::Kind;
use uuid::Uuid;

/// Where a scan goes on: after this time, and this job of that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    at: DateTime<Utc>,
    job: JobId,
}

impl Place {
    /// Before every job.
    pub const START: Self = Self {
        at: DateTime::UNIX_EPOCH,
        job: JobId(Uuid::nil()),
    };

    /// After a page: behind its last row, or at the start again where it was not full.
    fn after(last: Option<(DateTime<Utc>, Uuid)>, seen: i64, limit: i64) -> Self {
        match last {
            Some((at, job)) if seen >= limit => Self { at, job: JobId(job) },
            Some(_) | None => Self::START,
        }
    }
}

/// What a page of jobs to be woken came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Woken {
    /// So many were made due.
    pub jobs: i64,
    /// Where the next page begins.
    pub next: Place,
}

/// A page of quiet orders.
#[derive(Debug)]
pub struct Quiet {
    /// Them.
    pub orders: Vec<OrderRow>,
    /// Those that can't be read here: another program may know what they are.
    pub unread: Vec<Unread>,
    /// Where the next page begins.
    pub next: Place,
}

/// Whether there is more of what a page was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// The page was full.
    Maybe,
    /// It was not.
    No,
}

impl Store {
    /// Orders that went out before `before` and have no outcome: to be looked for in the stream, and published again with the same fence.
    /// Those of jobs that are due are left out: a later order takes their place.
    pub async fn orders_quiet(
        &self,
        before: DateTime<Utc>,
        from: Place,
        limit: i64,
    ) -> Result<Quiet, StoreError> {
        // What has a time of dispatch is out: running or undoing. Saying so again would let the planner take another index, and sort.
        let rows = sqlx::query!(
            r#"SELECT j.id AS "id!", j.tenant AS "tenant!", j.kind AS "kind!", j.action AS "action!", j.resource_id AS "resource_id!",
                      j.generation AS "generation!", j.dispatched_at AS "dispatched_at!", j.host AS "host!", h.address AS "address?",
                      j.epoch AS "epoch!", j.fence AS "fence!", j.mode AS "mode!", j.verdict, j.error, j.attempt AS "attempt!",
                      j.frozen AS "frozen!", j.deadline_at, j.traceparent AS "traceparent!", j.due IS NOT NULL AS "due!"
               FROM (
                   SELECT * FROM jobs
                   WHERE dispatched_at < $1 AND (dispatched_at, id) > ($2, $3)
                   ORDER BY dispatched_at, id LIMIT $4) j
               LEFT JOIN hosts h ON h.name = j.host
               ORDER BY j.dispatched_at, j.id LIMIT $4"#,
            before,
            from.at,
            from.job.0,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        let seen = i64::try_from(rows.len()).unwrap_or(limit);
        let next = Place::after(rows.last().map(|r| (r.dispatched_at, r.id)), seen, limit);
        let (orders, unread) = Unread::apart(rows.into_iter().filter_map(|r| {
            // Without its host there is nobody to send it to.
            let address = r.address.filter(|_| !r.due)?;
            let job = JobId(r.id);
            let read = || -> Result<OrderRow, StoreError> {
                Ok(OrderRow {
                    job,
                    tenant: TenantId(r.tenant),
                    kind: parse("jobs", &r.kind, Kind::parse)?,
                    action: parse("jobs", &r.action, Action::parse)?,
                    resource: ResourceId(r.resource_id),
                    generation: r.generation,
                    host: HostName(r.host),
                    address,
                    epoch: r.epoch,
                    fence: r.fence,
                    mode: parse("jobs", &r.mode, Mode::parse)?,
                    verdict: parse_some("jobs", r.verdict.as_deref(), Verdict::parse)?,
                    cause: json_some("jobs", r.error)?,
                    attempt: r.attempt,
                    frozen: r.frozen,
                    deadline_at: r.deadline_at,
                    traceparent: r.traceparent,
                })
            };
            Some((job, read()))
        }));
        Ok(Quiet { orders, unread, next })
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

    /// Makes due what passed its deadline going forward, and marks it for undo, which needs no turn: what no host has ends at once.
    /// A delete has none.
    pub async fn deadlines_pass(&self, from: Place, limit: i64) -> Result<Woken, StoreError> {
        // The mode within the CASE: beside the other condition it would let the planner read all of a partial index for each row.
        let done = sqlx::query!(
            r#"WITH page AS (
                   SELECT id, deadline_at FROM jobs
                   WHERE ended_at IS NULL AND mode = 'forward' AND deadline_at < now() AND (deadline_at, id) > ($1, $2)
                   ORDER BY deadline_at, id LIMIT $3
               ), l AS (
                   SELECT j.id FROM page p JOIN jobs j ON j.id = p.id
                   WHERE j.ended_at IS NULL AND j.action <> 'delete'
                     AND CASE WHEN j.mode = 'forward' THEN true ELSE false END
                   FOR NO KEY UPDATE OF j SKIP LOCKED
               ), woken AS (
                   UPDATE jobs j SET due = now(), state = CASE WHEN j.state = 'blocked' THEN 'queued' ELSE j.state END,
                          mode = 'undo',
                          verdict = CASE WHEN j.cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE 'deadline' END
                   FROM l WHERE j.id = l.id RETURNING j.id
               )
               SELECT (SELECT count(*) FROM woken) AS "woken!", (SELECT count(*) FROM page) AS "seen!", last.deadline_at AS "at?",
                      last.id AS "id?"
               FROM (SELECT 1) one LEFT JOIN (SELECT deadline_at, id FROM page ORDER BY deadline_at DESC, id DESC LIMIT 1) last ON true"#,
            from.at,
            from.job.0,
            limit
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Woken {
            jobs: done.woken,
            next: Place::after(done.at.zip(done.id), done.seen, limit),
        })
    }

    /// Wakes blocked jobs that wait for nothing any more and that nothing woke: a belt beside the braces.
    pub async fn blocked_recheck(&self, from: Place, limit: i64) -> Result<Woken, StoreError> {
        let done = sqlx::query!(
            r#"WITH page AS (
                   SELECT id FROM jobs WHERE state = 'blocked' AND due IS NULL AND id > $1 ORDER BY id LIMIT $2
               ), l AS (
                   SELECT j.id FROM jobs j
                   WHERE j.id = ANY(ARRAY(SELECT id FROM page)) AND j.state = 'blocked' AND j.due IS NULL
                     AND NOT EXISTS (SELECT FROM job_resources own JOIN job_resources q ON q.resource_id = own.resource_id AND q.seq < own.seq
                                     WHERE own.job_id = j.id)
                     AND CASE WHEN j.action = 'delete'
                         THEN NOT EXISTS (SELECT FROM resource_refs f WHERE f.to_id = j.resource_id)
                         ELSE NOT EXISTS (SELECT FROM resource_refs f JOIN resources r ON r.id = f.to_id
                                          WHERE f.from_id = j.resource_id AND r.applied IS NULL
                                            AND EXISTS (SELECT FROM job_resources q WHERE q.resource_id = r.id)) END
                   FOR NO KEY UPDATE OF j SKIP LOCKED
               ), woken AS (
                   UPDATE jobs j SET state = 'queued', due = now() FROM l WHERE j.id = l.id RETURNING j.id
               )
               SELECT (SELECT count(*) FROM woken) AS "woken!", (SELECT count(*) FROM page) AS "seen!",
                      (SELECT id FROM page ORDER BY id DESC LIMIT 1) AS "id?""#,
            from.job.0,
            limit
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Woken {
            jobs: done.woken,
            next: Place::after(done.id.map(|id| (DateTime::UNIX_EPOCH, id)), done.seen, limit),
        })
    }

    /// Makes due what waits for this reason (`capacity`, `host_unreachable`), the oldest first: hosts changed.
    pub async fn capacity_wake(&self, reason: &str, from: Place, limit: i64) -> Result<Woken, StoreError> {
        let done = sqlx::query!(
            r#"WITH page AS (
                   SELECT id, created_at FROM jobs
                   WHERE ended_at IS NULL AND dispatched_at IS NULL
                     AND coalesce(waiting ->> 'reason', CASE WHEN state = 'blocked' THEN 'reference' ELSE 'turn' END) = $1
                     AND (created_at, id) > ($2, $3)
                   ORDER BY created_at, id LIMIT $4
               ), l AS (
                   SELECT j.id FROM page p JOIN jobs j ON j.id = p.id WHERE j.due > now() FOR NO KEY UPDATE OF j SKIP LOCKED
               ), woken AS (
                   UPDATE jobs j SET due = now() FROM l WHERE j.id = l.id RETURNING j.id
               )
               SELECT (SELECT count(*) FROM woken) AS "woken!", (SELECT count(*) FROM page) AS "seen!", last.created_at AS "at?",
                      last.id AS "id?"
               FROM (SELECT 1) one LEFT JOIN (SELECT created_at, id FROM page ORDER BY created_at DESC, id DESC LIMIT 1) last ON true"#,
            reason,
            from.at,
            from.job.0,
            limit
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Woken {
            jobs: done.woken,
            next: Place::after(done.at.zip(done.id), done.seen, limit),
        })
    }

    /// Forgets a page of what is older than it is kept: idempotency keys 7 days, ended jobs 30, with what hangs on them.
    pub async fn forget_old(&self, limit: i64) -> Result<More, StoreError> {
        let keys = sqlx::query!(
            "DELETE FROM idempotency WHERE ctid = ANY(ARRAY(
                 SELECT ctid FROM idempotency WHERE created_at < now() - interval '7 days' ORDER BY created_at LIMIT $1
                 FOR UPDATE SKIP LOCKED))",
            limit
        )
        .execute(&self.pool)
        .await?;
        let jobs = sqlx::query!(
            "DELETE FROM jobs WHERE id = ANY(ARRAY(
                 SELECT id FROM jobs WHERE ended_at < now() - interval '30 days' ORDER BY ended_at LIMIT $1 FOR UPDATE SKIP LOCKED))",
            limit
        )
        .execute(&self.pool)
        .await?;
        let most = keys.rows_affected().max(jobs.rows_affected());
        Ok(if i64::try_from(most).is_ok_and(|n| n < limit) {
            More::No
        } else {
            More::Maybe
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
