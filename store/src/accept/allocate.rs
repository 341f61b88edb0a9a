//! Addresses for the requests of a batch, under the lock of each network's cursor row.

use super::address;
use super::create::{Entry, LeaseRow, open};
use super::types::Refusal;
use crate::StoreError;
use crate::rows::json;
use ipnet::Ipv4Net;
use rhyzome_model::ids::ResourceId;
use rhyzome_model::kinds::{NetworkSpec, address_fault};
use serde_json::Value;
use sqlx::{Postgres, Transaction};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use uuid::Uuid;

/// Gives every entry its addresses, or its refusal.
pub(super) async fn allocate(
    tx: &mut Transaction<'_, Postgres>,
    entries: &mut [Entry],
) -> Result<(), StoreError> {
    for entry in open(entries) {
        let leases = entry.request.static_leases.iter().map(|l| LeaseRow {
            network: entry.request.id,
            ip: l.ip,
            mac: l.mac.clone(),
            hostname: l.hostname.clone(),
            instance: None,
            position: 0,
        });
        entry.leases.extend(leases);
    }
    let mut networks: BTreeSet<Uuid> = BTreeSet::new();
    for entry in open(entries) {
        networks.extend(
            entry
                .request
                .leases
                .iter()
                .filter_map(|l| Uuid::parse_str(&l.network).ok()),
        );
    }
    if networks.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = networks.into_iter().collect();
    let cursors = sqlx::query!(
        r#"SELECT c.network_id, c.next, r.spec FROM lease_cursors c JOIN resources r ON r.id = c.network_id
           WHERE c.network_id = ANY($1) ORDER BY c.network_id FOR UPDATE OF c"#,
        &ids
    )
    .fetch_all(&mut **tx)
    .await?;
    for cursor in cursors {
        let network = Network::of(ResourceId(cursor.network_id), cursor.next, cursor.spec)?;
        allocate_on(tx, &network, entries).await?;
    }
    Ok(())
}

struct Network {
    id: ResourceId,
    next: i64,
    cidr: Ipv4Net,
    gateway: Ipv4Addr,
    spec: NetworkSpec,
}

impl Network {
    fn of(id: ResourceId, next: i64, spec: Value) -> Result<Self, StoreError> {
        let spec: NetworkSpec = json("resources", spec)?;
        Ok(Self {
            id,
            next,
            cidr: spec.cidr,
            gateway: spec.gateway(),
            spec,
        })
    }
}

