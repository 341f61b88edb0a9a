//! `rhyzome admin tenant`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use rhyzome_model::ids::TenantId;
use rhyzome_model::quota::Dimension;
use rhyzome_store::Store;
use rhyzome_store::quotas::Share;
use rhyzome_store::tenants::{Issuer, Tenant};
use serde::Serialize;

use crate::args::TenantTask;
use crate::output::{self, Row};

/// Performs one of its tasks.
pub(crate) async fn run(store: &Store, task: &TenantTask) -> Result<()> {
    match task {
        TenantTask::Create {
            id,
            issuer,
            audience,
            properties,
            quotas,
        } => {
            let id = TenantId(id.clone());
            let properties: BTreeMap<_, _> = properties.iter().cloned().collect();
            store
                .tenant_create(&id, Some(&bound(&id, issuer, audience)?), &properties)
                .await?;
            limit(store, &id, quotas, &[]).await?;
            println!("tenant {id} is made");
        }
        TenantTask::List { output } => {
            let mut tenants = Vec::new();
            for tenant in store.tenant_list().await? {
                tenants.push(shown(store, tenant).await?);
            }
            output::list(&tenants, output.output)?;
        }
        TenantTask::Show { id, output } => {
            output::one(&shown(store, existing(store, id).await?).await?, output.output)?;
        }
        TenantTask::Update {
            id,
            issuer,
            audience,
            properties,
            removed,
            quotas,
            unlimited,
        } => {
            let tenant = existing(store, id).await?;
            let mut changed = tenant.properties.clone();
            for key in removed {
                if changed.remove(key).is_none() {
                    bail!("tenant {id} has no property `{key}`");
                }
            }
            changed.extend(properties.iter().cloned());
            if changed != tenant.properties {
                store.tenant_update(&tenant.id, &changed).await?;
            }
            if let (Some(issuer), Some(audience)) = (issuer, audience) {
                store.issuer_bind(&bound(&tenant.id, issuer, audience)?).await?;
            }
            limit(store, &tenant.id, quotas, unlimited).await?;
            println!("tenant {id} is changed");
        }
        TenantTask::Delete { id } => {
            store.tenant_delete(&TenantId(id.clone())).await?;
            println!("tenant {id} is deleted");
        }
    }
    Ok(())
}

async fn existing(store: &Store, id: &str) -> Result<Tenant> {
    store
        .tenant_get(&TenantId(id.to_owned()))
        .await?
        .with_context(|| format!("there is no tenant {id}"))
}

/// Sets these limits and takes those away, where there are any.
async fn limit(
    store: &Store,
    tenant: &TenantId,
    quotas: &[(Dimension, i64)],
    unlimited: &[Dimension],
) -> Result<()> {
    if let Some(both) = unlimited.iter().find(|d| quotas.iter().any(|q| q.0 == **d)) {
        bail!("--quota and --remove-quota both name {both}");
    }
    if !quotas.is_empty() || !unlimited.is_empty() {
        let limits = quotas.iter().copied().collect();
        let removed = unlimited.iter().copied().collect();
        store.quotas_set(tenant, &limits, &removed).await?;
    }
    Ok(())
}

/// A tenant, and what it has of what it may have.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    tenant: Tenant,
    quotas: BTreeMap<Dimension, Share>,
}

async fn shown(store: &Store, tenant: Tenant) -> Result<Shown> {
    Ok(Shown {
        quotas: store.quotas_of(&tenant.id).await?,
        tenant,
    })
}

fn bound(tenant: &TenantId, issuer: &str, audience: &str) -> Result<Issuer> {
    let url = url::Url::parse(issuer).with_context(|| format!("--issuer {issuer} is no URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        bail!("--issuer {issuer} is neither http nor https");
    }
    Ok(Issuer {
        url: issuer.to_owned(),
        audience: audience.to_owned(),
        tenant: tenant.clone(),
        operators: false,
    })
}

impl Row for Shown {
    const HEADS: &'static [&'static str] = &["ID", "ISSUERS", "PROPERTIES", "RUNNING", "QUOTAS", "CREATED"];

    fn cells(&self) -> Vec<String> {
        let tenant = &self.tenant;
        let quotas = self.quotas.iter();
        let quotas: Vec<String> = quotas
            .map(|(dimension, share)| format!("{dimension}={}/{}", share.used, share.limit))
            .collect();
        let issuers: Vec<String> = tenant
            .issuers
            .iter()
            .map(|issuer| format!("{} ({})", issuer.url, issuer.audience))
            .collect();
        vec![
            tenant.id.to_string(),
            issuers.join(" "),
            output::pairs(&tenant.properties),
            tenant.running.to_string(),
            quotas.join(" "),
            tenant
                .created_at
                .to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        ]
    }
}
