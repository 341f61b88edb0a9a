//! What requests of a batch refer to: found by id or name, locked `FOR SHARE`, judged. What one is only kept apart from must be there as
//! well, but may go at any time, so that it is not locked.

use super::create::{Entry, open};
use super::types::Refusal;
use crate::StoreError;
use rhyzome_model::ids::{ResourceId, TenantId};
use rhyzome_model::job::JobState;
use rhyzome_model::kinds::{Kind, Reference};
use serde_json::Value;
use sqlx::{Postgres, Transaction};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

pub(super) async fn resolve_references(
    tx: &mut Transaction<'_, Postgres>,
    entries: &mut [Entry],
) -> Result<(), StoreError> {
    let wanted: BTreeSet<Wanted> = entries
        .iter()
        .flat_map(|e| wanted_of(e, &e.request.references))
        .collect();
    let apart_from: BTreeSet<Wanted> = entries
        .iter()
        .flat_map(|e| wanted_of(e, &e.request.apart_from))
        .collect();
    let found = find_references(tx, &wanted.into_iter().collect::<Vec<_>>()).await?;
    let others = find(tx, &apart_from.into_iter().collect::<Vec<_>>()).await?;

    for entry in open(entries) {
        let mut refusals = Vec::new();
        for reference in entry.request.references.clone() {
            let key = (
                entry.request.tenant.clone(),
                reference.kind,
                reference.target.clone(),
            );
            let verdict = found.get(&key);
            let (pointer, kind, target) = (
                reference.pointer.clone(),
                reference.kind,
                reference.target.clone(),
            );
            match verdict {
                None => {
                    refusals.push(Refusal::ReferenceNotFound {
                        pointer,
                        kind,
                        target,
                    });
                }
                Some(Found {
                    state: FoundState::Deleting,
                    ..
                }) => {
                    refusals.push(Refusal::ReferenceDeleting {
                        pointer,
                        kind,
                        target,
                    });
                }
                Some(Found {
                    state: FoundState::Failed,
                    ..
                }) => {
                    refusals.push(Refusal::ReferenceFailed {
                        pointer,
                        kind,
                        target,
                    });
                }
                Some(Found { id, state, .. }) => {
                    if *state == FoundState::Coming {
                        entry.state = JobState::Blocked;
                    }
                    if let Some(slot) = entry.spec.pointer_mut(&reference.pointer) {
                        *slot = Value::String(id.to_string());
                    }
                    entry.refs.push((reference.pointer.clone(), *id));
                }
            }
        }
        for other in entry.request.apart_from.clone() {
            let key = (entry.request.tenant.clone(), other.kind, other.target.clone());
            match (others.get(&key), entry.spec.pointer_mut(&other.pointer)) {
                (Some(id), Some(slot)) => *slot = Value::String(id.to_string()),
                (Some(_), None) => {}
                (None, _) => refusals.push(Refusal::ReferenceNotFound {
                    pointer: other.pointer,
                    kind: other.kind,
                    target: other.target,
                }),
            }
        }
        entry.refusal = match refusals.len() {
            0 => None,
            1 => refusals.pop(),
            _ => Some(Refusal::Several(refusals)),
        };
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

/// Whose request wants what, as it is written.
type Wanted = (TenantId, Kind, String);

fn wanted_of<'a>(entry: &'a Entry, references: &'a [Reference]) -> impl Iterator<Item = Wanted> + 'a {
    references
        .iter()
        .map(|r| (entry.request.tenant.clone(), r.kind, r.target.clone()))
}

/// What is there of what is wanted.
async fn find(
    tx: &mut Transaction<'_, Postgres>,
    wanted: &[Wanted],
) -> Result<BTreeMap<Wanted, Uuid>, StoreError> {
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let numbers: Vec<i32> = (0..i32::try_from(wanted.len()).unwrap_or(i32::MAX)).collect();
    let tenants: Vec<String> = wanted.iter().map(|w| w.0.to_string()).collect();
    let kinds: Vec<String> = wanted.iter().map(|w| w.1.to_string()).collect();
    let targets: Vec<String> = wanted.iter().map(|w| w.2.clone()).collect();
    let ids: Vec<Option<Uuid>> = wanted.iter().map(|w| Uuid::parse_str(&w.2).ok()).collect();
    // In the order of the names: see `name_holder`.
    let hits = sqlx::query!(
        r#"SELECT q.n AS "n!", r.id AS "id!", r.rank AS "rank!"
           FROM unnest($1::int4[], $2::text[], $3::text[], $4::text[], $5::uuid[]) AS q(n, tenant, kind, target, id)
           CROSS JOIN LATERAL (
               SELECT r.id, 1 AS rank FROM resources r
                WHERE r.id = q.id AND r.kind = q.kind AND (r.tenant = q.tenant OR r.public)
               UNION ALL
               SELECT r.id, 2 FROM (
                   SELECT r.id, r.tenant, r.kind, r.name FROM resources r
                   WHERE (r.tenant, r.kind, r.name) >= (q.tenant, q.kind, q.target) ORDER BY r.tenant, r.kind, r.name LIMIT 1
               ) r WHERE r.tenant = q.tenant AND r.kind = q.kind AND r.name = q.target
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
    let wanted_at = |n: i32| usize::try_from(n).ok().and_then(|n| wanted.get(n)).cloned();
    Ok(best
        .into_iter()
        .filter_map(|(n, (_, id))| Some((wanted_at(n)?, id)))
        .collect())
}

async fn find_references(
    tx: &mut Transaction<'_, Postgres>,
    wanted: &[Wanted],
) -> Result<BTreeMap<Wanted, Found>, StoreError> {
    let best = find(tx, wanted).await?;
    if best.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut locked_ids: Vec<Uuid> = best.values().copied().collect();
    locked_ids.sort_unstable();
    locked_ids.dedup();
    sqlx::query!(
        "SELECT id FROM resources WHERE id = ANY($1) ORDER BY id FOR SHARE",
        &locked_ids
    )
    .fetch_all(&mut **tx)
    .await?;
    // Read after the lock, with a snapshot of its own: an end that committed while the lock was waited for is seen whole.
    let locked = sqlx::query!(
        r#"SELECT r.id, r.deleting, r.applied IS NOT NULL AS "applied!",
                  coalesce((SELECT true FROM job_resources j WHERE j.resource_id = r.id LIMIT 1), false) AS "open!"
           FROM resources r WHERE r.id = ANY($1)"#,
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
        .filter_map(|(wanted, id)| {
            let state = *states.get(&id)?;
            let id = ResourceId(id);
            Some((wanted, Found { id, state }))
        })
        .collect())
}
