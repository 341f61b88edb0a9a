//! What job-protocol.md asks of Postgres and the scheduler's decisions, one rule after the other, on a real database: poison,
//! abandoning, undo without a turn, the alarm of a database that was set back. (Invariants 4, 6 and 8.)

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod support;

use rhyzome_model::ids::{HostName, JobId};
use rhyzome_model::job::{JobState, Mode, Verdict};
use rhyzome_model::problem::JobError;
use rhyzome_proto::event::{OutcomeKind, Report};
use rhyzome_scheduler::order::message;
use rhyzome_scheduler::stats::WAITS;
use rhyzome_store::Store;
use rhyzome_store::dispatch::{DispatchLimits, OrderRow};
use rhyzome_store::settle::NotAbandoned;
use rhyzome_store::sweep::Place;
use rhyzome_store::watches::{Greeting, Hello, Watch};
use support::agent::{Luck, report};
use support::checks::check_within;
use support::common::make;
use support::furnished::{furnished, instance, job, order_of};
use support::walk::{LIMITS, Walk};

fn suspended(order: &OrderRow, undoing: bool) -> Report {
    let error = JobError::new("DISK_BUSY", "The disk is busy.");
    report(order, Some(OutcomeKind::Suspended), undoing, Some(&error))
}

/// The books, with the walk's own cap.
async fn check(store: &Store, what: &str) {
    check_within(store, LIMITS.tenant_cap.into(), what).await;
}

async fn number(walk: &Walk, query: &'static str) -> i64 {
    make::count(&walk.store, query).await
}

const SLOTS: &str = "SELECT sum(running) FROM tenants";
const OUT: &str = "SELECT sum(orders_out) FROM hosts";

#[tokio::test]
async fn a_poisoned_create_is_undone_and_fails() {
    let mut walk = furnished().await;
    let tenant = walk.tenants[0].clone();
    let id = instance(&walk, &tenant, "x").await;
    let order = order_of(&mut walk, id).await;
    let older = OrderRow {
        fence: order.fence - 1,
        ..order.clone()
    };
    assert!(!walk.poison_order(&older).await, "another order's deaths");
    assert!(walk.poison_order(&order).await);
    assert!(!walk.poison_order(&order).await, "once");
    let row = job(&walk, id).await;
    assert_eq!((row.state, row.mode), (JobState::Queued, Mode::Undo));
    assert_eq!(row.error.unwrap().code, "POISONED");
    assert_eq!(row.waiting.unwrap().reason, "undo");
    assert_eq!((number(&walk, SLOTS).await, number(&walk, OUT).await), (0, 0));
    check(&walk.store, "poisoned").await;

    // What a worker that only seemed dead says of the order counts nothing.
    let late = report(&order, Some(OutcomeKind::Succeeded), false, None);
    assert_eq!(walk.settle_one(id, &late).await, 0);

    let undo = order_of(&mut walk, id).await;
    assert!(undo.fence > order.fence);
    assert_eq!((undo.mode, undo.verdict), (Mode::Undo, Some(Verdict::Failed)));
    assert_eq!(undo.host, order.host);
    let cause = undo.cause.clone().unwrap();
    assert_eq!(cause.code, "POISONED");
    // Of an undo that workers die of, too, it is tried again.
    assert!(walk.poison_order(&undo).await);
    let row = job(&walk, id).await;
    assert_eq!(
        (row.mode, row.waiting.unwrap().reason.as_str()),
        (Mode::Undo, "undo")
    );
    walk.time_passes().await;
    let undo = order_of(&mut walk, id).await;
    let done = report(&undo, Some(OutcomeKind::Failed), true, Some(&cause));
    assert_eq!(walk.settle_one(id, &done).await, 1);
    let row = job(&walk, id).await;
    assert_eq!(
        (row.state, row.error.unwrap().code.as_str()),
        (JobState::Failed, "POISONED")
    );
    check(&walk.store, "undone").await;
}

