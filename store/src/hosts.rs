//! Hosts: rows that operators add, watches as row leases in database time, what agents report.

use crate::rows::json;
use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_model::kinds::Demand;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{Postgres, Transaction};
use std::collections::{BTreeMap, BTreeSet};

/// A hypervisor host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostRow {
    /// As in its certificate.
    pub name: HostName,
    /// HOST:PORT of its agent.
    pub address: String,
    /// Counts its lives.
    pub epoch: i64,
    /// Of its ledger; none before it was first seen.
    pub ledger_id: Option<String>,
    /// Gets nothing new.
    pub cordoned: bool,
    /// For placement.
    pub labels: BTreeMap<String, String>,
    /// What it offers.
    pub offered: Demand,
    /// What is reserved of it.
    pub used: Demand,
    /// Orders that have no outcome yet.
    pub orders_out: i32,
    /// Driver, accelerator, networking, version.
    pub facts: Value,
    /// As last reported.
    pub load: Option<Value>,
    /// Whether its watch is up now.
    pub up: bool,
    /// Last heard of.
    pub seen_at: Option<DateTime<Utc>>,
}

/// What placement reads: hosts, what they keep, where networks live.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    /// Every host.
    pub hosts: Vec<HostRow>,
    /// Images kept on hosts.
    pub images: BTreeMap<HostName, BTreeSet<ResourceId>>,
    /// The hosts that networks live on.
    pub homes: BTreeMap<ResourceId, HostName>,
}

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

