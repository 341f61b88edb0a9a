//! What hosts' inventories are compared with: read in the check's snapshot, after the inventories. And the inventories that
//! the watches of hosts have stored.

use super::Tx;
use crate::rows::json;
use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::check::{
    Answered, HostInventory, InventoryError, Known, KnownJob, KnownResource, Moved, Older, RawInventory,
    RowOf, older,
};
use rhyzome_model::ids::{Epoch, Fence, HostName, JobId, ResourceId};
use rhyzome_model::kinds::Kind;
use serde_json::Value;
use std::collections::BTreeMap;
use uuid::Uuid;

/// What a host's watch has stored.
#[derive(Debug)]
pub struct StoredInventory {
    /// The host.
    pub host: HostName,
    /// What it holds, or why that isn't known.
    pub inventory: Result<HostInventory, NotKnown>,
}

/// Why it isn't known what a host holds.
#[derive(Debug, thiserror::Error)]
pub enum NotKnown {
    /// Its watch is down.
    #[error("its agent can't be reached")]
    Unreachable,
    /// Its watch has asked for none yet.
    #[error("its agent was not asked yet")]
    NotAsked,
    /// What it said can't be read.
    #[error("{0}")]
    Unreadable(#[from] InventoryError),
}

impl Store {
    /// What the watches have stored, by host.
    pub async fn inventories_stored(&self) -> Result<Vec<StoredInventory>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT name, inventory, inventory_asked_at, watch_up AND coalesce(watch_until > now(), false) AS "up!"
               FROM hosts ORDER BY name"#
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                let host = HostName(r.name);
                let inventory = match (r.up, r.inventory, r.inventory_asked_at) {
                    (false, _, _) => Err(NotKnown::Unreachable),
                    (true, Some(inventory), Some(asked_at)) => json::<RawInventory>("hosts", inventory)?
                        .read(host.clone(), asked_at)
                        .map_err(NotKnown::from),
                    (true, None, _) | (true, _, None) => Err(NotKnown::NotAsked),
                };
                Ok(StoredInventory { host, inventory })
            })
            .collect()
    }

    /// Keeps a host's inventory, with a moment before its agent began to look.
    pub async fn host_inventory(
        &self,
        host: &HostName,
        inventory: &Value,
        asked_at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE hosts SET inventory = $2, inventory_at = now(), inventory_asked_at = $3 WHERE name = $1",
            host.as_str(),
            inventory,
            asked_at
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

impl Store {
    /// Whether a host that has just said what it holds was put back to an older copy of itself. The next check tells as well; but until
    /// then a job may cover up what shows it.
    pub async fn host_is_older(&self, looked: &HostInventory) -> Result<Option<Older>, StoreError> {
        let mut tx = self.begin_survey().await?;
        let ids: Vec<Uuid> = looked.fences.keys().map(|id| id.0).collect();
        let mut known = Known {
            jobs: ended(&mut tx, std::slice::from_ref(looked)).await?,
            answered: answered(&mut tx, Some(&ids)).await?,
            ..Known::default()
        };
        let moved = sqlx::query_scalar!(
            "SELECT DISTINCT resource_id FROM jobs WHERE resource_id = ANY($1) AND (ended_at IS NULL OR ended_at >= $2)",
            &ids,
            looked.asked_at
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.rollback().await?;
        known.moved = moved
            .into_iter()
            .map(|id| (ResourceId(id), Moved::Open))
            .collect();
        Ok(older(std::slice::from_ref(looked), &known).pop())
    }
}

/// The jobs that ledgers have not finished, and when they ended.
async fn ended(tx: &mut Tx, inventories: &[HostInventory]) -> Result<BTreeMap<JobId, KnownJob>, StoreError> {
    let jobs: Vec<Uuid> = inventories
        .iter()
        .flat_map(|i| &i.unfinished)
        .map(|u| u.job.0)
        .collect();
    // What an operator abandoned, its ledger need not finish.
    let ended = sqlx::query!(
        r#"SELECT j.id, CASE WHEN EXISTS (SELECT FROM audit a WHERE a.job_id = j.id AND a.action = 'abandon')
                        THEN NULL ELSE j.ended_at END AS ended_at
           FROM jobs j WHERE j.id = ANY($1)"#,
        &jobs
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(ended
        .into_iter()
        .map(|r| (JobId(r.id), KnownJob { ended_at: r.ended_at }))
        .collect())
}

pub(super) async fn read(tx: &mut Tx, inventories: &[HostInventory]) -> Result<Known, StoreError> {
    let mut known = Known::default();
    resources(tx, &mut known).await?;
    let since = inventories.iter().map(|i| i.asked_at).min().unwrap_or_default();
    moved(tx, since, &mut known).await?;
    known.jobs = ended(tx, inventories).await?;
    known.answered = answered(tx, None).await?;
    // A sequence stands outside of snapshots and only rises: read last, it accuses nobody.
    let last = sqlx::query_scalar!(
        r#"SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS "last!" FROM fences"#
    )
    .fetch_one(&mut **tx)
    .await?;
    known.last_fence = Fence(last);
    Ok(known)
}

/// Of all resources or of these. By the fence of a resource, which is that of its newest order.
async fn answered(tx: &mut Tx, of: Option<&[Uuid]>) -> Result<BTreeMap<ResourceId, Answered>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT r.id, j.host AS "host!", j.epoch AS "epoch!", j.fence AS "fence!" FROM resources r
           JOIN jobs j ON j.resource_id = r.id AND j.fence = r.fence
           WHERE j.ended_at IS NOT NULL AND j.host IS NOT NULL AND j.epoch IS NOT NULL AND ($1::uuid[] IS NULL OR r.id = ANY($1))"#,
        of
    )
    .fetch_all(&mut **tx)
    .await?;
    let answers = rows.into_iter().map(|r| {
        let answered = Answered {
            host: HostName(r.host),
            epoch: Epoch(r.epoch),
            fence: Fence(r.fence),
        };
        (ResourceId(r.id), answered)
    });
    Ok(answers.collect())
}

/// In doubt is what was not made so since its host was put back, in an epoch that began then, and what a repair that came to nothing may have left half made.
/// Nothing can be said of a resource of a kind of a later version, nor of what it needs.
async fn resources(tx: &mut Tx, known: &mut Known) -> Result<(), StoreError> {
    for r in sqlx::query!(
        r#"SELECT r.id, r.kind, r.host, r.applied IS NOT NULL AS "applied!", r.fence,
                  coalesce(r.applied ->> 'power' = 'off', false) AS "off!", r.stand_in IS NOT NULL AS "stand_in!",
                  (h.put_back_at IS NOT NULL AND NOT EXISTS (
                      SELECT FROM jobs j WHERE j.resource_id = r.id AND j.state = 'succeeded' AND j.ended_at > h.put_back_at
                         AND j.action IN ('create', 'repair') AND j.pinned_host IS NULL AND j.host = h.name AND j.epoch = h.epoch))
                      OR coalesce(m.failed_at >= coalesce(m.made_at, '-infinity'), false) AS "in_doubt!"
           FROM resources r LEFT JOIN hosts h ON h.name = r.host
           LEFT JOIN (SELECT j.resource_id, max(j.ended_at) FILTER (WHERE j.state = 'succeeded') AS made_at,
                             max(j.ended_at) FILTER (WHERE j.state IN ('failed', 'cancelled')) AS failed_at
                      FROM jobs j WHERE j.action IN ('create', 'repair') AND j.pinned_host IS NULL GROUP BY j.resource_id) m
             ON m.resource_id = r.id"#
    )
    .fetch_all(&mut **tx)
    .await?
    {
        let Some(kind) = Kind::parse(&r.kind) else {
            known.moved.insert(ResourceId(r.id), Moved::Open);
            continue;
        };
        known.resources.insert(
            ResourceId(r.id),
            KnownResource {
                kind,
                host: r.host.map(HostName),
                applied: r.applied,
                off: r.off,
                fence: Fence(r.fence),
                refs: BTreeMap::new(),
                row: match (r.stand_in, r.in_doubt) {
                    (true, _) => RowOf::StandIn,
                    (false, true) => RowOf::InDoubt,
                    (false, false) => RowOf::Resource,
                },
            },
        );
    }
    for r in sqlx::query!(
        "SELECT f.from_id, f.to_id, r.kind FROM resource_refs f JOIN resources r ON r.id = f.to_id"
    )
    .fetch_all(&mut **tx)
    .await?
    {
        if let (Some(from), Some(kind)) = (
            known.resources.get_mut(&ResourceId(r.from_id)),
            Kind::parse(&r.kind),
        ) {
            from.refs.insert(ResourceId(r.to_id), kind);
        }
    }
    Ok(())
}

/// Jobs that are open, or ended since: what they are about moved, and where they are. And what abandoned jobs may have left behind,
/// of which nothing can be said.
async fn moved(tx: &mut Tx, since: DateTime<Utc>, known: &mut Known) -> Result<(), StoreError> {
    let rows = sqlx::query!(
        "SELECT resource_id, host, ended_at FROM jobs WHERE ended_at IS NULL OR ended_at >= $1",
        since
    )
    .fetch_all(&mut **tx)
    .await?;
    for r in rows {
        let moved = r.ended_at.map_or(Moved::Open, Moved::Ended);
        later(&mut known.moved, ResourceId(r.resource_id), moved);
        if let Some(host) = r.host {
            later(&mut known.hosts_moved, HostName(host), moved);
        }
    }
    for r in sqlx::query!("SELECT resource_id, host FROM abandoned")
        .fetch_all(&mut **tx)
        .await?
    {
        later(&mut known.moved, ResourceId(r.resource_id), Moved::Open);
        later(&mut known.hosts_moved, HostName(r.host), Moved::Open);
    }
    Ok(())
}

fn later<K: Ord>(all: &mut BTreeMap<K, Moved>, key: K, moved: Moved) {
    let last = all.entry(key).or_insert(moved);
    *last = match (*last, moved) {
        (Moved::Open, _) | (_, Moved::Open) => Moved::Open,
        (Moved::Ended(a), Moved::Ended(b)) => Moved::Ended(a.max(b)),
    };
}