#[tokio::test]
async fn a_poisoned_delete_is_tried_again() {
    let mut walk = furnished().await;
    let tenant = walk.tenants[0].clone();
    let accepted = make::accepted(&walk.store, make::instance(&tenant, "x", "image", "net")).await;
    walk.dispatch().await;
    walk.settle(Luck::Good).await;
    let row = accepted.resource;
    let deleted = walk
        .store
        .accept_delete(
            &tenant,
            row.kind,
            row.id,
            None,
            JobId::new(),
            &["remove_instance"],
            &make::origin(),
        )
        .await
        .unwrap()
        .unwrap();
    let order = order_of(&mut walk, deleted.job.id).await;
    assert!(walk.poison_order(&order).await);
    let row = job(&walk, deleted.job.id).await;
    assert_eq!((row.state, row.mode), (JobState::Queued, Mode::Forward));
    let waiting = row.waiting.unwrap();
    assert_eq!(waiting.reason, "retry");
    assert!(waiting.until.is_some(), "with back-off");
    walk.time_passes().await;
    let again = order_of(&mut walk, deleted.job.id).await;
    assert!(again.fence > order.fence && again.mode == Mode::Forward);
    walk.settle(Luck::Good).await;
    assert_eq!(job(&walk, deleted.job.id).await.state, JobState::Succeeded);
}

/// An instance whose create is being undone, its undo suspended.
async fn undoing(walk: &mut Walk, name: &str) -> (JobId, OrderRow) {
    let tenant = walk.tenants[0].clone();
    let id = instance(walk, &tenant, name).await;
    let order = order_of(walk, id).await;
    assert_eq!(walk.settle_one(id, &suspended(&order, true)).await, 1);
    assert_eq!(job(walk, id).await.state, JobState::Undoing);
    (id, order)
}

async fn floor(walk: &Walk, host: &HostName) -> i64 {
    let leases = walk.store.watch_take(make::WATCHER, 3600.0, 1000).await.unwrap();
    leases.into_iter().find(|l| l.host == *host).unwrap().floor
}

#[tokio::test]
async fn an_abandoned_create_keeps_what_it_holds_until_its_host_is_rid_of_it() {
    let mut walk = furnished().await;
    let tenant = walk.tenants[0].clone();
    let running = instance(&walk, &tenant, "running").await;
    order_of(&mut walk, running).await;
    let refused = walk.store.job_abandon(running, "tester").await;
    assert!(
        matches!(refused, Err(NotAbandoned::NotUndoing { .. })),
        "{refused:?}"
    );
    walk.settle(Luck::Good).await;
    let refused = walk.store.job_abandon(running, "tester").await;
    assert!(matches!(refused, Err(NotAbandoned::Done { .. })), "{refused:?}");
    let refused = walk.store.job_abandon(JobId::new(), "tester").await;
    assert!(matches!(refused, Err(NotAbandoned::NotFound(_))), "{refused:?}");

    let (id, order) = undoing(&mut walk, "x").await;
    // While its order is out, too.
    walk.time_passes().await;
    let undo = order_of(&mut walk, id).await;
    assert_eq!(undo.mode, Mode::Undo, "what is being undone is not sent forward");
    assert!(number(&walk, OUT).await >= 1);
    walk.store.job_abandon(id, "tester").await.unwrap();
    let row = job(&walk, id).await;
    let error = row.error.unwrap();
    assert_eq!((row.state, error.code.as_str()), (JobState::Failed, "ABANDONED"));
    assert_eq!((number(&walk, SLOTS).await, number(&walk, OUT).await), (0, 0));
    check(&walk.store, "abandoned").await;
    let resource = walk.store.resource_by_id(row.resource_id).await.unwrap().unwrap();
    assert_eq!(resource.host.as_ref(), Some(&order.host));
    assert_eq!(resource.reason.unwrap()["code"], "ABANDONED");
    assert_eq!(
        number(
            &walk,
            "SELECT count(*) FROM audit WHERE action = 'abandon' AND actor = 'tester'"
        )
        .await,
        1
    );
    let leases = "SELECT count(*) FROM leases l JOIN resources r ON r.id = l.instance_id WHERE r.name = 'x'";
    assert_eq!(number(&walk, leases).await, 1);

    // The agent's word comes late: it changes nothing.
    for kind in [OutcomeKind::Failed, OutcomeKind::Released, OutcomeKind::Succeeded] {
        let late = report(&undo, Some(kind), true, None);
        assert_eq!(walk.settle_one(id, &late).await, 0);
    }
    check(&walk.store, "late").await;
    assert_eq!(
        floor(&walk, &order.host).await,
        order.fence,
        "the floor stays at its first fence"
    );
    let host = order.host.clone();

    // A retry that is cancelled before it goes out frees nothing.
    walk.store
        .watch_set(make::WATCHER, &host, Watch::Down)
        .await
        .unwrap();
    let retry = walk
        .store
        .accept_retry(&tenant, id, JobId::new(), &["again"], None, &make::origin())
        .await
        .unwrap()
        .unwrap()
        .accepted
        .job
        .unwrap();
    walk.dispatch().await;
    let waits = job(&walk, retry.id).await.waiting.unwrap();
    assert_eq!(
        waits.reason, "host_unreachable",
        "it goes to that host and no other"
    );
    sqlx::query("UPDATE jobs SET deadline_at = now() WHERE id = $1")
        .bind(retry.id.0)
        .execute(walk.store.pool())
        .await
        .unwrap();
    walk.store.deadlines_pass(Place::START, 10).await.unwrap();
    walk.time_passes().await;
    walk.dispatch().await;
    assert_eq!(job(&walk, retry.id).await.state, JobState::Failed);
    check(&walk.store, "a retry that came to nothing").await;
    assert_eq!(walk.store.abandoned(None).await.unwrap().len(), 1);

    // A delete goes there, and with its success all is given back.
    walk.store
        .watch_set(make::WATCHER, &host, Watch::Up)
        .await
        .unwrap();
    let steps = ["remove_instance"];
    let deleted = walk
        .store
        .accept_delete(
            &tenant,
            row.kind,
            row.resource_id,
            None,
            JobId::new(),
            &steps,
            &make::origin(),
        )
        .await
        .unwrap()
        .unwrap();
    let order = order_of(&mut walk, deleted.job.id).await;
    assert_eq!(order.host, host);
    walk.settle(Luck::Good).await;
    assert!(walk.store.abandoned(None).await.unwrap().is_empty());
    assert!(floor(&walk, &host).await > order.fence);
    check(&walk.store, "deleted").await;
}

