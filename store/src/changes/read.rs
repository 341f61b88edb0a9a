//! Reads changes in the order of (transaction, place in it), and only those of transactions that all before them have ended.

use super::{Thing, lines};
use crate::rows::json;
use crate::sweep::More;
use crate::{Store, StoreError};
use chrono::{DateTime, TimeDelta, Utc};
use rhyzome_model::change::What;
use rhyzome_model::ids::{ResourceId, TenantId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// How far a reader has come: it has seen all before this row, and so many entries of it. As text `XID-SEQ-ENTRIES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    xid: u64,
    seq: i64,
    entries: u32,
}

impl Position {
    /// After all of a row.
    fn behind((xid, seq): (u64, i64)) -> Self {
        Self {
            xid,
            seq: seq.saturating_add(1),
            entries: 0,
        }
    }

    /// So many entries of a row were seen.
    pub fn within(row: &Row, entries: usize) -> Self {
        Self {
            xid: row.xid,
            seq: row.seq,
            entries: u32::try_from(entries).unwrap_or(u32::MAX),
        }
    }

    /// All of a row was seen.
    pub fn after(row: &Row) -> Self {
        Self::behind((row.xid, row.seq))
    }

    /// How many entries of a row were seen.
    pub fn seen_of(&self, row: &Row) -> usize {
        if (self.xid, self.seq) == (row.xid, row.seq) {
            usize::try_from(self.entries).unwrap_or(usize::MAX)
        } else {
            0
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.xid, self.seq, self.entries)
    }
}

/// A text that is no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a position: three numbers with a dash between them")]
pub struct NoPosition;

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        // Only as it was printed: no signs, no further zeros.
        let position = (|| {
            let mut parts = text.split('-');
            let position = Self {
                xid: parts.next()?.parse().ok()?,
                seq: parts.next()?.parse().ok()?,
                entries: parts.next()?.parse().ok()?,
            };
            (position.to_string() == text).then_some(position)
        })();
        position.ok_or(NoPosition)
    }
}

/// What one transaction changed of one tenant.
#[derive(Clone, Debug)]
pub struct Row {
    xid: u64,
    seq: i64,
    /// Whose.
    pub tenant: TenantId,
    /// When.
    pub at: DateTime<Utc>,
    /// What, in order. None stands for what only a later version can read, so that places in a row are the same for all.
    pub entries: Vec<Option<(Thing, What)>>,
}

/// A page of changes.
#[derive(Clone, Debug)]
pub struct Page {
    /// In order.
    pub rows: Vec<Row>,
    /// Where to go on when these were dealt with.
    pub next: Position,
}

/// Changes after the position were forgotten, or it is not of this database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// Whose changes are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A tenant's.
    Tenant(TenantId),
    /// A tenant's, and those of the tenant `system`, whose public resources all see.
    TenantAndSystem(TenantId),
    /// Everyone's.
    Everyone,
}

/// Whose changes there are from a position on.
#[derive(Clone, Debug)]
pub struct Heads {
    /// Theirs.
    pub tenants: BTreeSet<TenantId>,
    /// After all of them.
    pub next: Position,
}

/// By what a resource that is gone is judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Its last tags.
    pub tags: BTreeMap<String, String>,
    /// Whether it was public.
    pub public: bool,
}

/// Columns, as Postgres gives them. Without a row there are the horizon, the last row below it, and the last that was forgotten alone.
struct Raw {
    horizon: String,
    last_xid: Option<String>,
    last_seq: Option<i64>,
    forgotten_xid: String,
    forgotten_seq: i64,
    xid: Option<String>,
    seq: Option<i64>,
    tenant: Option<String>,
    at: Option<DateTime<Utc>>,
    entries: Option<String>,
}

