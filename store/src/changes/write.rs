//! Writes what a transaction changed: one statement, however much it was and of however many tenants.
//!
//! A row stands under its transaction's number, or under the highest that a committed row has where that is higher: a transaction that
//! drew its number early and then waited for a row comes after the one that it waited for. It is so because the statement is the
//! transaction's last: all its row locks are held, so that whoever had them before has committed, and is seen. Readers lose nothing by
//! it: a row's number is never below its transaction's own, and always one of a transaction that has ended or is this one.

use super::{Change, lines};
use crate::StoreError;
use rhyzome_model::change::What;
use sqlx::{Postgres, Transaction};
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// Writes the changes of a transaction, and gives them back as they were written: once for each thing.
pub(crate) async fn write(
    tx: &mut Transaction<'_, Postgres>,
    changes: Vec<Change>,
) -> Result<Vec<Change>, StoreError> {
    let changes = once_each(changes);
    if changes.is_empty() {
        return Ok(changes);
    }
    let mut rows: BTreeMap<&str, String> = BTreeMap::new();
    for change in &changes {
        lines::add(
            rows.entry(change.tenant.as_str()).or_default(),
            change.thing,
            change.what,
        );
    }
    let (tenants, entries): (Vec<&str>, Vec<String>) = rows.into_iter().unzip();
    sqlx::query!(
        "INSERT INTO changes (xid, tenant, entries)
         SELECT greatest(pg_current_xact_id(), (SELECT xid FROM changes ORDER BY xid DESC LIMIT 1)), q.*
         FROM unnest($1::text[], $2::text[]) AS q(tenant, entries)",
        &tenants as &[&str],
        &entries
    )
    .execute(&mut **tx)
    .await?;
    Ok(changes)
}

/// What changed twice in a transaction changed once to all others: as it was left.
fn once_each(changes: Vec<Change>) -> Vec<Change> {
    let mut places: HashMap<(&'static str, Uuid), usize> = HashMap::with_capacity(changes.len());
    let mut once: Vec<Change> = Vec::with_capacity(changes.len());
    for change in changes {
        let key = (change.thing.kind(), change.thing.id());
        let Some(earlier) = places.get(&key).and_then(|place| once.get_mut(*place)) else {
            places.insert(key, once.len());
            once.push(change);
            continue;
        };
        earlier.thing = change.thing;
        earlier.what = match (earlier.what, change.what) {
            (_, What::Deleted) | (What::Deleted, What::Created | What::Updated) => What::Deleted,
            (What::Created, What::Created | What::Updated) | (What::Updated, What::Created) => What::Created,
            (What::Updated, What::Updated) => What::Updated,
        };
    }
    once
}

#[cfg(test)]
mod tests {
    use super::{Change, once_each};
    use rhyzome_model::change::What;
    use rhyzome_model::ids::{JobId, ResourceId, TenantId};
    use rhyzome_model::job::JobState;
    use rhyzome_model::kinds::Kind;

    #[test]
    fn a_thing_that_changed_twice_is_told_once_as_it_was_left() {
        let tenant = TenantId::from("a");
        let (job, network) = (JobId::new(), ResourceId::new());
        let of_job = |state, what| Change::job(&tenant, job, state, what);
        let of_network = |what| Change::resource(&tenant, Kind::Network, network, what);
        let table = [
            (
                vec![
                    of_job(JobState::Queued, What::Created),
                    of_network(What::Updated),
                    of_job(JobState::Cancelled, What::Updated),
                ],
                vec![
                    of_job(JobState::Cancelled, What::Created),
                    of_network(What::Updated),
                ],
            ),
            (
                vec![of_network(What::Deleted), of_network(What::Updated)],
                vec![of_network(What::Deleted)],
            ),
        ];
        for (changes, want) in table {
            assert_eq!(once_each(changes), want);
        }
    }
}
