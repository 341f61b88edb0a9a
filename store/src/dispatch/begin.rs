//! Locks and reads a batch of due jobs.

use super::{DispatchLimits, DispatchTx, DueJob, RefRow, Unread, Wanted};
use crate::leases::LeaseView;
use crate::rows::{json, json_some, parse, parse_some};
use crate::{Store, StoreError};
use rhyzome_model::ids::{HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState, Mode, Verdict};
use rhyzome_model::kinds::{Demand, Kind};
use sqlx::{Postgres, Transaction};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// About how long a job that can't be read is left alone.
const UNREAD_FOR: Duration = Duration::from_secs(10);

impl Store {
    /// Locks and reads a batch of due jobs, in turn among tenants; none where nothing is due, or while the database is known to be
    /// set back.
    ///
    /// Every tenant with something due has the same share of a batch, and they take turns within it: where a host has room for few
    /// orders, who has fewest jobs running comes first. What holds a slot, or is to be taken back, needs no turn and
    /// no room below the tenant's cap; what goes forward to a host that has as many orders out as it may isn't taken: it would only
    /// stand in the way of the tenant's others.
    pub async fn dispatch_begin(&self, limits: DispatchLimits) -> Result<Option<DispatchTx>, StoreError> {
        let mut tx = self.pool.begin().await?;
        // Locked first and read after, in a statement with a snapshot of its own: an end that committed in between is seen. Whether a job
        // needs a turn is asked in the words of the index `jobs_turn`, and in no others, and always in its order: neither what is due nor
        // what has ended is then ever read whole.
        let mut taken = sqlx::query!(
            r#"WITH t AS (
                   SELECT t.id, t.running, greatest($2 - t.running, 0)::bigint AS free FROM tenants t
                   WHERE (SELECT true FROM set_backs LIMIT 1) IS NULL
                     AND coalesce(
                         (SELECT true FROM jobs j WHERE j.tenant = t.id AND j.due <= now()
                            AND CASE WHEN j.holds_slot OR j.mode = 'undo' OR j.state = 'undoing' OR j.cancel_requested_at IS NOT NULL
                                     THEN 0 ELSE 1 END = 1 ORDER BY j.due LIMIT 1),
                         (SELECT true FROM jobs j WHERE j.tenant = t.id AND j.due <= now()
                            AND CASE WHEN j.holds_slot OR j.mode = 'undo' OR j.state = 'undoing' OR j.cancel_requested_at IS NOT NULL
                                     THEN 0 ELSE 1 END = 0 ORDER BY j.due LIMIT 1))
               ), share AS (
                   SELECT greatest($1 / greatest(count(*), 1), 1) AS n FROM t
               ), due AS MATERIALIZED (
                   SELECT j.id, j.turn, j.needs_turn, t.id AS tenant, t.free FROM t CROSS JOIN share CROSS JOIN LATERAL (
                       (SELECT j.id, j.due, 0::bigint AS turn, false AS needs_turn FROM jobs j WHERE j.tenant = t.id AND j.due <= now()
                          AND CASE WHEN j.holds_slot OR j.mode = 'undo' OR j.state = 'undoing' OR j.cancel_requested_at IS NOT NULL
                                   THEN 0 ELSE 1 END = 0
                        ORDER BY j.due LIMIT share.n)
                       UNION ALL
                       (SELECT j.id, j.due, t.running + row_number() OVER (ORDER BY j.due, j.seq) AS turn, true AS needs_turn FROM jobs j
                        WHERE j.tenant = t.id AND j.due <= now()
                          AND CASE WHEN j.holds_slot OR j.mode = 'undo' OR j.state = 'undoing' OR j.cancel_requested_at IS NOT NULL
                                   THEN 0 ELSE 1 END = 1
                          AND (SELECT true FROM resources r JOIN hosts h ON h.name = r.host
                               WHERE r.id = j.resource_id AND h.orders_out >= $3 LIMIT 1) IS NULL
                          AND (j.action <> 'create' OR
                               (SELECT true FROM resource_refs f JOIN network_homes n ON n.network_id = f.to_id
                                JOIN hosts h ON h.name = n.host
                                WHERE f.from_id = j.resource_id AND h.orders_out >= $3 LIMIT 1) IS NULL)
                        ORDER BY j.due, j.seq LIMIT least(share.n, t.free))
                   ) j ORDER BY j.turn, j.due LIMIT $1
               )
               SELECT j.id, due.turn AS "turn!",
                      (SELECT count(*) FROM due) >= (SELECT n FROM share) AS "more!",
                      EXISTS (SELECT FROM due WHERE needs_turn GROUP BY tenant, free HAVING count(*) >= free) AS "crowded!"
               FROM due JOIN jobs j ON j.id = due.id JOIN resources r ON r.id = j.resource_id
               WHERE j.due <= now()
               FOR NO KEY UPDATE OF j, r SKIP LOCKED"#,
            limits.batch,
            limits.tenant_cap,
            limits.host_cap
        )
        .fetch_all(&mut *tx)
        .await?;
        taken.sort_by_key(|r| r.turn);
        let (more, crowded) = taken.first().map_or((false, false), |r| (r.more, r.crowded));
        let ids: Vec<Uuid> = taken.into_iter().map(|r| r.id).collect();
        if ids.is_empty() {
            return Ok(None);
        }
        let rows = sqlx::query!(
            r#"SELECT j.id, j.tenant, j.kind, j.action, j.resource_id, r.name, j.generation, j.spec, r.applied, r.observed, r.facts, j.state, j.host, j.pinned_host,
                      r.host AS resource_host, h.host AS "home?", coalesce(v.vcpus, 0) AS "vcpus!", coalesce(v.memory_mib, 0) AS "memory_mib!",
                      coalesce(v.disk_gib, 0) AS "disk_gib!", j.frozen, j.mode, j.verdict, j.error, j.attempt, j.failures, j.excluded,
                      j.deadline_at, j.cancel_requested_at, j.holds_slot, j.dispatched_at IS NOT NULL AS "order_out!", j.waiting,
                      j.traceparent, j.created_at, r.deleting,
                      coalesce((SELECT true FROM job_resources own JOIN job_resources q ON q.resource_id = own.resource_id AND q.seq < own.seq
                                WHERE own.job_id = j.id LIMIT 1), false) AS "earlier_open!",
                      CASE WHEN j.action = 'delete'
                           THEN (SELECT count(*) FROM resource_refs f WHERE f.to_id = r.id) ELSE 0 END AS "referrers!",
                      now() AS "now!"
               FROM jobs j JOIN resources r ON r.id = j.resource_id LEFT JOIN network_homes h ON h.network_id = r.id
                    LEFT JOIN reservations v ON v.resource_id = r.id AND v.host = r.host
               WHERE j.id = ANY($1) ORDER BY array_position($1, j.id)"#,
            &ids
        )
        .fetch_all(&mut *tx)
        .await?;
        let Some(now) = rows.first().map(|r| r.now) else {
            return Ok(None);
        };
        let (mut jobs, mut unread) = Unread::apart(rows.into_iter().map(|r| {
            let id = JobId(r.id);
            let read = || -> Result<DueJob, StoreError> {
                Ok(DueJob {
                    id,
                    tenant: TenantId(r.tenant),
                    kind: parse("jobs", &r.kind, Kind::parse)?,
                    action: parse("jobs", &r.action, Action::parse)?,
                    resource: ResourceId(r.resource_id),
                    name: r.name,
                    generation: r.generation,
                    spec: r.spec,
                    applied: r.applied,
                    observed: r.observed,
                    facts: r.facts,
                    state: parse("jobs", &r.state, JobState::parse)?,
                    host: r.host.map(HostName),
                    pinned_host: r.pinned_host.map(HostName),
                    resource_host: r.resource_host.map(HostName),
                    reserved: Demand {
                        vcpus: r.vcpus,
                        memory_mib: r.memory_mib,
                        disk_gib: r.disk_gib,
                    },
                    home: r.home.map(HostName),
                    frozen: r.frozen,
                    mode: parse("jobs", &r.mode, Mode::parse)?,
                    verdict: parse_some("jobs", r.verdict.as_deref(), Verdict::parse)?,
                    cause: json_some("jobs", r.error)?,
                    attempt: r.attempt,
                    failures: r.failures,
                    excluded: json("jobs", r.excluded)?,
                    deadline_at: r.deadline_at,
                    cancel_requested_at: r.cancel_requested_at,
                    holds_slot: r.holds_slot,
                    order_out: r.order_out,
                    waiting: json_some("jobs", r.waiting)?,
                    traceparent: r.traceparent,
                    created_at: r.created_at,
                    earlier_open: r.earlier_open,
                    wanted: if r.deleting { Wanted::Gone } else { Wanted::Kept },
                    referrers: r.referrers,
                })
            };
            (id, read())
        }));
        let resources: Vec<Uuid> = jobs.iter().map(|j| j.resource.0).collect();
        let (refs, unread_refs) = read_refs(&mut tx, &resources).await?;
        // What refers to what can't be read can't be dispatched either.
        for (resource, why) in unread_refs {
            let of_it = jobs.extract_if(.., |job| job.resource == resource);
            unread.extend(of_it.map(|job| Unread::new(job.id, &why)));
        }
        put_off(&mut tx, &unread).await?;
        let leases = read_leases(&mut tx, &resources).await?;
        Ok(Some(DispatchTx {
            tx,
            limits,
            more,
            crowded,
            places: jobs
                .iter()
                .enumerate()
                .map(|(place, job)| (job.id, place))
                .collect(),
            jobs,
            unread,
            refs,
            leases,
            now,
        }))
    }
}

