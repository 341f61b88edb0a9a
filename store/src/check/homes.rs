//! Where networks live.

use super::Tx;
use crate::StoreError;
use rhyzome_model::check::{Check, Violation};

pub(super) async fn check(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let empty = sqlx::query!(
        "SELECT n.network_id, n.host FROM network_homes n
         WHERE NOT EXISTS (SELECT FROM resource_refs f JOIN resources r ON r.id = f.from_id
                           WHERE f.to_id = n.network_id AND r.host = n.host)
         ORDER BY n.network_id"
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut found: Vec<Violation> = empty
        .into_iter()
        .map(|r| {
            let text = format!(
                "network {} lives on host {}, and nothing that needs it is there",
                r.network_id, r.host
            );
            Violation::of_all(Check::NetworkHome, [r.network_id.to_string(), r.host], text)
        })
        .collect();
    let apart = sqlx::query!(
        r#"SELECT DISTINCT t.id, r.id AS instance, r.host AS "host!", n.host AS "home?" FROM resources r
           JOIN resource_refs f ON f.from_id = r.id JOIN resources t ON t.id = f.to_id AND t.kind = 'network'
           LEFT JOIN network_homes n ON n.network_id = t.id
           WHERE r.host IS NOT NULL AND n.host IS DISTINCT FROM r.host ORDER BY t.id, r.id"#
    )
    .fetch_all(&mut **tx)
    .await?;
    found.extend(apart.into_iter().map(|r| {
        let home = r
            .home
            .map_or_else(|| "nowhere".to_owned(), |h| format!("on host {h}"));
        let text = format!(
            "{} is on host {}, and its network {} lives {home}",
            r.instance, r.host, r.id
        );
        Violation::of_all(
            Check::NetworkHome,
            [r.id.to_string(), r.instance.to_string(), r.host],
            text,
        )
    }));
    Ok(found)
}
