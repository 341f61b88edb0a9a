//! References. Names themselves are unique by a constraint alone.

use super::Tx;
use crate::StoreError;
use rhyzome_model::check::{Check, Violation};
use rhyzome_model::kinds::Kind;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

pub(super) async fn check(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let mut found = specs(tx).await?;
    found.extend(foreign(tx).await?);
    Ok(found)
}

/// The rows are what the spec says, and of the kind that it says.
async fn specs(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let mut rows: BTreeMap<Uuid, BTreeSet<(String, String, String)>> = BTreeMap::new();
    let refs = sqlx::query!(
        "SELECT f.from_id, f.to_id, f.pointer, r.kind FROM resource_refs f JOIN resources r ON r.id = f.to_id"
    )
    .fetch_all(&mut **tx)
    .await?;
    for r in refs {
        rows.entry(r.from_id)
            .or_default()
            .insert((r.pointer, r.kind, r.to_id.to_string()));
    }
    let mut found = Vec::new();
    for r in sqlx::query!("SELECT id, kind, spec FROM resources WHERE stand_in IS NULL ORDER BY id")
        .fetch_all(&mut **tx)
        .await?
    {
        // One of a later version is for that one to check.
        let Some(kind) = Kind::parse(&r.kind) else {
            continue;
        };
        let wanted: BTreeSet<(String, String, String)> = kind
            .ops()
            .references(&r.spec)
            .map_err(|e| StoreError::row("resources", e))?
            .into_iter()
            .map(|f| (f.pointer, f.kind.to_string(), f.target))
            .collect();
        let is = rows.remove(&r.id).unwrap_or_default();
        for (pointer, kind, target) in is.symmetric_difference(&wanted) {
            let text = if wanted.contains(&(pointer.clone(), kind.clone(), target.clone())) {
                format!(
                    "{}: {pointer} is the {kind} {target}, and no reference says so",
                    r.id
                )
            } else {
                format!(
                    "{}: a reference to the {kind} {target} at {pointer}, where the spec has none",
                    r.id
                )
            };
            found.push(Violation::of_all(
                Check::Reference,
                [r.id.to_string(), target.clone(), pointer.clone()],
                text,
            ));
        }
    }
    Ok(found)
}

async fn foreign(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    // What was public when it was referred to may have stopped to be; only the operators' things ever were.
    let rows = sqlx::query!(
        r#"SELECT f.from_id, f.to_id, a.tenant AS own, b.tenant AS other FROM resource_refs f
           JOIN resources a ON a.id = f.from_id JOIN resources b ON b.id = f.to_id
           WHERE a.tenant <> b.tenant AND b.tenant <> 'system' AND NOT b.public ORDER BY f.from_id, f.to_id"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let found = rows.into_iter().map(|r| {
        let text = format!(
            "{} of tenant {} refers to {} of tenant {}",
            r.from_id, r.own, r.to_id, r.other
        );
        Violation::of_all(
            Check::ReferenceForeign,
            [r.from_id.to_string(), r.to_id.to_string()],
            text,
        )
    });
    Ok(found.collect())
}
