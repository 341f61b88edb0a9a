//! What those who watch read: every committed change once, in one order, whichever transaction commits first.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use chrono::TimeDelta;
use common::make;
use rhyzome_model::change::What;
use rhyzome_model::ids::{JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState};
use rhyzome_model::kinds::Kind;
use rhyzome_store::Store;
use rhyzome_store::change::{ChangeRequest, Work};
use rhyzome_store::changes::{Gone, Position, Thing, Whose};
use rhyzome_store::settle::Settlement;
use sqlx::PgConnection;
use std::collections::BTreeMap;
use uuid::Uuid;

const PAGE: i64 = 3;

/// All that can be read now, page by page, as a reader does it; and where it then is.
async fn read(store: &Store, whose: &Whose, from: Position) -> (Vec<(TenantId, Thing, What)>, Position) {
    let (mut seen, mut at) = (Vec::new(), from);
    loop {
        let page = store.changes_page(whose, at, PAGE).await.unwrap().unwrap();
        at = page.next;
        if page.rows.is_empty() {
            return (seen, at);
        }
        for row in page.rows {
            seen.extend(
                row.entries
                    .into_iter()
                    .flatten()
                    .map(|(thing, what)| (row.tenant.clone(), thing, what)),
            );
        }
    }
}

/// The same, until so many changes were seen: transactions of other databases of the server hold them back, too.
async fn read_on(
    store: &Store,
    whose: &Whose,
    from: Position,
    changes: usize,
) -> (Vec<(TenantId, Thing, What)>, Position) {
    let (mut all, mut at) = (Vec::new(), from);
    while all.len() < changes {
        let (seen, next) = read(store, whose, at).await;
        all.extend(seen);
        at = next;
        tokio::task::yield_now().await;
    }
    (all, at)
}

fn ids(seen: &[(TenantId, Thing, What)]) -> Vec<Uuid> {
    seen.iter().map(|s| s.1.id()).collect()
}

/// A change of a network, in the middle of a transaction.
async fn change(tx: &mut PgConnection, id: Uuid) {
    sqlx::query("INSERT INTO changes (tenant, entries) VALUES ('a', 'network ' || $1::text || ' updated')")
        .bind(id.to_string())
        .execute(tx)
        .await
        .unwrap();
}

