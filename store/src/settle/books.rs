//! The books that hosts, tenants and networks have with jobs: gathered over a batch, written once, in the order of all locks
//! (network homes, tenants, hosts), so that two batches never wait for each other in a ring.

use super::ends::{Effect, End, Kept};
use crate::StoreError;
use crate::changes::Change;
use rhyzome_model::change::What;
use rhyzome_model::ids::{ResourceId, TenantId};
use rhyzome_model::kinds::{Demand, Kind};
use serde_json::Value;
use sqlx::{Postgres, Transaction};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// What a batch gives back. The rows of its jobs and resources are locked.
#[derive(Default)]
pub(super) struct Books {
    slots: BTreeMap<String, i32>,
    orders: BTreeMap<String, i32>,
    /// Epoch and fence of the last answer, by host.
    answered: BTreeMap<String, (i64, i64)>,
    leaving: Vec<Uuid>,
    kept: BTreeMap<Uuid, Kept>,
    facts: BTreeMap<Uuid, Value>,
}

/// What hosts get back.
type Freed = BTreeMap<String, Demand>;

fn add(freed: &mut Freed, host: &str, vcpus: i64, memory_mib: i64, disk_gib: i64) {
    let total = freed.entry(host.to_owned()).or_default();
    total.vcpus += vcpus;
    total.memory_mib += memory_mib;
    total.disk_gib += disk_gib;
}

struct Reserved {
    resource: Uuid,
    host: String,
    demand: Demand,
    before: Demand,
}

impl Books {
    /// A job no longer counts as running.
    pub(super) fn slot(&mut self, tenant: &str) {
        *self.slots.entry(tenant.to_owned()).or_default() += 1;
    }

    /// An order to a host is over.
    pub(super) fn order(&mut self, host: &str) {
        *self.orders.entry(host.to_owned()).or_default() += 1;
    }

    /// A host's agent has answered an order with an end, which its ledger knows from then on.
    pub(super) fn answered(&mut self, host: &str, fence: i64, epoch: Option<i64>) {
        let Some(epoch) = epoch else { return };
        let last = self.answered.entry(host.to_owned()).or_default();
        *last = (*last).max((epoch, fence));
    }

    /// Nothing of a resource is on any host any more.
    pub(super) fn leave(&mut self, resource: Uuid) {
        self.leaving.push(resource);
    }

    /// What an end changes.
    pub(super) fn end(&mut self, end: &End) {
        if end.held_slot {
            self.slot(end.tenant.as_str());
        }
        if end.order_out
            && let Some(host) = &end.host
        {
            self.order(host.as_str());
            if let Some((fence, epoch)) = end.answered {
                self.answered(host.as_str(), fence, Some(epoch));
            }
        }
        match &end.effect {
            Effect::Applied { reserve, .. } | Effect::NotChanged { reserve, .. } => {
                if let Some(kept) = reserve {
                    self.kept.insert(end.resource.0, *kept);
                }
            }
            Effect::Removed | Effect::NotMade { .. } => self.leave(end.resource.0),
            // Until its host is known to hold nothing of it.
            Effect::LeftBehind { .. } => {}
        }
        self.facts
            .extend(end.networks.iter().map(|(id, facts)| (id.0, facts.clone())));
    }

    /// Says which networks are otherwise than before: where they live, or what is said of them there.
    pub(super) async fn write(self, tx: &mut Transaction<'_, Postgres>) -> Result<Vec<Change>, StoreError> {
        let left = leave(tx, &self.leaving).await?;
        let moved = settle_homes(tx, &left, &self.facts).await?;
        give_slots_back(tx, &self.slots).await?;

        let changed = rereserved(tx, &self.kept).await?;
        let hosts: BTreeSet<&String> = self
            .orders
            .keys()
            .chain(left.iter().map(|l| &l.1))
            .chain(changed.iter().map(|c| &c.host))
            .collect();
        lock_hosts(tx, hosts.into_iter().cloned().collect()).await?;
        let mut freed = Freed::new();
        drop_reservations(tx, &self.leaving, &mut freed).await?;
        drop_copies(tx, &left, &mut freed).await?;
        rereserve(tx, &changed, &mut freed).await?;
        give_hosts_back(tx, &self.orders, &self.answered, &freed).await?;
        Ok(moved)
    }
}

