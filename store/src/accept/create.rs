//! Creates, batched: one transaction for as many as came together, each with a verdict of its own.
//!
//! What guarantees hold: after the commit there is a resource, its references, its leases and exactly one job for each accepted
//! request, and nothing at all for a refused one. Names, addresses and keys are judged by constraints; the judgements that
//! need a read are made under a lock on what was read (references `FOR SHARE`, a network's addresses by its cursor row).

use super::address;
use super::types::{Accepted, AcceptedNow, CreateRequest, Refusal, Reply};
use crate::rows::{ActiveJob, JobRow, ResourceRow, StepRow, json, steps_json, tags_json};
use crate::{Store, StoreError};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use ipnet::Ipv4Net;
use rhyzome_model::ids::{ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState, Mode};
use rhyzome_model::kinds::{Kind, NetworkSpec, address_fault};
use serde_json::Value;
use sqlx::{Postgres, Transaction};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use uuid::Uuid;

/// How often a batch that met another's transaction is tried before the error is the caller's.
const TRIES: usize = 5;


struct LeaseRow {
    network: ResourceId,
    ip: Ipv4Addr,
    mac: String,
    hostname: Option<String>,
    instance: Option<ResourceId>,
    position: i32,
}

/// One request on its way through the batch.
struct Entry {
    request: CreateRequest,
    refusal: Option<Refusal>,
    spec: Value,
    refs: Vec<(String, ResourceId)>,
    state: JobState,
    leases: Vec<LeaseRow>,
}

impl Store {
    /// Accepts creates in one transaction. The answers stand in the order of the requests.
    ///
    /// Requests of one call must not share an idempotency key: the caller keeps a second one back until the first is answered.
    pub async fn accept_creates(&self, requests: Vec<CreateRequest>) -> Result<Vec<Result<Reply, Refusal>>, StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.accept_creates_once(&requests).await {
                Ok(Some(answers)) => return Ok(answers),
                // A key was taken by a request that committed meanwhile: the next round reads its reply.
                Ok(None) if tries < TRIES => {}
                Ok(None) => return Err(StoreError::row("idempotency", "a key stays in conflict")),
                Err(e) if e.is_transient() && matches!(e, StoreError::Conflict(_)) && tries < TRIES => {}
                Err(e) => return Err(e),
            }
        }
    }

    async fn accept_creates_once(
        &self,
        requests: &[CreateRequest],
    ) -> Result<Option<Vec<Result<Reply, Refusal>>>, StoreError> {
        let now = Utc::now().trunc_subsecs(6);
        let mut earlier = self.earlier_replies(requests).await?;
        let mut entries: Vec<Entry> = requests
            .iter()
            .enumerate()
            .filter(|(n, _)| !earlier.contains_key(n))
            .map(|(_, r)| Entry {
                request: r.clone(),
                refusal: None,
                spec: r.spec.clone(),
                refs: Vec::new(),
                state: JobState::Queued,
                leases: Vec::new(),
            })
            .collect();

        if !entries.is_empty() {
            let mut tx = self.pool.begin().await?;
            resolve_references(&mut tx, &mut entries).await?;
            allocate(&mut tx, &mut entries).await?;
            insert_resources(&mut tx, &mut entries, now).await?;
            if !insert_rest(&mut tx, &entries, now).await? {
                tx.rollback().await?;
                return Ok(None);
            }
            tx.commit().await?;
        }

        let mut fresh = entries.into_iter();
        let mut answers = Vec::with_capacity(requests.len());
        for n in 0..requests.len() {
            if let Some(answer) = earlier.remove(&n) {
                answers.push(answer);
                continue;
            }
            let Some(entry) = fresh.next() else {
                return Err(StoreError::row("resources", "a request was lost on its way through the batch"));
            };
            answers.push(match entry.refusal {
                Some(refusal) => Err(refusal),
                None => Ok(Reply { accepted: accepted(&entry, now), now: AcceptedNow::Now }),
            });
        }
        Ok(Some(answers))
    }

    /// What a create would be answered, with everything judged and nothing written.
    pub async fn check_create(&self, request: CreateRequest) -> Result<Result<Accepted, Refusal>, StoreError> {
        let now = Utc::now().trunc_subsecs(6);
        let mut entries = vec![Entry {
            spec: request.spec.clone(),
            request: CreateRequest { idempotency: None, ..request },
            refusal: None,
            refs: Vec::new(),
            state: JobState::Queued,
            leases: Vec::new(),
        }];
        let mut tx = self.pool.begin().await?;
        resolve_references(&mut tx, &mut entries).await?;
        allocate(&mut tx, &mut entries).await?;
        insert_resources(&mut tx, &mut entries, now).await?;
        insert_rest(&mut tx, &entries, now).await?;
        tx.rollback().await?;
        let entry = entries.pop().ok_or_else(|| StoreError::row("resources", "a request was lost on its way"))?;
        match &entry.refusal {
            Some(refusal) => Ok(Err(refusal.clone())),
            None => Ok(Ok(accepted(&entry, now))),
        }
    }

    /// Replies that were given to the same keys before, by the request's position.
    async fn earlier_replies(
        &self,
        requests: &[CreateRequest],
    ) -> Result<BTreeMap<usize, Result<Reply, Refusal>>, StoreError> {
        let keyed: Vec<(usize, &CreateRequest)> =
            requests.iter().enumerate().filter(|(_, r)| r.idempotency.is_some()).collect();
        let mut earlier = BTreeMap::new();
        for (n, request) in keyed {
            let Some(key) = &request.idempotency else { continue };
            if let Some(answer) = self.idempotency_find(&request.tenant, key).await? {
                earlier.insert(n, answer);
            }
        }
        Ok(earlier)
    }

    /// The reply that was given to a key, or the refusal of another body under it.
    pub async fn idempotency_find(
        &self,
        tenant: &TenantId,
        key: &super::IdempotencyKey,
    ) -> Result<Option<Result<Reply, Refusal>>, StoreError> {
        let row = sqlx::query!(
            "SELECT body_hash, reply FROM idempotency WHERE tenant = $1 AND method = $2 AND path = $3 AND key = $4",
            tenant.as_str(),
            key.method,
            key.path,
            key.key
        )
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            if row.body_hash != key.body_hash {
                return Ok(Err(Refusal::KeyReused));
            }
            Ok(Ok(Reply { accepted: json("idempotency", row.reply)?, now: AcceptedNow::Earlier }))
        })
        .transpose()
    }
}

