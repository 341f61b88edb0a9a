//! Watches of hosts: row leases in database time, and how an agent is greeted under one.

mod ledgers;

pub use ledgers::RIVALS_MEET;
use ledgers::{Claim, LEDGERS, Ledgers};

use crate::changes::Change;
use crate::{Store, StoreError, unheard};
use rhyzome_model::ids::{Epoch, HostName};
use sqlx::{Postgres, Transaction};
use std::collections::{BTreeMap, BTreeSet};

/// A watch that this process holds.
#[derive(Clone, Debug)]
pub struct WatchLease {
    /// The host.
    pub host: HostName,
    /// HOST:PORT of its agent.
    pub address: String,
    /// As known.
    pub epoch: i64,
    /// As known.
    pub ledger_id: Option<String>,
    /// The lowest first fence among the open jobs that have this host, and the abandoned ones that may have left something there;
    /// above all drawn, if there is none.
    pub floor: i64,
    /// Whether something of abandoned jobs may be there.
    pub left_behind: bool,
    /// Whether the owner had it before: else the host counts as unheard until it is greeted.
    pub held: Held,
}

/// What an agent says of its host's ledger when it is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Made with the ledger.
    pub ledger_id: String,
    /// As it was last told; 0 if never.
    pub epoch: i64,
    /// The highest fence that it ever accepted.
    pub max_fence: i64,
    /// [`Store::host_answered`], read before the agent was asked.
    pub answered: i64,
}

/// Since when an owner has a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It goes on, even if it had expired in between: nobody else took it.
    Before,
    /// It was free, or another's.
    JustNow,
}

/// What a hello of an agent led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// This is the epoch to tell.
    Epoch {
        /// It.
        epoch: i64,
        /// The fence that the agent has answered to and knows no longer: its ledger was set back, and counts as a new one.
        behind: Option<i64>,
    },
    /// The agent knows a fence above the sequence: Postgres was set back. Nothing is told.
    SetBack {
        /// The agent's.
        seen: i64,
        /// The sequence's.
        last: i64,
    },
    /// Two agents say that they are this host. Neither is told anything until one of them was silent for [`RIVALS_MEET`].
    TwoAgents {
        /// The ledger of the one that is the host.
        known: String,
    },
}

