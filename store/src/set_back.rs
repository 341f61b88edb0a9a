//! A database that was set back (a restore, an asynchronous failover): agents know fences that its sequence has not drawn yet. While a
//! row says so, dispatch takes nothing; an operator looks, and clears it.

use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::HostName;
use serde::Serialize;
use sqlx::{Postgres, Transaction};

/// A host whose agent knows more than the database.
#[derive(Clone, Debug, Serialize)]
pub struct SetBack {
    /// Which.
    pub host: HostName,
    /// Its agent's highest fence.
    pub seen: i64,
    /// The sequence's last value when it said so.
    pub last: i64,
    /// When it first said so.
    pub at: DateTime<Utc>,
}

/// Notes what an agent said. The first word of a host makes every watch anew: the others are to say what they know, too.
pub(crate) async fn note(
    tx: &mut Transaction<'_, Postgres>,
    host: &HostName,
    seen: i64,
    last: i64,
) -> Result<(), StoreError> {
    let first = sqlx::query_scalar!(
        r#"INSERT INTO set_backs AS s (host, seen, last) VALUES ($1, $2, $3)
           ON CONFLICT (host) DO UPDATE SET seen = greatest(s.seen, excluded.seen)
           RETURNING s.xmax = '0'::xid AS "first!""#,
        host.as_str(),
        seen,
        last
    )
    .fetch_one(&mut **tx)
    .await?;
    if first {
        crate::watches::watch_anew(tx).await?;
    }
    Ok(())
}

impl Store {
    /// The hosts that know more than the database; none where all is well.
    pub async fn set_backs(&self) -> Result<Vec<SetBack>, StoreError> {
        let rows = sqlx::query!("SELECT host, seen, last, at FROM set_backs ORDER BY host")
            .fetch_all(&self.pool)
            .await?;
        Ok(rows
            .into_iter()
            .map(|r| SetBack {
                host: HostName(r.host),
                seen: r.seen,
                last: r.last,
                at: r.at,
            })
            .collect())
    }

    /// An operator has looked: the sequence goes on above every fence that any agent said it knows, and work goes on. Every host is
    /// greeted again first; one that knows more still stops it again. Answers the sequence's new last value.
    pub async fn set_back_clear(&self, actor: &str) -> Result<i64, StoreError> {
        let mut tx = self.pool.begin().await?;
        let last = sqlx::query_scalar!(
            r#"SELECT setval('fences', greatest((SELECT last_value FROM fences), (SELECT max(seen) FROM set_backs),
                                                (SELECT max(max_fence) FROM hosts))) AS "last!""#
        )
        .fetch_one(&mut *tx)
        .await?;
        sqlx::query!("DELETE FROM set_backs").execute(&mut *tx).await?;
        crate::watches::watch_anew(&mut tx).await?;
        sqlx::query!(
            "INSERT INTO audit (tenant, actor, action) VALUES ('system', $1, 'set_back_clear')",
            actor
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(last)
    }
}