/// Jobs that this program can't read stand in nobody's way until another may have come that can.
async fn put_off(tx: &mut Transaction<'_, Postgres>, unread: &[Unread]) -> Result<(), StoreError> {
    if unread.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = unread.iter().map(|u| u.job.0).collect();
    sqlx::query!(
        "UPDATE jobs SET due = now() + make_interval(secs => $2 * (0.5 + random())) WHERE id = ANY($1)",
        &ids,
        UNREAD_FOR.as_secs_f64()
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn read_refs(
    tx: &mut Transaction<'_, Postgres>,
    ids: &[Uuid],
) -> Result<(BTreeMap<ResourceId, Vec<RefRow>>, Vec<(ResourceId, StoreError)>), StoreError> {
    let rows = sqlx::query!(
        r#"SELECT f.from_id, r.id, r.kind, r.tenant, r.name, r.generation, r.spec, r.applied IS NOT NULL AS "applied!", r.facts,
                  coalesce((SELECT true FROM job_resources q WHERE q.resource_id = r.id LIMIT 1), false) AS "open!"
           FROM resource_refs f JOIN resources r ON r.id = f.to_id WHERE f.from_id = ANY($1)"#,
        ids
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut refs: BTreeMap<ResourceId, Vec<RefRow>> = BTreeMap::new();
    let mut unread = Vec::new();
    for r in rows {
        let from = ResourceId(r.from_id);
        let kind = match parse("resources", &r.kind, Kind::parse) {
            Ok(kind) => kind,
            Err(why) => {
                unread.push((from, why));
                continue;
            }
        };
        refs.entry(from).or_default().push(RefRow {
            id: ResourceId(r.id),
            kind,
            tenant: TenantId(r.tenant),
            name: r.name,
            generation: r.generation,
            spec: r.spec,
            applied: r.applied,
            facts: r.facts,
            open: r.open,
        });
    }
    Ok((refs, unread))
}

async fn read_leases(
    tx: &mut Transaction<'_, Postgres>,
    ids: &[Uuid],
) -> Result<BTreeMap<ResourceId, Vec<LeaseView>>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT network_id, host(ip) AS "ip!", mac::text AS "mac!", hostname, instance_id AS "instance_id!", position, automatic
           FROM leases WHERE instance_id = ANY($1) ORDER BY instance_id, position"#,
        ids
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut leases: BTreeMap<ResourceId, Vec<LeaseView>> = BTreeMap::new();
    for r in rows {
        let lease = crate::leases::lease(
            r.network_id,
            &r.ip,
            r.mac,
            r.hostname,
            Some(r.instance_id),
            r.position,
            r.automatic,
        )?;
        leases.entry(ResourceId(r.instance_id)).or_default().push(lease);
    }
    Ok(leases)
}