impl Store {
    /// Where a reader begins who wants what comes from now on: behind the last row. The horizon itself would not do. After a crash
    /// Postgres gives numbers again of transactions that left nothing; behind the number of one that committed it begins anew.
    pub async fn changes_now(&self) -> Result<Position, StoreError> {
        let last = sqlx::query!(
            r#"SELECT coalesce(l.xid, f.xid)::text AS "xid!", coalesce(l.seq, f.seq) AS "seq!"
               FROM changes_forgotten f
               LEFT JOIN LATERAL (
                   SELECT xid, seq FROM changes WHERE xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid DESC, seq DESC LIMIT 1
               ) l ON (l.xid, l.seq) > (f.xid, f.seq)"#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Position::behind((xid(&last.xid)?, last.seq)))
    }

    /// Rows from a position on, at most so many.
    pub async fn changes_page(
        &self,
        whose: &Whose,
        from: Position,
        limit: i64,
    ) -> Result<Result<Page, Gone>, StoreError> {
        let (tenant, beside) = match whose {
            Whose::Everyone => (None, None),
            Whose::Tenant(tenant) => (Some(tenant.as_str()), None),
            Whose::TenantAndSystem(tenant) => (
                Some(tenant.as_str()),
                (tenant.as_str() != TenantId::SYSTEM).then_some(TenantId::SYSTEM),
            ),
        };
        // Horizon, rows and what is forgotten are of one snapshot: else a row could fall between two of them. A branch for a tenant that
        // is none reads nothing; what was of another that had its name is not its own.
        let rows = sqlx::query_as!(
            Raw,
            r#"SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS "horizon!", f.xid::text AS "forgotten_xid!",
                      f.seq AS "forgotten_seq!", l.xid::text AS "last_xid?", l.seq AS "last_seq?", c.xid::text AS "xid?", c.seq AS "seq?", c.tenant AS "tenant?", c.at AS "at?",
                      c.entries AS "entries?"
               FROM changes_forgotten f
               LEFT JOIN LATERAL (
                   SELECT xid, seq FROM changes WHERE xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid DESC, seq DESC LIMIT 1
               ) l ON true
               LEFT JOIN LATERAL (
                   (SELECT * FROM changes
                    WHERE tenant = $1 AND (xid, seq) >= ($3::text::xid8, $4::int8) AND xid < pg_snapshot_xmin(pg_current_snapshot())
                      AND at >= coalesce((SELECT t.created_at FROM tenants t WHERE t.id = $1), '-infinity')
                    ORDER BY xid, seq LIMIT $5)
                   UNION ALL
                   (SELECT * FROM changes
                    WHERE tenant = $2 AND (xid, seq) >= ($3::text::xid8, $4::int8) AND xid < pg_snapshot_xmin(pg_current_snapshot())
                      AND at >= coalesce((SELECT t.created_at FROM tenants t WHERE t.id = $2), '-infinity')
                    ORDER BY xid, seq LIMIT $5)
                   UNION ALL
                   (SELECT * FROM changes
                    WHERE $1::text IS NULL AND (xid, seq) >= ($3::text::xid8, $4::int8) AND xid < pg_snapshot_xmin(pg_current_snapshot())
                    ORDER BY xid, seq LIMIT $5)
               ) c ON true
               ORDER BY c.xid, c.seq LIMIT $5"#,
            tenant,
            beside,
            from.xid.to_string(),
            from.seq,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        page(rows, from, limit)
    }

    /// Whose changes there are from a position on: which readers to wake.
    pub async fn changes_heads(&self, from: Position) -> Result<Heads, StoreError> {
        let row = sqlx::query!(
            r#"SELECT l.xid::text AS "xid?", l.seq AS "seq?",
                      ARRAY(SELECT DISTINCT tenant FROM changes
                            WHERE (xid, seq) >= ($1::text::xid8, $2::int8) AND xid < pg_snapshot_xmin(pg_current_snapshot()))
                      AS "tenants!: Vec<String>"
               FROM (SELECT) one
               LEFT JOIN LATERAL (
                   SELECT xid, seq FROM changes WHERE xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid DESC, seq DESC LIMIT 1
               ) l ON true"#,
            from.xid.to_string(),
            from.seq
        )
        .fetch_one(&self.pool)
        .await?;
        let next = match (row.xid, row.seq) {
            (Some(id), Some(seq)) => Position::behind((xid(&id)?, seq)).max(from),
            (None, _) | (_, None) => from,
        };
        Ok(Heads {
            tenants: row.tenants.into_iter().map(TenantId).collect(),
            next,
        })
    }

    /// By what those of these resources are judged that are gone.
    pub async fn changes_remains(
        &self,
        ids: &[ResourceId],
    ) -> Result<HashMap<ResourceId, Remains>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|i| i.0).collect();
        sqlx::query!(
            "SELECT id, tags, public FROM gone_resources WHERE id = ANY($1)",
            &ids
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|r| {
            let remains = Remains {
                tags: json("gone_resources", r.tags)?,
                public: r.public,
            };
            Ok((ResourceId(r.id), remains))
        })
        .collect()
    }

