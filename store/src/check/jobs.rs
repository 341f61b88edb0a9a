//! Jobs: ends, lines, fences, and who is woken by nobody.

use super::Tx;
use crate::StoreError;
use rhyzome_model::check::{Check, Violation};

pub(super) async fn check(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let mut found = ends(tx).await?;
    found.extend(stuck(tx).await?);
    found.extend(lines(tx).await?);
    found.extend(turns(tx).await?);
    found.extend(hosts(tx).await?);
    found.extend(fences(tx).await?);
    found.extend(replies(tx).await?);
    Ok(found)
}

async fn ends(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT id, state, concat_ws(', ', CASE WHEN due IS NOT NULL THEN 'is due' END, CASE WHEN holds_slot THEN 'holds a slot' END,
                  CASE WHEN dispatched_at IS NOT NULL THEN 'has an order out' END,
                  CASE WHEN waiting IS NOT NULL THEN 'waits' END) AS "what!"
           FROM jobs WHERE ended_at IS NOT NULL
             AND (due IS NOT NULL OR holds_slot OR dispatched_at IS NOT NULL OR waiting IS NOT NULL) ORDER BY id"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let found = rows.into_iter().map(|r| {
        let text = format!("job {} ended as {}, and {}", r.id, r.state, r.what);
        Violation::of(Check::EndHolds, &r.id, text)
    });
    Ok(found.collect())
}

async fn stuck(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let rows = sqlx::query!(
        "SELECT j.id, j.kind, j.action, j.state FROM jobs j
         WHERE j.ended_at IS NULL AND j.due IS NULL AND j.dispatched_at IS NULL AND NOT (j.state = 'blocked' AND (
             EXISTS (SELECT FROM job_resources own JOIN job_resources q ON q.resource_id = own.resource_id AND q.seq < own.seq
                     JOIN jobs e ON e.id = q.job_id WHERE own.job_id = j.id AND e.ended_at IS NULL)
             OR CASE WHEN j.action = 'delete'
                THEN EXISTS (SELECT FROM resource_refs f WHERE f.to_id = j.resource_id)
                ELSE EXISTS (SELECT FROM resource_refs f JOIN resources r ON r.id = f.to_id JOIN job_resources q ON q.resource_id = r.id
                             JOIN jobs e ON e.id = q.job_id
                             WHERE f.from_id = j.resource_id AND r.applied IS NULL AND e.ended_at IS NULL) END))
         ORDER BY j.id"
    )
    .fetch_all(&mut **tx)
    .await?;
    let found = rows.into_iter().map(|r| {
        let text = format!(
            "job {} ({}.{}) is {}, not due, not out, and waits for nothing that is open",
            r.id, r.kind, r.action, r.state
        );
        Violation::of(Check::JobStuck, &r.id, text)
    });
    Ok(found.collect())
}

async fn lines(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT j.id, j.resource_id, j.ended_at IS NULL AS "open!" FROM jobs j
           LEFT JOIN job_resources o ON o.job_id = j.id AND o.resource_id = j.resource_id AND o.seq = j.seq
           WHERE (j.ended_at IS NULL) <> (o.job_id IS NOT NULL)
           ORDER BY j.id"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let found = rows.into_iter().map(|r| {
        let text = if r.open {
            format!(
                "job {} is open, and doesn't stand in line on {}",
                r.id, r.resource_id
            )
        } else {
            format!(
                "job {} has ended, and still stands in line on {}",
                r.id, r.resource_id
            )
        };
        Violation::of_all(
            Check::JobLine,
            [r.id.to_string(), r.resource_id.to_string()],
            text,
        )
    });
    Ok(found.collect())
}

async fn turns(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT j.id, o.resource_id, o.active, j.host IS NOT NULL AS "has_host!",
                  EXISTS (SELECT FROM job_resources q WHERE q.resource_id = o.resource_id AND q.seq < o.seq) AS "behind!"
           FROM job_resources o JOIN jobs j ON j.id = o.job_id
           WHERE j.ended_at IS NULL AND (o.active <> (j.host IS NOT NULL) OR (o.active AND EXISTS (
               SELECT FROM job_resources q WHERE q.resource_id = o.resource_id AND q.seq < o.seq)))
           ORDER BY j.id"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let found = rows.into_iter().map(|r| {
        let text = match (r.active, r.has_host, r.behind) {
            (true, false, _) => format!("job {} is active on {}, and no host has it", r.id, r.resource_id),
            (false, true, _) => format!(
                "a host has job {}, which is not active on {}",
                r.id, r.resource_id
            ),
            (true, true, _) | (false, false, _) => {
                format!(
                    "job {} is active on {}, and an earlier one is open",
                    r.id, r.resource_id
                )
            }
        };
        Violation::of_all(
            Check::JobTurn,
            [r.id.to_string(), r.resource_id.to_string()],
            text,
        )
    });
    Ok(found.collect())
}

