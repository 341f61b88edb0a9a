//! Tenants and their issuers.

use crate::rows::json;
use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::TenantId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One logical customer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tenant {
    /// A unique lower-case alphanumeric word.
    pub id: TenantId,
    /// For example what links it to billing.
    pub properties: BTreeMap<String, String>,
    /// Jobs that hold a slot.
    pub running: i32,
    /// Where its tokens come from.
    pub issuers: Vec<Issuer>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// Where tokens come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuer {
    /// As in `iss`.
    pub url: String,
    /// As in `aud`.
    pub audience: String,
    /// Whose tokens it makes.
    pub tenant: TenantId,
    /// Whether its tokens may hold `operator`.
    pub operators: bool,
}

/// Why a tenant could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// The id isn't one.
    #[error("tenant id {0:?} must be 1 to 63 lower-case letters and digits")]
    BadId(String),
    /// There is one already.
    #[error("tenant {0} exists already")]
    Exists(TenantId),
    /// There is none.
    #[error("there is no tenant {0}")]
    NotFound(TenantId),
    /// It owns resources still.
    #[error("tenant {tenant} still has {resources} resources: delete them first")]
    NotEmpty {
        /// Which.
        tenant: TenantId,
        /// How many.
        resources: i64,
    },
    /// The issuer is another tenant's.
    #[error("issuer {url} with audience {audience} belongs to tenant {tenant} already")]
    IssuerTaken {
        /// As in `iss`.
        url: String,
        /// As in `aud`.
        audience: String,
        /// Its owner.
        tenant: TenantId,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for TenantError {
    fn from(e: sqlx::Error) -> Self {
        Self::Store(e.into())
    }
}

impl Store {
    /// Makes a tenant, with its issuer.
    pub async fn tenant_create(
        &self,
        id: &TenantId,
        issuer: Option<&Issuer>,
        properties: &BTreeMap<String, String>,
    ) -> Result<(), TenantError> {
        let good = id
            .as_str()
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !good || id.as_str().is_empty() || id.as_str().len() > 63 {
            return Err(TenantError::BadId(id.to_string()));
        }
        let mut tx = self.pool.begin().await?;
        let made = sqlx::query!(
            "INSERT INTO tenants (id, properties) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            id.as_str(),
            crate::rows::tags_json(properties)
        )
        .execute(&mut *tx)
        .await?;
        if made.rows_affected() == 0 {
            return Err(TenantError::Exists(id.clone()));
        }
        if let Some(issuer) = issuer {
            bind_issuer(&mut tx, issuer).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Binds an issuer to its tenant; again is no change.
    pub async fn issuer_bind(&self, issuer: &Issuer) -> Result<(), TenantError> {
        let mut tx = self.pool.begin().await?;
        bind_issuer(&mut tx, issuer).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Every tenant.
    pub async fn tenant_list(&self) -> Result<Vec<Tenant>, StoreError> {
        let issuers = self.issuer_list().await?;
        let rows = sqlx::query!("SELECT id, properties, running, created_at FROM tenants ORDER BY id")
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter()
            .map(|r| {
                let id = TenantId(r.id);
                Ok(Tenant {
                    issuers: issuers.iter().filter(|i| i.tenant == id).cloned().collect(),
                    id,
                    properties: json("tenants", r.properties)?,
                    running: r.running,
                    created_at: r.created_at,
                })
            })
            .collect()
    }

    /// One tenant.
    pub async fn tenant_get(&self, id: &TenantId) -> Result<Option<Tenant>, StoreError> {
        Ok(self.tenant_list().await?.into_iter().find(|t| t.id == *id))
    }

    /// Replaces a tenant's properties.
    pub async fn tenant_update(
        &self,
        id: &TenantId,
        properties: &BTreeMap<String, String>,
    ) -> Result<(), TenantError> {
        let done = sqlx::query!(
            "UPDATE tenants SET properties = $2, updated_at = now() WHERE id = $1",
            id.as_str(),
            crate::rows::tags_json(properties)
        )
        .execute(&self.pool)
        .await?;
        if done.rows_affected() == 0 {
            Err(TenantError::NotFound(id.clone()))
        } else {
            Ok(())
        }
    }

    /// Removes a tenant that owns nothing any more, with its jobs and the replies that were kept for it: whoever has its name next is
    /// another. What was metered of it, and the audit, stay.
    pub async fn tenant_delete(&self, id: &TenantId) -> Result<(), TenantError> {
        let mut tx = self.pool.begin().await?;
        if sqlx::query!("SELECT id FROM tenants WHERE id = $1 FOR UPDATE", id.as_str())
            .fetch_optional(&mut *tx)
            .await?
            .is_none()
        {
            return Err(TenantError::NotFound(id.clone()));
        }
        let resources = sqlx::query_scalar!(
            r#"SELECT count(*) AS "n!" FROM resources WHERE tenant = $1"#,
            id.as_str()
        )
        .fetch_one(&mut *tx)
        .await?;
        if resources > 0 || id.as_str() == TenantId::SYSTEM {
            return Err(TenantError::NotEmpty {
                tenant: id.clone(),
                resources,
            });
        }
        sqlx::query!("DELETE FROM idempotency WHERE tenant = $1", id.as_str())
            .execute(&mut *tx)
            .await?;
        sqlx::query!("DELETE FROM jobs WHERE tenant = $1", id.as_str())
            .execute(&mut *tx)
            .await?;
        sqlx::query!("DELETE FROM tenants WHERE id = $1", id.as_str())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Every issuer: what the API checks tokens against.
    pub async fn issuer_list(&self) -> Result<Vec<Issuer>, StoreError> {
        let rows =
            sqlx::query!("SELECT url, audience, tenant, operators FROM issuers ORDER BY url, audience")
                .fetch_all(&self.pool)
                .await?;
        Ok(rows
            .into_iter()
            .map(|r| Issuer {
                url: r.url,
                audience: r.audience,
                tenant: TenantId(r.tenant),
                operators: r.operators,
            })
            .collect())
    }
}

async fn bind_issuer(
    tx: &mut sqlx::Transaction<'_, sqlx::Postgres>,
    issuer: &Issuer,
) -> Result<(), TenantError> {
    sqlx::query!(
        "INSERT INTO issuers (url, audience, tenant, operators) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        issuer.url,
        issuer.audience,
        issuer.tenant.as_str(),
        issuer.operators
    )
    .execute(&mut **tx)
    .await?;
    let owner = sqlx::query!(
        "SELECT tenant, operators FROM issuers WHERE url = $1 AND audience = $2",
        issuer.url,
        issuer.audience
    )
    .fetch_one(&mut **tx)
    .await?;
    if owner.tenant == issuer.tenant.as_str() && owner.operators == issuer.operators {
        return Ok(());
    }
    Err(TenantError::IssuerTaken {
        url: issuer.url.clone(),
        audience: issuer.audience.clone(),
        tenant: TenantId(owner.tenant),
    })
}
