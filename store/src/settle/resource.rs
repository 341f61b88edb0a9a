//! What the end of a job changes of its resource: what is applied, what is metered, the reason that is shown; or it goes.

use super::ends::{Effect, End};
use crate::StoreError;
use chrono::{DateTime, Utc};
use rhyzome_model::job::Action;
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

pub(super) async fn apply(
    tx: &mut Transaction<'_, Postgres>,
    ends: &[&End],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if ends.is_empty() {
        return Ok(());
    }
    let mut ids = Vec::new();
    let mut specs = Vec::new();
    let mut generations = Vec::new();
    let mut facts: Vec<Option<Json<&Value>>> = Vec::new();
    let mut metered = Vec::new();
    let mut vcpus = Vec::new();
    let mut memory = Vec::new();
    let mut disk = Vec::new();
    let mut observed: Vec<Option<Json<&Value>>> = Vec::new();
    let mut observed_at: Vec<Option<DateTime<Utc>>> = Vec::new();
    for end in ends {
        if let Effect::Applied {
            spec,
            generation,
            facts: found,
            metered: meter,
            observed: seen,
            ..
        } = &end.effect
        {
            observed.push(seen.as_ref().map(|s| Json(&s.0)));
            observed_at.push(seen.as_ref().map(|s| s.1));
            ids.push(end.resource.0);
            specs.push(Json(spec));
            generations.push(*generation);
            facts.push(found.as_ref().map(Json));
            metered.push(meter.is_some());
            let demand = meter.unwrap_or_default();
            vcpus.push(demand.vcpus);
            memory.push(demand.memory_mib);
            disk.push(demand.disk_gib);
        }
    }
    close_changed(tx, ends, now).await?;
    sqlx::query!(
        "WITH r AS (
             UPDATE resources r SET applied = q.spec, facts = coalesce(q.facts, r.facts),
                    observed_generation = CASE WHEN q.spec = r.spec THEN r.generation
                                               ELSE greatest(q.generation, r.observed_generation) END,
                    reason = CASE WHEN q.generation > 0 OR (q.spec = r.spec AND r.reason ->> 'code' IS DISTINCT FROM 'DISK_LOST') THEN NULL
                                  ELSE r.reason END, updated_at = $5,
                    observed = CASE WHEN q.observed IS NULL OR r.observed_at > q.observed_at THEN r.observed ELSE q.observed END,
                    observed_at = CASE WHEN q.observed IS NULL OR r.observed_at > q.observed_at THEN r.observed_at
                                       ELSE least(q.observed_at, $5) END
             FROM unnest($1::uuid[], $2::jsonb[], $3::int8[], $4::jsonb[], $6::bool[], $7::int8[], $8::int8[], $9::int8[],
                         $10::jsonb[], $11::timestamptz[])
                  AS q(id, spec, generation, facts, metered, vcpus, memory_mib, disk_gib, observed, observed_at)
             WHERE r.id = q.id RETURNING r.id, r.tenant, r.kind, q.metered, q.vcpus, q.memory_mib, q.disk_gib
         )
         INSERT INTO usage_intervals (resource_id, tenant, kind, vcpus, memory_mib, disk_gib, opened_at)
         SELECT id, tenant, kind, vcpus, memory_mib, disk_gib, $5 FROM r WHERE metered
         ON CONFLICT (resource_id) WHERE closed_at IS NULL DO NOTHING",
        &ids,
        &specs as &[Json<&Value>],
        &generations,
        &facts as &[Option<Json<&Value>>],
        now,
        &metered,
        &vcpus,
        &memory,
        &disk,
        &observed as &[Option<Json<&Value>>],
        &observed_at as &[Option<DateTime<Utc>>]
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Closes the usage of what is metered otherwise from now on. A create has none.
async fn close_changed(
    tx: &mut Transaction<'_, Postgres>,
    ends: &[&End],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let mut ids = Vec::new();
    let mut vcpus = Vec::new();
    let mut memory = Vec::new();
    let mut disk = Vec::new();
    for end in ends.iter().filter(|end| end.action != Action::Create) {
        if let Effect::Applied { metered, .. } = &end.effect {
            let demand = metered.unwrap_or_default();
            ids.push(end.resource.0);
            vcpus.push(demand.vcpus);
            memory.push(demand.memory_mib);
            disk.push(demand.disk_gib);
        }
    }
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE usage_intervals u SET closed_at = greatest($5, u.opened_at)
         FROM unnest($1::uuid[], $2::int8[], $3::int8[], $4::int8[]) AS q(id, vcpus, memory_mib, disk_gib)
         WHERE u.resource_id = q.id AND u.closed_at IS NULL
           AND (u.vcpus, u.memory_mib, u.disk_gib) IS DISTINCT FROM (q.vcpus, q.memory_mib, q.disk_gib)",
        &ids,
        &vcpus,
        &memory,
        &disk,
        now
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(super) async fn give_reasons(
    tx: &mut Transaction<'_, Postgres>,
    ends: &[End],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let mut ids = Vec::new();
    let mut reasons: Vec<Option<Value>> = Vec::new();
    for end in ends {
        match &end.effect {
            Effect::NotMade { reason } | Effect::LeftBehind { reason } => {
                ids.push(end.resource.0);
                reasons.push(Some(reason.clone()));
            }
            Effect::NotChanged { reason, .. } => {
                ids.push(end.resource.0);
                reasons.push(reason.clone());
            }
            Effect::Applied { .. } | Effect::Removed => {}
        }
    }
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE resources r SET reason = coalesce(q.reason, r.reason), updated_at = $3
         FROM unnest($1::uuid[], $2::jsonb[]) AS q(id, reason) WHERE r.id = q.id",
        &ids,
        &reasons as &[Option<Value>],
        now
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(super) async fn remove(
    tx: &mut Transaction<'_, Postgres>,
    resources: &[Uuid],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if resources.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE usage_intervals SET closed_at = greatest($2, opened_at) WHERE resource_id = ANY($1) AND closed_at IS NULL",
        resources,
        now
    )
    .execute(&mut **tx)
    .await?;
    // Who may know of a resource by its tags may know that it went.
    sqlx::query!(
        "WITH gone AS (DELETE FROM resources WHERE id = ANY($1) RETURNING id, tags, public)
         INSERT INTO gone_resources (id, tags, public) SELECT id, tags, public FROM gone WHERE public OR tags <> '{}'",
        resources
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
