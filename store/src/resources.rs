//! Resources as they are read: one, or a page of a list.

mod list;

pub use crate::paging::{After, Listed, Page};
pub use list::ResourceFilter;

use crate::rows::{RawResource, ResourceRow, json, readable};
use crate::{Store, StoreError};
use rhyzome_model::ids::{HostName, ResourceId, TenantId};
use rhyzome_model::kinds::{Demand, Kind};
use serde_json::Value;
use sqlx::{Postgres, Transaction};
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// Which tenants' resources a reader sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A tenant's own, and public ones.
    Tenant(TenantId),
    /// An operator: one tenant's, or everyone's.
    Operator(Option<TenantId>),
}

impl Scope {
    /// Whether what is this tenant's is within it.
    pub(crate) fn has(&self, tenant: &str) -> bool {
        match self {
            Self::Tenant(own) | Self::Operator(Some(own)) => own.as_str() == tenant,
            Self::Operator(None) => true,
        }
    }

    /// Whether what is public is within it, whoever's it is.
    fn sees_public(&self) -> bool {
        matches!(self, Self::Tenant(_))
    }
}

/// A resource that refers to, or is referred to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Kind, as it is stored: it may be one of a later version.
    pub kind: String,
    /// Id.
    pub id: ResourceId,
    /// Name.
    pub name: String,
}

impl Store {
    /// One resource, if the reader may know of it.
    pub async fn resource_get(
        &self,
        scope: &Scope,
        kind: Kind,
        id: ResourceId,
    ) -> Result<Option<ResourceRow>, StoreError> {
        let mut found = raw_on(&self.pool, &[id.0]).await?;
        // What isn't asked about need not be anything that can be read.
        found.retain(|raw| {
            raw.kind == kind.as_str() && (scope.has(&raw.tenant) || raw.public && scope.sees_public())
        });
        found.pop().map(ResourceRow::try_from).transpose()
    }

    /// One resource by id, whoever asks: for reading one's own writes.
    pub async fn resource_by_id(&self, id: ResourceId) -> Result<Option<ResourceRow>, StoreError> {
        resource_on(&self.pool, id).await
    }

