//! Counts for metrics and alarms. A count ends at [`MOST`]: it is taken every few seconds, and how far beyond that it goes changes
//! nothing for who reads it.

use crate::{Store, StoreError};

/// No job count goes further.
pub const MOST: i64 = 10_000;

/// See the module.
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
    /// Counts what waits for each of these reasons, and what else there is.
    pub async fn backlog(&self, reasons: &[&str]) -> Result<Backlog, StoreError> {
        let reasons: Vec<String> = reasons.iter().map(|r| (*r).to_owned()).collect();
        let waiting = sqlx::query!(
            r#"SELECT r.reason AS "reason!", q.n AS "n!", coalesce(extract(epoch FROM now() - q.oldest), 0)::float8 AS "oldest!"
               FROM unnest($1::text[]) AS r(reason)
               CROSS JOIN LATERAL (
                   SELECT count(*) AS n, min(w.created_at) AS oldest FROM (
                       SELECT created_at FROM jobs
                       WHERE ended_at IS NULL AND dispatched_at IS NULL
                         AND coalesce(waiting ->> 'reason', CASE WHEN state = 'blocked' THEN 'reference' ELSE 'turn' END) = r.reason
                       ORDER BY created_at LIMIT $2) w) q"#,
            &reasons,
            MOST
        )
        .fetch_all(&self.pool)
        .await?;
        let undoing = sqlx::query_scalar!(
            r#"SELECT count(*) AS "n!" FROM (SELECT FROM jobs WHERE ended_at IS NULL AND state = 'undoing' LIMIT $1) u"#,
            MOST
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
}
