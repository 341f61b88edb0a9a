//! `rhyzome admin tenant`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use rhyzome_model::ids::TenantId;
use rhyzome_store::Store;
use rhyzome_store::tenants::{Issuer, Tenant};

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
        } => {
            let id = TenantId(id.clone());
            let properties: BTreeMap<_, _> = properties.iter().cloned().collect();
            store
                .tenant_create(&id, Some(&bound(&id, issuer, audience)?), &properties)
                .await?;
            println!("tenant {id} is made");
        }
        TenantTask::List { output } => output::list(&store.tenant_list().await?, output.output)?,
        TenantTask::Show { id, output } => output::one(&existing(store, id).await?, output.output)?,
        TenantTask::Update {
            id,
            issuer,
            audience,
            properties,
            removed,
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

impl Row for Tenant {
    const HEADS: &'static [&'static str] = &["ID", "ISSUERS", "PROPERTIES", "RUNNING", "CREATED"];

    fn cells(&self) -> Vec<String> {
        let issuers: Vec<String> = self
            .issuers
            .iter()
            .map(|issuer| format!("{} ({})", issuer.url, issuer.audience))
            .collect();
        vec![
            self.id.to_string(),
            issuers.join(" "),
            output::pairs(&self.properties),
            self.running.to_string(),
            self.created_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        ]
    }
}
