//! Writes what was decided of a batch. Locks: network homes, tenants, hosts, each in order; the fences are drawn under them.

use super::{Decision, DispatchOutcome, DispatchTx, DueJob, NewOrder, OrderRow};
use crate::StoreError;
use crate::changes;
use crate::rows::Waiting;
use crate::settle::apply_ends;
use chrono::{DateTime, Utc};
use rhyzome_model::ids::JobId;
use rhyzome_model::job::{JobState, Mode};
use rhyzome_model::kinds::Demand;
use serde_json::Value;
use sqlx::{Postgres, Transaction};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

struct HostLock {
    address: String,
    epoch: i64,
    free: Demand,
    orders_out: i32,
}

impl DispatchTx {
    /// Writes the decisions and commits. What no longer holds under the locks is left, and stays due.
    pub async fn commit(mut self, decisions: Vec<Decision>) -> Result<DispatchOutcome, StoreError> {
        let mut outcome = DispatchOutcome::default();
        let mut orders = Vec::new();
        let mut ends = Vec::new();
        let mut waits = Vec::new();
        for decision in decisions {
            match decision {
                Decision::Order(order) => orders.push(order),
                Decision::End(end) => ends.push(end),
                Decision::Wait {
                    job,
                    state,
                    waiting,
                    due,
                } => waits.push((job, state, waiting, due)),
            }
        }
        write_waits(&mut self.tx, &waits).await?;
        let mut changes = self.waits_changed(&waits)?;
        // Ends wake others' jobs, and these come before all that orders need.
        if !ends.is_empty() {
            changes.extend(apply_ends(&mut self.tx, &ends, self.now).await?);
            outcome.ended = ends;
        }
        let (orders, settled) = self.keep_homes(orders, &mut outcome).await?;
        let orders = self.keep_turns(orders, &mut outcome).await?;
        self.write_orders(orders, &mut outcome).await?;
        changes.extend(self.orders_changed(&outcome.orders, &settled)?);
        self.leave_homes(settled, &outcome).await?;
        outcome.changes = changes::write(&mut self.tx, changes).await?;
        self.tx.commit().await?;
        Ok(outcome)
    }

    pub(super) fn job(&self, id: JobId) -> Result<&DueJob, StoreError> {
        self.jobs
            .iter()
            .find(|j| j.id == id)
            .ok_or_else(|| StoreError::row("jobs", format!("decision about {id}, which is not in the batch")))
    }

    /// A network that lives elsewhere by now sends the order back; one that lives nowhere comes to live here. Says which orders
    /// come with which of the latter.
    async fn keep_homes(
        &mut self,
        orders: Vec<NewOrder>,
        outcome: &mut DispatchOutcome,
    ) -> Result<(Vec<NewOrder>, BTreeMap<Uuid, Vec<JobId>>), StoreError> {
        let wanted: BTreeMap<Uuid, String> = orders
            .iter()
            .flat_map(|o| o.networks.iter().map(|n| (n.0, o.host.to_string())))
            .collect();
        if wanted.is_empty() {
            return Ok((orders, BTreeMap::new()));
        }
        let homes = self.lock_homes(&wanted).await?;
        let mut kept = Vec::new();
        let mut settled: BTreeMap<Uuid, Vec<JobId>> = homes
            .iter()
            .filter(|(_, (_, new))| *new)
            .map(|(id, _)| (*id, Vec::new()))
            .collect();
        for order in orders {
            if order
                .networks
                .iter()
                .all(|n| homes.get(&n.0).is_some_and(|(h, _)| h == order.host.as_str()))
            {
                for network in &order.networks {
                    if let Some(by) = settled.get_mut(&network.0) {
                        by.push(order.job);
                    }
                }
                kept.push(order);
            } else {
                outcome.left.push(order.job);
            }
        }
        Ok((kept, settled))
    }

