//! Writes what was decided of a batch. Locks: network homes, tenants, hosts, each in order; the fences are drawn under them.

use super::{Decision, DispatchOutcome, DispatchTx, DueJob, NewOrder};
use crate::StoreError;
use crate::changes;
use crate::rows::Waiting;
use crate::settle::apply_ends;
use chrono::{DateTime, Utc};
use rhyzome_model::ids::JobId;
use rhyzome_model::job::{JobState, Mode};
use serde_json::Value;
use sqlx::{Postgres, Transaction};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

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
            crate::settle::audit_abandoned(&mut self.tx, &ends, "scheduler", self.now).await?;
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
        self.places
            .get(&id)
            .and_then(|place| self.jobs.get(*place))
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
}

/// Whether an order takes a slot of its tenant, beyond what its job holds.
pub(super) fn takes_slot(job: &DueJob, order: &NewOrder) -> bool {
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
