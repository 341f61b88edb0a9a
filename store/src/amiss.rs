//! What hosts hold otherwise than is applied: since when the checks find it, and how often its mending was tried.

use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::check::{Amiss, HostInventory};
use rhyzome_model::ids::{HostName, ResourceId};
use std::collections::BTreeMap;
use uuid::Uuid;

/// What is known of something amiss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Since when each look found it so.
    pub since: DateTime<Utc>,
    /// Jobs that were made for it.
    pub tries: i32,
    /// When the last was.
    pub tried_at: Option<DateTime<Utc>>,
}

/// What was noted of a look at hosts.
#[derive(Clone, Debug)]
pub struct Noted {
    /// The database's time.
    pub now: DateTime<Utc>,
    /// By host and resource.
    pub standing: BTreeMap<(HostName, ResourceId), Standing>,
}

impl Store {
    /// Notes what was found amiss on the hosts that were looked at. What isn't any more is forgotten, unless it moved since its host was
    /// looked at: of that nothing is known.
    pub async fn amiss_note(&self, looked: &[HostInventory], found: &[Amiss]) -> Result<Noted, StoreError> {
        let mut tx = self.begin_survey().await?;
        let hosts: Vec<String> = looked.iter().map(|i| i.host.to_string()).collect();
        let asked: Vec<DateTime<Utc>> = looked.iter().map(|i| i.asked_at).collect();
        let at: Vec<String> = found.iter().map(|a| a.host.to_string()).collect();
        let ids: Vec<Uuid> = found.iter().map(|a| a.resource.0).collect();
        let wrongs: Vec<String> = found.iter().map(|a| a.wrong.as_str().to_owned()).collect();
        sqlx::query!(
            "DELETE FROM amiss a USING unnest($1::text[], $2::timestamptz[]) AS q(host, asked_at)
             WHERE a.host = q.host
               AND NOT EXISTS (SELECT FROM unnest($3::text[], $4::uuid[]) AS f(host, id) WHERE f.host = a.host AND f.id = a.resource_id)
               AND NOT EXISTS (SELECT FROM jobs j WHERE j.resource_id = a.resource_id
                               AND (j.ended_at IS NULL OR j.ended_at >= q.asked_at))",
            &hosts,
            &asked,
            &at,
            &ids
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "INSERT INTO amiss AS a (host, resource_id, wrong)
             SELECT f.host, f.id, f.wrong FROM unnest($1::text[], $2::uuid[], $3::text[]) AS f(host, id, wrong)
             JOIN hosts h ON h.name = f.host ORDER BY 1, 2
             ON CONFLICT (host, resource_id) DO UPDATE SET wrong = excluded.wrong, since = now(), tries = 0, tried_at = NULL
             WHERE a.wrong <> excluded.wrong",
            &at,
            &ids,
            &wrongs
        )
        .execute(&mut *tx)
        .await?;
        // All that lives there was made so again.
        sqlx::query!(
            "UPDATE hosts h SET put_back_at = NULL FROM unnest($1::text[], $2::timestamptz[]) AS q(host, asked_at)
             WHERE h.name = q.host AND h.put_back_at < q.asked_at
               AND NOT EXISTS (SELECT FROM amiss a WHERE a.host = h.name AND a.wrong = 'incomplete')
               AND NOT EXISTS (SELECT FROM jobs j WHERE j.host = h.name AND (j.ended_at IS NULL OR j.ended_at >= q.asked_at))",
            &hosts,
            &asked
        )
        .execute(&mut *tx)
        .await?;
        let rows = sqlx::query!(
            "SELECT a.host, a.resource_id, a.since, a.tries, a.tried_at FROM unnest($1::text[], $2::uuid[]) AS f(host, id)
             JOIN amiss a ON a.host = f.host AND a.resource_id = f.id",
            &at,
            &ids
        )
        .fetch_all(&mut *tx)
        .await?;
        let now = sqlx::query_scalar!(r#"SELECT now() AS "now!""#)
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        let standing = rows.into_iter().map(|r| {
            let standing = Standing {
                since: r.since,
                tries: r.tries,
                tried_at: r.tried_at,
            };
            ((HostName(r.host), ResourceId(r.resource_id)), standing)
        });
        Ok(Noted {
            now,
            standing: standing.collect(),
        })
    }
}