    /// Where the networks live, and whether that is so since just now. Locked against being given up: who leaves one takes the
    /// row for itself.
    async fn lock_homes(
        &mut self,
        wanted: &BTreeMap<Uuid, String>,
    ) -> Result<BTreeMap<Uuid, (String, bool)>, StoreError> {
        let networks: Vec<Uuid> = wanted.keys().copied().collect();
        let mut homes: BTreeMap<Uuid, (String, bool)> = sqlx::query!(
            "SELECT network_id, host FROM network_homes WHERE network_id = ANY($1) ORDER BY network_id FOR KEY SHARE",
            &networks
        )
        .fetch_all(&mut *self.tx)
        .await?
        .into_iter()
        .map(|r| (r.network_id, (r.host, false)))
        .collect();
        let (networks, hosts): (Vec<Uuid>, Vec<String>) = wanted
            .iter()
            .filter(|(network, _)| !homes.contains_key(*network))
            .map(|(network, host)| (*network, host.clone()))
            .unzip();
        if networks.is_empty() {
            return Ok(homes);
        }
        let made = sqlx::query!(
            r#"INSERT INTO network_homes AS n (network_id, host)
               SELECT * FROM unnest($1::uuid[], $2::text[]) AS q(network_id, host) ORDER BY 1
               ON CONFLICT (network_id) DO UPDATE SET host = n.host
               RETURNING n.network_id, n.host, n.xmax = '0'::xid AS "new!""#,
            &networks,
            &hosts
        )
        .fetch_all(&mut *self.tx)
        .await?;
        homes.extend(made.into_iter().map(|r| (r.network_id, (r.host, r.new))));
        Ok(homes)
    }

