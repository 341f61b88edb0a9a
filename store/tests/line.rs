//! A long line of jobs on one resource: what ends one of them costs what that takes, and not the line over again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::make;
use common::reads::{ours, read_of};
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::kinds::Kind;
use rhyzome_store::Store;

const LINE: i64 = 1000;

/// A network whose create nobody dispatched, and behind it a line of updates that wait.
async fn line(store: &Store) -> (ResourceId, JobId, Vec<JobId>) {
    let tenant = make::tenant(store, "demo").await;
    let made = make::accepted(store, make::network(&tenant, "lan", "10.0.0.0/24")).await;
    let behind: Vec<uuid::Uuid> = sqlx::query_scalar(
        "WITH j AS (
             INSERT INTO jobs (id, tenant, kind, action, resource_id, resource_name, generation, spec, state, actor, trace_id, traceparent)
             SELECT gen_random_uuid(), tenant, kind, 'update', id, name, 1, spec, 'blocked', 'tester', repeat('0', 32), '00-0-0-01'
             FROM resources, generate_series(1, $2) WHERE id = $1
             RETURNING id, seq, resource_id
         ), l AS (
             INSERT INTO job_resources (resource_id, seq, job_id, active) SELECT resource_id, seq, id, false FROM j
         )
         SELECT id FROM j ORDER BY seq",
    )
    .bind(made.resource.id.0)
    .bind(LINE)
    .fetch_all(store.pool())
    .await
    .unwrap();
    let job = made.job.unwrap().id;
    (made.resource.id, job, behind.into_iter().map(JobId).collect())
}

async fn in_state(store: &Store, state: &str) -> Vec<JobId> {
    let ids: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT id FROM jobs WHERE state = $1 ORDER BY seq")
        .bind(state)
        .fetch_all(store.pool())
        .await
        .unwrap();
    ids.into_iter().map(JobId).collect()
}

#[tokio::test]
async fn a_delete_behind_a_long_line_reads_each_job_a_few_times() {
    let store = ours(&common::store().await).await;
    let (id, create, behind) = line(&store).await;
    let tenant = "demo".into();
    let before = read_of(&store, "jobs").await;
    let deleted = store
        .accept_delete(
            &tenant,
            Kind::Network,
            id,
            None,
            JobId::new(),
            &[],
            &make::origin(),
        )
        .await
        .unwrap()
        .unwrap();
    let after = read_of(&store, "jobs").await;
    let read = after.0 - before.0 + after.1 - before.1;
    assert!(read <= 10 * LINE, "{read} rows were read of a line of {LINE}");
    let mut cancelled: Vec<JobId> = deleted.cancelled.iter().map(|c| c.job).collect();
    cancelled.sort_unstable();
    let mut all = [vec![create], behind].concat();
    all.sort_unstable();
    assert_eq!(cancelled, all);
    assert_eq!(in_state(&store, "queued").await, [deleted.job.id]);
    let last = in_state(&store, "cancelled").await.pop().unwrap();
    assert_eq!(deleted.resource.reason.unwrap()["job"], serde_json::json!(last));
}

#[tokio::test]
async fn an_end_wakes_the_next_in_line_and_no_other() {
    let store = ours(&common::store().await).await;
    let (_, create, behind) = line(&store).await;
    store
        .accept_cancel(&"demo".into(), create, None, &make::origin())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(in_state(&store, "queued").await, behind[..1]);
    assert_eq!(in_state(&store, "blocked").await, behind[1..]);
    // One that stands in the middle wakes nobody but the first, who was woken already.
    store
        .accept_cancel(&"demo".into(), behind[500], None, &make::origin())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(in_state(&store, "queued").await, behind[..1]);
}