#[tokio::test]
async fn what_is_seen_gone_is_given_back() {
    let mut walk = furnished().await;
    let (id, order) = undoing(&mut walk, "x").await;
    walk.store.job_abandon(id, "tester").await.unwrap();
    let rest = walk.store.abandoned(Some(&order.host)).await.unwrap();
    assert_eq!(rest.len(), 1);
    assert!(walk.store.abandoned_gone(&rest[0]).await.unwrap());
    assert!(!walk.store.abandoned_gone(&rest[0]).await.unwrap(), "once");
    let row = job(&walk, id).await;
    let resource = walk.store.resource_by_id(row.resource_id).await.unwrap().unwrap();
    assert_eq!(resource.host, None);
    let held =
        "SELECT count(*) FROM reservations v JOIN resources r ON r.id = v.resource_id WHERE r.name = 'x'";
    assert_eq!(number(&walk, held).await, 0);
    assert!(floor(&walk, &order.host).await > order.fence);
    check(&walk.store, "gone").await;
}

#[tokio::test]
async fn an_undo_waits_neither_for_a_turn_nor_for_room_among_orders() {
    let mut walk = furnished().await;
    let tenant = walk.tenants[0].clone();
    let (id, _) = undoing(&mut walk, "undone").await;
    sqlx::query("UPDATE jobs SET due = now() + interval '1 hour' WHERE ended_at IS NULL")
        .execute(walk.store.pool())
        .await
        .unwrap();
    for n in 0..6 {
        instance(&walk, &tenant, &format!("x{n}")).await;
    }
    let limits = DispatchLimits {
        tenant_cap: 1,
        host_cap: 1,
        ..LIMITS
    };
    // The undo isn't due yet: the others take all there is.
    while !walk.dispatch_within(limits).await.is_empty() {}
    assert_eq!(number(&walk, SLOTS).await, 1);
    walk.time_passes().await;
    let orders = walk.dispatch_within(limits).await;
    let of: Vec<JobId> = orders.iter().map(|o| o.job).collect();
    assert_eq!(of, [id]);
    assert_eq!((orders[0].mode, number(&walk, SLOTS).await), (Mode::Undo, 1));
    check(&walk.store, "at the cap").await;

    // And it says why it waits: for its host, or what went wrong.
    walk.settle_one(id, &suspended(&orders[0], true)).await;
    let waiting = job(&walk, id).await.waiting.unwrap();
    assert_eq!(waiting.reason, "undo");
    assert!(waiting.detail.contains("The disk is busy."), "{waiting:?}");
    let until = waiting.until.unwrap();
    assert!(until > chrono::Utc::now() - chrono::TimeDelta::seconds(5));
    assert_eq!(walk.store.backlog(&WAITS).await.unwrap().undoing, 1);
    walk.store
        .watch_set(make::WATCHER, &orders[0].host, Watch::Down)
        .await
        .unwrap();
    walk.time_passes().await;
    walk.dispatch_within(limits).await;
    let row = job(&walk, id).await;
    assert_eq!(
        (row.state, row.waiting.unwrap().reason.as_str()),
        (JobState::Undoing, "host_unreachable")
    );
}

