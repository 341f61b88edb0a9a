//! What counts against tenants' quotas.

use super::Tx;
use crate::{StoreError, quotas};
use rhyzome_model::check::{Check, Violation};
use rhyzome_model::kinds::{Demand, Kind};

/// While a job is open it may be more: what that job asks for counts as well. What was accepted by a version that didn't count asks for
/// nothing until it is changed.
pub(super) async fn check(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT r.id, r.kind, r.spec, r.applied, r.asked_vcpus, r.asked_memory_mib, r.asked_disk_gib,
                  EXISTS (SELECT FROM job_resources o WHERE o.resource_id = r.id) AS "open!"
           FROM resources r WHERE (r.asked_vcpus, r.asked_memory_mib, r.asked_disk_gib) <> (0, 0, 0) ORDER BY r.id"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut found = Vec::new();
    for row in rows {
        // One of a later version is for that one to check.
        let Some(kind) = Kind::parse(&row.kind) else {
            continue;
        };
        let wanted = quotas::asks(kind, &row.spec, row.applied.as_ref())?;
        let asked = Demand {
            vcpus: row.asked_vcpus,
            memory_mib: row.asked_memory_mib,
            disk_gib: row.asked_disk_gib,
        };
        let right = if row.open {
            asked.max(wanted) == asked
        } else {
            asked == wanted
        };
        if !right {
            let text = format!(
                "the {kind} {} counts as {} vcpus, {} MiB, {} GiB, and asks for {}, {}, {}",
                row.id,
                asked.vcpus,
                asked.memory_mib,
                asked.disk_gib,
                wanted.vcpus,
                wanted.memory_mib,
                wanted.disk_gib
            );
            found.push(Violation::of(Check::QuotaUse, &row.id, text));
        }
    }
    Ok(found)
}
