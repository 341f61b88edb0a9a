//! What a job's way reads does not grow with what else is there: accept, dispatch and settle, on a database with 24,000 open jobs and
//! 10,000 that have ended.
//!
//! As in `sweep.rs` the server's own counters tell what the very statements read. Their plans are made once for each connection, so
//! that the moment matters: while the tables were empty, when they are full and nobody has counted them, and after that.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::make;
use common::reads::{nobody_looks_back, ours, read_of};
use rhyzome_model::ids::{JobId, TenantId};
use rhyzome_model::job::JobState;
use rhyzome_model::kinds::Kind;
use rhyzome_store::Store;
use rhyzome_store::accept::Refusal;
use rhyzome_store::dispatch::DispatchLimits;
use rhyzome_store::settle::{Effect, End, OpenJob, Settlement};

const RUNNING: i64 = 10_000;
const DUE: i64 = 8_000;
const BLOCKED: i64 = 6_000;
const ENDED: i64 = 10_000;
/// Jobs of one call.
const BATCH: i64 = 50;
/// Rows of one table, of a batch: each job is found, locked, read, changed, and so is what hangs on it.
const READ_MOST: i64 = 10 * BATCH;

const TABLES: [&str; 7] = [
    "jobs",
    "job_resources",
    "resources",
    "resource_refs",
    "reservations",
    "leases",
    "network_homes",
];

async fn run(store: &Store, sql: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(store.pool())
        .await
        .unwrap();
}

async fn empty() -> Store {
    let store = common::store().await;
    make::tenant(&store, "demo").await;
    make::host(&store, "host-1", 1_000_000).await;
    for table in TABLES {
        run(
            &store,
            &format!("ALTER TABLE {table} SET (autovacuum_enabled = off)"),
        )
        .await;
    }
    store
}

/// Instances on one network, with an open job each, and such whose job has ended; or a part of them.
async fn fill(store: &Store, part: i64) {
    run(
        store,
        "INSERT INTO resources (id, tenant, kind, name, spec, applied)
         VALUES ('00000000-0000-7000-8000-000000000001', 'demo', 'network', 'lan', '{\"cidr\": \"10.0.0.0/16\"}', '{}'),
                ('00000000-0000-7000-8000-000000000002', 'demo', 'image', 'img', '{}', '{}') ON CONFLICT DO NOTHING;
         INSERT INTO resources (id, tenant, kind, name, spec, applied)
         SELECT gen_random_uuid(), 'demo', 'network', 'lan-' || n, '{}', '{}' FROM generate_series(1, 1000) n ON CONFLICT DO NOTHING;
         INSERT INTO lease_cursors (network_id) VALUES ('00000000-0000-7000-8000-000000000001') ON CONFLICT DO NOTHING;
         INSERT INTO network_homes (network_id, host) VALUES ('00000000-0000-7000-8000-000000000001', 'host-1') ON CONFLICT DO NOTHING",
    )
    .await;
    let sorts = [
        ("running", RUNNING, "'host-1'", "now()", "NULL", "NULL"),
        (
            "queued",
            DUE,
            "NULL",
            "NULL",
            "now() - interval '1 hour' + n * interval '1 ms'",
            "NULL",
        ),
        ("blocked", BLOCKED, "NULL", "NULL", "NULL", "NULL"),
        ("succeeded", ENDED, "'host-1'", "NULL", "NULL", "now()"),
    ];
    for (state, count, host, dispatched, due, ended) in sorts {
        run(
            store,
            &format!(
                "WITH r AS (
                     INSERT INTO resources (id, tenant, kind, name, spec, host)
                     SELECT gen_random_uuid(), 'demo', 'instance', '{state}-{part}-' || n, '{{}}', {host} FROM generate_series(1, {count} / {part}) AS n
                     RETURNING id, name, host
                 ), f AS (
                     INSERT INTO resource_refs (from_id, to_id, pointer)
                     SELECT id, '00000000-0000-7000-8000-000000000001', '/interfaces/0/network' FROM r
                 ), v AS (
                     INSERT INTO reservations (resource_id, host, vcpus, memory_mib, disk_gib)
                     SELECT id, host, 0, 0, 0 FROM r WHERE host IS NOT NULL
                 ), j AS (
                     INSERT INTO jobs (id, tenant, kind, action, resource_id, resource_name, generation, spec, state, host, first_fence,
                                       fence, epoch, dispatched_at, due, ended_at, actor, trace_id, traceparent)
                     SELECT gen_random_uuid(), 'demo', 'instance', 'create', id, name, 1, '{{}}', '{state}', {host}, 1,
                            1, 1, {dispatched}, {due}, {ended}, 'tester', repeat('0', 32), '00-0-0-01'
                     FROM (SELECT *, row_number() OVER () AS n FROM r) r
                     RETURNING resource_id, seq, id, ended_at, host
                 )
                 INSERT INTO job_resources (resource_id, seq, job_id, active)
                 SELECT resource_id, seq, id, host IS NOT NULL FROM j WHERE ended_at IS NULL"
            ),
        )
        .await;
    }
    run(
        store,
        "UPDATE hosts SET orders_out = (SELECT count(*) FROM jobs WHERE dispatched_at IS NOT NULL)",
    )
    .await;
}

struct Meter(Vec<(i64, i64)>);

impl Meter {
    async fn start(store: &Store) -> Self {
        let mut before = Vec::new();
        for table in TABLES {
            before.push(read_of(store, table).await);
        }
        Self(before)
    }