    /// Those of the ids that are there, whoever asks, in no order.
    pub async fn resources_get(&self, ids: &[ResourceId]) -> Result<Vec<ResourceRow>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|i| i.0).collect();
        resources_on(&self.pool, &ids).await
    }

    /// The same without those that only a later version can read.
    pub async fn resources_readable(&self, ids: &[ResourceId]) -> Result<Vec<ResourceRow>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|i| i.0).collect();
        Ok(readable(raw_on(&self.pool, &ids).await?))
    }

    /// Which of these are there, in no order.
    pub async fn resources_there(&self, ids: &[ResourceId]) -> Result<Vec<ResourceId>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|i| i.0).collect();
        let there = sqlx::query_scalar!("SELECT id FROM resources WHERE id = ANY($1)", &ids)
            .fetch_all(&self.pool)
            .await?;
        Ok(there.into_iter().map(ResourceId).collect())
    }

    /// The tags of resources; of those that are gone the last, for as long as they are kept.
    pub async fn tags_of(
        &self,
        ids: &[ResourceId],
    ) -> Result<HashMap<ResourceId, BTreeMap<String, String>>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|i| i.0).collect();
        let rows = sqlx::query!(
            r#"SELECT id AS "id!", tags AS "tags!" FROM resources WHERE id = ANY($1)
               UNION ALL SELECT id, tags FROM gone_resources WHERE id = ANY($1)"#,
            &ids
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| Ok((ResourceId(r.id), json("resources", r.tags)?)))
            .collect()
    }

    /// Specs and facts of what a resource refers to, by id.
    pub async fn references_of(
        &self,
        ids: &[ResourceId],
    ) -> Result<BTreeMap<ResourceId, ResourceRow>, StoreError> {
        let mut rows = BTreeMap::new();
        for id in ids {
            if let Some(row) = self.resource_by_id(*id).await? {
                rows.insert(*id, row);
            }
        }
        Ok(rows)
    }

    /// What a target (id or name) means to a tenant: its own by id or name, else a public one.
    pub async fn resource_find(
        &self,
        tenant: &TenantId,
        kind: Kind,
        target: &str,
    ) -> Result<Option<ResourceRow>, StoreError> {
        // In the order of the names: see `name_holder`.
        let id = sqlx::query_scalar!(
            r#"SELECT f.id AS "id!" FROM (
                   SELECT r.id, 1 AS rank FROM resources r WHERE r.id = $4 AND r.kind = $2 AND (r.tenant = $1 OR r.public)
                   UNION ALL
                   SELECT r.id, 2 FROM (
                       SELECT r.id, r.tenant, r.kind, r.name FROM resources r
                       WHERE (r.tenant, r.kind, r.name) >= ($1, $2, $3) ORDER BY r.tenant, r.kind, r.name LIMIT 1
                   ) r WHERE r.tenant = $1 AND r.kind = $2 AND r.name = $3
                   UNION ALL
                   SELECT r.id, 3 FROM resources r WHERE r.public AND r.kind = $2 AND r.name = $3
               ) f ORDER BY f.rank, f.id LIMIT 1"#,
            tenant.as_str(),
            kind.as_str(),
            target,
            Uuid::parse_str(target).ok()
        )
        .fetch_optional(&self.pool)
        .await?;
        match id {
            Some(id) => self.resource_by_id(ResourceId(id)).await,
            None => Ok(None),
        }
    }

    /// The hosts of a tenant's resources, by id or name; those that are gone, or nowhere, are left out.
    pub async fn hosts_of(
        &self,
        tenant: &TenantId,
        kind: Kind,
        targets: &[String],
    ) -> Result<Vec<HostName>, StoreError> {
        let hosts = sqlx::query_scalar!(
            r#"SELECT r.host AS "host!" FROM unnest($3::text[]) AS q(name) CROSS JOIN LATERAL (
                   SELECT r.host, r.tenant, r.kind, r.name FROM resources r
                   WHERE (r.tenant, r.kind, r.name) >= ($1, $2, q.name) ORDER BY r.tenant, r.kind, r.name LIMIT 1
               ) r WHERE r.tenant = $1 AND r.kind = $2 AND r.name = q.name AND r.host IS NOT NULL
               UNION
               SELECT r.host FROM unnest($4::uuid[]) AS q(id) CROSS JOIN LATERAL (
                   SELECT r.host, r.tenant, r.kind FROM resources r WHERE r.id = q.id OFFSET 0
               ) r WHERE r.tenant = $1 AND r.kind = $2 AND r.host IS NOT NULL"#,
            tenant.as_str(),
            kind.as_str(),
            targets,
            &targets
                .iter()
                .filter_map(|t| Uuid::parse_str(t).ok())
                .collect::<Vec<_>>()
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(hosts.into_iter().map(HostName).collect())
    }

    /// What is reserved for a resource on the host that it is on.
    pub async fn reserved_for(&self, id: ResourceId) -> Result<Demand, StoreError> {
        let reserved = sqlx::query!(
            "SELECT v.vcpus, v.memory_mib, v.disk_gib FROM resources r JOIN reservations v ON v.resource_id = r.id AND v.host = r.host
             WHERE r.id = $1",
            id.0
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(reserved.map_or_else(Demand::default, |r| Demand {
            vcpus: r.vcpus,
            memory_mib: r.memory_mib,
            disk_gib: r.disk_gib,
        }))
    }

    /// Resources that refer to this one and aren't being deleted.
    pub async fn dependants_of(&self, id: ResourceId) -> Result<Vec<Neighbour>, StoreError> {
        dependants(&self.pool, id).await
    }

    /// The hosts that networks live on, with what those said of them (`namespace`), by network; for operators.
    pub async fn network_homes(
        &self,
        ids: &[ResourceId],
    ) -> Result<BTreeMap<ResourceId, (HostName, Option<Value>)>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|i| i.0).collect();
        let rows = sqlx::query!(
            "SELECT network_id, host, facts FROM network_homes WHERE network_id = ANY($1)",
            &ids
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|r| (ResourceId(r.network_id), (HostName(r.host), r.facts)))
            .collect())
    }
}

