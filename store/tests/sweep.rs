//! The sweep on a database with 50,000 jobs: every scan reads a page by an index, and the pages together reach every row.
//!
//! What a statement reads is taken from the server's own counters around the call, so that it is the very statement, with the plan that it
//! gets in our sessions.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use chrono::{TimeDelta, Utc};
use common::make;
use common::reads::{ours, read_of};
use rhyzome_model::ids::JobId;
use rhyzome_store::Store;
use rhyzome_store::backlog::MOST;
use rhyzome_store::sweep::{More, Place};
use std::collections::BTreeSet;

const PAGE: i64 = 500;
/// A page is read by its index, and each of its rows again to be locked, judged and changed.
const READ_MOST: i64 = 6 * PAGE;

const OLD: i64 = 8_000;
const ENDED: i64 = 8_000;
const RUNNING: i64 = 10_000;
const CAPACITY: i64 = 14_000;
const BLOCKED: i64 = 6_000;
const LATE: i64 = 4_000;

const COLUMNS: &str = "id, tenant, kind, action, resource_id, resource_name, generation, spec, state, steps, host, epoch, fence, frozen,
    dispatched_at, due, waiting, deadline_at, actor, trace_id, traceparent, created_at, started_at, ended_at";

/// Rows of one sort; `state`, `dispatched_at`, `due`, `waiting`, `deadline_at`, `created_at` and `ended_at` as SQL over `n`.
fn rows(count: i64, [state, dispatched, due, waiting, deadline, created, ended]: [&str; 7]) -> String {
    format!(
        "INSERT INTO jobs ({COLUMNS})
         SELECT gen_random_uuid(), 'demo', 'instance', 'create', gen_random_uuid(), 'guest-' || n, 1, '{{}}', '{state}', '[]',
                'host-1', 1, n, ARRAY['{{}}'], {dispatched}, {due}, {waiting}, {deadline}, 'tester', repeat('0', 32), '00-0-0-01',
                {created}, NULL, {ended}
         FROM generate_series(1, {count}) AS n"
    )
}

async fn run(store: &Store, sql: String) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(store.pool())
        .await
        .unwrap();
}

/// 50,000 jobs, and a session as ours are, one, so that its counters tell what it read.
async fn full() -> Store {
    let store = common::store().await;
    make::tenant(&store, "demo").await;
    make::host(&store, "host-1", 8).await;
    run(&store, "ALTER TABLE jobs SET (autovacuum_enabled = off)".into()).await;
    let never = "NULL";
    let soon = "now() + interval '10 minutes'";
    let day = |n: &str| format!("now() - interval '{n}' - n * interval '1 ms'");
    let created = "now() - interval '1 hour' + n * interval '1 ms'";
    // Many went out in one transaction, at one time.
    let hour_ago = "now() - interval '1 hour' + (n / 300) * interval '1 s'";
    let capacity = r#"'{"reason": "capacity", "since": "2026-01-01T00:00:00Z", "detail": "-"}'"#;
    let sorts = [
        (
            OLD,
            [
                "succeeded",
                never,
                never,
                never,
                never,
                &day("41 days"),
                &day("40 days"),
            ],
        ),
        (
            ENDED,
            [
                "failed",
                never,
                never,
                never,
                never,
                &day("3 days"),
                &day("2 days"),
            ],
        ),
        (RUNNING, ["running", hour_ago, never, never, soon, created, never]),
        (CAPACITY, ["queued", never, soon, capacity, soon, created, never]),
        (BLOCKED, ["blocked", never, never, never, soon, created, never]),
        (
            LATE,
            [
                "running",
                hour_ago,
                never,
                never,
                &day("1 minute"),
                created,
                never,
            ],
        ),
    ];
    for (count, sort) in sorts {
        run(&store, rows(count, sort)).await;
    }
    // Each stands in line; blocked ones behind another that is open, but for those with the greatest ids.
    run(
        &store,
        "INSERT INTO job_resources (resource_id, seq, job_id) SELECT resource_id, seq, id FROM jobs WHERE ended_at IS NULL;
         INSERT INTO job_resources (resource_id, seq, job_id)
         SELECT b.resource_id, 0, (SELECT id FROM jobs WHERE state = 'running' LIMIT 1)
         FROM (SELECT resource_id FROM jobs WHERE state = 'blocked' ORDER BY id LIMIT 5990) b;
         INSERT INTO job_resources (resource_id, seq, job_id)
         SELECT gen_random_uuid(), 0, id FROM jobs WHERE ended_at < now() - interval '30 days' LIMIT 5"
            .into(),
    )
    .await;
    ours(&store).await
}

const TABLES: [&str; 6] = [
    "jobs",
    "job_resources",
    "resources",
    "resource_refs",
    "idempotency",
    "reservations",
];

struct Meter {
    before: Vec<(i64, i64)>,
}

