//! Guests, as agents see them.

use crate::changes::{self, Change};
use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::change::What;
use rhyzome_model::ids::{HostName, ResourceId, TenantId};
use rhyzome_model::kinds::Kind;
use serde_json::Value;

/// A guest as seen, for settle's tables.
#[derive(Clone, Debug)]
pub struct GuestRow {
    /// Whose agent said so.
    pub host: HostName,
    /// The instance.
    pub instance: ResourceId,
    /// `{power, detail, metrics}`.
    pub observed: Value,
    /// When.
    pub at: DateTime<Utc>,
}

/// The oldest that a sight is when it is written, seconds.
const SIGHT: f64 = 60.0;

impl Store {
    /// Guests as an agent sees them; only of the host that holds them, and never an older sight over a newer. What is told is told within
    /// [`SIGHT`]: a time further from the database's is of a wrong clock, and the sight counts as made now. Says whose are otherwise than
    /// before, metrics apart: these are written for those who watch.
    pub async fn guests_observed(&self, guests: &[GuestRow]) -> Result<Vec<Change>, StoreError> {
        let ids: Vec<uuid::Uuid> = guests.iter().map(|g| g.instance.0).collect();
        let hosts: Vec<String> = guests.iter().map(|g| g.host.to_string()).collect();
        let observed: Vec<Value> = guests.iter().map(|g| g.observed.clone()).collect();
        let times: Vec<DateTime<Utc>> = guests.iter().map(|g| g.at).collect();
        let mut tx = self.pool.begin().await?;
        let changed = sqlx::query!(
            r#"WITH q AS (
                 SELECT id, host, observed, CASE WHEN at BETWEEN now() - make_interval(secs => $5) AND now() THEN at ELSE now() END AS at
                 FROM unnest($1::uuid[], $2::text[], $3::jsonb[], $4::timestamptz[]) AS q(id, host, observed, at) ORDER BY id
             ), l AS (
                 SELECT r.id, r.tenant, q.observed, q.at,
                        (r.observed ->> 'power', r.observed ->> 'detail')
                        IS DISTINCT FROM (q.observed ->> 'power', q.observed ->> 'detail') AS news
                 FROM q JOIN resources r ON r.id = q.id
                 WHERE r.host = q.host AND (r.observed_at IS NULL OR r.observed_at <= q.at)
                   AND (r.observed_at IS NULL OR r.observed_at < q.at - interval '10 seconds'
                        OR r.observed ->> 'power' IS DISTINCT FROM q.observed ->> 'power'
                        OR r.observed ->> 'detail' IS DISTINCT FROM q.observed ->> 'detail')
                 FOR NO KEY UPDATE OF r
             )
             UPDATE resources r SET observed = l.observed, observed_at = l.at FROM l WHERE r.id = l.id
             RETURNING r.id, r.tenant, l.news AS "news!""#,
            &ids,
            &hosts,
            &observed,
            &times,
            SIGHT
        )
        .fetch_all(&mut *tx)
        .await?;
        let news = changed.into_iter().filter(|r| r.news).map(|r| {
            Change::resource(
                &TenantId(r.tenant),
                Kind::Instance,
                ResourceId(r.id),
                What::Updated,
            )
        });
        let changes = changes::write(&mut tx, news.collect()).await?;
        tx.commit().await?;
        Ok(changes)
    }
}