async fn allocate_on(
    tx: &mut Transaction<'_, Postgres>,
    network: &Network,
    entries: &mut [Entry],
) -> Result<(), StoreError> {
    let id = network.id.to_string();
    let mut named_ips = Vec::new();
    let mut named_macs = Vec::new();
    let mut automatic = 0_usize;
    for entry in open(entries) {
        for lease in entry.request.leases.iter().filter(|l| l.network == id) {
            match lease.ip {
                Some(ip) => named_ips.push(ip.to_string()),
                None => automatic += 1,
            }
            named_macs.extend(lease.mac.clone());
        }
    }
    let mut holders: BTreeMap<String, Option<ResourceId>> = BTreeMap::new();
    if !named_ips.is_empty() || !named_macs.is_empty() {
        let taken = sqlx::query!(
            r#"SELECT host(ip) AS "ip!", mac::text AS "mac!", instance_id FROM leases
               WHERE network_id = $1 AND (ip = ANY($2::text[]::inet[]) OR mac = ANY($3::text[]::macaddr[]))"#,
            network.id.0,
            &named_ips,
            &named_macs
        )
        .fetch_all(&mut **tx)
        .await?;
        for row in taken {
            holders.insert(row.ip, row.instance_id.map(ResourceId));
            holders.insert(row.mac, row.instance_id.map(ResourceId));
        }
    }
    let mut batch_used: BTreeSet<Ipv4Addr> = named_ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    let mut free = free_addresses(tx, network, automatic, &mut batch_used)
        .await?
        .into_iter();
    let mut last = None;

    for entry in open(entries) {
        let hostname = entry.request.name.clone();
        let requests = entry.request.leases.clone();
        for (position, lease) in requests.iter().enumerate().filter(|(_, l)| l.network == id) {
            let mac = lease.mac.clone().unwrap_or_else(random_mac);
            let taken = |value: String, holder: Option<ResourceId>, field: &str| Refusal::AddressTaken {
                pointer: format!("{}/{field}", lease.pointer),
                value,
                holder,
            };
            let ip = if let Some(ip) = lease.ip {
                if let Some((code, detail)) = address_fault(&network.spec, ip) {
                    let pointer = format!("{}/ip", lease.pointer);
                    entry.refusal = Some(Refusal::AddressInvalid {
                        pointer,
                        code: code.to_owned(),
                        detail,
                    });
                    break;
                }
                if let Some(holder) = holders.get(&ip.to_string()) {
                    entry.refusal = Some(taken(ip.to_string(), *holder, "ip"));
                    break;
                }
                ip
            } else if let Some((offset, ip)) = free.next() {
                last = Some(offset);
                ip
            } else {
                let pointer = lease.pointer.clone();
                entry.refusal = Some(Refusal::RangeUsedUp {
                    pointer,
                    cidr: network.cidr,
                });
                break;
            };
            if let Some(holder) = holders.get(&mac) {
                entry.refusal = Some(taken(mac, *holder, "mac"));
                break;
            }
            holders.insert(ip.to_string(), Some(entry.request.id));
            holders.insert(mac.clone(), Some(entry.request.id));
            entry.leases.push(LeaseRow {
                network: network.id,
                ip,
                mac,
                hostname: Some(hostname.clone()),
                instance: Some(entry.request.id),
                position: i32::try_from(position).unwrap_or(i32::MAX),
            });
        }
    }
    if let Some(offset) = last {
        sqlx::query!(
            "UPDATE lease_cursors SET next = $2 WHERE network_id = $1",
            network.id.0,
            offset + 1
        )
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// Up to `wanted` free addresses with their offsets, from the cursor on.
async fn free_addresses(
    tx: &mut Transaction<'_, Postgres>,
    network: &Network,
    wanted: usize,
    used: &mut BTreeSet<Ipv4Addr>,
) -> Result<Vec<(i64, Ipv4Addr)>, StoreError> {
    let mut found: Vec<(i64, Ipv4Addr)> = Vec::with_capacity(wanted);
    let range = address::usable(network.cidr);
    let size = range.end - range.start;
    let mut searched = 0_i64;
    let mut window = i64::try_from(wanted)
        .unwrap_or(i64::MAX)
        .saturating_mul(2)
        .max(16);
    while found.len() < wanted && searched < size {
        let start = network.next.max(range.start) + searched;
        let span = window.min(size - searched);
        let candidates = address::candidates(network.cidr, network.gateway, start, span);
        let texts: Vec<String> = candidates
            .iter()
            .map(|&o| address::at(network.cidr, o).to_string())
            .collect();
        let taken = sqlx::query_scalar!(
            r#"SELECT host(ip) AS "ip!" FROM leases WHERE network_id = $1 AND ip = ANY($2::text[]::inet[])"#,
            network.id.0,
            &texts
        )
        .fetch_all(&mut **tx)
        .await?;
        used.extend(taken.iter().filter_map(|ip| ip.parse::<Ipv4Addr>().ok()));
        found.extend(address::pick(
            network.cidr,
            &candidates,
            used,
            wanted - found.len(),
        ));
        searched += span;
        window = (window * 4).min(8192);
    }
    Ok(found)
}

/// A locally administered unicast address (IEEE 802: second-least significant bit of the first octet set, least clear).
fn random_mac() -> String {
    let b: [u8; 5] = rand::random();
    format!(
        "02:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
        b[0], b[1], b[2], b[3], b[4]
    )
}