#[tokio::test]
async fn a_cancel_and_a_deadline_are_undone_at_the_cap_too() {
    let mut walk = furnished().await;
    let tenant = walk.tenants[0].clone();
    let limits = DispatchLimits {
        tenant_cap: 2,
        ..LIMITS
    };
    let mut ids = Vec::new();
    for n in 0..2 {
        let id = instance(&walk, &tenant, &format!("late{n}")).await;
        let order = order_of(&mut walk, id).await;
        walk.settle_one(id, &suspended(&order, false)).await;
        ids.push(id);
    }
    sqlx::query("UPDATE jobs SET due = now() + interval '1 hour' WHERE ended_at IS NULL")
        .execute(walk.store.pool())
        .await
        .unwrap();
    for n in 0..3 {
        instance(&walk, &tenant, &format!("x{n}")).await;
    }
    while !walk.dispatch_within(limits).await.is_empty() {}
    assert_eq!(number(&walk, SLOTS).await, 2);
    sqlx::query("UPDATE jobs SET deadline_at = now() WHERE id = $1")
        .bind(ids[0].0)
        .execute(walk.store.pool())
        .await
        .unwrap();
    walk.store.deadlines_pass(Place::START, 10).await.unwrap();
    walk.store
        .accept_cancel(&tenant, ids[1], None, &make::origin())
        .await
        .unwrap()
        .unwrap();
    let orders = walk.dispatch_within(limits).await;
    let mut verdicts: Vec<_> = orders.iter().map(|o| (o.job, o.mode, o.verdict)).collect();
    verdicts.sort_by_key(|v| v.0);
    assert_eq!(
        verdicts,
        [
            (ids[0], Mode::Undo, Some(Verdict::Deadline)),
            (ids[1], Mode::Undo, Some(Verdict::Cancelled))
        ]
    );
    let too_late = orders.iter().find(|o| o.job == ids[0]).unwrap();
    let cause: JobError = serde_json::from_slice(&message(too_late).cause).unwrap();
    assert_eq!(
        (cause.code.as_str(), cause.detail.as_str()),
        (
            "DEADLINE_EXCEEDED",
            "It was not done before its deadline. The last try failed: The disk is busy."
        )
    );
    check(&walk.store, "at the cap").await;
}

