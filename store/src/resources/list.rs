//! Pages of resources.
//!
//! | asked for | found by | order |
//! | --- | --- | --- |
//! | by name | `resources_name`, of each tenant that is asked about; `resources_public` | acceptance |
//! | of a tenant | `resources_list`; `resources_public`, whole | acceptance |
//! | of all tenants | the primary key | id |
//!
//! Tags, and the kind where all tenants are asked about, are judged of what is found: at most [`LOOK`] rows for a page, which may be short
//! then, and says where to go on.

use super::{Scope, raw_on};
use crate::paging::{After, Cut, LOOK, Listed, Page};
use crate::rows::{ResourceRow, json, readable};
use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::TenantId;
use rhyzome_model::kinds::Kind;
use serde_json::Value;
use std::collections::BTreeMap;
use uuid::Uuid;

/// What a list is narrowed to here. The shown state is computed, so the caller filters by it.
#[derive(Clone, Debug, Default)]
pub struct ResourceFilter {
    /// Equal.
    pub name: Option<String>,
    /// All of them.
    pub tags: BTreeMap<String, String>,
}

impl ResourceFilter {
    fn has_tags(&self, tags: Value) -> Result<bool, StoreError> {
        if self.tags.is_empty() {
            return Ok(true);
        }
        let tags: BTreeMap<String, String> = json("resources", tags)?;
        Ok(self.tags.iter().all(|(key, value)| tags.get(key) == Some(value)))
    }
}

/// A resource as it is found.
struct Found {
    id: Uuid,
    created_at: DateTime<Utc>,
    kind: String,
    tags: Value,
}

impl Store {
    /// A page of resources, oldest first, without those that only a later version can read.
    pub async fn resource_list(
        &self,
        scope: &Scope,
        kind: Kind,
        filter: &ResourceFilter,
        page: &Page,
    ) -> Result<Listed<ResourceRow>, StoreError> {
        let after = page.begin();
        let look = if filter.tags.is_empty() {
            page.limit
        } else {
            page.limit.max(LOOK)
        };
        let (found, looked_for) = match (&filter.name, scope) {
            (Some(name), _) => (self.resources_named(scope, kind, name, after).await?, None),
            (None, Scope::Tenant(tenant)) => (
                self.resources_seen_by(tenant, kind, after, look).await?,
                Some(look),
            ),
            (None, Scope::Operator(Some(tenant))) => {
                (self.resources_of(tenant, kind, after, look).await?, Some(look))
            }
            (None, Scope::Operator(None)) => {
                let look = page.limit.max(LOOK);
                (self.resources_of_all(after, look).await?, Some(look))
            }
        };
        let found: Vec<(After, bool)> = found
            .into_iter()
            .map(|f| {
                let wanted = f.kind == kind.as_str() && filter.has_tags(f.tags)?;
                Ok(((f.created_at, f.id), wanted))
            })
            .collect::<Result<_, StoreError>>()?;
        let cut = Cut::of(page, &found, looked_for);
        let rows: Vec<ResourceRow> = readable(raw_on(&self.pool, cut.ids()).await?);
        Ok(cut.list(rows, |row| row.id.0))
    }

    /// At most one of each tenant that is asked about, and public ones of others.
    async fn resources_named(
        &self,
        scope: &Scope,
        kind: Kind,
        name: &str,
        after: After,
    ) -> Result<Vec<Found>, StoreError> {
        let (tenant, public) = match scope {
            Scope::Tenant(tenant) => (Some(tenant), true),
            Scope::Operator(tenant) => (tenant.as_ref(), false),
        };
        let tenants = match tenant {
            Some(tenant) => vec![tenant.to_string()],
            None => {
                sqlx::query_scalar!("SELECT id FROM tenants ORDER BY id")
                    .fetch_all(&self.pool)
                    .await?
            }
        };
        // In the order of the names: see `name_holder`.
        let found = sqlx::query_as!(
            Found,
            r#"SELECT f.id AS "id!", f.created_at AS "created_at!", f.kind AS "kind!", f.tags AS "tags!" FROM (
                   SELECT r.id, r.created_at, r.kind, r.tags FROM unnest($1::text[]) AS t(id) CROSS JOIN LATERAL (
                       SELECT r.id, r.created_at, r.tenant, r.kind, r.name, r.tags FROM resources r
                       WHERE (r.tenant, r.kind, r.name) >= (t.id, $2, $3) ORDER BY r.tenant, r.kind, r.name LIMIT 1
                   ) r WHERE r.tenant = t.id AND r.kind = $2 AND r.name = $3
                   UNION ALL
                   SELECT r.id, r.created_at, r.kind, r.tags FROM resources r
                   WHERE $4 AND r.public AND r.kind = $2 AND r.name = $3 AND r.tenant <> ALL($1)
               ) f WHERE (f.created_at, f.id) > ($5, $6) ORDER BY f.created_at, f.id"#,
            &tenants,
            kind.as_str(),
            name,
            public,
            after.0,
            after.1
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(found)
    }

    /// A tenant's own, and public ones of others, of which there are few.
    async fn resources_seen_by(
        &self,
        tenant: &TenantId,
        kind: Kind,
        after: After,
        limit: i64,
    ) -> Result<Vec<Found>, StoreError> {
        let found = sqlx::query_as!(
            Found,
            r#"SELECT f.id AS "id!", f.created_at AS "created_at!", f.kind AS "kind!", f.tags AS "tags!" FROM (
                   (SELECT o.id, o.created_at, o.kind, o.tags FROM resources o
                    WHERE o.tenant = $1 AND o.kind = $2 AND (o.created_at, o.id) > ($3, $4) ORDER BY o.created_at, o.id LIMIT $5)
                   UNION ALL
                   (SELECT o.id, o.created_at, o.kind, o.tags FROM resources o
                    WHERE o.public AND o.kind = $2 AND o.tenant <> $1 AND (o.created_at, o.id) > ($3, $4))
               ) f ORDER BY f.created_at, f.id LIMIT $5"#,
            tenant.as_str(),
            kind.as_str(),
            after.0,
            after.1,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(found)
    }

    async fn resources_of(
        &self,
        tenant: &TenantId,
        kind: Kind,
        after: After,
        limit: i64,
    ) -> Result<Vec<Found>, StoreError> {
        let found = sqlx::query_as!(
            Found,
            "SELECT id, created_at, kind, tags FROM resources
             WHERE tenant = $1 AND kind = $2 AND (created_at, id) > ($3, $4) ORDER BY created_at, id LIMIT $5",
            tenant.as_str(),
            kind.as_str(),
            after.0,
            after.1,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(found)
    }

    async fn resources_of_all(&self, after: After, limit: i64) -> Result<Vec<Found>, StoreError> {
        let found = sqlx::query_as!(
            Found,
            "SELECT id, created_at, kind, tags FROM resources WHERE id > $1 ORDER BY id LIMIT $2",
            after.1,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(found)
    }
}