impl Meter {
    async fn start(store: &Store) -> Self {
        let mut before = Vec::new();
        for table in TABLES {
            before.push(read_of(store, table).await);
        }
        Self { before }
    }

    async fn end(self, store: &Store, what: &str, most: i64) {
        for (table, before) in TABLES.iter().zip(self.before) {
            let after = read_of(store, table).await;
            let (by_index, by_scan) = (after.0 - before.0, after.1 - before.1);
            assert!(by_index <= most, "{what} read {by_index} rows of {table}");
            assert_eq!(by_scan, 0, "{what} scanned {table}");
        }
    }
}

/// Takes a scan's pages to its end, each within what it may read; gives how many there were.
macro_rules! pages {
    ($store:expr, $what:literal, |$from:ident| $page:expr, |$got:ident| $take:expr) => {{
        let (mut $from, mut pages) = (Place::START, 0);
        loop {
            let meter = Meter::start($store).await;
            let $got = $page.await.unwrap();
            meter.end($store, $what, READ_MOST).await;
            $take;
            pages += 1;
            assert!(pages <= 200, "{} comes to no end", $what);
            $from = $got.next;
            if $from == Place::START {
                break pages;
            }
        }
    }};
}

/// With no statistics, as a database is whose tables began to grow a moment ago.
#[tokio::test]
async fn every_scan_reads_pages_and_reaches_all() {
    all_scans(&full().await).await;
}

#[tokio::test]
async fn and_so_with_statistics() {
    let store = full().await;
    run(&store, "VACUUM ANALYZE".into()).await;
    all_scans(&ours(&store).await).await;
}

async fn all_scans(store: &Store) {
    quiet_orders(store).await;
    counts(store).await;

    let mut woken = 0;
    let pages = pages!(
        store,
        "deadlines",
        |from| store.deadlines_pass(from, PAGE),
        |page| woken += page.jobs
    );
    assert_eq!((woken, pages), (LATE, LATE / PAGE + 1));

    let mut woken = 0;
    let pages = pages!(
        store,
        "capacity",
        |from| store.capacity_wake("capacity", from, PAGE),
        |page| woken += page.jobs
    );
    assert_eq!((woken, pages), (CAPACITY, CAPACITY / PAGE + 1));

    let mut woken = 0;
    pages!(
        store,
        "blocked jobs",
        |from| store.blocked_recheck(from, PAGE),
        |page| woken += page.jobs
    );
    assert_eq!(woken, 10, "those that nothing stands before");

    forgotten(store).await;
}

async fn quiet_orders(store: &Store) {
    let before = Utc::now() - TimeDelta::seconds(5);
    let (mut seen, mut times) = (BTreeSet::<JobId>::new(), 0);
    let pages = pages!(
        store,
        "quiet orders",
        |from| store.orders_quiet(before, from, PAGE),
        |page| {
            times += page.orders.len();
            seen.extend(page.orders.iter().map(|order| order.job));
        }
    );
    let all = RUNNING + LATE;
    assert_eq!(
        (seen.len() as i64, times as i64, pages),
        (all, all, all / PAGE + 1),
        "each once, those behind the first 500 too"
    );
}

async fn counts(store: &Store) {
    let meter = Meter::start(store).await;
    let backlog = store
        .backlog(&["capacity", "reference", "turn", "retry"])
        .await
        .unwrap();
    meter.end(store, "the backlog", MOST + BLOCKED + PAGE).await;
    let count = |reason: &str| backlog.waiting.iter().find(|(r, _)| r == reason).unwrap().1;
    assert_eq!(
        (count("capacity"), count("reference"), count("turn")),
        (MOST, BLOCKED, 0)
    );
    assert!(
        (3_500.0..4_500.0).contains(&backlog.oldest_s),
        "{}",
        backlog.oldest_s
    );
}

async fn forgotten(store: &Store) {
    let left = "SELECT (SELECT count(*) FROM jobs WHERE ended_at IS NOT NULL),
                       (SELECT count(*) FROM job_resources q WHERE NOT EXISTS (SELECT FROM jobs j WHERE j.id = q.job_id)),
                       (SELECT count(*) FROM job_resources)";
    let before: (i64, i64, i64) = sqlx::query_as(left).fetch_one(store.pool()).await.unwrap();
    let mut pages = 0;
    loop {
        let meter = Meter::start(store).await;
        let more = store.forget_old(PAGE).await.unwrap();
        meter.end(store, "forgetting", READ_MOST).await;
        pages += 1;
        if more == More::No {
            break;
        }
    }
    assert_eq!(pages, OLD / PAGE + 1);
    let after: (i64, i64, i64) = sqlx::query_as(left).fetch_one(store.pool()).await.unwrap();
    assert_eq!(before, (OLD + ENDED, 0, after.2 + 5));
    assert_eq!((after.0, after.1), (ENDED, 0), "what ended two days ago stays");
}
