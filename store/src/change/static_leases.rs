//! A network's static leases as its user wants them: all anew, judged against those that instances have.

use crate::StoreError;
use crate::accept::{Refusal, StaticLeaseRequest};
use rhyzome_model::ids::ResourceId;
use sqlx::{Postgres, Transaction};

/// Addresses, MACs and hostnames of leases, in their order.
type Columns = (Vec<String>, Vec<String>, Vec<Option<String>>);

fn columns(leases: &[StaticLeaseRequest]) -> Columns {
    let mut columns = Columns::default();
    for lease in leases {
        columns.0.push(lease.ip.to_string());
        columns.1.push(lease.mac.clone());
        columns.2.push(lease.hostname.clone());
    }
    columns
}

/// Refuses the first of these leases whose address or MAC an instance has.
pub(super) async fn judge(
    tx: &mut Transaction<'_, Postgres>,
    network: ResourceId,
    leases: &[StaticLeaseRequest],
) -> Result<Option<Refusal>, StoreError> {
    let (ips, macs, _) = columns(leases);
    // Each in the order of the index that finds it.
    let taken = sqlx::query!(
        r#"SELECT f.n AS "n!", f.by_ip AS "by_ip!", f.instance_id FROM (
               SELECT q.n, true AS by_ip, l.instance_id FROM unnest($2::text[]) WITH ORDINALITY AS q(ip, n) CROSS JOIN LATERAL (
                   SELECT l.network_id, l.ip, l.automatic, l.instance_id FROM leases l
                   WHERE (l.network_id, l.ip) >= ($1, q.ip::inet) ORDER BY l.network_id, l.ip LIMIT 1
               ) l WHERE l.network_id = $1 AND l.ip = q.ip::inet AND l.automatic
               UNION ALL
               SELECT q.n, false, l.instance_id FROM unnest($3::text[]) WITH ORDINALITY AS q(mac, n) CROSS JOIN LATERAL (
                   SELECT l.network_id, l.mac, l.automatic, l.instance_id FROM leases l
                   WHERE (l.network_id, l.mac) >= ($1, q.mac::macaddr) ORDER BY l.network_id, l.mac LIMIT 1
               ) l WHERE l.network_id = $1 AND l.mac = q.mac::macaddr AND l.automatic
           ) f ORDER BY f.n, f.by_ip DESC LIMIT 1"#,
        network.0,
        &ips,
        &macs
    )
    .fetch_optional(&mut **tx)
    .await?;
    let Some(taken) = taken else { return Ok(None) };
    let lease = usize::try_from(taken.n - 1)
        .ok()
        .and_then(|n| leases.get(n))
        .ok_or_else(|| StoreError::row("leases", format!("no lease {} was asked for", taken.n)))?;
    let (field, value) = if taken.by_ip {
        ("ip", lease.ip.to_string())
    } else {
        ("mac", lease.mac.clone())
    };
    Ok(Some(Refusal::AddressTaken {
        pointer: format!("{}/{field}", lease.pointer),
        value,
        holder: taken.instance_id.map(ResourceId),
    }))
}

/// Puts these in the place of those that the network has, unless one of them is refused.
pub(super) async fn replace(
    tx: &mut Transaction<'_, Postgres>,
    network: ResourceId,
    leases: &[StaticLeaseRequest],
) -> Result<Option<Refusal>, StoreError> {
    sqlx::query!(
        "SELECT next FROM lease_cursors WHERE network_id = $1 FOR UPDATE",
        network.0
    )
    .fetch_optional(&mut **tx)
    .await?;
    if let Some(refusal) = judge(tx, network, leases).await? {
        return Ok(Some(refusal));
    }
    sqlx::query!(
        "DELETE FROM leases WHERE network_id = $1 AND NOT automatic",
        network.0
    )
    .execute(&mut **tx)
    .await?;
    let (ips, macs, hostnames) = columns(leases);
    sqlx::query!(
        "INSERT INTO leases (network_id, ip, mac, hostname, automatic)
         SELECT $1, ip::inet, mac::macaddr, hostname, false FROM unnest($2::text[], $3::text[], $4::text[]) AS q(ip, mac, hostname)",
        network.0,
        &ips,
        &macs,
        &hostnames as &[Option<String>]
    )
    .execute(&mut **tx)
    .await?;
    Ok(None)
}