    /// Forgets a page of what is older than this, and remembers up to where.
    pub async fn changes_forget(&self, age: TimeDelta, limit: i64) -> Result<More, StoreError> {
        // By Postgres' clock, as all that is kept for a time: a process whose own is ahead would forget too much.
        let age_s = age.as_seconds_f64();
        let rows = sqlx::query_scalar!(
            r#"WITH page AS (
                   SELECT xid, seq, at FROM changes ORDER BY xid, seq LIMIT $2
               ), old AS (
                   DELETE FROM changes c USING page p WHERE c.xid = p.xid AND c.seq = p.seq AND p.at < now() - make_interval(secs => $1) RETURNING c.xid, c.seq
               ), last AS (
                   SELECT xid, seq FROM old ORDER BY xid DESC, seq DESC LIMIT 1
               ), kept AS (
                   UPDATE changes_forgotten f SET xid = l.xid, seq = l.seq FROM last l WHERE (f.xid, f.seq) < (l.xid, l.seq)
               )
               SELECT count(*) AS "n!" FROM old"#,
            age_s,
            limit
        )
        .fetch_one(&self.pool)
        .await?;
        let gone = sqlx::query!(
            "DELETE FROM gone_resources WHERE id = ANY(ARRAY(SELECT id FROM gone_resources WHERE at < now() - make_interval(secs => $1) ORDER BY at LIMIT $2))",
            age_s,
            limit
        )
        .execute(&self.pool)
        .await?;
        let all = |n: u64| i64::try_from(n).is_ok_and(|n| n < limit);
        Ok(if rows < limit && all(gone.rows_affected()) {
            More::No
        } else {
            More::Maybe
        })
    }
}

fn page(rows: Vec<Raw>, from: Position, limit: i64) -> Result<Result<Page, Gone>, StoreError> {
    let Some(first) = rows.first() else {
        return Err(StoreError::row("changes_forgotten", "its one row is not there"));
    };
    let horizon = xid(&first.horizon)?;
    let forgotten = (xid(&first.forgotten_xid)?, first.forgotten_seq);
    // Nobody was ever given a position above the horizon of its time, and that never goes back, unless the database was set back.
    if (from.xid, from.seq) <= forgotten || from.xid > horizon {
        return Ok(Err(Gone));
    }
    let last = match (&first.last_xid, first.last_seq) {
        (Some(id), Some(seq)) => forgotten.max((xid(id)?, seq)),
        (None, _) | (_, None) => forgotten,
    };
    let rows: Vec<Row> = rows
        .into_iter()
        .filter_map(|raw| row(raw).transpose())
        .collect::<Result<_, _>>()?;
    let full = i64::try_from(rows.len()).is_ok_and(|n| n >= limit);
    let next = match rows.last() {
        Some(last) if full => Position::after(last),
        // Everything below the horizon was seen: the last row too, whosoever it is.
        Some(_) | None => Position::behind(last).max(from),
    };
    Ok(Ok(Page { rows, next }))
}

fn row(raw: Raw) -> Result<Option<Row>, StoreError> {
    let (Some(id), Some(seq), Some(tenant), Some(at), Some(entries)) =
        (raw.xid, raw.seq, raw.tenant, raw.at, raw.entries)
    else {
        return Ok(None);
    };
    Ok(Some(Row {
        xid: xid(&id)?,
        seq,
        tenant: TenantId(tenant),
        at,
        entries: lines::read(&entries),
    }))
}

fn xid(text: &str) -> Result<u64, StoreError> {
    text.parse()
        .map_err(|e| StoreError::row("changes", format!("transaction {text:?}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::Position;

    #[test]
    fn positions_read_back_and_nothing_else_does() {
        let position = Position {
            xid: u64::MAX,
            seq: 7,
            entries: 3,
        };
        assert_eq!(position.to_string().parse(), Ok(position));
        for bad in [
            "", "1", "1-2", "1-2-3-4", "a-2-3", "1--2-3", "01-2-3", "+1-2-3", "1-2-3 ", "-1-2-3",
        ] {
            assert!(bad.parse::<Position>().is_err(), "{bad:?}");
        }
    }
}
