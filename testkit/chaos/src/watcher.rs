//! Looks at the database while the load runs: an end is final, and no tenant has more running jobs than its cap.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{PgPool, Row};
use tokio::task::JoinHandle;

use crate::CAP;
use crate::journal::Journal;

const LOOK: Duration = Duration::from_millis(300);
/// Between two looks at all jobs, those that ended long ago too: there are tens of thousands after an hour.
const LOOK_AT_ALL: Duration = Duration::from_secs(20);

/// Looks until it is aborted. While Postgres is away nothing is seen.
pub(crate) fn start(db: PgPool, journal: Arc<Journal>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut ended: BTreeMap<String, String> = BTreeMap::new();
        let mut all_at = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            let since = if all_at <= Instant::now() {
                all_at = Instant::now() + LOOK_AT_ALL;
                "1000 hours"
            } else {
                "1 minute"
            };
            // Both fail while Postgres is away.
            let _ = jobs(&db, &journal, since, &mut ended).await;
            let _ = slots(&db, &journal).await;
        }
    })
}

/// Jobs that haven't ended, or did in this time.
async fn jobs(
    db: &PgPool,
    journal: &Journal,
    since: &str,
    ended: &mut BTreeMap<String, String>,
) -> sqlx::Result<()> {
    let rows = sqlx::query(
        "SELECT id::text, state FROM jobs WHERE ended_at IS NULL OR ended_at > now() - $1::text::interval",
    )
    .bind(since)
    .fetch_all(db)
    .await?;
    for row in rows {
        let (id, state): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let is_end = ["succeeded", "failed", "cancelled"].contains(&state.as_str());
        match ended.get(&id) {
            Some(before) if *before != state => {
                journal.broken(4, &format!("job {id} was {before} and then {state}"));
            }
            None if is_end => {
                ended.insert(id, state);
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

async fn slots(db: &PgPool, journal: &Journal) -> sqlx::Result<()> {
    let rows = sqlx::query(
        "SELECT t.id, t.running, (SELECT count(*) FROM jobs j WHERE j.tenant = t.id AND j.holds_slot)::int4 FROM tenants t",
    )
    .fetch_all(db)
    .await?;
    for row in rows {
        let (tenant, counted, holding): (String, i32, i32) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if counted != holding {
            journal.broken(
                4,
                &format!("{tenant} counts {counted} running jobs, and has {holding}"),
            );
        }
        if holding > CAP {
            journal.broken(
                12,
                &format!("{tenant} has {holding} running jobs, over the cap of {CAP}"),
            );
        }
    }
    Ok(())
}