/// Takes resources off their hosts; says which they were.
async fn leave(
    tx: &mut Transaction<'_, Postgres>,
    leaving: &[Uuid],
) -> Result<Vec<(Uuid, String)>, StoreError> {
    if leaving.is_empty() {
        return Ok(Vec::new());
    }
    let left = sqlx::query!(
        r#"WITH before AS (SELECT id, host FROM resources WHERE id = ANY($1) AND host IS NOT NULL),
                u AS (UPDATE resources r SET host = NULL, observed = NULL, observed_at = NULL FROM before WHERE r.id = before.id)
           SELECT id, host AS "host!" FROM before"#,
        leaving
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(left.into_iter().map(|l| (l.id, l.host)).collect())
}

/// What became known of networks on their hosts is kept; a network that its last instance left lives nowhere.
async fn settle_homes(
    tx: &mut Transaction<'_, Postgres>,
    left: &[(Uuid, String)],
    facts: &BTreeMap<Uuid, Value>,
) -> Result<Vec<Change>, StoreError> {
    if left.is_empty() && facts.is_empty() {
        return Ok(Vec::new());
    }
    let instances: Vec<Uuid> = left.iter().map(|l| l.0).collect();
    let ids: Vec<Uuid> = facts.keys().copied().collect();
    let values: Vec<Value> = facts.values().cloned().collect();
    // First the lock, then statements with a snapshot of their own: a dispatch that just brought an instance here is seen.
    let homes = sqlx::query_scalar!(
        "SELECT n.network_id FROM network_homes n
         WHERE n.network_id = ANY(ARRAY(
             SELECT to_id FROM resource_refs WHERE from_id = ANY($1)
             UNION
             SELECT h.network_id FROM unnest($2::uuid[], $3::jsonb[]) AS q(id, facts) JOIN network_homes h ON h.network_id = q.id
             WHERE h.facts IS DISTINCT FROM q.facts))
         ORDER BY n.network_id FOR UPDATE",
        &instances,
        &ids,
        &values
    )
    .fetch_all(&mut **tx)
    .await?;
    if homes.is_empty() {
        return Ok(Vec::new());
    }
    let mut moved = sqlx::query!(
        "UPDATE network_homes n SET facts = q.facts FROM unnest($1::uuid[], $2::jsonb[]) AS q(id, facts), resources r
         WHERE n.network_id = q.id AND n.network_id = ANY($3) AND r.id = q.id RETURNING r.id, r.tenant",
        &ids,
        &values,
        &homes
    )
    .fetch_all(&mut **tx)
    .await?
    .into_iter()
    .map(|r| network(r.tenant, r.id))
    .collect::<Vec<_>>();
    if left.is_empty() {
        return Ok(moved);
    }
    let empty = sqlx::query!(
        "DELETE FROM network_homes n USING resources own WHERE n.network_id = ANY($1) AND own.id = n.network_id
         AND NOT EXISTS (SELECT FROM resource_refs f JOIN resources r ON r.id = f.from_id
                         WHERE f.to_id = n.network_id AND r.host IS NOT NULL)
         RETURNING own.id, own.tenant",
        &homes
    )
    .fetch_all(&mut **tx)
    .await?;
    moved.extend(empty.into_iter().map(|r| network(r.tenant, r.id)));
    Ok(moved)
}

fn network(tenant: String, id: Uuid) -> Change {
    Change::resource(&TenantId(tenant), Kind::Network, ResourceId(id), What::Updated)
}

async fn give_slots_back(
    tx: &mut Transaction<'_, Postgres>,
    slots: &BTreeMap<String, i32>,
) -> Result<(), StoreError> {
    if slots.is_empty() {
        return Ok(());
    }
    let tenants: Vec<String> = slots.keys().cloned().collect();
    let counts: Vec<i32> = slots.values().copied().collect();
    sqlx::query!(
        "WITH l AS (SELECT t.id FROM tenants t WHERE t.id = ANY($1) ORDER BY t.id FOR NO KEY UPDATE)
         UPDATE tenants t SET running = t.running - q.n
         FROM l, unnest($1::text[], $2::int4[]) AS q(id, n) WHERE t.id = q.id AND l.id = t.id",
        &tenants,
        &counts
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Which reservations change, and how; those of these resources change with their jobs alone.
async fn rereserved(
    tx: &mut Transaction<'_, Postgres>,
    kept: &BTreeMap<Uuid, Kept>,
) -> Result<Vec<Reserved>, StoreError> {
    if kept.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = kept.keys().copied().collect();
    let rows = sqlx::query!(
        "SELECT v.resource_id, v.host, v.vcpus, v.memory_mib, v.disk_gib FROM reservations v JOIN resources r ON r.id = v.resource_id
         WHERE v.resource_id = ANY($1) AND v.host = r.host",
        &ids
    )
    .fetch_all(&mut **tx)
    .await?;
    let changed = rows.into_iter().filter_map(|row| {
        let kept = kept.get(&row.resource_id)?;
        let before = Demand {
            vcpus: row.vcpus,
            memory_mib: row.memory_mib,
            disk_gib: row.disk_gib,
        };
        let demand = Demand {
            vcpus: kept.vcpus.unwrap_or(row.vcpus),
            memory_mib: kept.memory_mib.unwrap_or(row.memory_mib),
            disk_gib: kept.disk_gib.unwrap_or(row.disk_gib),
        };
        (demand != before).then_some(Reserved {
            resource: row.resource_id,
            host: row.host,
            demand,
            before,
        })
    });
    Ok(changed.collect())
}

async fn lock_hosts(tx: &mut Transaction<'_, Postgres>, hosts: Vec<String>) -> Result<(), StoreError> {
    if hosts.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "SELECT name FROM hosts WHERE name = ANY($1) ORDER BY name FOR NO KEY UPDATE",
        &hosts
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(())
}

async fn drop_reservations(
    tx: &mut Transaction<'_, Postgres>,
    leaving: &[Uuid],
    freed: &mut Freed,
) -> Result<(), StoreError> {
    if leaving.is_empty() {
        return Ok(());
    }
    let gone = sqlx::query!(
        "DELETE FROM reservations WHERE resource_id = ANY($1) RETURNING host, vcpus, memory_mib, disk_gib",
        leaving
    )
    .fetch_all(&mut **tx)
    .await?;
    for row in gone {
        add(freed, &row.host, row.vcpus, row.memory_mib, row.disk_gib);
    }
    Ok(())
}

/// Copies of images that nothing on the host needs any more: what is on it has something reserved there. Dispatch brings a copy under the
/// host's lock, which is held here.
async fn drop_copies(
    tx: &mut Transaction<'_, Postgres>,
    left: &[(Uuid, String)],
    freed: &mut Freed,
) -> Result<(), StoreError> {
    if left.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = left.iter().map(|l| l.0).collect();
    let hosts: Vec<String> = left.iter().map(|l| l.1.clone()).collect();
    let gone = sqlx::query!(
        r#"WITH q AS (SELECT DISTINCT f.to_id AS image, q.host FROM unnest($1::uuid[], $2::text[]) AS q(id, host)
                      JOIN resource_refs f ON f.from_id = q.id JOIN resources i ON i.id = f.to_id AND i.kind = 'image')
           DELETE FROM reservations v USING q, resources i
           WHERE v.resource_id = q.image AND v.host = q.host AND i.id = q.image AND i.host IS DISTINCT FROM q.host
             AND NOT EXISTS (SELECT FROM reservations o CROSS JOIN LATERAL (
                                 SELECT FROM resource_refs f WHERE f.from_id = o.resource_id AND f.to_id = q.image OFFSET 0) f
                             WHERE o.host = q.host)
           RETURNING v.host, v.vcpus, v.memory_mib, v.disk_gib"#,
        &ids,
        &hosts
    )
    .fetch_all(&mut **tx)
    .await?;
    for row in gone {
        add(freed, &row.host, row.vcpus, row.memory_mib, row.disk_gib);
    }
    Ok(())
}

async fn rereserve(
    tx: &mut Transaction<'_, Postgres>,
    changed: &[Reserved],
    freed: &mut Freed,
) -> Result<(), StoreError> {
    if changed.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = changed.iter().map(|c| c.resource).collect();
    let hosts: Vec<String> = changed.iter().map(|c| c.host.clone()).collect();
    let vcpus: Vec<i64> = changed.iter().map(|c| c.demand.vcpus).collect();
    let memory: Vec<i64> = changed.iter().map(|c| c.demand.memory_mib).collect();
    let disk: Vec<i64> = changed.iter().map(|c| c.demand.disk_gib).collect();
    sqlx::query!(
        "UPDATE reservations v SET vcpus = q.vcpus, memory_mib = q.memory_mib, disk_gib = q.disk_gib
         FROM unnest($1::uuid[], $2::text[], $3::int8[], $4::int8[], $5::int8[]) AS q(id, host, vcpus, memory_mib, disk_gib)
         WHERE v.resource_id = q.id AND v.host = q.host",
        &ids,
        &hosts,
        &vcpus,
        &memory,
        &disk
    )
    .execute(&mut **tx)
    .await?;
    for c in changed {
        add(
            freed,
            &c.host,
            c.before.vcpus - c.demand.vcpus,
            c.before.memory_mib - c.demand.memory_mib,
            c.before.disk_gib - c.demand.disk_gib,
        );
    }
    Ok(())
}

async fn give_hosts_back(
    tx: &mut Transaction<'_, Postgres>,
    orders: &BTreeMap<String, i32>,
    answered: &BTreeMap<String, (i64, i64)>,
    freed: &Freed,
) -> Result<(), StoreError> {
    let names: BTreeSet<&String> = orders.keys().chain(freed.keys()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let of = |name: &String| freed.get(name).copied().unwrap_or_default();
    let vcpus: Vec<i64> = names.iter().map(|n| of(n).vcpus).collect();
    let memory: Vec<i64> = names.iter().map(|n| of(n).memory_mib).collect();
    let disk: Vec<i64> = names.iter().map(|n| of(n).disk_gib).collect();
    let out: Vec<i32> = names
        .iter()
        .map(|n| orders.get(*n).copied().unwrap_or(0))
        .collect();
    let answers = names
        .iter()
        .map(|n| answered.get(*n).copied().unwrap_or_default());
    let (epochs, fences): (Vec<i64>, Vec<i64>) = answers.unzip();
    let names: Vec<String> = names.into_iter().cloned().collect();
    sqlx::query!(
        // What turned out larger than was reserved is there already: it is judged so, and kept in mind while the host has it.
        "UPDATE hosts h SET used_vcpus = h.used_vcpus - q.vcpus, used_memory_mib = h.used_memory_mib - q.memory_mib,
                used_disk_gib = h.used_disk_gib - q.disk_gib, orders_out = h.orders_out - q.out,
                answered_fence = CASE WHEN q.epoch = h.epoch THEN greatest(h.answered_fence, q.fence) ELSE h.answered_fence END,
                over_vcpus = CASE WHEN q.vcpus < 0 THEN greatest(h.over_vcpus, h.used_vcpus - q.vcpus - h.vcpus) ELSE h.over_vcpus END,
                over_memory_mib = CASE WHEN q.memory_mib < 0 THEN greatest(h.over_memory_mib, h.used_memory_mib - q.memory_mib - h.memory_mib)
                                       ELSE h.over_memory_mib END,
                over_disk_gib = CASE WHEN q.disk_gib < 0 THEN greatest(h.over_disk_gib, h.used_disk_gib - q.disk_gib - h.disk_gib)
                                     ELSE h.over_disk_gib END
         FROM unnest($1::text[], $2::int8[], $3::int8[], $4::int8[], $5::int4[], $6::int8[], $7::int8[])
              AS q(name, vcpus, memory_mib, disk_gib, out, epoch, fence)
         WHERE h.name = q.name",
        &names,
        &vcpus,
        &memory,
        &disk,
        &out,
        &epochs,
        &fences
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
