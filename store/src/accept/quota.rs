//! Whether a tenant is there, and may have what is asked.

use super::create::{Entry, open};
use super::types::Refusal;
use crate::{StoreError, quotas};
use rhyzome_model::ids::TenantId;
use rhyzome_model::quota::{Amounts, Limits, exceeded};
use sqlx::{Postgres, Transaction};
use std::collections::{BTreeMap, BTreeSet};

/// Refuses what is asked for a tenant that is gone, and what would pass a limit, in the order in which it was asked.
pub(super) async fn judge(
    tx: &mut Transaction<'_, Postgres>,
    entries: &mut [Entry],
) -> Result<(), StoreError> {
    let tenants: BTreeSet<&TenantId> = entries
        .iter()
        .filter(|e| e.refusal.is_none())
        .map(|e| &e.request.tenant)
        .collect();
    if tenants.is_empty() {
        return Ok(());
    }
    let mut limited: BTreeMap<TenantId, (Limits, Amounts)> = BTreeMap::new();
    for (tenant, limits) in quotas::lock(tx, &tenants).await? {
        let used = if limits.is_empty() {
            Amounts::default()
        } else {
            quotas::used(tx, &tenant).await?
        };
        limited.insert(tenant, (limits, used));
    }
    for entry in open(entries) {
        let Some((limits, used)) = limited.get_mut(&entry.request.tenant) else {
            entry.refusal = Some(Refusal::TenantGone);
            continue;
        };
        if limits.is_empty() {
            continue;
        }
        let asked = Amounts::of_new(entry.request.kind, entry.asks()?);
        let over = exceeded(limits, used, &asked);
        if over.is_empty() {
            used.add_all(&asked);
            entry.counted = true;
        } else {
            entry.refusal = Some(Refusal::QuotaExceeded { over });
        }
    }
    Ok(())
}
