//! What is metered.

use super::Tx;
use crate::StoreError;
use rhyzome_model::check::{Check, Violation};
use rhyzome_model::kinds::{Demand, Kind};

pub(super) async fn check(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let mut found = open(tx).await?;
    found.extend(figures(tx).await?);
    found.extend(overlap(tx).await?);
    Ok(found)
}

async fn open(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT coalesce(r.id, u.resource_id) AS "id!", r.id IS NOT NULL AND r.applied IS NOT NULL AS "applied!", count(u.resource_id) AS "open!"
           FROM resources r FULL JOIN (SELECT resource_id FROM usage_intervals WHERE closed_at IS NULL) u ON u.resource_id = r.id
           GROUP BY 1, 2
           HAVING count(u.resource_id) <> CASE WHEN r.id IS NOT NULL AND r.applied IS NOT NULL THEN 1 ELSE 0 END
           ORDER BY 1"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let found = rows.into_iter().map(|r| {
        let is = if r.applied { "is applied" } else { "is not there" };
        let text = format!("{} {is}, and has {} open usage intervals", r.id, r.open);
        Violation::of(Check::UsageOpen, &r.id, text)
    });
    Ok(found.collect())
}

async fn figures(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT r.id, r.kind, r.applied AS "applied!", u.vcpus, u.memory_mib, u.disk_gib FROM usage_intervals u
           JOIN resources r ON r.id = u.resource_id
           WHERE u.closed_at IS NULL AND r.applied IS NOT NULL ORDER BY r.id"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut found = Vec::new();
    for r in rows {
        // One of a later version is for that one to check.
        let Some(kind) = Kind::parse(&r.kind) else {
            continue;
        };
        let wanted = kind
            .ops()
            .demand(&r.applied)
            .map_err(|e| StoreError::row("resources", e))?;
        let metered = Demand {
            vcpus: r.vcpus,
            memory_mib: r.memory_mib,
            disk_gib: r.disk_gib,
        };
        if metered != wanted {
            let text = format!(
                "the {kind} {} is metered as {} vcpus, {} MiB, {} GiB, and has {}, {}, {}",
                r.id,
                metered.vcpus,
                metered.memory_mib,
                metered.disk_gib,
                wanted.vcpus,
                wanted.memory_mib,
                wanted.disk_gib
            );
            found.push(Violation::of(Check::UsageFigures, &r.id, text));
        }
    }
    Ok(found)
}

async fn overlap(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT resource_id, opened_at, next AS "next!" FROM (
               SELECT resource_id, opened_at, closed_at,
                      lead(opened_at) OVER (PARTITION BY resource_id ORDER BY opened_at) AS next FROM usage_intervals) u
           WHERE next < coalesce(closed_at, 'infinity') ORDER BY resource_id, opened_at"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let found = rows.into_iter().map(|r| {
        let text = format!(
            "usage of {}: the interval from {} goes on after the next began at {}",
            r.resource_id, r.opened_at, r.next
        );
        Violation::of(Check::UsageOverlap, &r.resource_id, text)
    });
    Ok(found.collect())
}