#[tokio::test]
async fn a_ledger_that_knows_less_than_its_agent_answered_counts_as_a_new_one() {
    let mut walk = furnished().await;
    let tenant = walk.tenants[0].clone();
    let hello = |ledger_id: &str, max_fence: i64, answered: i64| Hello {
        ledger_id: ledger_id.to_owned(),
        epoch: 0,
        max_fence,
        answered,
    };
    for host in walk.hosts.clone() {
        walk.store.host_greet(&host, &hello("first", 0, 0)).await.unwrap();
    }
    let id = instance(&walk, &tenant, "x").await;
    let order = order_of(&mut walk, id).await;
    let host = order.host.clone();
    // Out, and not answered: the agent may never have heard of it.
    let greeting = async |hello| walk.store.host_greet(&host, &hello).await.unwrap();
    let Greeting::Epoch { epoch, behind: None } = greeting(hello("first", 0, 0)).await else {
        panic!("an order that is out")
    };
    let earlier = hello("first", 0, 0);
    walk.settle(Luck::Good).await;
    let answered = walk.store.host_answered(&host).await.unwrap();
    assert_eq!(answered, order.fence);
    let known = |epoch, behind| Greeting::Epoch { epoch, behind };
    let greeting = async |hello| walk.store.host_greet(&host, &hello).await.unwrap();
    assert_eq!(
        greeting(earlier).await,
        known(epoch, None),
        "it was said before the answer"
    );
    assert_eq!(
        greeting(hello("first", order.fence, answered)).await,
        known(epoch, None)
    );
    assert_eq!(
        greeting(hello("first", order.fence - 1, answered)).await,
        known(epoch + 1, Some(order.fence))
    );
    // It is said once, and what was answered in an earlier epoch counts no more.
    assert_eq!(
        greeting(hello("first", order.fence - 1, answered)).await,
        known(epoch + 1, None)
    );
    assert_eq!(
        greeting(hello("second", 0, answered)).await,
        known(epoch + 2, None)
    );
    assert_eq!(
        greeting(hello("second", 0, answered)).await,
        known(epoch + 2, None)
    );
}

/// Makes all that was heard of a host's agents so long ago.
async fn later(walk: &Walk, host: &HostName, minutes: i32) {
    sqlx::query(
        "UPDATE hosts SET seen_at = seen_at - i, ledger_heard_at = ledger_heard_at - i, ledger_returned_at = ledger_returned_at - i,
                rival_at = rival_at - i
         FROM make_interval(mins => $2) AS i WHERE name = $1",
    )
    .bind(host.as_str())
    .bind(minutes)
    .execute(walk.store.pool())
    .await
    .unwrap();
}

#[tokio::test]
async fn two_agents_of_one_name_do_not_take_turns_in_being_the_host() {
    let walk = furnished().await;
    let host = walk.hosts[0].clone();
    let greet = async |ledger: &str| {
        let hello = Hello {
            ledger_id: ledger.to_owned(),
            epoch: 0,
            max_fence: 0,
            answered: 0,
        };
        walk.store.host_greet(&host, &hello).await.unwrap()
    };
    let shown = async || walk.store.host_get(&host).await.unwrap().unwrap().two_agents;
    let Greeting::Epoch { epoch, behind: None } = greet("one").await else {
        panic!("the first")
    };
    let known = |epoch| Greeting::Epoch { epoch, behind: None };
    // As of one that lost its ledger, and then of one that was put back.
    assert_eq!(greet("other").await, known(epoch + 1));
    assert_eq!(greet("one").await, known(epoch + 2));
    assert!(!shown().await);
    // There is no more to be put back: both are there.
    let two = two_of("one");
    for ledger in ["other", "one", "other", "one", "one"] {
        assert_eq!(greet(ledger).await, two, "{ledger}");
        assert!(shown().await);
    }
    // For as long as both are heard.
    for _ in 0..4 {
        later(&walk, &host, 10).await;
        for ledger in ["one", "other"] {
            assert_eq!(greet(ledger).await, two);
        }
    }
    // The other one was stopped.
    later(&walk, &host, 10).await;
    assert_eq!(greet("one").await, two);
    later(&walk, &host, 10).await;
    assert_eq!(greet("one").await, known(epoch + 2));
    assert!(!shown().await);
    // Or that one is.
    assert_eq!(
        greet("other").await,
        known(epoch + 3),
        "it has not returned lately"
    );
    assert_eq!(greet("one").await, two_of("other"));
    later(&walk, &host, 20).await;
    assert_eq!(greet("one").await, known(epoch + 4));
}

fn two_of(known: &str) -> Greeting {
    Greeting::TwoAgents {
        known: known.to_owned(),
    }
}

