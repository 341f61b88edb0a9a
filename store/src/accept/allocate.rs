//! Addresses for the requests of a batch, under the lock of each network's cursor row.

use super::address;
use super::create::{Entry, LeaseRow, open};
use super::types::Refusal;
use crate::StoreError;
use crate::rows::json;
use ipnet::Ipv4Net;
use rhyzome_model::ids::ResourceId;
use rhyzome_model::kinds::{LeaseRequest, NetworkSpec, address_fault};
use serde_json::Value;
use sqlx::{Postgres, Transaction};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    let mut networks = BTreeMap::new();
    for cursor in cursors {
        let network = Network::of(cursor.next, cursor.spec)?;
        networks.insert(cursor.network_id, network);
    }
    note_wishes(&mut networks, entries);
    read_holders(tx, &mut networks).await?;
    find_free(tx, &mut networks).await?;
    for entry in open(entries) {
        if let Err(refusal) = give(&mut networks, entry) {
            entry.refusal = Some(refusal);
        }
    }
    move_cursors(tx, &networks).await
}

/// A network that leases are wanted of, its cursor locked.
struct Network {
    next: i64,
    cidr: Ipv4Net,
    gateway: Ipv4Addr,
    spec: NetworkSpec,
    /// Addresses and MACs that requests name.
    named_ips: Vec<Ipv4Addr>,
    named_macs: Vec<String>,
    /// How many leases name no address.
    automatic: usize,
    /// Who has a named address or MAC: the instance, or none for a static lease.
    holders: BTreeMap<String, Option<ResourceId>>,
    search: Search,
    /// The offset that was given out last.
    last: Option<i64>,
}

/// The search for free addresses, from the cursor on and once around.
#[derive(Default)]
struct Search {
    found: VecDeque<(i64, Ipv4Addr)>,
    searched: i64,
    window: i64,
    used: BTreeSet<Ipv4Addr>,
}

impl Network {
    fn of(next: i64, spec: Value) -> Result<Self, StoreError> {
        let spec: NetworkSpec = json("resources", spec)?;
        Ok(Self {
            next,
            cidr: spec.cidr,
            gateway: spec.gateway(),
            spec,
            named_ips: Vec::new(),
            named_macs: Vec::new(),
            automatic: 0,
            holders: BTreeMap::new(),
            search: Search::default(),
            last: None,
        })
    }

    fn size(&self) -> i64 {
        let range = address::usable(self.cidr);
        range.end - range.start
    }

    fn wants_more(&self) -> bool {
        self.search.found.len() < self.automatic && self.search.searched < self.size()
    }

    /// The next offsets to look at.
    fn candidates(&mut self) -> Vec<i64> {
        let start = self.next.max(address::usable(self.cidr).start) + self.search.searched;
        let span = self.search.window.min(self.size() - self.search.searched);
        self.search.searched += span;
        self.search.window = (self.search.window * 4).clamp(16, 8192);
        address::candidates(self.cidr, self.gateway, start, span)
    }

    fn take(&mut self, candidates: &[i64]) {
        let wanted = self.automatic - self.search.found.len();
        let free = address::pick(self.cidr, candidates, &self.search.used, wanted);
        self.search.found.extend(free);
    }
}

/// A lease that a request wants of one of these networks.
fn of_network<'a>(
    networks: &'a mut BTreeMap<Uuid, Network>,
    lease: &LeaseRequest,
) -> Option<(ResourceId, &'a mut Network)> {
    let id = Uuid::parse_str(&lease.network).ok()?;
    networks.get_mut(&id).map(|network| (ResourceId(id), network))
}

fn note_wishes(networks: &mut BTreeMap<Uuid, Network>, entries: &mut [Entry]) {
    for entry in open(entries) {
        for lease in &entry.request.leases {
            let Some((_, network)) = of_network(networks, lease) else {
                continue;
            };
            match lease.ip {
                Some(ip) => network.named_ips.push(ip),
                None => network.automatic += 1,
            }
            network.named_macs.extend(lease.mac.clone());
        }
    }
    for network in networks.values_mut() {
        network.search.used.extend(network.named_ips.iter().copied());
        // The cursor stands behind what was given out last, so that as many as are wanted are nearly always free there.
        network.search.window = i64::try_from(network.automatic).unwrap_or(i64::MAX).max(1);
    }
}

