//! Writes the orders of a batch: room is judged once more under the hosts' locks, and the fences are drawn under them.

use super::commit::takes_slot;
use super::{DispatchOutcome, DispatchTx, NewOrder, OrderRow};
use crate::StoreError;
use crate::rows::StepRow;
use rhyzome_model::ids::JobId;
use rhyzome_model::job::Mode;
use rhyzome_model::kinds::Demand;
use sqlx::types::Json;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Between the frozen steps of an order in a parameter: a record separator, which JSON has only escaped (RFC 8259, 7).
const BETWEEN: &str = "\u{1e}";

struct HostLock {
    address: String,
    epoch: i64,
    free: Demand,
    orders_out: i32,
    /// Somebody watches it now.
    up: bool,
}

impl DispatchTx {
    /// Orders for which their hosts have room, with their reservations, and the fences drawn.
    pub(super) async fn write_orders(
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
            let Some(host) = hosts.get_mut(order.host.as_str()).filter(|host| host.up) else {
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
            r#"SELECT name, address, epoch, vcpus - used_vcpus AS vcpus, memory_mib - used_memory_mib AS memory_mib,
                      disk_gib - used_disk_gib AS disk_gib, orders_out, watch_up AND coalesce(watch_until > now(), false) AS "up!"
               FROM hosts WHERE name = ANY($1) ORDER BY name FOR NO KEY UPDATE"#,
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
            (r.name, HostLock { address: r.address, epoch: r.epoch, free, orders_out: r.orders_out, up: r.up })
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
        // Arrays of different lengths can't be one array; as text, with a character between that no JSON text has, they cost little.
        let frozen: Vec<String> = written.iter().map(|o| o.frozen.join(BETWEEN)).collect();
        let pending = |names: &Vec<String>| Json(names.iter().map(|n| StepRow::pending(n)).collect());
        let steps: Vec<Option<Json<Vec<StepRow>>>> =
            written.iter().map(|o| o.names.as_ref().map(pending)).collect();
        let epochs: Vec<i64> = written
            .iter()
            .map(|o| hosts.get(o.host.as_str()).map_or(0, |h| h.epoch))
            .collect();
        let mut fences: BTreeMap<Uuid, i64> = BTreeMap::new();
        let rows = sqlx::query!(
            r#"WITH q AS (
                   SELECT *, nextval('fences') AS fence
                   FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[], $7::int8[])
                        AS q(id, host, mode, verdict, frozen, steps, epoch)
               ), j AS (
                   UPDATE jobs j SET state = CASE WHEN j.state = 'undoing' THEN 'undoing' ELSE 'running' END, host = q.host, fence = q.fence,
                          first_fence = CASE WHEN j.host IS NULL THEN q.fence ELSE coalesce(j.first_fence, q.fence) END,
                          epoch = q.epoch, mode = q.mode, verdict = q.verdict,
                          frozen = string_to_array(q.frozen, chr(30)), steps = coalesce(q.steps, j.steps),
                          attempt = j.attempt + 1, due = NULL, dispatched_at = now(), holds_slot = j.holds_slot OR q.mode = 'forward',
                          waiting = NULL,
                          started_at = coalesce(j.started_at, now())
                   FROM q WHERE j.id = q.id
                   RETURNING j.id, j.resource_id, q.fence, q.host, j.pinned_host
               ), a AS (
                   UPDATE job_resources o SET active = true FROM j WHERE o.job_id = j.id AND NOT o.active
               )
               UPDATE resources r SET fence = j.fence,
                      host = CASE WHEN r.kind = 'network' OR j.pinned_host IS NOT NULL THEN r.host ELSE j.host END
               FROM j WHERE r.id = j.resource_id
               RETURNING j.id AS "id!", j.fence AS "fence!""#,
            &ids,
            &order_hosts,
            &modes,
            &verdicts as &[Option<String>],
            &frozen,
            &steps as &[Option<Json<Vec<StepRow>>>],
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
