//! Running jobs of tenants.

use super::Tx;
use crate::StoreError;
use rhyzome_model::check::{Check, Violation};

pub(super) async fn check(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let tenants = sqlx::query!(
        r#"SELECT t.id, t.running, t.running_cap, coalesce(s.held, 0) AS "held!" FROM tenants t
           LEFT JOIN (SELECT tenant, count(*) AS held FROM jobs WHERE ended_at IS NULL AND holds_slot GROUP BY tenant) s
                ON s.tenant = t.id
           ORDER BY t.id"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut found = Vec::new();
    for row in tenants {
        let tenant = &row.id;
        if i64::from(row.running) != row.held {
            let text = format!(
                "tenant {tenant} counts {} running jobs, and {} hold a slot",
                row.running, row.held
            );
            found.push(Violation::of(Check::SlotsCount, tenant, text));
        }
        if row.held > i64::from(row.running_cap) {
            let text = format!(
                "{} jobs of tenant {tenant} hold a slot, and its cap is {}",
                row.held, row.running_cap
            );
            found.push(Violation::of(Check::SlotsCap, tenant, text));
        }
    }
    // An order in mode undo takes no slot, and keeps the one that its job has while an order is out.
    let jobs = sqlx::query!(
        r#"SELECT id, holds_slot FROM jobs WHERE ended_at IS NULL
             AND (holds_slot AND dispatched_at IS NULL OR dispatched_at IS NOT NULL AND mode = 'forward' AND NOT holds_slot)
           ORDER BY id"#
    )
    .fetch_all(&mut **tx)
    .await?;
    found.extend(jobs.into_iter().map(|r| {
        let text = if r.holds_slot {
            format!("job {} holds a slot, and no order of it is out", r.id)
        } else {
            format!("an order of job {} goes forward, and it holds no slot", r.id)
        };
        Violation::of(Check::SlotWithoutOrder, &r.id, text)
    }));
    Ok(found)
}