    /// Homes that were made for orders of which none was written: the networks live nowhere still.
    async fn leave_homes(
        &mut self,
        settled: BTreeMap<Uuid, Vec<JobId>>,
        outcome: &DispatchOutcome,
    ) -> Result<(), StoreError> {
        let written: BTreeSet<JobId> = outcome.orders.iter().map(|o| o.job).collect();
        let empty: Vec<Uuid> = settled
            .into_iter()
            .filter(|(_, by)| !by.iter().any(|job| written.contains(job)))
            .map(|(network, _)| network)
            .collect();
        if empty.is_empty() {
            return Ok(());
        }
        sqlx::query!("DELETE FROM network_homes WHERE network_id = ANY($1)", &empty)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Takes slots of the tenants; what is over a tenant's cap waits for its turn. An order in mode undo needs none: what is to be
    /// taken back must not wait for what goes forward.
    async fn keep_turns(
        &mut self,
        orders: Vec<NewOrder>,
        outcome: &mut DispatchOutcome,
    ) -> Result<Vec<NewOrder>, StoreError> {
        let mut wanted: BTreeMap<String, i32> = BTreeMap::new();
        for order in &orders {
            let job = self.job(order.job)?;
            if takes_slot(job, order) {
                *wanted.entry(job.tenant.to_string()).or_default() += 1;
            }
        }
        if wanted.is_empty() {
            return Ok(orders);
        }
        let tenants: Vec<String> = wanted.keys().cloned().collect();
        let running: BTreeMap<String, i32> = sqlx::query!(
            "SELECT id, running FROM tenants WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE",
            &tenants
        )
        .fetch_all(&mut *self.tx)
        .await?
        .into_iter()
        .map(|r| (r.id, r.running))
        .collect();
        let mut taken: BTreeMap<String, i32> = BTreeMap::new();
        let mut kept = Vec::new();
        for order in orders {
            let job = self.job(order.job)?;
            if !takes_slot(job, &order) {
                kept.push(order);
                continue;
            }
            let tenant = job.tenant.to_string();
            let now_running = running.get(&tenant).copied().unwrap_or(0);
            let count = taken.entry(tenant).or_default();
            if now_running + *count < self.limits.tenant_cap {
                *count += 1;
                kept.push(order);
            } else {
                outcome.left.push(order.job);
            }
        }
        Ok(kept)
    }

    async fn write_orders(
        &mut self,
        orders: Vec<NewOrder>,
        outcome: &mut DispatchOutcome,
    ) -> Result<(), StoreError> {
        if orders.is_empty() {
            return Ok(());
        }
        let names: BTreeSet<String> = orders.iter().map(|o| o.host.to_string()).collect();
        let names: Vec<String> = names.into_iter().collect();
        let mut pairs: BTreeSet<(Uuid, &str)> = BTreeSet::new();
        for order in &orders {
            pairs.insert((self.job(order.job)?.resource.0, order.host.as_str()));
            pairs.extend(order.image.map(|image| (image.0.0, order.host.as_str())));
        }
        let (resources, at): (Vec<Uuid>, Vec<String>) = pairs
            .into_iter()
            .map(|(resource, host)| (resource, host.to_owned()))
            .unzip();
        let mut hosts = self.lock_hosts(&names).await?;
        let mut reserved: BTreeMap<(Uuid, String), Demand> = sqlx::query!(
            "SELECT v.resource_id, v.host, v.vcpus, v.memory_mib, v.disk_gib
             FROM unnest($1::uuid[], $2::text[]) AS q(resource_id, host)
             JOIN reservations v ON v.resource_id = q.resource_id AND v.host = q.host",
            &resources,
            &at
        )
        .fetch_all(&mut *self.tx)
        .await?
        .into_iter()
        .map(|r| {
            (
                (r.resource_id, r.host),
                Demand {
                    vcpus: r.vcpus,
                    memory_mib: r.memory_mib,
                    disk_gib: r.disk_gib,
                },
            )
        })
        .collect();

        let mut written = Vec::new();
        let mut behind = Vec::new();
        let mut changed: BTreeMap<(Uuid, String), Demand> = BTreeMap::new();
        let mut grown: BTreeMap<String, (Demand, i32)> = BTreeMap::new();
        for order in orders {
            let resource = self.job(order.job)?.resource;
            let already_out = self.job(order.job)?.order_out;
            let Some(host) = hosts.get_mut(order.host.as_str()) else {
                outcome.left.push(order.job);
                continue;
            };
            let mut wants: Vec<((Uuid, String), Demand)> = Vec::new();
            if let Some(demand) = order.reserve {
                wants.push(((resource.0, order.host.to_string()), demand));
            }
            if let Some((image, disk_gib)) = order.image
                && image != resource
            {
                let key = (image.0, order.host.to_string());
                if !reserved.contains_key(&key) {
                    wants.push((
                        key,
                        Demand {
                            disk_gib,
                            ..Demand::default()
                        },
                    ));
                }
            }
            let mut delta = Demand::default();
            for (key, demand) in &wants {
                let before = reserved.get(key).copied().unwrap_or_default();
                delta.vcpus += demand.vcpus - before.vcpus;
                delta.memory_mib += demand.memory_mib - before.memory_mib;
                delta.disk_gib += demand.disk_gib - before.disk_gib;
            }
            let fits = |want: i64, free: i64| want <= 0 || want <= free;
            let out = i32::from(!already_out);
            let room = fits(delta.vcpus, host.free.vcpus)
                && fits(delta.memory_mib, host.free.memory_mib)
                && fits(delta.disk_gib, host.free.disk_gib);
            if !room {
                outcome.left.push(order.job);
                continue;
            }
            if order.mode == Mode::Forward && host.orders_out + out > self.limits.host_cap {
                behind.push(order.job);
                outcome.left.push(order.job);
                continue;
            }
            host.free.vcpus -= delta.vcpus;
            host.free.memory_mib -= delta.memory_mib;
            host.free.disk_gib -= delta.disk_gib;
            host.orders_out += out;
            let total = grown.entry(order.host.to_string()).or_default();
            total.0.vcpus += delta.vcpus;
            total.0.memory_mib += delta.memory_mib;
            total.0.disk_gib += delta.disk_gib;
            total.1 += out;
            for (key, demand) in wants {
                reserved.insert(key.clone(), demand);
                changed.insert(key, demand);
            }
            written.push(order);
        }
        self.put_behind(&behind).await?;
        if written.is_empty() {
            return Ok(());
        }
        self.write_reservations(&changed, &grown).await?;
        self.write_fences(written, &hosts, outcome).await
    }

    /// Jobs whose host has as many orders out as it may go behind all that are due, and are looked at again a little later: they hold up
    /// nobody who goes elsewhere, and a full host isn't asked without a pause.
    async fn put_behind(&mut self, jobs: &[JobId]) -> Result<(), StoreError> {
        if jobs.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = jobs.iter().map(|j| j.0).collect();
        sqlx::query!(
            "UPDATE jobs SET due = clock_timestamp() + interval '100 ms' WHERE id = ANY($1)",
            &ids
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    async fn lock_hosts(&mut self, names: &[String]) -> Result<BTreeMap<String, HostLock>, StoreError> {
        Ok(sqlx::query!(
            "SELECT name, address, epoch, vcpus - used_vcpus AS vcpus, memory_mib - used_memory_mib AS memory_mib,
                    disk_gib - used_disk_gib AS disk_gib, orders_out
             FROM hosts WHERE name = ANY($1) ORDER BY name FOR NO KEY UPDATE",
            names
        )
        .fetch_all(&mut *self.tx)
        .await?
        .into_iter()
        .map(|r| {
            let free = Demand {
                vcpus: r.vcpus.unwrap_or(0),
                memory_mib: r.memory_mib.unwrap_or(0),
                disk_gib: r.disk_gib.unwrap_or(0),
            };
            (r.name, HostLock { address: r.address, epoch: r.epoch, free, orders_out: r.orders_out })
        })
        .collect())
    }

    async fn write_reservations(
        &mut self,
        changed: &BTreeMap<(Uuid, String), Demand>,
        grown: &BTreeMap<String, (Demand, i32)>,
    ) -> Result<(), StoreError> {
        let resources: Vec<Uuid> = changed.keys().map(|k| k.0).collect();
        let hosts: Vec<String> = changed.keys().map(|k| k.1.clone()).collect();
        let vcpus: Vec<i64> = changed.values().map(|d| d.vcpus).collect();
        let memory: Vec<i64> = changed.values().map(|d| d.memory_mib).collect();
        let disk: Vec<i64> = changed.values().map(|d| d.disk_gib).collect();
        let grown_hosts: Vec<String> = grown.keys().cloned().collect();
        let grown_vcpus: Vec<i64> = grown.values().map(|g| g.0.vcpus).collect();
        let grown_memory: Vec<i64> = grown.values().map(|g| g.0.memory_mib).collect();
        let grown_disk: Vec<i64> = grown.values().map(|g| g.0.disk_gib).collect();
        let grown_out: Vec<i32> = grown.values().map(|g| g.1).collect();
        sqlx::query!(
            "WITH v AS (
                 INSERT INTO reservations (resource_id, host, vcpus, memory_mib, disk_gib)
                 SELECT * FROM unnest($1::uuid[], $2::text[], $3::int8[], $4::int8[], $5::int8[])
                 ON CONFLICT (resource_id, host) DO UPDATE
                 SET vcpus = excluded.vcpus, memory_mib = excluded.memory_mib, disk_gib = excluded.disk_gib
             )
             UPDATE hosts h SET used_vcpus = used_vcpus + q.vcpus, used_memory_mib = used_memory_mib + q.memory_mib,
                    used_disk_gib = used_disk_gib + q.disk_gib, orders_out = orders_out + q.out
             FROM unnest($6::text[], $7::int8[], $8::int8[], $9::int8[], $10::int4[]) AS q(name, vcpus, memory_mib, disk_gib, out)
             WHERE h.name = q.name",
            &resources,
            &hosts,
            &vcpus,
            &memory,
            &disk,
            &grown_hosts,
            &grown_vcpus,
            &grown_memory,
            &grown_disk,
            &grown_out
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    async fn write_fences(
        &mut self,
        written: Vec<NewOrder>,
        hosts: &BTreeMap<String, HostLock>,
        outcome: &mut DispatchOutcome,
    ) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = written.iter().map(|o| o.job.0).collect();
        let order_hosts: Vec<String> = written.iter().map(|o| o.host.to_string()).collect();
        let modes: Vec<String> = written.iter().map(|o| o.mode.to_string()).collect();
        let verdicts: Vec<Option<String>> =
            written.iter().map(|o| o.verdict.map(|v| v.to_string())).collect();
        let frozen: Vec<Value> = written
            .iter()
            .map(|o| Value::Array(o.frozen.iter().cloned().map(Value::String).collect()))
            .collect();
        let steps: Vec<Option<Value>> = written
            .iter()
            .map(|o| {
                o.names.as_ref().map(|names| {
                    crate::rows::steps_json(
                        &names
                            .iter()
                            .map(|n| crate::rows::StepRow::pending(n))
                            .collect::<Vec<_>>(),
                    )
                })
            })
            .collect();
        let epochs: Vec<i64> = written
            .iter()
            .map(|o| hosts.get(o.host.as_str()).map_or(0, |h| h.epoch))
            .collect();
        let mut fences: BTreeMap<Uuid, i64> = BTreeMap::new();
        let rows = sqlx::query!(
            r#"WITH q AS (
                   SELECT *, nextval('fences') AS fence
                   FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::jsonb[], $6::jsonb[], $7::int8[])
                        AS q(id, host, mode, verdict, frozen, steps, epoch)
               ), j AS (
                   UPDATE jobs j SET state = CASE WHEN j.state = 'undoing' THEN 'undoing' ELSE 'running' END, host = q.host, fence = q.fence,
                          first_fence = CASE WHEN j.host IS NULL THEN q.fence ELSE coalesce(j.first_fence, q.fence) END,
                          epoch = q.epoch, mode = q.mode, verdict = q.verdict,
                          frozen = ARRAY(SELECT jsonb_array_elements_text(q.frozen)), steps = coalesce(q.steps, j.steps),
                          attempt = j.attempt + 1, due = NULL, dispatched_at = now(), holds_slot = j.holds_slot OR q.mode = 'forward',
                          waiting = NULL,
                          started_at = coalesce(j.started_at, now())
                   FROM q WHERE j.id = q.id
                   RETURNING j.id, j.resource_id, q.fence, q.host
               ), a AS (
                   UPDATE job_resources o SET active = true FROM j WHERE o.job_id = j.id AND NOT o.active
               )
               UPDATE resources r SET fence = j.fence,
                      host = CASE WHEN r.kind = 'network' THEN r.host ELSE j.host END
               FROM j WHERE r.id = j.resource_id
               RETURNING j.id AS "id!", j.fence AS "fence!""#,
            &ids,
            &order_hosts,
            &modes,
            &verdicts as &[Option<String>],
            &frozen,
            &steps as &[Option<Value>],
            &epochs
        )
        .fetch_all(&mut *self.tx)
        .await?;
        fences.extend(rows.into_iter().map(|r| (r.id, r.fence)));
        self.take_slots(&written).await?;
        for order in written {
            let job = self.job(order.job)?;
            let Some(&fence) = fences.get(&order.job.0) else {
                return Err(StoreError::row("jobs", format!("{} got no fence", order.job)));
            };
            let Some(host) = hosts.get(order.host.as_str()) else {
                continue;
            };
            outcome.orders.push(OrderRow {
                job: order.job,
                tenant: job.tenant.clone(),
                kind: job.kind,
                action: job.action,
                resource: job.resource,
                generation: job.generation,
                address: host.address.clone(),
                epoch: host.epoch,
                host: order.host,
                fence,
                mode: order.mode,
                verdict: order.verdict,
                cause: job.cause.clone(),
                attempt: job.attempt + 1,
                frozen: order.frozen,
                deadline_at: job.deadline_at,
                traceparent: job.traceparent.clone(),
            });
        }
        Ok(())
    }

    async fn take_slots(&mut self, written: &[NewOrder]) -> Result<(), StoreError> {
        let mut slots: BTreeMap<String, i32> = BTreeMap::new();
        for order in written {
            let job = self.job(order.job)?;
            if takes_slot(job, order) {
                *slots.entry(job.tenant.to_string()).or_default() += 1;
            }
        }
        if slots.is_empty() {
            return Ok(());
        }
        let tenants: Vec<String> = slots.keys().cloned().collect();
        let counts: Vec<i32> = slots.values().copied().collect();
        sqlx::query!(
            "UPDATE tenants t SET running = t.running + q.n, running_cap = greatest($3, t.running)
             FROM unnest($1::text[], $2::int4[]) AS q(id, n) WHERE t.id = q.id",
            &tenants,
            &counts,
            self.limits.tenant_cap
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}

/// Whether an order takes a slot of its tenant, beyond what its job holds.
fn takes_slot(job: &DueJob, order: &NewOrder) -> bool {
    match order.mode {
        Mode::Forward => !job.holds_slot,
        Mode::Undo => false,
    }
}

async fn write_waits(
    tx: &mut Transaction<'_, Postgres>,
    waits: &[(JobId, JobState, Waiting, Option<DateTime<Utc>>)],
) -> Result<(), StoreError> {
    if waits.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = waits.iter().map(|w| w.0.0).collect();
    let states: Vec<String> = waits.iter().map(|w| w.1.to_string()).collect();
    let waiting: Vec<Value> = waits
        .iter()
        .map(|w| serde_json::to_value(&w.2).map_err(|e| StoreError::row("jobs", e)))
        .collect::<Result<_, _>>()?;
    let dues: Vec<Option<DateTime<Utc>>> = waits.iter().map(|w| w.3).collect();
    sqlx::query!(
        "UPDATE jobs j SET state = q.state, waiting = q.waiting, due = q.due
         FROM unnest($1::uuid[], $2::text[], $3::jsonb[], $4::timestamptz[]) AS q(id, state, waiting, due) WHERE j.id = q.id",
        &ids,
        &states,
        &waiting,
        &dues as &[Option<DateTime<Utc>>]
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