impl Store {
    /// Takes and keeps watches: those that this owner holds, and up to `more` that nobody does. A lease that isn't renewed in time is lost.
    /// What is known of the guests of those that are heard counts on: see [`unheard`].
    pub async fn watch_take(
        &self,
        owner: &str,
        lease_s: f64,
        more: i64,
    ) -> Result<Vec<WatchLease>, StoreError> {
        // Dispatch locks a host's row before it draws a fence for it, and holds it to the commit; so does the update here: no
        // fence below the floors read after it can still be committed.
        let mut tx = self.pool.begin().await?;
        let rows = sqlx::query!(
            r#"WITH mine AS (
                   SELECT name FROM hosts WHERE watch_owner = $1 ORDER BY name FOR NO KEY UPDATE
               ), free AS (
                   SELECT name FROM hosts WHERE watch_owner IS DISTINCT FROM $1 AND coalesce(watch_until <= now(), true)
                   ORDER BY name LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED
               )
               UPDATE hosts h SET watch_owner = $1, watch_until = now() + make_interval(secs => $2),
                      known_until = CASE WHEN h.watch_up AND h.name IN (SELECT name FROM mine) THEN now() + make_interval(secs => $2 * $4)
                                         ELSE h.known_until END,
                      watch_up = CASE WHEN h.name IN (SELECT name FROM mine) THEN h.watch_up ELSE false END
               WHERE h.name IN (SELECT name FROM mine UNION SELECT name FROM free)
               RETURNING h.name, h.address, h.epoch, h.ledger_id, h.name IN (SELECT name FROM mine) AS "kept!""#,
            owner,
            lease_s,
            more,
            unheard::LEASES
        )
        .fetch_all(&mut *tx)
        .await?;
        let names: Vec<String> = rows.iter().map(|r| r.name.clone()).collect();
        let next = sqlx::query_scalar!(
            r#"SELECT CASE WHEN is_called THEN last_value + 1 ELSE last_value END AS "next!" FROM fences"#
        )
        .fetch_one(&mut *tx)
        .await?;
        let floors: BTreeMap<String, i64> = sqlx::query!(
            r#"SELECT q.host AS "host!", min(q.first_fence) AS "floor!" FROM (
                   SELECT host, first_fence FROM jobs WHERE ended_at IS NULL AND first_fence IS NOT NULL AND host = ANY($1)
                   UNION ALL
                   SELECT host, first_fence FROM abandoned WHERE host = ANY($1)) q GROUP BY q.host"#,
            &names
        )
        .fetch_all(&mut *tx)
        .await?
        .into_iter()
        .map(|r| (r.host, r.floor))
        .collect();
        let behind: BTreeSet<String> =
            sqlx::query_scalar!("SELECT DISTINCT host FROM abandoned WHERE host = ANY($1)", &names)
                .fetch_all(&mut *tx)
                .await?
                .into_iter()
                .collect();
        tx.commit().await?;
        Ok(rows
            .into_iter()
            .map(|r| WatchLease {
                left_behind: behind.contains(&r.name),
                floor: floors.get(&r.name).copied().unwrap_or(next),
                host: HostName(r.name),
                address: r.address,
                epoch: r.epoch,
                ledger_id: r.ledger_id,
                held: if r.kept { Held::Before } else { Held::JustNow },
            })
            .collect())
    }

    /// Gives every watch back: of a stack whose schedulers have all ended, so that no host seems watched that isn't.
    pub async fn watch_release_all(&self) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        watch_anew(&mut tx).await?;
        Ok(tx.commit().await?)
    }

    /// Gives every watch of an owner back: it stops.
    pub async fn watch_release(&self, owner: &str) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE hosts SET watch_owner = NULL, watch_until = NULL, watch_up = false WHERE watch_owner = $1",
            owner
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// A watch is up or broke off. Where nobody had heard the host for some time, those who watch its guests are told that they are known
    /// again; says of which.
    pub async fn watch_set(
        &self,
        owner: &str,
        host: &HostName,
        up: Watch,
    ) -> Result<Vec<Change>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let known_again = sqlx::query_scalar!(
            r#"WITH h AS (
                   SELECT name, told_unheard OR coalesce(known_until < now(), false) AND NOT (watch_up AND coalesce(watch_until > now(), false)) AS unheard
                   FROM hosts WHERE name = $1 AND watch_owner = $2 FOR NO KEY UPDATE
               )
               UPDATE hosts SET watch_up = $3, seen_at = CASE WHEN $3 THEN now() ELSE seen_at END,
                      known_until = CASE WHEN $3 THEN greatest(known_until, watch_until) ELSE known_until END,
                      told_unheard = told_unheard AND NOT $3
               FROM h WHERE hosts.name = h.name RETURNING h.unheard AND $3 AS "again!""#,
            host.as_str(),
            owner,
            matches!(up, Watch::Up)
        )
        .fetch_optional(&mut *tx)
        .await?;
        let told = match known_again {
            Some(true) => unheard::tell(&mut tx, host).await?,
            Some(false) | None => Vec::new(),
        };
        tx.commit().await?;
        Ok(told)
    }

    /// The highest fence of the host's epoch that its agent has answered with an end; 0 if there is none.
    pub async fn host_answered(&self, host: &HostName) -> Result<i64, StoreError> {
        let answered = sqlx::query_scalar!("SELECT answered_fence FROM hosts WHERE name = $1", host.as_str())
            .fetch_optional(&self.pool)
            .await?;
        Ok(answered.unwrap_or(0))
    }

    /// A host's ledger was seen to be older than what its agent answered in an epoch: it counts as a new one, and its agent is greeted
    /// anew. False where that is known already.
    pub async fn host_older(&self, host: &HostName, epoch: Epoch) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE hosts SET epoch = epoch + 1, answered_fence = 0, put_back_at = now(), watch_owner = NULL, watch_until = NULL, watch_up = false
             WHERE name = $1 AND epoch = $2 AND NOT EXISTS (SELECT FROM set_backs)",
            host.as_str(),
            epoch.0
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Answers an agent's hello: raises the epoch where the ledger is new. An epoch that the agent knows and we don't is taken over:
    /// it is ours of before the database was set back.
    ///
    /// A ledger that knows less than its agent has answered to was set back: it is as good as a new one.
    ///
    /// Two agents with one name would take turns, and the epoch would rise with each: from the second time on that a ledger comes back while
    /// another is heard, neither is told anything.
    ///
    /// A fence above the sequence is noted as a set-back, and every watch is taken anew, so that all agents say what they know.
    pub async fn host_greet(&self, host: &HostName, hello: &Hello) -> Result<Greeting, StoreError> {
        let mut tx = self.pool.begin().await?;
        let last = sqlx::query_scalar!(
            r#"SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS "last!" FROM fences"#
        )
        .fetch_one(&mut *tx)
        .await?;
        let seen = hello.max_fence;
        if seen > last {
            crate::set_back::note(&mut tx, host, seen, last).await?;
            tx.commit().await?;
            return Ok(Greeting::SetBack { seen, last });
        }
        let ledgers = Ledgers::of(&mut tx, host).await?;
        let claim = ledgers.claim(&hello.ledger_id);
        if claim == Claim::Disputed {
            let known = ledgers.present.unwrap_or_default();
            ledgers::refuse(&mut tx, host, known == hello.ledger_id).await?;
            tx.commit().await?;
            return Ok(Greeting::TwoAgents { known });
        }
        // An answer that is an end waits for the ledger; what a hello says doesn't.
        let row = sqlx::query!(
            r#"WITH known AS (
                   SELECT h.name, h.ledger_id IS NOT DISTINCT FROM $2 AS same, $3 < least($5, h.answered_fence) AS older, h.answered_fence
                   FROM hosts h WHERE h.name = $1 FOR NO KEY UPDATE
               )
               UPDATE hosts h SET epoch = greatest(h.epoch, $4) + CASE WHEN k.same AND NOT k.older THEN 0 ELSE 1 END,
                      answered_fence = CASE WHEN k.same AND NOT k.older THEN h.answered_fence ELSE 0 END,
                      put_back_at = CASE WHEN k.same AND k.older THEN now() ELSE h.put_back_at END,
                      ledger_id = $2, max_fence = $3, ledger_heard_at = now(),
                      ledgers_before = CASE WHEN k.same OR h.ledger_id IS NULL THEN h.ledgers_before
                          ELSE (array_prepend(h.ledger_id, array_remove(h.ledgers_before, $2)))[1:$7::integer] END,
                      ledger_returned_at = CASE WHEN k.same THEN h.ledger_returned_at WHEN $6 THEN now() END
               FROM known k WHERE h.name = k.name
               RETURNING h.epoch, k.answered_fence AS "answered!", k.same AND k.older AS "older!""#,
            host.as_str(),
            hello.ledger_id,
            seen,
            hello.epoch,
            hello.answered,
            claim == Claim::Back,
            LEDGERS
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Greeting::Epoch {
            epoch: row.epoch,
            behind: row.older.then_some(row.answered),
        })
    }
}

/// Whether an agent is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// It is.
    Up,
    /// It isn't.
    Down,
}

/// No watch is held any more: each host is greeted again before anything goes to it.
pub(crate) async fn watch_anew(tx: &mut Transaction<'_, Postgres>) -> Result<(), StoreError> {
    sqlx::query!(
        "WITH l AS (SELECT name FROM hosts ORDER BY name FOR NO KEY UPDATE)
         UPDATE hosts h SET watch_owner = NULL, watch_until = NULL, watch_up = false FROM l WHERE l.name = h.name"
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
