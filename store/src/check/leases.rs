//! Addresses.

use super::Tx;
use crate::StoreError;
use rhyzome_model::check::{Check, Violation};
use rhyzome_model::kinds::{NetworkSpec, address_fault};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use uuid::Uuid;

pub(super) async fn check(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let mut found = owners(tx).await?;
    found.extend(missing(tx).await?);
    found.extend(twice(tx).await?);
    found.extend(addresses(tx).await?);
    Ok(found)
}

async fn owners(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT l.network_id, host(l.ip) AS "ip!", l.instance_id, l.position FROM leases l
           WHERE l.automatic AND NOT EXISTS (
               SELECT FROM resource_refs f WHERE f.from_id = l.instance_id AND f.to_id = l.network_id
                 AND f.pointer = '/interfaces/' || l.position || '/network')
           ORDER BY l.network_id, l.ip"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let found = rows.into_iter().map(|r| {
        let instance = r
            .instance_id
            .map_or_else(|| "nobody".to_owned(), |i| i.to_string());
        let text = format!(
            "{} of network {} is leased to interface {} of {instance}, which has none such",
            r.ip, r.network_id, r.position
        );
        Violation::of_all(
            Check::LeaseOwner,
            [r.network_id.to_string(), r.ip, instance],
            text,
        )
    });
    Ok(found.collect())
}

async fn missing(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT f.from_id, f.to_id, f.pointer FROM resource_refs f JOIN resources n ON n.id = f.to_id
           WHERE n.kind = 'network' AND f.pointer LIKE '/interfaces/%/network' AND NOT EXISTS (
               SELECT FROM leases l WHERE l.instance_id = f.from_id AND l.network_id = f.to_id
                 AND f.pointer = '/interfaces/' || l.position || '/network')
           ORDER BY f.from_id, f.pointer"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let found = rows.into_iter().map(|r| {
        let text = format!(
            "instance {} has no address on network {} ({})",
            r.from_id, r.to_id, r.pointer
        );
        Violation::of_all(
            Check::LeaseMissing,
            [r.from_id.to_string(), r.to_id.to_string(), r.pointer],
            text,
        )
    });
    Ok(found.collect())
}

/// Constraints keep it so; this sees that they are there and did.
async fn twice(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT network_id AS "network_id!", host(ip) AS "what!", count(*) AS "n!" FROM leases GROUP BY network_id, ip HAVING count(*) > 1
           UNION ALL
           SELECT network_id, mac::text, count(*) FROM leases GROUP BY network_id, mac HAVING count(*) > 1"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let found = rows.into_iter().map(|r| {
        let text = format!("{} of network {} has {} holders", r.what, r.network_id, r.n);
        Violation::of_all(Check::LeaseTwice, [r.network_id.to_string(), r.what], text)
    });
    Ok(found.collect())
}

async fn addresses(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let networks: BTreeMap<Uuid, NetworkSpec> =
        sqlx::query!("SELECT id, spec FROM resources WHERE kind = 'network'")
            .fetch_all(&mut **tx)
            .await?
            .into_iter()
            .map(|r| {
                NetworkSpec::deserialize(&r.spec)
                    .map(|spec| (r.id, spec))
                    .map_err(|e| StoreError::row("resources", e))
            })
            .collect::<Result<_, _>>()?;
    let rows = sqlx::query!(r#"SELECT network_id, host(ip) AS "ip!" FROM leases ORDER BY network_id, ip"#)
        .fetch_all(&mut **tx)
        .await?;
    let mut found = Vec::new();
    for row in rows {
        let id = row.network_id;
        let fault = match (networks.get(&id), row.ip.parse::<Ipv4Addr>()) {
            (Some(network), Ok(ip)) => address_fault(network, ip).map(|(_, fault)| fault),
            (Some(_), Err(_)) => Some(format!("{} is no IPv4 address", row.ip)),
            (None, _) => Some(format!("{} is leased of {id}, which is no network", row.ip)),
        };
        if let Some(fault) = fault {
            let text = format!("a lease of network {id}: {fault}");
            found.push(Violation::of_all(
                Check::LeaseAddress,
                [id.to_string(), row.ip],
                text,
            ));
        }
    }
    Ok(found)
}