#[tokio::test]
async fn a_job_that_stands_still_says_for_what_though_nothing_is_written_of_it() {
    let mut walk = furnished().await;
    let tenant = walk.tenants[0].clone();
    let id = instance(&walk, &tenant, "x").await;
    let waits = async |walk: &Walk| {
        let mut rows = [job(walk, id).await];
        walk.store.job_stalls(&mut rows).await.unwrap();
        let [row] = rows;
        row.waiting.map(|w| (w.reason, w.detail))
    };
    let says = |reason: &str, detail: &str| Some((reason.to_owned(), detail.to_owned()));
    assert_eq!(waits(&walk).await, None);
    walk.store
        .host_greet(
            &walk.hosts[0],
            &Hello {
                ledger_id: "ledger".to_owned(),
                epoch: 0,
                max_fence: 5000,
                answered: 0,
            },
        )
        .await
        .unwrap();
    let halted = "No job is begun until an operator has looked at the database, which was set back.";
    assert_eq!(waits(&walk).await, says("turn", halted));
    walk.store.set_back_clear("tester").await.unwrap();
    assert_eq!(waits(&walk).await, None);

    walk.store.watch_take(make::WATCHER, 3600.0, 1000).await.unwrap();
    for host in walk.hosts.clone() {
        walk.store
            .watch_set(make::WATCHER, &host, Watch::Up)
            .await
            .unwrap();
    }
    let order = order_of(&mut walk, id).await;
    assert_eq!(waits(&walk).await, None, "it was just sent");
    walk.store
        .watch_set(make::WATCHER, &order.host, Watch::Down)
        .await
        .unwrap();
    let lost = "Its host can't be reached at the moment; it goes on once it can.";
    assert_eq!(waits(&walk).await, says("host_unreachable", lost));
    walk.store
        .watch_set(make::WATCHER, &order.host, Watch::Up)
        .await
        .unwrap();
    sqlx::query(
        "UPDATE jobs SET dispatched_at = now() - interval '10 seconds' WHERE dispatched_at IS NOT NULL",
    )
    .execute(walk.store.pool())
    .await
    .unwrap();
    assert_eq!(
        waits(&walk).await,
        says("turn", "It was sent out, and nothing was heard of it yet.")
    );
}

#[tokio::test]
async fn a_database_that_was_set_back_dispatches_nothing_until_it_is_cleared() {
    let mut walk = furnished().await;
    let (tenant, host) = (walk.tenants[0].clone(), walk.hosts[0].clone());
    let hello = |max_fence: i64, epoch: i64| Hello {
        ledger_id: "ledger".to_owned(),
        epoch,
        max_fence,
        answered: 0,
    };
    let known = walk.store.host_greet(&host, &hello(1, 0)).await.unwrap();
    let Greeting::Epoch { epoch, behind: None } = known else {
        panic!("{known:?}")
    };
    // The same ledger: the same epoch; and one that the agent knows and we don't is taken over.
    assert_eq!(
        walk.store.host_greet(&host, &hello(1, epoch)).await.unwrap(),
        known
    );
    assert_eq!(
        walk.store.host_greet(&host, &hello(1, epoch + 3)).await.unwrap(),
        Greeting::Epoch {
            epoch: epoch + 3,
            behind: None
        }
    );
    assert!(walk.store.set_backs().await.unwrap().is_empty());
    let id = instance(&walk, &tenant, "x").await;

    let back = walk.store.host_greet(&host, &hello(5000, epoch)).await.unwrap();
    assert!(matches!(back, Greeting::SetBack { seen: 5000, .. }), "{back:?}");
    let noted = walk.store.set_backs().await.unwrap();
    assert_eq!((noted.len(), &noted[0].host, noted[0].seen), (1, &host, 5000));
    assert!(walk.dispatch_within(LIMITS).await.is_empty());
    assert_eq!(
        number(&walk, "SELECT count(*) FROM hosts WHERE watch_up").await,
        0,
        "every agent is to say what it knows"
    );
    let last = walk.store.set_back_clear("tester").await.unwrap();
    assert!(last >= 5000);
    assert!(walk.store.set_backs().await.unwrap().is_empty());
    assert!(matches!(
        walk.store.host_greet(&host, &hello(5000, epoch)).await.unwrap(),
        Greeting::Epoch { behind: None, .. }
    ));
    walk.store.watch_take(make::WATCHER, 3600.0, 1000).await.unwrap();
    for host in walk.hosts.clone() {
        walk.store
            .watch_set(make::WATCHER, &host, Watch::Up)
            .await
            .unwrap();
    }
    walk.time_passes().await;
    let order = order_of(&mut walk, id).await;
    assert!(order.fence > 5000);
}