/// What a reader sees who goes by the highest number seen so far, and doesn't mind who is still at work.
async fn naive(store: &Store, column: &'static str, last: i64) -> Vec<(i64, Uuid)> {
    let by_seq = "SELECT seq, split_part(entries, ' ', 2)::uuid FROM changes WHERE seq > $1 ORDER BY seq";
    let by_xid = "SELECT xid::text::int8, split_part(entries, ' ', 2)::uuid FROM changes WHERE xid > $1::text::xid8 ORDER BY xid";
    sqlx::query_as(if column == "seq" { by_seq } else { by_xid })
        .bind(last)
        .fetch_all(store.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_transaction_that_began_first_and_commits_last_is_not_skipped() {
    let store = common::store().await;
    let whose = Whose::Tenant(TenantId::from("a"));
    let start = store.changes_now().await.unwrap();
    let (early, late) = (Uuid::now_v7(), Uuid::now_v7());

    let mut first = store.pool().begin().await.unwrap();
    change(&mut first, early).await;
    let mut second = store.pool().begin().await.unwrap();
    change(&mut second, late).await;
    second.commit().await.unwrap();

    // Whoever goes by the highest number sees the second now, and then never the first.
    for column in ["seq", "xid"] {
        let seen = naive(&store, column, 0).await;
        assert_eq!(seen.iter().map(|s| s.1).collect::<Vec<_>>(), [late], "{column}");
    }
    let last = (
        naive(&store, "seq", 0).await[0].0,
        naive(&store, "xid", 0).await[0].0,
    );
    let (seen, at) = read(&store, &whose, start).await;
    assert_eq!(ids(&seen), [] as [Uuid; 0], "the first may still come before it");

    first.commit().await.unwrap();
    assert_eq!(naive(&store, "seq", last.0).await, [], "skipped");
    assert_eq!(naive(&store, "xid", last.1).await, [], "skipped");
    let (seen, at) = read_on(&store, &whose, at, 2).await;
    assert_eq!(ids(&seen), [early, late]);
    // From the start it is the same, and from the end there is nothing more.
    assert_eq!(ids(&read(&store, &whose, start).await.0), [early, late]);
    assert_eq!(ids(&read(&store, &whose, at).await.0), [] as [Uuid; 0]);
}

#[tokio::test]
async fn a_lower_number_under_a_higher_transaction_comes_in_its_order() {
    let store = common::store().await;
    let whose = Whose::Everyone;
    let start = store.changes_now().await.unwrap();
    let (early, late) = (Uuid::now_v7(), Uuid::now_v7());

    // The first draws its transaction's number first, and the number of its row last.
    let mut first = store.pool().begin().await.unwrap();
    sqlx::query("SELECT pg_current_xact_id()")
        .execute(&mut *first)
        .await
        .unwrap();
    let mut second = store.pool().begin().await.unwrap();
    change(&mut second, late).await;
    change(&mut first, early).await;
    first.commit().await.unwrap();
    let (seen, at) = read_on(&store, &whose, start, 1).await;
    assert_eq!(ids(&seen), [early]);
    let last = naive(&store, "seq", 0).await[0].0;
    second.commit().await.unwrap();
    assert_eq!(
        naive(&store, "seq", last).await,
        [],
        "by the number of the row it is skipped"
    );
    assert_eq!(ids(&read_on(&store, &whose, at, 1).await.0), [late]);
}

/// Whether somebody in this database waits for a row.
async fn somebody_waits(store: &Store) -> bool {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    make::count(store, waiting).await > 0
}

#[tokio::test]
async fn who_waited_for_a_row_comes_after_the_one_that_it_waited_for() {
    let store = common::store().await;
    let tenant = make::tenant(&store, "a").await;
    let mut made = Vec::new();
    for name in ["first", "middle", "last"] {
        let accepted = make::accepted(&store, make::network(&tenant, name, "10.0.0.0/24")).await;
        made.push((accepted.resource.id, accepted.job.unwrap().id));
    }
    // As rows are locked.
    made.sort_unstable();
    let jobs: Vec<JobId> = made.iter().map(|m| m.1).collect();
    let last = jobs[2];
    sqlx::query(
        "UPDATE jobs SET state = 'running', host = 'h', fence = 1, due = NULL, dispatched_at = now()",
    )
    .execute(store.pool())
    .await
    .unwrap();
    let start = store.changes_now().await.unwrap();

    // A settle has the first resource, and with it the lower number, and waits for the middle one.
    let mut holder = store.pool().begin().await.unwrap();
    sqlx::query("SELECT FROM resources WHERE id = $1 FOR UPDATE")
        .bind(made[1].0.0)
        .execute(&mut *holder)
        .await
        .unwrap();
    let settle = tokio::spawn({
        let (store, jobs) = (store.clone(), jobs.clone());
        async move { store.settle_begin(&jobs).await }
    });
    while !somebody_waits(&store).await {
        tokio::task::yield_now().await;
    }
    // Meanwhile the last job is cancelled, and what the settle then writes of it comes after that.
    store
        .accept_cancel(&tenant, last, None, &make::origin())
        .await
        .unwrap()
        .unwrap();
    holder.commit().await.unwrap();
    let settle = settle.await.unwrap().unwrap();
    let undoing = Settlement::Progress {
        job: last,
        state: JobState::Undoing,
        steps: Vec::new(),
    };
    settle.commit(vec![undoing]).await.unwrap();

    let (seen, _) = read_on(&store, &Whose::Tenant(tenant), start, 3).await;
    let states = seen.iter().filter_map(|s| match s.1 {
        Thing::Job(_, state) => Some(state),
        Thing::Resource(..) => None,
    });
    assert_eq!(states.collect::<Vec<_>>(), [JobState::Running, JobState::Undoing]);
}

#[tokio::test]
async fn what_is_accepted_is_told_once_and_what_is_refused_is_not() {
    let store = common::store().await;
    let tenant = make::tenant(&store, "a").await;
    let other = make::tenant(&store, "b").await;
    let start = store.changes_now().await.unwrap();
    let requests = vec![
        make::network(&tenant, "n", "10.0.0.0/24"),
        make::network(&other, "n", "10.0.0.0/24"),
        make::network(&tenant, "n", "10.0.1.0/24"),
    ];
    let made: Vec<_> = store.accept_creates(&requests).await.unwrap();
    assert_eq!(
        made.iter().map(Result::is_ok).collect::<Vec<_>>(),
        [true, true, false]
    );
    store
        .check_create(make::network(&tenant, "dry", "10.0.2.0/24"))
        .await
        .unwrap()
        .unwrap();
    let created = |n: usize| {
        let r = &requests[n];
        [
            (
                r.tenant.clone(),
                Thing::Job(r.job, JobState::Queued),
                What::Created,
            ),
            (
                r.tenant.clone(),
                Thing::Resource(Kind::Network, r.id),
                What::Created,
            ),
        ]
    };
    let (mut seen, at) = read_on(&store, &Whose::Everyone, start, 4).await;
    seen.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(seen, [created(0), created(1)].concat());
    for n in [0, 1] {
        let whose = Whose::Tenant(requests[n].tenant.clone());
        assert_eq!(read(&store, &whose, start).await.0, created(n));
    }

    // Cancelled before it began: the job and the resource, each once; refused the second time.
    let job = requests[0].job;
    store
        .accept_cancel(&tenant, job, None, &make::origin())
        .await
        .unwrap()
        .unwrap();
    assert!(
        store
            .accept_cancel(&tenant, job, None, &make::origin())
            .await
            .unwrap()
            .is_err()
    );
    let whose = Whose::Tenant(tenant.clone());
    let (seen, at) = read_on(&store, &whose, at, 2).await;
    let network = Thing::Resource(Kind::Network, requests[0].id);
    let told = |thing, what| (tenant.clone(), thing, what);
    assert_eq!(
        seen,
        [
            told(Thing::Job(job, JobState::Cancelled), What::Updated),
            told(network, What::Updated)
        ]
    );

    let again = rhyzome_model::ids::JobId::new();
    let retried = store
        .accept_retry(&tenant, job, again, &[], None, &make::origin())
        .await
        .unwrap()
        .unwrap();
    let (seen, at) = read_on(&store, &whose, at, 2).await;
    let queued = Thing::Job(again, JobState::Queued);
    assert_eq!(seen, [told(queued, What::Created), told(network, What::Updated)]);

    let tags = ChangeRequest {
        work: Work::None,
        tags: BTreeMap::from([("env".to_owned(), "dev".to_owned())]),
        ..make::change(
            &retried.accepted.resource,
            Action::Update,
            retried.accepted.resource.spec.clone(),
        )
    };
    store.accept_change(&tags).await.unwrap().unwrap();
    let (seen, at) = read_on(&store, &whose, at, 1).await;
    assert_eq!(seen, [told(network, What::Updated)]);

    // The delete cancels the job that waits: all three in one row.
    let gone = rhyzome_model::ids::JobId::new();
    store
        .accept_delete(
            &tenant,
            Kind::Network,
            requests[0].id,
            None,
            gone,
            &[],
            &make::origin(),
        )
        .await
        .unwrap()
        .unwrap();
    let (seen, _) = read_on(&store, &whose, at, 3).await;
    assert_eq!(
        seen,
        [
            told(Thing::Job(again, JobState::Cancelled), What::Updated),
            told(Thing::Job(gone, JobState::Queued), What::Created),
            told(network, What::Updated)
        ]
    );
}

#[tokio::test]
async fn who_comes_too_late_is_told_and_who_missed_nothing_is_not() {
    let store = common::store().await;
    let whose = Whose::Tenant(TenantId::from("a"));
    let start = store.changes_now().await.unwrap();
    let mut all = Vec::new();
    for _ in 0..5 {
        let mut tx = store.pool().begin().await.unwrap();
        all.push(Uuid::now_v7());
        change(&mut tx, all[all.len() - 1]).await;
        tx.commit().await.unwrap();
    }
    read_on(&store, &whose, start, all.len()).await;
    let page = store.changes_page(&whose, start, PAGE).await.unwrap().unwrap();
    let middle = page.next;
    sqlx::query("UPDATE changes SET at = now() - interval '25 hours' WHERE seq <= 3")
        .execute(store.pool())
        .await
        .unwrap();
    store.changes_forget(TimeDelta::hours(24), 500).await.unwrap();
    assert_eq!(
        store.changes_page(&whose, start, PAGE).await.unwrap().err(),
        Some(Gone)
    );
    let within = Position::within(&page.rows[2], 0);
    assert_eq!(
        store.changes_page(&whose, within, PAGE).await.unwrap().err(),
        Some(Gone)
    );
    let (seen, at) = read(&store, &whose, middle).await;
    assert_eq!(ids(&seen), all[3..]);
    assert_eq!(ids(&read(&store, &whose, at).await.0), [] as [Uuid; 0]);
    // Nothing is forgotten that is younger, and what is forgotten once stays so.
    store.changes_forget(TimeDelta::hours(24), 500).await.unwrap();
    assert_eq!(make::count(&store, "SELECT count(*) FROM changes").await, 2);
    assert_eq!(ids(&read(&store, &whose, middle).await.0), all[3..]);
    // A position that this database can't have given yet.
    let ahead: Position = "18446744073709551615-1-0".parse().unwrap();
    assert_eq!(
        store.changes_page(&whose, ahead, PAGE).await.unwrap().err(),
        Some(Gone)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_and_a_reader_beside_them() {
    const WRITERS: usize = 8;
    const EACH: usize = 60;
    let store = common::store().await;
    let tenant = make::tenant(&store, "a").await;
    let whose = Whose::Tenant(tenant.clone());
    let start = store.changes_now().await.unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|w| {
            let (store, tenant) = (store.clone(), tenant.clone());
            tokio::spawn(async move {
                let mut ids: Vec<ResourceId> = Vec::new();
                for n in 0..EACH {
                    let request = make::network(&tenant, &format!("n-{w}-{n}"), "10.0.0.0/24");
                    ids.push(request.id);
                    store.accept_creates(&[request]).await.unwrap().remove(0).unwrap();
                }
                ids
            })
        })
        .collect();
    let (mut live, mut at) = (Vec::new(), start);
    while live.len() < 2 * WRITERS * EACH {
        let (seen, next) = read(&store, &whose, at).await;
        live.extend(seen);
        at = next;
        tokio::task::yield_now().await;
    }
    let (afterwards, _) = read(&store, &whose, start).await;
    assert_eq!(
        live, afterwards,
        "who read meanwhile saw the same in the same order"
    );
    for writer in writers {
        let made = writer.await.unwrap();
        let networks = afterwards.iter().filter_map(|s| match s.1 {
            Thing::Resource(_, id) if made.contains(&id) => Some(id),
            Thing::Resource(..) | Thing::Job(..) => None,
        });
        assert_eq!(
            networks.collect::<Vec<_>>(),
            made,
            "in the order of their commits"
        );
    }
}
