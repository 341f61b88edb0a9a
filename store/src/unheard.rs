//! Hosts that nobody has heard for some time: what was last seen of their guests is not known to hold, and is shown as unknown.
//!
//! Until when it counts stands on the host, in database time (`hosts.known_until`): whoever holds the host's watch and hears its agent
//! puts it off with every renewal of the lease, by [`LEASES`] leases. So a scheduler that restarts, or dies and leaves the watch to
//! another when the lease expires, changes nothing that is shown. Who reads a resource compares with that time alone; who watches is
//! told here, by a change for each instance that is shown otherwise, and nothing else is written of a guest.

use crate::changes::{self, Change};
use crate::{Store, StoreError};
use rhyzome_model::change::What;
use rhyzome_model::ids::{HostName, ResourceId, TenantId};
use rhyzome_model::kinds::Kind;
use sqlx::{Postgres, Transaction};

/// So many leases after its agent was last heard, what is known of a host's guests doesn't count any more. In the first the watch may be
/// a dead scheduler's; in the others another one takes it, and greets the agent.
pub const LEASES: f64 = 3.0;
/// Instances that one row of changes tells of.
const ENTRIES: usize = 500;

/// Which hosts are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// Those that are heard again.
    Heard,
    /// Those, and those that are not heard any more.
    Either,
}

impl Store {
    /// Tells who watches of the guests of hosts that are not heard any more, or again, and of which nobody was told so: of so many hosts at
    /// most, each in a transaction of its own. Says what was told.
    pub async fn unheard_tell(&self, turned: Turned, hosts: i64) -> Result<Vec<Change>, StoreError> {
        let names = sqlx::query_scalar!(
            "SELECT name FROM hosts
             WHERE told_unheard <> (coalesce(known_until < now(), false) AND NOT (watch_up AND coalesce(watch_until > now(), false)))
               AND (told_unheard OR $1)
             ORDER BY name LIMIT $2",
            turned == Turned::Either,
            hosts
        )
        .fetch_all(&self.pool)
        .await?;
        let mut told = Vec::new();
        for name in names {
            let mut tx = self.pool.begin().await?;
            // Judged again under the lock; whom another process has, it tells of.
            let host = sqlx::query_scalar!(
                "WITH h AS (
                     SELECT name FROM hosts
                     WHERE name = $1
                       AND told_unheard <> (coalesce(known_until < now(), false) AND NOT (watch_up AND coalesce(watch_until > now(), false)))
                     FOR NO KEY UPDATE SKIP LOCKED
                 )
                 UPDATE hosts SET told_unheard = NOT told_unheard FROM h WHERE hosts.name = h.name RETURNING hosts.name",
                name
            )
            .fetch_optional(&mut *tx)
            .await?;
            if let Some(host) = host {
                told.extend(tell(&mut tx, &HostName(host)).await?);
                tx.commit().await?;
            }
        }
        Ok(told)
    }
}

/// Writes a change of each instance on a host that is shown otherwise where the host is heard and where it is not: of those at rest, if
/// its agent didn't say itself that it can't tell.
pub(crate) async fn tell(
    tx: &mut Transaction<'_, Postgres>,
    host: &HostName,
) -> Result<Vec<Change>, StoreError> {
    let at_rest = sqlx::query!(
        r#"SELECT r.id AS "id!", r.tenant AS "tenant!" FROM reservations v CROSS JOIN LATERAL (
               SELECT r.id, r.tenant, r.kind, r.host, r.applied, r.deleting, r.observed FROM resources r WHERE r.id = v.resource_id OFFSET 0
           ) r
           WHERE v.host = $1 AND r.host = $1 AND r.kind = 'instance' AND r.applied IS NOT NULL AND NOT r.deleting
             AND r.observed ->> 'power' IS DISTINCT FROM 'unknown'
             AND NOT EXISTS (SELECT FROM job_resources q WHERE q.resource_id = r.id)
           ORDER BY r.tenant, r.id"#,
        host.as_str()
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut told = Vec::with_capacity(at_rest.len());
    for part in at_rest.chunks(ENTRIES) {
        let changes = part.iter().map(|r| {
            let tenant = TenantId(r.tenant.clone());
            Change::resource(&tenant, Kind::Instance, ResourceId(r.id), What::Updated)
        });
        told.extend(changes::write(tx, changes.collect()).await?);
    }
    Ok(told)
}
