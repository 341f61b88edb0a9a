//! What is being deleted.

use super::Tx;
use crate::StoreError;
use rhyzome_model::check::{Check, Violation};

pub(super) async fn check(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let lost = sqlx::query!(
        "SELECT r.id, r.kind FROM resources r WHERE r.deleting
           AND NOT EXISTS (SELECT FROM jobs j WHERE j.resource_id = r.id AND j.action = 'delete' AND j.ended_at IS NULL)
           AND NOT EXISTS (SELECT FROM jobs j WHERE j.resource_id = r.id AND j.action = 'delete' AND j.state = 'succeeded')
         ORDER BY r.id"
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut found: Vec<Violation> = lost
        .into_iter()
        .map(|r| {
            let text = format!("the {} {} is being deleted, and no job does it", r.kind, r.id);
            Violation::of(Check::DeleteLost, &r.id, text)
        })
        .collect();
    let left = sqlx::query!(
        "SELECT r.id, r.kind, j.id AS job FROM resources r JOIN jobs j ON j.resource_id = r.id
         WHERE j.action = 'delete' AND j.state = 'succeeded' AND r.stand_in IS NULL ORDER BY r.id"
    )
    .fetch_all(&mut **tx)
    .await?;
    found.extend(left.into_iter().map(|r| {
        let text = format!(
            "job {} deleted the {} {}, which is still there",
            r.job, r.kind, r.id
        );
        Violation::of_all(Check::DeleteLeft, [r.id.to_string(), r.job.to_string()], text)
    }));
    let needed = sqlx::query!(
        "SELECT r.id, r.kind, i.id AS by FROM resources r JOIN resource_refs f ON f.to_id = r.id JOIN resources i ON i.id = f.from_id
         WHERE r.deleting AND NOT i.deleting ORDER BY r.id, i.id"
    )
    .fetch_all(&mut **tx)
    .await?;
    found.extend(needed.into_iter().map(|r| {
        let text = format!("the {} {} is being deleted, and {} needs it", r.kind, r.id, r.by);
        Violation::of_all(Check::DeleteNeeded, [r.id.to_string(), r.by.to_string()], text)
    }));
    Ok(found)
}
