//! Writes what was judged of a batch, in two statements: the resources, then all that hangs on them.

use super::create::{Entry, LeaseRow};
use super::types::{Accepted, Refusal};
use crate::StoreError;
use crate::resources::name_holder;
use crate::rows::{ActiveJob, JobRow, ResourceRow, StepRow, tags_json};
use chrono::{DateTime, TimeDelta, Utc};
use rhyzome_model::job::{Action, Mode};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{Postgres, Transaction};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use uuid::Uuid;

/// The resources. Says when, by the database's clock, where any was written.
pub(super) async fn insert_resources(
    tx: &mut Transaction<'_, Postgres>,
    entries: &mut [Entry],
) -> Result<Option<DateTime<Utc>>, StoreError> {
    // Sorted by name, so that two batches meet each other's names in the same order.
    let mut order: Vec<&Entry> = entries.iter().filter(|e| e.refusal.is_none()).collect();
    order.sort_by(|a, b| {
        (&a.request.tenant, a.request.kind, &a.request.name).cmp(&(
            &b.request.tenant,
            b.request.kind,
            &b.request.name,
        ))
    });
    if order.is_empty() {
        return Ok(None);
    }
    let ids: Vec<Uuid> = order.iter().map(|e| e.request.id.0).collect();
    let tenants: Vec<String> = order.iter().map(|e| e.request.tenant.to_string()).collect();
    let kinds: Vec<String> = order.iter().map(|e| e.request.kind.to_string()).collect();
    let names: Vec<String> = order.iter().map(|e| e.request.name.clone()).collect();
    let tags: Vec<Value> = order.iter().map(|e| tags_json(&e.request.tags)).collect();
    let specs: Vec<Json<&Value>> = order.iter().map(|e| Json(&e.spec)).collect();
    let publics: Vec<bool> = order.iter().map(|e| e.request.public).collect();
    let asked = order.iter().map(|e| e.asks()).collect::<Result<Vec<_>, _>>()?;
    let vcpus: Vec<i64> = asked.iter().map(|a| a.vcpus).collect();
    let memory: Vec<i64> = asked.iter().map(|a| a.memory_mib).collect();
    let disk: Vec<i64> = asked.iter().map(|a| a.disk_gib).collect();
    let inserted = sqlx::query!(
        r#"INSERT INTO resources (id, tenant, kind, name, tags, spec, public, created_at, updated_at,
                                  asked_vcpus, asked_memory_mib, asked_disk_gib)
           SELECT id, tenant, kind, name, tags, spec, public, now(), now(), vcpus, memory_mib, disk_gib
           FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::jsonb[], $6::jsonb[], $7::bool[], $8::int8[], $9::int8[],
                       $10::int8[])
                AS q(id, tenant, kind, name, tags, spec, public, vcpus, memory_mib, disk_gib)
           ON CONFLICT (tenant, kind, name) DO NOTHING
           RETURNING id, created_at"#,
        &ids,
        &tenants,
        &kinds,
        &names,
        &tags,
        &specs as &[Json<&Value>],
        &publics,
        &vcpus,
        &memory,
        &disk
    )
    .fetch_all(&mut **tx)
    .await?;
    let now = inserted.first().map(|r| r.created_at);
    if inserted.len() == ids.len() {
        return Ok(now);
    }
    let inserted: BTreeSet<Uuid> = inserted.into_iter().map(|r| r.id).collect();
    for entry in entries.iter_mut().filter(|e| e.refusal.is_none()) {
        if inserted.contains(&entry.request.id.0) {
            continue;
        }
        let request = &entry.request;
        let holder = name_holder(tx, &request.tenant, request.kind, &request.name).await?;
        entry.refusal = Some(match holder {
            Some(holder) => Refusal::NameTaken { holder },
            // The holder went in between: the user's next try succeeds.
            None => Refusal::Moved,
        });
    }
    Ok(now)
}

/// Everything that hangs on the resources, in one statement. False when a key was taken meanwhile.
pub(super) async fn insert_rest(
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
    let specs: Vec<Json<&Value>> = live.iter().map(|e| Json(&e.spec)).collect();
    let states: Vec<String> = live.iter().map(|e| e.state.to_string()).collect();
    let steps: Vec<Json<Vec<StepRow>>> = live.iter().map(|e| Json(pending(e))).collect();
    let deadlines: Vec<DateTime<Utc>> = live
        .iter()
        .map(|e| now + TimeDelta::seconds(e.request.origin.deadline_s))
        .collect();
    let actors: Vec<String> = live.iter().map(|e| e.request.origin.actor.clone()).collect();
    let traces: Vec<String> = live.iter().map(|e| e.request.origin.trace_id.clone()).collect();
    let parents: Vec<String> = live
        .iter()
        .map(|e| e.request.origin.traceparent.clone())
        .collect();

    let refs: Vec<(Uuid, Uuid, String)> = live
        .iter()
        .flat_map(|e| {
            e.refs
                .iter()
                .map(|(pointer, to)| (e.request.id.0, to.0, pointer.clone()))
        })
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

    // In order, so that two batches meet each other's keys in the same order.
    let mut keyed: Vec<&&Entry> = live.iter().filter(|e| e.request.idempotency.is_some()).collect();
    keyed.sort_by_key(|e| {
        (
            &e.request.tenant,
            e.request
                .idempotency
                .as_ref()
                .map(|k| (&k.path, &k.method, &k.key)),
        )
    });
    let mut key_tenant = Vec::new();
    let mut key_method = Vec::new();
    let mut key_path = Vec::new();
    let mut key_key = Vec::new();
    let mut key_hash: Vec<Vec<u8>> = Vec::new();
    let mut key_reply: Vec<Json<Accepted>> = Vec::new();
    for entry in &keyed {
        if let Some(key) = &entry.request.idempotency {
            key_tenant.push(entry.request.tenant.to_string());
            key_method.push(key.method.clone());
            key_path.push(key.path.clone());
            key_key.push(key.key.clone());
            key_hash.push(key.body_hash.to_vec());
            key_reply.push(Json(accepted(entry, now)));
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
        &specs as &[Json<&Value>],
        &states,
        &steps as &[Json<Vec<StepRow>>],
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
        &key_reply as &[Json<Accepted>],
        &lease_instance as &[Option<Uuid>],
        &lease_position
    )
    .fetch_one(&mut **tx)
    .await?;
    Ok(usize::try_from(keys).is_ok_and(|k| k == keyed.len()))
}

fn pending(entry: &Entry) -> Vec<StepRow> {
    entry
        .request
        .step_names
        .iter()
        .map(|name| StepRow::pending(name))
        .collect()
}

/// The rows as they were just written.
pub(super) fn accepted(entry: &Entry, now: DateTime<Utc>) -> Accepted {
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
        unheard_since: None,
        in_quarantine: false,
        created_at: now,
        updated_at: now,
        active_job: Some(ActiveJob {
            id: request.job,
            action: Action::Create,
            state: entry.state,
        }),
    };
    let addresses = entry
        .leases
        .iter()
        .filter(|l| l.instance.is_some())
        .map(|l| (l.position, l.ip));
    let addresses: BTreeMap<i32, Ipv4Addr> = addresses.collect();
    Accepted {
        resource,
        job: Some(job),
        addresses: Some(addresses.into_values().collect()),
    }
}
