//! Quotas of tenants. A limit is a row; what is used is no counter, but the sum over the tenant's resources, taken while its rows are
//! locked: nothing can drift. Of a tenant without limits nothing is summed.

use crate::rows::parse;
use crate::tenants::TenantError;
use crate::{Store, StoreError};
use rhyzome_model::ids::{ResourceId, TenantId};
use rhyzome_model::kinds::{Demand, Kind};
use rhyzome_model::quota::{Amounts, Dimension, Limits};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{Postgres, Transaction};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A limit, and what of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// At most.
    pub limit: i64,
    /// Now. More than the limit where that was set lower later.
    pub used: i64,
}

impl Store {
    /// The limits of a tenant, and what of them is used.
    pub async fn quotas_of(&self, tenant: &TenantId) -> Result<BTreeMap<Dimension, Share>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let rows = sqlx::query!(
            "SELECT dimension, most FROM quotas WHERE tenant = $1",
            tenant.as_str()
        )
        .fetch_all(&mut *tx)
        .await?;
        if rows.is_empty() {
            return Ok(BTreeMap::new());
        }
        let used = used(&mut tx, tenant).await?;
        let shares = rows.into_iter().filter_map(|row| {
            let dimension = dimension(&row.dimension)?;
            let share = Share {
                limit: row.most,
                used: used.get(dimension),
            };
            Some((dimension, share))
        });
        Ok(shares.collect())
    }

    /// Sets limits of a tenant, and takes others away. What it has already stays, even above a limit.
    pub async fn quotas_set(
        &self,
        tenant: &TenantId,
        limits: &Limits,
        removed: &BTreeSet<Dimension>,
    ) -> Result<(), TenantError> {
        let mut tx = self.pool.begin().await?;
        let found = sqlx::query!(
            "SELECT id FROM tenants WHERE id = $1 FOR NO KEY UPDATE",
            tenant.as_str()
        )
        .fetch_optional(&mut *tx)
        .await?;
        if found.is_none() {
            return Err(TenantError::NotFound(tenant.clone()));
        }
        let gone: Vec<String> = removed.iter().map(ToString::to_string).collect();
        sqlx::query!(
            "DELETE FROM quotas WHERE tenant = $1 AND dimension = ANY($2)",
            tenant.as_str(),
            &gone
        )
        .execute(&mut *tx)
        .await?;
        let dimensions: Vec<String> = limits.keys().map(ToString::to_string).collect();
        let most: Vec<i64> = limits.values().copied().collect();
        sqlx::query!(
            "INSERT INTO quotas (tenant, dimension, most) SELECT $1, * FROM unnest($2::text[], $3::int8[])
             ON CONFLICT (tenant, dimension) DO UPDATE SET most = excluded.most",
            tenant.as_str(),
            &dimensions,
            &most
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }
}

/// None where a later version limits something that this one can't give.
fn dimension(word: &str) -> Option<Dimension> {
    word.parse().ok()
}

/// The limits of those of these tenants that are there, most of which have none. Limits are locked, so that one request of each is
/// judged at a time; a tenant is held, so that it does not go before what is accepted for it is there.
pub(crate) async fn lock(
    tx: &mut Transaction<'_, Postgres>,
    tenants: &BTreeSet<&TenantId>,
) -> Result<BTreeMap<TenantId, Limits>, StoreError> {
    let tenants: Vec<String> = tenants.iter().map(ToString::to_string).collect();
    // First the tenants: who deletes one has it before its limits.
    let rows = sqlx::query!(
        r#"WITH t AS MATERIALIZED (
               SELECT id FROM tenants WHERE id = ANY($1) ORDER BY id FOR KEY SHARE
           ), l AS MATERIALIZED (
               SELECT tenant, dimension, most FROM quotas WHERE tenant = ANY(ARRAY(SELECT id FROM t)) ORDER BY tenant, dimension FOR UPDATE
           )
           SELECT t.id AS "id!", l.dimension AS "dimension?", l.most AS "most?" FROM t LEFT JOIN l ON l.tenant = t.id"#,
        &tenants
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut limits: BTreeMap<TenantId, Limits> = BTreeMap::new();
    for row in rows {
        let of_tenant = limits.entry(TenantId(row.id)).or_default();
        if let (Some(name), Some(most)) = (row.dimension, row.most)
            && let Some(dimension) = dimension(&name)
        {
            of_tenant.insert(dimension, most);
        }
    }
    Ok(limits)
}