async fn hosts(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT j.id, j.resource_id, j.host, r.host AS "resource_host?", h.name IS NOT NULL AS "there!" FROM jobs j
           LEFT JOIN resources r ON r.id = j.resource_id LEFT JOIN hosts h ON h.name = j.host
           WHERE j.ended_at IS NULL
             AND ((j.host IS NOT NULL AND h.name IS NULL) OR (j.dispatched_at IS NOT NULL AND j.host IS NULL) OR r.id IS NULL
                  OR (j.host IS NOT NULL AND j.pinned_host IS NULL AND r.kind <> 'network' AND r.host IS DISTINCT FROM j.host)
                  OR (j.host IS NOT NULL AND j.pinned_host IS NOT NULL AND j.host <> j.pinned_host))
           ORDER BY j.id"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let found = rows.into_iter().map(|r| {
        let name = |host: Option<String>| host.unwrap_or_else(|| "no host".to_owned());
        let (on, lives) = (name(r.host), name(r.resource_host));
        let text = if r.there {
            format!(
                "job {} is on {on}, and its resource {} on {lives}",
                r.id, r.resource_id
            )
        } else {
            format!(
                "job {} is on {on}, which there is not; its resource {} on {lives}",
                r.id, r.resource_id
            )
        };
        Violation::of_all(
            Check::JobHost,
            [r.id.to_string(), r.resource_id.to_string()],
            text,
        )
    });
    Ok(found.collect())
}

async fn fences(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let behind = sqlx::query!(
        r#"SELECT r.id, r.fence, max(j.fence) AS "newest!" FROM resources r JOIN jobs j ON j.resource_id = r.id
           WHERE j.fence IS NOT NULL AND r.stand_in IS NULL GROUP BY r.id, r.fence HAVING max(j.fence) > r.fence ORDER BY r.id"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut found: Vec<Violation> = behind
        .into_iter()
        .map(|r| {
            let text = format!(
                "{} has fence {}, and its newest order {}",
                r.id, r.fence, r.newest
            );
            Violation::of(Check::JobFence, &r.id, text)
        })
        .collect();
    // A sequence stands outside of snapshots; it only rises, so that reading it last accuses nobody.
    let ahead = sqlx::query!(
        r#"SELECT q.what AS "what!", q.fence AS "fence!" FROM (
               SELECT id::text AS what, fence FROM resources UNION ALL SELECT id::text, fence FROM jobs WHERE fence IS NOT NULL
               UNION ALL SELECT name, max_fence FROM hosts) q
           WHERE q.fence > (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM fences) ORDER BY 1"#
    )
    .fetch_all(&mut **tx)
    .await?;
    found.extend(ahead.into_iter().map(|r| {
        let text = format!("{} has fence {}, which was not drawn yet", r.what, r.fence);
        Violation::of(Check::FenceAhead, &r.what, text)
    }));
    Ok(found)
}

/// Replies are kept for 7 days, jobs for 30.
async fn replies(tx: &mut Tx) -> Result<Vec<Violation>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT i.tenant, i.path, i.reply -> 'job' ->> 'id' AS "job!" FROM idempotency i
           WHERE i.reply -> 'job' ->> 'id' IS NOT NULL
             AND NOT EXISTS (SELECT FROM jobs j WHERE j.id = (i.reply -> 'job' ->> 'id')::uuid)
           ORDER BY i.tenant, 3"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let found = rows.into_iter().map(|r| {
        let text = format!(
            "tenant {} was answered job {} on {}, and there is none such",
            r.tenant, r.job, r.path
        );
        Violation::of_all(Check::ReplyWithoutJob, [r.job, r.tenant], text)
    });
    Ok(found.collect())
}