async fn read_holders(
    tx: &mut Transaction<'_, Postgres>,
    networks: &mut BTreeMap<Uuid, Network>,
) -> Result<(), StoreError> {
    let mut of_ip = (Vec::new(), Vec::new());
    let mut of_mac = (Vec::new(), Vec::new());
    for (id, network) in networks.iter() {
        for ip in &network.named_ips {
            of_ip.0.push(*id);
            of_ip.1.push(ip.to_string());
        }
        for mac in &network.named_macs {
            of_mac.0.push(*id);
            of_mac.1.push(mac.clone());
        }
    }
    if of_ip.0.is_empty() && of_mac.0.is_empty() {
        return Ok(());
    }
    let taken = sqlx::query!(
        r#"SELECT l.network_id AS "network_id!", host(l.ip) AS "ip!", l.mac::text AS "mac!", l.instance_id
           FROM unnest($1::uuid[], $2::text[]) AS q(network_id, ip) JOIN leases l ON l.network_id = q.network_id AND l.ip = q.ip::inet
           UNION
           SELECT l.network_id, host(l.ip), l.mac::text, l.instance_id
           FROM unnest($3::uuid[], $4::text[]) AS q(network_id, mac) JOIN leases l ON l.network_id = q.network_id AND l.mac = q.mac::macaddr"#,
        &of_ip.0,
        &of_ip.1,
        &of_mac.0,
        &of_mac.1
    )
    .fetch_all(&mut **tx)
    .await?;
    for row in taken {
        if let Some(network) = networks.get_mut(&row.network_id) {
            let holder = row.instance_id.map(ResourceId);
            network.holders.insert(row.ip, holder);
            network.holders.insert(row.mac, holder);
        }
    }
    Ok(())
}

/// Finds as many free addresses as are wanted, of all networks together.
async fn find_free(
    tx: &mut Transaction<'_, Postgres>,
    networks: &mut BTreeMap<Uuid, Network>,
) -> Result<(), StoreError> {
    loop {
        let mut looked_at: Vec<(Uuid, Vec<i64>)> = Vec::new();
        let mut ids = Vec::new();
        let mut ips = Vec::new();
        for (id, network) in networks.iter_mut().filter(|(_, network)| network.wants_more()) {
            let candidates = network.candidates();
            for offset in &candidates {
                ids.push(*id);
                ips.push(address::at(network.cidr, *offset).to_string());
            }
            looked_at.push((*id, candidates));
        }
        if looked_at.is_empty() {
            return Ok(());
        }
        let taken = sqlx::query!(
            r#"SELECT l.network_id AS "network_id!", host(l.ip) AS "ip!"
               FROM unnest($1::uuid[], $2::text[]) AS q(network_id, ip) JOIN leases l ON l.network_id = q.network_id AND l.ip = q.ip::inet"#,
            &ids,
            &ips
        )
        .fetch_all(&mut **tx)
        .await?;
        for row in taken {
            if let Some(network) = networks.get_mut(&row.network_id) {
                network.search.used.extend(row.ip.parse::<Ipv4Addr>());
            }
        }
        for (id, candidates) in looked_at {
            if let Some(network) = networks.get_mut(&id) {
                network.take(&candidates);
            }
        }
    }
}

/// Gives a request its leases, or says why not.
fn give(networks: &mut BTreeMap<Uuid, Network>, entry: &mut Entry) -> Result<(), Refusal> {
    let hostname = entry.request.name.clone();
    let instance = entry.request.id;
    for (position, lease) in entry.request.leases.iter().enumerate() {
        let Some((id, network)) = of_network(networks, lease) else {
            continue;
        };
        let mac = lease.mac.clone().unwrap_or_else(random_mac);
        let taken = |value: String, holder: Option<ResourceId>, field: &str| Refusal::AddressTaken {
            pointer: format!("{}/{field}", lease.pointer),
            value,
            holder,
        };
        let ip = if let Some(ip) = lease.ip {
            if let Some((code, detail)) = address_fault(&network.spec, ip) {
                return Err(Refusal::AddressInvalid {
                    pointer: format!("{}/ip", lease.pointer),
                    code: code.to_owned(),
                    detail,
                });
            }
            if let Some(holder) = network.holders.get(&ip.to_string()) {
                return Err(taken(ip.to_string(), *holder, "ip"));
            }
            ip
        } else {
            let (offset, ip) = network
                .search
                .found
                .pop_front()
                .ok_or_else(|| Refusal::RangeUsedUp {
                    pointer: lease.pointer.clone(),
                    cidr: network.cidr,
                })?;
            network.last = Some(offset);
            ip
        };
        if let Some(holder) = network.holders.get(&mac) {
            return Err(taken(mac, *holder, "mac"));
        }
        network.holders.insert(ip.to_string(), Some(instance));
        network.holders.insert(mac.clone(), Some(instance));
        entry.leases.push(LeaseRow {
            network: id,
            ip,
            mac,
            hostname: Some(hostname.clone()),
            instance: Some(instance),
            position: i32::try_from(position).unwrap_or(i32::MAX),
        });
    }
    Ok(())
}

async fn move_cursors(
    tx: &mut Transaction<'_, Postgres>,
    networks: &BTreeMap<Uuid, Network>,
) -> Result<(), StoreError> {
    let moved = networks
        .iter()
        .filter_map(|(id, network)| Some((*id, network.last? + 1)));
    let (ids, next): (Vec<Uuid>, Vec<i64>) = moved.unzip();
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE lease_cursors c SET next = q.next FROM unnest($1::uuid[], $2::int8[]) AS q(id, next) WHERE c.network_id = q.id",
        &ids,
        &next
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A locally administered unicast address (IEEE 802: second-least significant bit of the first octet set, least clear).
fn random_mac() -> String {
    let b: [u8; 5] = rand::random();
    format!(
        "02:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
        b[0], b[1], b[2], b[3], b[4]
    )
}