fn open(entries: &mut [Entry]) -> impl Iterator<Item = &mut Entry> {
    entries.iter_mut().filter(|e| e.refusal.is_none())
}

async fn resolve_references(tx: &mut Transaction<'_, Postgres>, entries: &mut [Entry]) -> Result<(), StoreError> {
    let wanted: BTreeSet<(TenantId, Kind, String)> = entries
        .iter()
        .flat_map(|e| e.request.references.iter().map(|r| (e.request.tenant.clone(), r.kind, r.target.clone())))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let wanted: Vec<_> = wanted.into_iter().collect();
    let found = find_references(tx, &wanted).await?;

    for entry in open(entries) {
        for reference in entry.request.references.clone() {
            let key = (entry.request.tenant.clone(), reference.kind, reference.target.clone());
            let verdict = found.get(&key);
            let (pointer, kind, target) = (reference.pointer.clone(), reference.kind, reference.target.clone());
            match verdict {
                None => entry.refusal = Some(Refusal::ReferenceNotFound { pointer, kind, target }),
                Some(Found { state: FoundState::Deleting, .. }) => {
                    entry.refusal = Some(Refusal::ReferenceDeleting { pointer, kind, target });
                }
                Some(Found { state: FoundState::Failed, .. }) => {
                    entry.refusal = Some(Refusal::ReferenceFailed { pointer, kind, target });
                }
                Some(Found { id, state, .. }) => {
                    if *state == FoundState::Coming {
                        entry.state = JobState::Blocked;
                    }
                    if let Some(slot) = entry.spec.pointer_mut(&reference.pointer) {
                        *slot = Value::String(id.to_string());
                    }
                    entry.refs.push((reference.pointer.clone(), *id));
                    continue;
                }
            }
            break;
        }
    }
    // What leases need to know of their networks travels with them.
    for entry in open(entries) {
        for (n, lease) in entry.request.leases.clone().into_iter().enumerate() {
            let key = (entry.request.tenant.clone(), Kind::Network, lease.network.clone());
            if let Some(found) = found.get(&key) {
                entry.request.leases[n].network = found.id.to_string();
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FoundState {
    Ready,
    Coming,
    Failed,
    Deleting,
}

struct Found {
    id: ResourceId,
    state: FoundState,
}

async fn find_references(
    tx: &mut Transaction<'_, Postgres>,
    wanted: &[(TenantId, Kind, String)],
) -> Result<BTreeMap<(TenantId, Kind, String), Found>, StoreError> {
    let numbers: Vec<i32> = (0..i32::try_from(wanted.len()).unwrap_or(i32::MAX)).collect();
    let tenants: Vec<String> = wanted.iter().map(|w| w.0.to_string()).collect();
    let kinds: Vec<String> = wanted.iter().map(|w| w.1.to_string()).collect();
    let targets: Vec<String> = wanted.iter().map(|w| w.2.clone()).collect();
    let ids: Vec<Option<Uuid>> = wanted.iter().map(|w| Uuid::parse_str(&w.2).ok()).collect();
    let hits = sqlx::query!(
        r#"SELECT q.n AS "n!", r.id AS "id!", r.rank AS "rank!"
           FROM unnest($1::int4[], $2::text[], $3::text[], $4::text[], $5::uuid[]) AS q(n, tenant, kind, target, id)
           CROSS JOIN LATERAL (
               SELECT r.id, 1 AS rank FROM resources r
                WHERE r.id = q.id AND r.kind = q.kind AND (r.tenant = q.tenant OR r.public)
               UNION ALL
               SELECT r.id, 2 FROM resources r WHERE r.tenant = q.tenant AND r.kind = q.kind AND r.name = q.target
               UNION ALL
               SELECT r.id, 3 FROM resources r WHERE r.public AND r.kind = q.kind AND r.name = q.target
           ) r"#,
        &numbers,
        &tenants,
        &kinds,
        &targets,
        &ids as &[Option<Uuid>]
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut best: BTreeMap<i32, (i32, Uuid)> = BTreeMap::new();
    for hit in hits {
        let entry = best.entry(hit.n).or_insert((hit.rank, hit.id));
        if (hit.rank, hit.id) < *entry {
            *entry = (hit.rank, hit.id);
        }
    }
    let mut locked_ids: Vec<Uuid> = best.values().map(|b| b.1).collect();
    locked_ids.sort_unstable();
    locked_ids.dedup();
    let locked = sqlx::query!(
        r#"SELECT r.id, r.deleting, r.applied IS NOT NULL AS "applied!",
                  EXISTS (SELECT FROM job_resources j WHERE j.resource_id = r.id) AS "open!"
           FROM resources r WHERE r.id = ANY($1) ORDER BY r.id FOR SHARE OF r"#,
        &locked_ids
    )
    .fetch_all(&mut **tx)
    .await?;
    let states: BTreeMap<Uuid, FoundState> = locked
        .into_iter()
        .map(|r| {
            let state = match (r.deleting, r.applied, r.open) {
                (true, _, _) => FoundState::Deleting,
                (false, true, _) => FoundState::Ready,
                (false, false, true) => FoundState::Coming,
                (false, false, false) => FoundState::Failed,
            };
            (r.id, state)
        })
        .collect();
    Ok(best
        .into_iter()
        .filter_map(|(n, (_, id))| {
            let state = *states.get(&id)?;
            Some((wanted.get(usize::try_from(n).ok()?)?.clone(), Found { id: ResourceId(id), state }))
        })
        .collect())
}

/// Gives every entry its addresses, or its refusal.
async fn allocate(tx: &mut Transaction<'_, Postgres>, entries: &mut [Entry]) -> Result<(), StoreError> {
    for entry in open(entries) {
        let gateway_faults = entry.request.static_leases.iter().map(|l| LeaseRow {
            network: entry.request.id,
            ip: l.ip,
            mac: l.mac.clone(),
            hostname: l.hostname.clone(),
            instance: None,
            position: 0,
        });
        entry.leases.extend(gateway_faults);
    }
    let mut networks: BTreeSet<Uuid> = BTreeSet::new();
    for entry in open(entries) {
        networks.extend(entry.request.leases.iter().filter_map(|l| Uuid::parse_str(&l.network).ok()));
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
        Ok(Self { id, next, cidr: spec.cidr, gateway: spec.gateway(), spec })
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
    let mut free = free_addresses(tx, network, automatic, &mut batch_used).await?.into_iter();
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
                    entry.refusal = Some(Refusal::AddressInvalid { pointer, code: code.to_owned(), detail });
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
                entry.refusal = Some(Refusal::RangeUsedUp { pointer, cidr: network.cidr });
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
        sqlx::query!("UPDATE lease_cursors SET next = $2 WHERE network_id = $1", network.id.0, offset + 1)
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
    let mut window = i64::try_from(wanted).unwrap_or(i64::MAX).saturating_mul(2).max(16);
    while found.len() < wanted && searched < size {
        let start = network.next.max(range.start) + searched;
        let span = window.min(size - searched);
        let candidates = address::candidates(network.cidr, network.gateway, start, span);
        let texts: Vec<String> = candidates.iter().map(|&o| address::at(network.cidr, o).to_string()).collect();
        let taken = sqlx::query_scalar!(
            r#"SELECT host(ip) AS "ip!" FROM leases WHERE network_id = $1 AND ip = ANY($2::text[]::inet[])"#,
            network.id.0,
            &texts
        )
        .fetch_all(&mut **tx)
        .await?;
        used.extend(taken.iter().filter_map(|ip| ip.parse::<Ipv4Addr>().ok()));
        found.extend(address::pick(network.cidr, &candidates, used, wanted - found.len()));
        searched += span;
        window = (window * 4).min(8192);
    }
    Ok(found)
}

/// A locally administered unicast address (IEEE 802: second-least significant bit of the first octet set, least clear).
fn random_mac() -> String {
    let b: [u8; 5] = rand::random();
    format!("02:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", b[0], b[1], b[2], b[3], b[4])
}

async fn insert_resources(
    tx: &mut Transaction<'_, Postgres>,
    entries: &mut [Entry],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    // Sorted by name, so that two batches meet each other's names in the same order.
    let mut order: Vec<&Entry> = entries.iter().filter(|e| e.refusal.is_none()).collect();
    order.sort_by(|a, b| {
        (&a.request.tenant, a.request.kind, &a.request.name).cmp(&(&b.request.tenant, b.request.kind, &b.request.name))
    });
    if order.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = order.iter().map(|e| e.request.id.0).collect();
    let tenants: Vec<String> = order.iter().map(|e| e.request.tenant.to_string()).collect();
    let kinds: Vec<String> = order.iter().map(|e| e.request.kind.to_string()).collect();
    let names: Vec<String> = order.iter().map(|e| e.request.name.clone()).collect();
    let tags: Vec<Value> = order.iter().map(|e| tags_json(&e.request.tags)).collect();
    let specs: Vec<Value> = order.iter().map(|e| e.spec.clone()).collect();
    let publics: Vec<bool> = order.iter().map(|e| e.request.public).collect();
    let inserted = sqlx::query_scalar!(
        r#"INSERT INTO resources (id, tenant, kind, name, tags, spec, public, created_at, updated_at)
           SELECT id, tenant, kind, name, tags, spec, public, $8, $8
           FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::jsonb[], $6::jsonb[], $7::bool[])
                AS q(id, tenant, kind, name, tags, spec, public)
           ON CONFLICT (tenant, kind, name) DO NOTHING
           RETURNING id"#,
        &ids,
        &tenants,
        &kinds,
        &names,
        &tags,
        &specs,
        &publics,
        now
    )
    .fetch_all(&mut **tx)
    .await?;
    if inserted.len() == ids.len() {
        return Ok(());
    }
    let inserted: BTreeSet<Uuid> = inserted.into_iter().collect();
    for entry in entries.iter_mut().filter(|e| e.refusal.is_none()) {
        if inserted.contains(&entry.request.id.0) {
            continue;
        }
        let holder = sqlx::query_scalar!(
            "SELECT id FROM resources WHERE tenant = $1 AND kind = $2 AND name = $3",
            entry.request.tenant.as_str(),
            entry.request.kind.as_str(),
            entry.request.name
        )
        .fetch_optional(&mut **tx)
        .await?;
        entry.refusal = Some(match holder {
            Some(holder) => Refusal::NameTaken { holder: ResourceId(holder) },
            // The holder went in between: the user's next try succeeds.
            None => Refusal::Moved,
        });
    }
    Ok(())
}

/// Everything that hangs on the resources, in one statement. False when a key was taken meanwhile.
async fn insert_rest(
    tx: &mut Transaction<'_, Postgres>,
    entries: &[Entry],
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let live: Vec<&Entry> = entries.iter().filter(|e| e.refusal.is_none()).collect();
    if live.is_empty() {
        return Ok(true);
    }
    let job_ids: Vec<Uuid> = live.iter().map(|e| e.request.job.0).collect();
    let resource_ids: Vec<Uuid> = live.iter().map(|e| e.request.id.0).collect();
    let tenants: Vec<String> = live.iter().map(|e| e.request.tenant.to_string()).collect();
    let kinds: Vec<String> = live.iter().map(|e| e.request.kind.to_string()).collect();
    let names: Vec<String> = live.iter().map(|e| e.request.name.clone()).collect();
    let specs: Vec<Value> = live.iter().map(|e| e.spec.clone()).collect();
    let states: Vec<String> = live.iter().map(|e| e.state.to_string()).collect();
    let steps: Vec<Value> = live.iter().map(|e| steps_json(&pending(e))).collect();
    let deadlines: Vec<DateTime<Utc>> = live.iter().map(|e| now + TimeDelta::seconds(e.request.origin.deadline_s)).collect();
    let actors: Vec<String> = live.iter().map(|e| e.request.origin.actor.clone()).collect();
    let traces: Vec<String> = live.iter().map(|e| e.request.origin.trace_id.clone()).collect();
    let parents: Vec<String> = live.iter().map(|e| e.request.origin.traceparent.clone()).collect();

    let refs: Vec<(Uuid, Uuid, String)> = live
        .iter()
        .flat_map(|e| e.refs.iter().map(|(pointer, to)| (e.request.id.0, to.0, pointer.clone())))
        .collect();
    let ref_from: Vec<Uuid> = refs.iter().map(|r| r.0).collect();
    let ref_to: Vec<Uuid> = refs.iter().map(|r| r.1).collect();
    let ref_pointer: Vec<String> = refs.into_iter().map(|r| r.2).collect();

    let leases: Vec<&LeaseRow> = live.iter().flat_map(|e| e.leases.iter()).collect();
    let lease_network: Vec<Uuid> = leases.iter().map(|l| l.network.0).collect();
    let lease_ip: Vec<String> = leases.iter().map(|l| l.ip.to_string()).collect();
    let lease_mac: Vec<String> = leases.iter().map(|l| l.mac.clone()).collect();
    let lease_host: Vec<Option<String>> = leases.iter().map(|l| l.hostname.clone()).collect();
    let lease_instance: Vec<Option<Uuid>> = leases.iter().map(|l| l.instance.map(|i| i.0)).collect();
    let lease_position: Vec<i32> = leases.iter().map(|l| l.position).collect();

    let keyed: Vec<&&Entry> = live.iter().filter(|e| e.request.idempotency.is_some()).collect();
    let mut key_tenant = Vec::new();
    let mut key_method = Vec::new();
    let mut key_path = Vec::new();
    let mut key_key = Vec::new();
    let mut key_hash: Vec<Vec<u8>> = Vec::new();
    let mut key_reply: Vec<Value> = Vec::new();
    for entry in &keyed {
        if let Some(key) = &entry.request.idempotency {
            key_tenant.push(entry.request.tenant.to_string());
            key_method.push(key.method.clone());
            key_path.push(key.path.clone());
            key_key.push(key.key.clone());
            key_hash.push(key.body_hash.to_vec());
            key_reply.push(serde_json::to_value(accepted(entry, now)).map_err(|e| StoreError::row("idempotency", e))?);
        }
    }

    let keys = sqlx::query_scalar!(
        r#"WITH k AS (
               INSERT INTO idempotency (tenant, method, path, key, body_hash, reply)
               SELECT * FROM unnest($21::text[], $22::text[], $23::text[], $24::text[], $25::bytea[], $26::jsonb[])
               ON CONFLICT DO NOTHING RETURNING 1
           ), j AS (
               INSERT INTO jobs (id, tenant, kind, action, resource_id, resource_name, generation, spec, state, steps, due,
                                 deadline_at, actor, trace_id, traceparent, created_at)
               SELECT id, tenant, kind, 'create', resource_id, name, 1, spec, state, steps,
                      CASE WHEN state = 'queued' THEN $13::timestamptz END, deadline_at, actor, trace_id, traceparent, $13
               FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::jsonb[], $7::text[], $8::jsonb[],
                           $9::timestamptz[], $10::text[], $11::text[], $12::text[])
                    AS q(id, tenant, kind, resource_id, name, spec, state, steps, deadline_at, actor, trace_id, traceparent)
               RETURNING id, seq, resource_id, tenant, actor, trace_id
           ), jr AS (
               INSERT INTO job_resources (resource_id, seq, job_id) SELECT resource_id, seq, id FROM j
           ), a AS (
               INSERT INTO audit (at, tenant, actor, action, resource_id, job_id, trace_id)
               SELECT $13, tenant, actor, 'create', resource_id, id, trace_id FROM j
           ), r AS (
               INSERT INTO resource_refs (from_id, to_id, pointer) SELECT * FROM unnest($14::uuid[], $15::uuid[], $16::text[])
           ), c AS (
               INSERT INTO lease_cursors (network_id) SELECT resource_id FROM unnest($3::text[], $4::uuid[]) AS q(kind, resource_id)
               WHERE kind = 'network'
           ), l AS (
               INSERT INTO leases (network_id, ip, mac, hostname, instance_id, position, automatic)
               SELECT network_id, ip::inet, mac::macaddr, hostname, instance_id, position, instance_id IS NOT NULL
               FROM unnest($17::uuid[], $18::text[], $19::text[], $20::text[], $27::uuid[], $28::int4[])
                    AS q(network_id, ip, mac, hostname, instance_id, position)
           )
           SELECT count(*) AS "keys!" FROM k"#,
        &job_ids,
        &tenants,
        &kinds,
        &resource_ids,
        &names,
        &specs,
        &states,
        &steps,
        &deadlines,
        &actors,
        &traces,
        &parents,
        now,
        &ref_from,
        &ref_to,
        &ref_pointer,
        &lease_network,
        &lease_ip,
        &lease_mac,
        &lease_host as &[Option<String>],
        &key_tenant,
        &key_method,
        &key_path,
        &key_key,
        &key_hash,
        &key_reply,
        &lease_instance as &[Option<Uuid>],
        &lease_position
    )
    .fetch_one(&mut **tx)
    .await?;
    Ok(usize::try_from(keys).is_ok_and(|k| k == keyed.len()))
}

fn pending(entry: &Entry) -> Vec<StepRow> {
    entry.request.step_names.iter().map(|name| StepRow::pending(name)).collect()
}

/// The rows as they were just written.
fn accepted(entry: &Entry, now: DateTime<Utc>) -> Accepted {
    let request = &entry.request;
    let job = JobRow {
        id: request.job,
        tenant: request.tenant.clone(),
        kind: request.kind,
        action: Action::Create,
        resource_id: request.id,
        resource_name: request.name.clone(),
        generation: 1,
        state: entry.state,
        mode: Mode::Forward,
        steps: pending(entry),
        attempt: 0,
        host: None,
        waiting: None,
        deadline_at: Some(now + TimeDelta::seconds(request.origin.deadline_s)),
        cancel_requested_at: None,
        error: None,
        actor: request.origin.actor.clone(),
        trace_id: request.origin.trace_id.clone(),
        retry_of: None,
        created_at: now,
        started_at: None,
        ended_at: None,
    };
    let resource = ResourceRow {
        id: request.id,
        tenant: request.tenant.clone(),
        kind: request.kind,
        name: request.name.clone(),
        tags: request.tags.clone(),
        spec: entry.spec.clone(),
        generation: 1,
        deleting: false,
        public: request.public,
        applied: None,
        observed_generation: 0,
        facts: None,
        observed: None,
        observed_at: None,
        reason: None,
        host: None,
        created_at: now,
        updated_at: now,
        active_job: Some(ActiveJob { id: request.job, action: Action::Create, state: entry.state }),
    };
    let addresses = entry.leases.iter().filter(|l| l.instance.is_some()).map(|l| (l.position, l.ip));
    let addresses: BTreeMap<i32, Ipv4Addr> = addresses.collect();
    Accepted { resource, job: Some(job), addresses: Some(addresses.into_values().collect()) }
}
