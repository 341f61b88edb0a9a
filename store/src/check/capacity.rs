//! What hosts have reserved, and the orders that are out.

use super::Tx;
use crate::StoreError;
use rhyzome_model::check::{Check, Violation};

pub(super) async fn check(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let mut found = hosts(tx).await?;
    found.extend(missing(tx).await?);
    found.extend(stray(tx).await?);
    Ok(found)
}

async fn hosts(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT h.name, h.used_vcpus, h.used_memory_mib, h.used_disk_gib, h.orders_out,
                  h.vcpus + h.over_vcpus AS "most_vcpus!", h.memory_mib + h.over_memory_mib AS "most_memory_mib!",
                  h.disk_gib + h.over_disk_gib AS "most_disk_gib!",
                  coalesce(s.vcpus, 0)::bigint AS "vcpus!", coalesce(s.memory_mib, 0)::bigint AS "memory_mib!",
                  coalesce(s.disk_gib, 0)::bigint AS "disk_gib!", coalesce(o.out, 0) AS "out!"
           FROM hosts h
           LEFT JOIN (SELECT host, sum(vcpus) AS vcpus, sum(memory_mib) AS memory_mib, sum(disk_gib) AS disk_gib
                      FROM reservations GROUP BY host) s ON s.host = h.name
           LEFT JOIN (SELECT host, count(*) AS out FROM jobs WHERE ended_at IS NULL AND dispatched_at IS NOT NULL GROUP BY host) o
                ON o.host = h.name
           ORDER BY h.name"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut found = Vec::new();
    for row in rows {
        let host = &row.name;
        let used = (row.used_vcpus, row.used_memory_mib, row.used_disk_gib);
        let reserved = (row.vcpus, row.memory_mib, row.disk_gib);
        if used != reserved {
            let text = format!(
                "host {host} counts {used:?} as used (vcpus, MiB, GiB), and its reservations are {reserved:?}"
            );
            found.push(Violation::of(Check::ReservedSum, host, text));
        }
        let most = (row.most_vcpus, row.most_memory_mib, row.most_disk_gib);
        if used.0 > most.0 || used.1 > most.1 || used.2 > most.2 {
            let text = format!(
                "host {host} has {used:?} used (vcpus, MiB, GiB), and no more than {most:?} was ever judged to be there"
            );
            found.push(Violation::of(Check::OverOffered, host, text));
        }
        if i64::from(row.orders_out) != row.out {
            let text = format!(
                "host {host} counts {} orders out, and {} are",
                row.orders_out, row.out
            );
            found.push(Violation::of(Check::OrdersOut, host, text));
        }
    }
    Ok(found)
}

async fn missing(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT r.id AS "id!", r.kind AS "kind!", r.host AS "host!" FROM resources r
           WHERE r.host IS NOT NULL AND NOT EXISTS (SELECT FROM reservations v WHERE v.resource_id = r.id AND v.host = r.host)
           UNION
           SELECT m.id, m.kind, i.host FROM resources i JOIN resource_refs f ON f.from_id = i.id
                  JOIN resources m ON m.id = f.to_id AND m.kind = 'image'
           WHERE i.host IS NOT NULL AND NOT EXISTS (SELECT FROM reservations v WHERE v.resource_id = m.id AND v.host = i.host)"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let violation = |kind: &str, id: uuid::Uuid, host: String| {
        let text = format!("the {kind} {id} is on host {host} and has nothing reserved there");
        Violation::of_all(Check::ReservationMissing, [id.to_string(), host], text)
    };
    Ok(rows
        .into_iter()
        .map(|r| violation(&r.kind, r.id, r.host))
        .collect())
}

async fn stray(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let rows = sqlx::query!(
        "SELECT v.resource_id, v.host FROM reservations v LEFT JOIN resources r ON r.id = v.resource_id
         WHERE r.host IS DISTINCT FROM v.host
           AND NOT EXISTS (SELECT FROM resource_refs f JOIN resources i ON i.id = f.from_id
                           WHERE f.to_id = v.resource_id AND i.host = v.host)"
    )
    .fetch_all(&mut **tx)
    .await?;
    let violation = |id: uuid::Uuid, host: String| {
        let text = format!("host {host} has something reserved for {id}, which is not there");
        Violation::of_all(Check::ReservationStray, [id.to_string(), host], text)
    };
    Ok(rows
        .into_iter()
        .map(|r| violation(r.resource_id, r.host))
        .collect())
}