/// Why a host could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Not a DNS label.
    #[error("host name {0:?} must be a DNS label")]
    BadName(String),
    /// There is one.
    #[error("host {0} exists already")]
    Exists(HostName),
    /// There is none.
    #[error("there is no host {0}")]
    NotFound(HostName),
    /// It holds resources.
    #[error("host {host} still holds {held} resources: delete or move them first")]
    NotEmpty {
        /// Which.
        host: HostName,
        /// How many.
        held: i64,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for HostError {
    fn from(e: sqlx::Error) -> Self {
        Self::Store(e.into())
    }
}

impl Store {
    /// Adds a host. A name that was there before begins with a higher epoch.
    pub async fn host_add(&self, name: &HostName, address: &str) -> Result<(), HostError> {
        if !rhyzome_model::ids::is_dns_label(name.as_str()) {
            return Err(HostError::BadName(name.to_string()));
        }
        let made = sqlx::query!(
            "INSERT INTO hosts (name, address, epoch)
             VALUES ($1, $2, coalesce((SELECT epoch FROM host_epochs WHERE name = $1), 0)) ON CONFLICT DO NOTHING",
            name.as_str(),
            address
        )
        .execute(&self.pool)
        .await?;
        if made.rows_affected() == 0 {
            Err(HostError::Exists(name.clone()))
        } else {
            Ok(())
        }
    }

    /// A host's agent listens elsewhere now.
    pub async fn host_set_address(&self, name: &HostName, address: &str) -> Result<(), HostError> {
        let done = sqlx::query!(
            "UPDATE hosts SET address = $2, watch_until = CASE WHEN address = $2 THEN watch_until END WHERE name = $1",
            name.as_str(),
            address
        )
        .execute(&self.pool)
        .await?;
        if done.rows_affected() == 0 {
            Err(HostError::NotFound(name.clone()))
        } else {
            Ok(())
        }
    }

    /// Nothing new is placed on a cordoned host, and nothing is mended there; what is there goes on.
    pub async fn host_cordon(&self, name: &HostName, cordoned: bool) -> Result<(), HostError> {
        let done = sqlx::query!(
            "UPDATE hosts SET cordoned = $2 WHERE name = $1",
            name.as_str(),
            cordoned
        )
        .execute(&self.pool)
        .await?;
        if done.rows_affected() == 0 {
            Err(HostError::NotFound(name.clone()))
        } else {
            Ok(())
        }
    }

    /// Removes a host that holds nothing, and raises its epoch for good.
    pub async fn host_remove(&self, name: &HostName) -> Result<(), HostError> {
        let mut tx = self.pool.begin().await?;
        let Some(host) = sqlx::query!(
            "SELECT epoch FROM hosts WHERE name = $1 FOR UPDATE",
            name.as_str()
        )
        .fetch_optional(&mut *tx)
        .await?
        else {
            return Err(HostError::NotFound(name.clone()));
        };
        // What is on it has something reserved there.
        let held = sqlx::query_scalar!(
            r#"SELECT (SELECT count(*) FROM reservations WHERE host = $1)
                    + (SELECT count(*) FROM jobs WHERE (host = $1 OR pinned_host = $1) AND ended_at IS NULL) AS "n!""#,
            name.as_str()
        )
        .fetch_one(&mut *tx)
        .await?;
        if held > 0 {
            return Err(HostError::NotEmpty {
                host: name.clone(),
                held,
            });
        }
        sqlx::query!(
            "INSERT INTO host_epochs (name, epoch) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch",
            name.as_str(),
            host.epoch + 1
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!("DELETE FROM hosts WHERE name = $1", name.as_str())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Every host, by name.
    pub async fn host_list(&self) -> Result<Vec<HostRow>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT name, address, epoch, ledger_id, cordoned, labels, vcpus, memory_mib, disk_gib, used_vcpus, used_memory_mib,
                      used_disk_gib, orders_out, facts, load, watch_up AND coalesce(watch_until > now(), false) AS "up!", seen_at
               FROM hosts ORDER BY name"#
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                Ok(HostRow {
                    name: HostName(r.name),
                    address: r.address,
                    epoch: r.epoch,
                    ledger_id: r.ledger_id,
                    cordoned: r.cordoned,
                    labels: json("hosts", r.labels)?,
                    offered: Demand {
                        vcpus: r.vcpus,
                        memory_mib: r.memory_mib,
                        disk_gib: r.disk_gib,
                    },
                    used: Demand {
                        vcpus: r.used_vcpus,
                        memory_mib: r.used_memory_mib,
                        disk_gib: r.used_disk_gib,
                    },
                    orders_out: r.orders_out,
                    facts: r.facts,
                    load: r.load,
                    up: r.up,
                    seen_at: r.seen_at,
                })
            })
            .collect()
    }

    /// One host.
    pub async fn host_get(&self, name: &HostName) -> Result<Option<HostRow>, StoreError> {
        Ok(self.host_list().await?.into_iter().find(|h| h.name == *name))
    }

    /// What placement reads, at one moment.
    pub async fn cluster_view(&self) -> Result<ClusterView, StoreError> {
        let hosts = self.host_list().await?;
        let mut images: BTreeMap<HostName, BTreeSet<ResourceId>> = BTreeMap::new();
        let kept = sqlx::query!(
            // From the few images on: there are as many reservations as instances.
            "SELECT r.id AS resource_id, v.host FROM resources r
             CROSS JOIN LATERAL (SELECT v.host FROM reservations v WHERE v.resource_id = r.id OFFSET 0) v WHERE r.kind = 'image'"
        )
        .fetch_all(&self.pool)
        .await?;
        for row in kept {
            images
                .entry(HostName(row.host))
                .or_default()
                .insert(ResourceId(row.resource_id));
        }
        let homes = sqlx::query!("SELECT network_id, host FROM network_homes")
            .fetch_all(&self.pool)
            .await?
            .into_iter()
            .map(|r| (ResourceId(r.network_id), HostName(r.host)))
            .collect();
        Ok(ClusterView { hosts, images, homes })
    }

    /// Takes and keeps watches: those that this owner holds, and up to `more` that nobody does. A lease that isn't renewed in time is lost.
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
                      watch_up = CASE WHEN h.name IN (SELECT name FROM mine) THEN h.watch_up ELSE false END
               WHERE h.name IN (SELECT name FROM mine UNION SELECT name FROM free)
               RETURNING h.name, h.address, h.epoch, h.ledger_id, h.name IN (SELECT name FROM mine) AS "kept!""#,
            owner,
            lease_s,
            more
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

    /// A watch is up or broke off.
    pub async fn watch_set(&self, owner: &str, host: &HostName, up: Watch) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE hosts SET watch_up = $3, seen_at = CASE WHEN $3 THEN now() ELSE seen_at END WHERE name = $1 AND watch_owner = $2",
            host.as_str(),
            owner,
            matches!(up, Watch::Up)
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The highest fence of the host's epoch that its agent has answered with an end; 0 if there is none.
    pub async fn host_answered(&self, host: &HostName) -> Result<i64, StoreError> {
        let answered = sqlx::query_scalar!("SELECT answered_fence FROM hosts WHERE name = $1", host.as_str())
            .fetch_optional(&self.pool)
            .await?;
        Ok(answered.unwrap_or(0))
    }

    /// Answers an agent's hello: raises the epoch where the ledger is new. An epoch that the agent knows and we don't is taken over:
    /// it is ours of before the database was set back.
    ///
    /// A ledger that knows less than its agent has answered to was set back: it is as good as a new one.
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
        // An answer that is an end waits for the ledger; what a hello says doesn't.
        let row = sqlx::query!(
            r#"WITH known AS (
                   SELECT h.name, h.ledger_id IS NOT DISTINCT FROM $2 AS same, $3 < least($5, h.answered_fence) AS older, h.answered_fence
                   FROM hosts h WHERE h.name = $1 FOR NO KEY UPDATE
               )
               UPDATE hosts h SET epoch = greatest(h.epoch, $4) + CASE WHEN k.same AND NOT k.older THEN 0 ELSE 1 END,
                      answered_fence = CASE WHEN k.same AND NOT k.older THEN h.answered_fence ELSE 0 END,
                      put_back_at = CASE WHEN k.same AND k.older THEN now() ELSE h.put_back_at END,
                      ledger_id = $2, max_fence = $3
               FROM known k WHERE h.name = k.name
               RETURNING h.epoch, k.answered_fence AS "answered!", k.same AND k.older AS "older!""#,
            host.as_str(),
            hello.ledger_id,
            seen,
            hello.epoch,
            hello.answered
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Greeting::Epoch {
            epoch: row.epoch,
            behind: row.older.then_some(row.answered),
        })
    }

    /// What a host has, as its agent says. Where that is less than what is reserved, it is so with open eyes.
    pub async fn host_capacity(
        &self,
        host: &HostName,
        offered: Demand,
        labels: &BTreeMap<String, String>,
        facts: &Value,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE hosts SET vcpus = $2, memory_mib = $3, disk_gib = $4, labels = $5, facts = $6, seen_at = now(),
                    over_vcpus = greatest(used_vcpus - $2, 0), over_memory_mib = greatest(used_memory_mib - $3, 0),
                    over_disk_gib = greatest(used_disk_gib - $4, 0)
             WHERE name = $1",
            host.as_str(),
            offered.vcpus,
            offered.memory_mib,
            offered.disk_gib,
            crate::rows::tags_json(labels),
            facts
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Loads of many hosts, with when.
    pub async fn host_loads(&self, loads: &[(HostName, Value)]) -> Result<(), StoreError> {
        let names: Vec<String> = loads.iter().map(|l| l.0.to_string()).collect();
        let values: Vec<Value> = loads.iter().map(|l| l.1.clone()).collect();
        sqlx::query!(
            "WITH l AS (SELECT name FROM hosts WHERE name = ANY($1) ORDER BY name FOR NO KEY UPDATE)
             UPDATE hosts h SET load = q.load, seen_at = now()
             FROM l, unnest($1::text[], $2::jsonb[]) AS q(name, load) WHERE h.name = q.name AND l.name = h.name",
            &names,
            &values
        )
        .execute(&self.pool)
        .await?;
        Ok(())
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