/// What a tenant has, in every dimension.
pub(crate) async fn used(
    tx: &mut Transaction<'_, Postgres>,
    tenant: &TenantId,
) -> Result<Amounts, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT r.kind, count(*) AS "n!", sum(greatest(r.asked_vcpus, v.vcpus))::int8 AS "vcpus!",
                  sum(greatest(r.asked_memory_mib, v.memory_mib))::int8 AS "memory_mib!",
                  sum(greatest(r.asked_disk_gib, v.disk_gib))::int8 AS "disk_gib!"
           FROM resources r LEFT JOIN reservations v ON v.resource_id = r.id AND v.host = r.host
           WHERE r.tenant = $1 AND r.stand_in IS NULL GROUP BY r.kind"#,
        tenant.as_str()
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut used = Amounts::default();
    for row in rows {
        // Of a kind of a later version there is no limit that this one knows; what it takes counts all the same.
        if let Some(kind) = Kind::parse(&row.kind) {
            used.add(Dimension::Resources(kind), row.n);
        }
        used.add_all(&Amounts::of_demand(Demand {
            vcpus: row.vcpus,
            memory_mib: row.memory_mib,
            disk_gib: row.disk_gib,
        }));
    }
    Ok(used)
}

/// What one resource counts as.
pub(crate) async fn used_by(
    tx: &mut Transaction<'_, Postgres>,
    id: ResourceId,
) -> Result<Demand, StoreError> {
    let row = sqlx::query!(
        r#"SELECT greatest(r.asked_vcpus, v.vcpus) AS "vcpus!", greatest(r.asked_memory_mib, v.memory_mib) AS "memory_mib!",
                  greatest(r.asked_disk_gib, v.disk_gib) AS "disk_gib!"
           FROM resources r LEFT JOIN reservations v ON v.resource_id = r.id AND v.host = r.host WHERE r.id = $1"#,
        id.0
    )
    .fetch_one(&mut **tx)
    .await?;
    Ok(Demand {
        vcpus: row.vcpus,
        memory_mib: row.memory_mib,
        disk_gib: row.disk_gib,
    })
}

/// What a resource asks for that no open job changes.
pub(crate) fn asks(kind: Kind, spec: &Value, applied: Option<&Value>) -> Result<Demand, StoreError> {
    let of = |spec| {
        kind.ops()
            .demand(spec)
            .map_err(|e| StoreError::row("resources", e))
    };
    Ok(of(spec)?.max(applied.map(of).transpose()?.unwrap_or_default()))
}

/// Jobs of these resources ended: where no other is open, what they asked for counts no longer. The rows are locked.
pub(crate) async fn jobs_ended(
    tx: &mut Transaction<'_, Postgres>,
    resources: &[Uuid],
) -> Result<(), StoreError> {
    let rows = sqlx::query!(
        "SELECT r.id, r.kind, r.spec, r.applied, r.asked_vcpus, r.asked_memory_mib, r.asked_disk_gib FROM resources r
         WHERE r.id = ANY($1) AND r.generation > 1 AND r.stand_in IS NULL AND NOT EXISTS (SELECT FROM job_resources o WHERE o.resource_id = r.id)",
        resources
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut ids = Vec::new();
    let (mut vcpus, mut memory, mut disk) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let kind = parse("resources", &row.kind, Kind::parse)?;
        let asks = asks(kind, &row.spec, row.applied.as_ref())?;
        let asked = Demand {
            vcpus: row.asked_vcpus,
            memory_mib: row.asked_memory_mib,
            disk_gib: row.asked_disk_gib,
        };
        if asks != asked {
            ids.push(row.id);
            vcpus.push(asks.vcpus);
            memory.push(asks.memory_mib);
            disk.push(asks.disk_gib);
        }
    }
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE resources r SET asked_vcpus = q.vcpus, asked_memory_mib = q.memory_mib, asked_disk_gib = q.disk_gib
         FROM unnest($1::uuid[], $2::int8[], $3::int8[], $4::int8[]) AS q(id, vcpus, memory_mib, disk_gib) WHERE r.id = q.id",
        &ids,
        &vcpus,
        &memory,
        &disk
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