    async fn end(self, store: &Store, what: &str) {
        for (table, before) in TABLES.iter().zip(self.0) {
            let after = read_of(store, table).await;
            let (by_index, by_scan) = (after.0 - before.0, after.1 - before.1);
            assert!(by_index <= READ_MOST, "{what} read {by_index} rows of {table}");
            assert_eq!(by_scan, 0, "{what} scanned {table}");
        }
    }
}

fn limits() -> DispatchLimits {
    DispatchLimits {
        batch: BATCH,
        tenant_cap: 1_000_000,
        host_cap: 1_000_000,
    }
}

fn end_of(job: &OpenJob) -> End {
    End {
        job: job.id,
        tenant: job.tenant.clone(),
        kind: job.kind,
        action: job.action,
        resource: job.resource,
        state: JobState::Failed,
        error: None,
        steps: None,
        host: job.host.clone(),
        held_slot: job.holds_slot,
        order_out: job.order_out,
        answered: None,
        created_at: job.created_at,
        networks: Vec::new(),
        effect: Effect::NotChanged {
            reason: None,
            reserve: None,
        },
    }
}

/// Accepts a job, finds by name, settles some of what runs, and dispatches some of what is due, within what they may read.
async fn on_the_way(store: &Store) {
    let meter = Meter::start(store).await;
    named(store).await;
    meter.end(store, "accept").await;

    let jobs: Vec<JobId> = sqlx::query_scalar("SELECT id FROM jobs WHERE state = 'running' LIMIT $1")
        .bind(BATCH)
        .fetch_all(store.pool())
        .await
        .unwrap()
        .into_iter()
        .map(JobId)
        .collect();

    let meter = Meter::start(store).await;
    let tx = store.settle_begin(&jobs).await.unwrap();
    assert_eq!(tx.jobs.len(), jobs.len());
    let ends = tx.jobs.iter().map(|job| Settlement::End(end_of(job))).collect();
    let settled = tx.commit(ends).await.unwrap();
    assert_eq!(settled.ended.len(), jobs.len());
    meter.end(store, "settle").await;

    let meter = Meter::start(store).await;
    let batch = store
        .dispatch_begin(limits())
        .await
        .unwrap()
        .expect("some are due");
    assert_eq!(batch.jobs.len() as i64, BATCH);
    drop(batch);
    meter.end(store, "dispatch").await;

    // Of those that wait for nothing but a place in line, and of all that have ended, nothing is due. The index forgets what was due once
    // somebody has looked.
    run(store, "UPDATE jobs SET due = NULL WHERE due IS NOT NULL").await;
    nobody_looks_back(store).await;
    assert!(store.dispatch_begin(limits()).await.unwrap().is_none());
    let meter = Meter::start(store).await;
    assert!(store.dispatch_begin(limits()).await.unwrap().is_none());
    meter.end(store, "dispatch of nothing").await;
}

/// What goes by a name: a create's references, a resource that is asked for, the hosts of others.
async fn named(store: &Store) {
    let demo = TenantId::from("demo");
    store
        .check_create(make::instance(&demo, "new", "img", "lan"))
        .await
        .unwrap()
        .unwrap();
    let taken = store
        .check_create(make::network(&demo, "lan", "10.0.0.0/24"))
        .await
        .unwrap();
    assert!(matches!(taken, Err(Refusal::NameTaken { .. })), "{taken:?}");
    let names = ["running-1-1", "succeeded-1-1", "nobody"].map(String::from);
    assert_eq!(
        store
            .hosts_of(&demo, Kind::Instance, &names)
            .await
            .unwrap()
            .is_empty(),
        store
            .resource_find(&demo, Kind::Instance, &names[0])
            .await
            .unwrap()
            .is_none()
    );
}

/// Has every statement's plan made.
async fn plan(store: &Store) {
    let demo = TenantId::from("demo");
    drop(store.dispatch_begin(limits()).await.unwrap());
    assert!(store.settle_begin(&[JobId::new()]).await.unwrap().jobs.is_empty());
    let found = store.resource_find(&demo, Kind::Instance, "nobody").await;
    assert!(found.unwrap().is_none());
    let hosts = store
        .hosts_of(&demo, Kind::Instance, &["nobody".to_owned()])
        .await;
    assert!(hosts.unwrap().is_empty());
    let request = make::instance(&demo, "new", "nothing", "nowhere");
    assert!(store.check_create(request).await.unwrap().is_err());
}

#[tokio::test]
async fn with_plans_that_were_made_when_there_was_nothing() {
    let store = ours(&empty().await).await;
    plan(&store).await;
    fill(&store, 100).await;
    on_the_way(&store).await;
    fill(&store, 1).await;
    on_the_way(&store).await;
}

#[tokio::test]
async fn with_plans_that_were_made_when_there_was_one_of_each() {
    let store = ours(&empty().await).await;
    fill(&store, DUE).await;
    plan(&store).await;
    fill(&store, 1).await;
    on_the_way(&store).await;
}

#[tokio::test]
async fn with_plans_that_were_made_before_anybody_counted() {
    let store = empty().await;
    fill(&store, 1).await;
    on_the_way(&ours(&store).await).await;
}

#[tokio::test]
async fn with_plans_by_statistics() {
    let store = empty().await;
    fill(&store, 1).await;
    run(&store, "VACUUM ANALYZE").await;
    on_the_way(&ours(&store).await).await;
}
