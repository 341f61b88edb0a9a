//! Hosts: rows that operators add, and what agents report. Who watches them: `watches`.

use crate::rows::json;
use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_model::kinds::Demand;
use serde::{Deserialize, Serialize};
use serde_json::Value;
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
    /// Two agents say that they are this host: neither gets anything.
    pub two_agents: bool,
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

/// Whether there was such a host to change.
fn found(name: &HostName, changed: u64) -> Result<(), HostError> {
    if changed == 0 {
        Err(HostError::NotFound(name.clone()))
    } else {
        Ok(())
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
        found(name, done.rows_affected())
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
        found(name, done.rows_affected())
    }

    /// Removes a host that holds nothing, and raises its epoch for good. Says by name what was in quarantine there: it stays where it is,
    /// and the rows that stand in for it go.
    pub async fn host_remove(&self, name: &HostName) -> Result<Vec<String>, HostError> {
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
        let in_quarantine = sqlx::query_scalar!(
            "SELECT name FROM resources WHERE stand_in IS NOT NULL AND stand_in ->> 'host' = $1 ORDER BY name",
            name.as_str()
        )
        .fetch_all(&mut *tx)
        .await?;
        sqlx::query!("DELETE FROM hosts WHERE name = $1", name.as_str())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(in_quarantine)
    }

    /// Every host, by name.
    pub async fn host_list(&self) -> Result<Vec<HostRow>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT name, address, epoch, ledger_id, cordoned, labels, vcpus, memory_mib, disk_gib, used_vcpus, used_memory_mib,
                      used_disk_gib, orders_out, facts, load, watch_up AND coalesce(watch_until > now(), false) AS "up!", seen_at,
                      coalesce(rival_at > now() - make_interval(secs => $1), false) AS "two_agents!"
               FROM hosts ORDER BY name"#,
            crate::watches::RIVALS_MEET.as_secs_f64()
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
                    two_agents: r.two_agents,
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