pub(crate) async fn resource_in(
    tx: &mut Transaction<'_, Postgres>,
    id: ResourceId,
) -> Result<Option<ResourceRow>, StoreError> {
    resource_on(&mut **tx, id).await
}

async fn resource_on<'e, E>(on: E, id: ResourceId) -> Result<Option<ResourceRow>, StoreError>
where
    E: sqlx::Executor<'e, Database = Postgres>,
{
    Ok(resources_on(on, &[id.0]).await?.pop())
}

async fn resources_on<'e, E>(on: E, ids: &[Uuid]) -> Result<Vec<ResourceRow>, StoreError>
where
    E: sqlx::Executor<'e, Database = Postgres>,
{
    let rows = raw_on(on, ids).await?;
    rows.into_iter().map(ResourceRow::try_from).collect()
}

async fn raw_on<'e, E>(on: E, ids: &[Uuid]) -> Result<Vec<RawResource>, StoreError>
where
    E: sqlx::Executor<'e, Database = Postgres>,
{
    let rows = sqlx::query_as!(
        RawResource,
        r#"SELECT r.id, r.tenant, r.kind, r.name, r.tags, r.spec, r.generation, r.deleting, r.public, r.applied,
                  r.observed_generation, r.facts, r.observed, r.observed_at, r.reason, r.host,
                  (SELECT coalesce(h.seen_at, h.known_until) FROM hosts h WHERE h.name = r.host AND h.known_until < now()
                      AND NOT (h.watch_up AND coalesce(h.watch_until > now(), false))) AS unheard_since,
                  r.stand_in IS NOT NULL AS "in_quarantine!", r.created_at, r.updated_at,
                  j.id AS "job_id?", j.action AS "job_action?", j.state AS "job_state?"
           FROM resources r
           LEFT JOIN LATERAL (
               SELECT jobs.id, jobs.action, jobs.state FROM job_resources q JOIN jobs ON jobs.id = q.job_id
               WHERE q.resource_id = r.id ORDER BY q.seq LIMIT 1
           ) j ON true
           WHERE r.id = ANY($1)"#,
        ids
    )
    .fetch_all(on)
    .await?;
    Ok(rows)
}

/// See [`Store::dependants_of`].
pub(crate) async fn dependants(
    executor: impl sqlx::PgExecutor<'_>,
    id: ResourceId,
) -> Result<Vec<Neighbour>, StoreError> {
    let rows = sqlx::query!(
        "SELECT DISTINCT r.id, r.kind, r.name FROM resource_refs f JOIN resources r ON r.id = f.from_id
             WHERE f.to_id = $1 AND NOT r.deleting ORDER BY r.name LIMIT 20",
        id.0
    )
    .fetch_all(executor)
    .await?;
    let neighbours = rows.into_iter().map(|r| Neighbour {
        kind: r.kind,
        id: ResourceId(r.id),
        name: r.name,
    });
    Ok(neighbours.collect())
}

/// Who has a name. It is sought in the order of the names: asked for by equality, all of the tenant's kind may be read in that of the
/// lists.
pub(crate) async fn name_holder(
    tx: &mut Transaction<'_, Postgres>,
    tenant: &TenantId,
    kind: Kind,
    name: &str,
) -> Result<Option<ResourceId>, StoreError> {
    let holder = sqlx::query_scalar!(
        "SELECT r.id FROM (
             SELECT r.id, r.tenant, r.kind, r.name FROM resources r
             WHERE (r.tenant, r.kind, r.name) >= ($1, $2, $3) ORDER BY r.tenant, r.kind, r.name LIMIT 1
         ) r WHERE r.tenant = $1 AND r.kind = $2 AND r.name = $3",
        tenant.as_str(),
        kind.as_str(),
        name
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(holder.map(ResourceId))
}
