//! What is amiss on hosts is mended: repairs of what they lack, quarantine and removal of what they hold too much. On real books, with
//! agents that answer as a test says.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod support;

use chrono::Utc;
use rhyzome_model::check::{Amiss, HeldObject, HostInventory, Older, Owner, Part, Stray, Wrong};
use rhyzome_model::ids::{Epoch, Fence, HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState};
use rhyzome_model::kinds::Kind;
use rhyzome_model::problem::JobError;
use rhyzome_model::step::{ObjectKind, Step};
use rhyzome_proto::event::OutcomeKind;
use rhyzome_store::accept::Refusal;
use rhyzome_store::amiss::Noted;
use rhyzome_store::change::Mended;
use rhyzome_store::dispatch::OrderRow;
use rhyzome_store::rows::JobRow;
use rhyzome_store::watches::{Greeting, Hello, Watch};
use std::collections::BTreeMap;
use support::agent::{Luck, report};
use support::common::make;
use support::furnished::{changed, check, ends, furnished, instance, job, order_of, resource};
use support::walk::Walk;

/// An instance, made.
async fn made() -> (Walk, ResourceId, HostName) {
    let mut walk = furnished().await;
    let tenant = walk.tenants[0].clone();
    let create = instance(&walk, &tenant, "x").await;
    walk.dispatch().await;
    walk.settle(Luck::Good).await;
    let id = job(&walk, create).await.resource_id;
    let host = resource(&walk, id).await.host.unwrap();
    (walk, id, host)
}

fn incomplete(host: &HostName, id: ResourceId, disk_lost: bool) -> Amiss {
    Amiss {
        host: host.clone(),
        resource: id,
        kind: Kind::Instance,
        wrong: Wrong::Incomplete { disk_lost },
        asked_at: Utc::now(),
    }
}

/// A guest that runs, with its disk and its claim on a network.
fn stray(host: &HostName, id: ResourceId, owner: Owner, network: ResourceId) -> Amiss {
    Amiss {
        host: host.clone(),
        resource: id,
        kind: Kind::Instance,
        wrong: Wrong::Stray(Stray {
            owner,
            objects: vec![ObjectKind::Instance, ObjectKind::Disk],
            claims: vec![(ObjectKind::Network, network)],
            runs: true,
        }),
        asked_at: Utc::now(),
    }
}

/// A look at these hosts, which found this.
async fn noted(walk: &Walk, hosts: &[&HostName], found: &[Amiss]) -> Noted {
    let asked_at = walk.store.now().await.unwrap();
    let look = |host: &&HostName| HostInventory {
        host: (*host).clone(),
        asked_at,
        objects: Vec::new(),
        epoch: Epoch(1),
        fences: BTreeMap::new(),
        unfinished: Vec::new(),
    };
    let looked: Vec<HostInventory> = hosts.iter().map(look).collect();
    walk.store.amiss_note(&looked, found).await.unwrap()
}

/// It is found by a look, and its repair is asked for.
async fn repair(walk: &Walk, amiss: &Amiss) -> Option<JobRow> {
    let found = Amiss {
        asked_at: Utc::now(),
        ..amiss.clone()
    };
    noted(walk, &[&found.host], std::slice::from_ref(&found)).await;
    let mended = walk.store.accept_repair(&found, &make::origin()).await.unwrap();
    mended.map(|m| m.job.unwrap())
}

async fn delete(walk: &Walk, tenant: &TenantId, id: ResourceId) -> JobId {
    let job = JobId::new();
    let accepted = walk
        .store
        .accept_delete(
            tenant,
            Kind::Instance,
            id,
            None,
            job,
            &["as", "asked"],
            &make::origin(),
        )
        .await;
    accepted.unwrap().unwrap();
    job
}

fn names(order: &OrderRow) -> Vec<String> {
    let name = |s: &String| serde_json::from_str::<Step>(s).unwrap().name().to_owned();
    order.frozen.iter().map(name).collect()
}

#[tokio::test]
async fn what_its_host_lacks_is_made_again_as_it_was_applied() {
    let (mut walk, id, host) = made().await;
    // A change that failed: the intent is ahead of what is applied.
    let (update, order) = changed(&mut walk, id, Action::Update, 7).await;
    ends(&mut walk, update, &order, OutcomeKind::Failed).await;
    let before = resource(&walk, id).await;
    assert_eq!(
        (before.spec["vcpus"].as_i64(), before.observed_generation),
        (Some(7), 1)
    );

    let lost = repair(&walk, &incomplete(&host, id, true)).await.unwrap();
    assert_eq!((lost.action, lost.actor.as_str()), (Action::Repair, "tester"));
    let order = order_of(&mut walk, lost.id).await;
    assert_eq!(order.host, host);
    assert_eq!(
        names(&order),
        [
            "ensure_network",
            "ensure_image",
            "ensure_disk",
            "ensure_instance",
            "set_power"
        ]
    );
    check(&walk, "a repair is out").await;
    ends(&mut walk, lost.id, &order, OutcomeKind::Succeeded).await;
    check(&walk, "it is repaired").await;

    let after = resource(&walk, id).await;
    assert_eq!(
        after.applied, before.applied,
        "what was applied, and not the intent"
    );
    assert_eq!((after.host, after.observed_generation), (Some(host), 1));
    assert_eq!(after.reason.unwrap()["code"], "DISK_LOST");
}

#[tokio::test]
async fn nothing_is_made_again_of_what_moves_goes_or_may_not_be_touched() {
    let (mut walk, id, host) = made().await;
    let lacks = incomplete(&host, id, false);
    let elsewhere = walk.hosts.iter().find(|h| **h != host).unwrap().clone();
    assert!(repair(&walk, &incomplete(&elsewhere, id, false)).await.is_none());
    assert!(
        repair(&walk, &incomplete(&host, ResourceId::new(), false))
            .await
            .is_none()
    );
    // Found by no look.
    noted(&walk, &[&host, &elsewhere], &[]).await;
    let unseen = walk.store.accept_repair(&lacks, &make::origin()).await.unwrap();
    assert!(unseen.is_none());

    for (stop, go) in [
        (
            "UPDATE hosts SET cordoned = true".to_owned(),
            "UPDATE hosts SET cordoned = false".to_owned(),
        ),
        (
            format!("INSERT INTO set_backs (host, seen, last) VALUES ('{host}', 2, 1)"),
            "DELETE FROM set_backs".to_owned(),
        ),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(stop.clone()))
            .execute(walk.store.pool())
            .await
            .unwrap();
        assert!(repair(&walk, &lacks).await.is_none(), "{stop}");
        sqlx::query(sqlx::AssertSqlSafe(go))
            .execute(walk.store.pool())
            .await
            .unwrap();
    }
    let (stop, order) = changed(&mut walk, id, Action::Stop, 1).await;
    assert!(repair(&walk, &lacks).await.is_none(), "a job is at work on it");
    ends(&mut walk, stop, &order, OutcomeKind::Succeeded).await;
    let first = repair(&walk, &lacks).await.unwrap();
    assert!(repair(&walk, &lacks).await.is_none(), "one at a time");
    let order = order_of(&mut walk, first.id).await;
    assert_eq!(
        names(&order).last().unwrap(),
        "set_power",
        "it was turned off, and is to be so"
    );
    ends(&mut walk, first.id, &order, OutcomeKind::Succeeded).await;
    let tenant = walk.tenants[0].clone();
    delete(&walk, &tenant, id).await;
    assert!(repair(&walk, &lacks).await.is_none(), "it goes");
}

/// A repair that can't succeed holds up nobody.
#[tokio::test]
async fn a_delete_takes_a_repair_back_and_comes_next() {
    for begun in [false, true] {
        let (mut walk, id, host) = made().await;
        let repair = repair(&walk, &incomplete(&host, id, false)).await.unwrap();
        if begun {
            order_of(&mut walk, repair.id).await;
        }
        let tenant = walk.tenants[0].clone();
        let delete = delete(&walk, &tenant, id).await;
        if begun {
            let back = order_of(&mut walk, repair.id).await;
            assert_eq!(back.mode.as_str(), "undo");
            ends(&mut walk, repair.id, &back, OutcomeKind::Cancelled).await;
        }
        assert_eq!(job(&walk, repair.id).await.state, JobState::Cancelled);
        let order = order_of(&mut walk, delete).await;
        assert_eq!((order.host.clone(), names(&order).len()), (host, 4));
        ends(&mut walk, delete, &order, OutcomeKind::Succeeded).await;
        assert!(walk.store.resource_by_id(id).await.unwrap().is_none());
        check(&walk, "gone").await;
    }
}

/// What is deleted needs not be as it was before a change.
#[tokio::test]
async fn a_delete_does_not_wait_for_the_undo_of_a_change_that_does_not_work() {
    for action in [Action::Stop, Action::Update] {
        let (mut walk, id, host) = made().await;
        let tenant = walk.tenants[0].clone();
        let (change, _) = changed(&mut walk, id, action, 2).await;
        let delete = delete(&walk, &tenant, id).await;
        let back = order_of(&mut walk, change).await;
        assert_eq!(back.mode.as_str(), "undo");
        let error = JobError::new("BAD_LUCK", "It went wrong");
        let in_vain = report(&back, Some(OutcomeKind::Suspended), true, Some(&error));
        assert_eq!(walk.settle_one(change, &in_vain).await, 1);
        check(&walk, "it is to be taken back").await;
        walk.time_passes().await;
        walk.dispatch().await;
        assert_eq!(job(&walk, change).await.state, JobState::Cancelled, "{action}");
        check(&walk, "it isn't taken back any more").await;
        let order = order_of(&mut walk, delete).await;
        assert_eq!(order.host, host);
        assert!(order.fence > back.fence);
        ends(&mut walk, delete, &order, OutcomeKind::Succeeded).await;
        assert!(walk.store.resource_by_id(id).await.unwrap().is_none());
        assert_eq!(walk.store.abandoned(None).await.unwrap().len(), 0);
        check(&walk, "gone").await;
    }
}

#[tokio::test]
async fn a_repair_that_fails_ends_and_is_counted() {
    let (mut walk, id, host) = made().await;
    let lacks = incomplete(&host, id, false);
    for tries in 1..=3 {
        let failed = repair(&walk, &lacks).await.unwrap();
        let order = order_of(&mut walk, failed.id).await;
        ends(&mut walk, failed.id, &order, OutcomeKind::Failed).await;
        assert_eq!(job(&walk, failed.id).await.state, JobState::Failed);
        // Found so again, and not looked at since.
        let again = noted(&walk, &[&host], std::slice::from_ref(&lacks)).await;
        let standing = again.standing[&(host.clone(), id)];
        assert_eq!(standing.tries, tries);
        assert!(standing.tried_at.unwrap() > standing.since);
        let tenant = walk.tenants[0].clone();
        let retried = walk
            .store
            .accept_retry(&tenant, failed.id, JobId::new(), &[], None, &make::origin())
            .await;
        assert!(matches!(retried.unwrap(), Err(Refusal::NotRetryable { .. })));
    }
    assert_eq!(resource(&walk, id).await.reason.unwrap()["code"], "BAD_LUCK");
    check(&walk, "failed repairs").await;
    // Once it is found whole it is forgotten: what comes later begins anew.
    noted(&walk, &[&host], &[]).await;
    let anew = noted(&walk, &[&host], std::slice::from_ref(&lacks)).await;
    assert_eq!(anew.standing[&(host, id)].tries, 0);
}

#[tokio::test]
async fn of_what_moved_since_the_look_nothing_is_forgotten() {
    let (mut walk, id, host) = made().await;
    let lacks = incomplete(&host, id, false);
    let first = noted(&walk, &[&host], std::slice::from_ref(&lacks)).await;
    let since = first.standing[&(host.clone(), id)].since;
    changed(&mut walk, id, Action::Stop, 1).await;
    noted(&walk, &[&host], &[]).await;
    let again = noted(&walk, &[&host], std::slice::from_ref(&lacks)).await;
    assert_eq!(again.standing[&(host, id)].since, since);
}

/// A guest may be there, and be as it was before it was changed: nothing shows that.
#[tokio::test]
async fn all_that_lives_on_a_host_that_was_put_back_is_made_so_again() {
    let (mut walk, id, host) = made().await;
    let hello = |max_fence| Hello {
        ledger_id: "ledger".to_owned(),
        epoch: 0,
        max_fence,
        answered: i64::MAX,
    };
    // What it answered before this was another ledger's.
    walk.store.host_greet(&host, &hello(1)).await.unwrap();
    let (stop, order) = changed(&mut walk, id, Action::Stop, 1).await;
    ends(&mut walk, stop, &order, OutcomeKind::Succeeded).await;
    walk.store.host_greet(&host, &hello(order.fence)).await.unwrap();
    assert_eq!(in_doubt(&walk, &host).await, []);
    let Greeting::Epoch { behind, .. } = walk.store.host_greet(&host, &hello(1)).await.unwrap() else {
        panic!("the database was not set back");
    };
    assert_eq!(behind, Some(order.fence));

    let (start, order) = changed(&mut walk, id, Action::Start, 1).await;
    assert_eq!(in_doubt(&walk, &host).await, [], "a job is at work on it");
    ends(&mut walk, start, &order, OutcomeKind::Succeeded).await;
    let found = in_doubt(&walk, &host).await;
    assert_eq!(
        found,
        [Amiss {
            asked_at: found[0].asked_at,
            ..incomplete(&host, id, false)
        }],
        "one change is not all of it"
    );
    // What was done before it was put back once more, and is heard of after that, says nothing of what is there.
    let before = repair(&walk, &found[0]).await.unwrap();
    let order = order_of(&mut walk, before.id).await;
    let epoch = walk.store.host_get(&host).await.unwrap().unwrap().epoch;
    assert!(walk.store.host_older(&host, Epoch(epoch)).await.unwrap());
    ends(&mut walk, before.id, &order, OutcomeKind::Succeeded).await;
    let found = in_doubt(&walk, &host).await;
    assert_eq!(found.len(), 1);
    walk.store.watch_take(make::WATCHER, 3600.0, 1000).await.unwrap();
    walk.store
        .watch_set(make::WATCHER, &host, Watch::Up)
        .await
        .unwrap();

    let again = repair(&walk, &found[0]).await.unwrap();
    let order = order_of(&mut walk, again.id).await;
    ends(&mut walk, again.id, &order, OutcomeKind::Succeeded).await;
    assert_eq!(in_doubt(&walk, &host).await, []);
    let doubt = "SELECT count(*) FROM hosts WHERE put_back_at IS NOT NULL";
    assert_eq!(make::count(&walk.store, doubt).await, 1);
    noted(&walk, &[&host], &[]).await;
    assert_eq!(make::count(&walk.store, doubt).await, 0, "all of it was made so");
}

/// Where the highest fence doesn't show it, because an order that wasn't answered yet had a higher one, the first look does.
#[tokio::test]
async fn a_host_that_was_put_back_and_knows_a_higher_fence_is_noticed_all_the_same() {
    let (mut walk, id, host) = made().await;
    let hello = |epoch, max_fence| Hello {
        ledger_id: "ledger".to_owned(),
        epoch,
        max_fence,
        answered: i64::MAX,
    };
    let epoch_of = |greeting| match greeting {
        Greeting::Epoch { epoch, behind: None } => epoch,
        other => panic!("{other:?}"),
    };
    let epoch = epoch_of(walk.store.host_greet(&host, &hello(0, 1)).await.unwrap());
    let (stop, order) = changed(&mut walk, id, Action::Stop, 1).await;
    ends(&mut walk, stop, &order, OutcomeKind::Succeeded).await;
    let fences = |fence: i64| BTreeMap::from([(id, Fence(fence))]);
    let look = async |epoch: i64, fences| HostInventory {
        host: host.clone(),
        asked_at: walk.store.now().await.unwrap(),
        epoch: Epoch(epoch),
        objects: Vec::new(),
        fences,
        unfinished: Vec::new(),
    };
    let older = async |look| {
        let looks = [look];
        let found = walk.store.check_all(&looks).await.unwrap().older;
        let at_once = walk.store.host_is_older(&looks[0]).await.unwrap();
        assert_eq!(at_once.as_ref(), found.first(), "its watch sees the same");
        found
    };
    assert_eq!(older(look(epoch, fences(order.fence)).await).await, []);
    let found = older(look(epoch, fences(order.fence - 1)).await).await;
    assert_eq!(
        found,
        [Older {
            host: host.clone(),
            epoch: Epoch(epoch)
        }]
    );
    assert!(walk.store.host_older(&host, Epoch(epoch)).await.unwrap());
    assert!(
        !walk.store.host_older(&host, Epoch(epoch)).await.unwrap(),
        "once is enough"
    );
    let up =
        "SELECT count(*) FROM hosts WHERE put_back_at IS NOT NULL AND NOT watch_up AND watch_owner IS NULL";
    assert_eq!(make::count(&walk.store, up).await, 1, "it is greeted anew");
    let greeted = walk.store.host_greet(&host, &hello(epoch, order.fence)).await;
    assert_eq!(epoch_of(greeted.unwrap()), epoch + 1);
    let again = look(epoch + 1, fences(order.fence - 1)).await;
    assert_eq!(older(again).await, [], "what it answered was of another epoch");
    let found = in_doubt(&walk, &host).await;
    let [one] = found.as_slice() else {
        panic!("all that lives there is in doubt: {found:?}");
    };
    assert_eq!((one.resource, one.wrong.as_str()), (id, "incomplete"));
}

/// What is to be mended of an instance on a host that holds all that it should.
async fn in_doubt(walk: &Walk, host: &HostName) -> Vec<Amiss> {
    let all: Vec<(uuid::Uuid, String)> = sqlx::query_as("SELECT id, kind FROM resources ORDER BY kind")
        .fetch_all(walk.store.pool())
        .await
        .unwrap();
    let instances: Vec<ResourceId> = all
        .iter()
        .filter(|(_, kind)| kind == "instance")
        .map(|(id, _)| ResourceId(*id))
        .collect();
    let object = |kind, id, claims: &[ResourceId]| HeldObject {
        kind,
        id,
        claims: claims.iter().copied().collect(),
        runs: false,
        part: Part::Whole,
    };
    let mut objects = Vec::new();
    for (id, kind) in all {
        match kind.as_str() {
            "network" => objects.push(object(ObjectKind::Network, ResourceId(id), &instances)),
            "image" => objects.push(object(ObjectKind::Image, ResourceId(id), &instances)),
            _ => {
                objects.push(object(ObjectKind::Disk, ResourceId(id), &[]));
                objects.push(object(ObjectKind::Instance, ResourceId(id), &[]));
            }
        }
    }
    let look = HostInventory {
        host: host.clone(),
        asked_at: walk.store.now().await.unwrap(),
        objects,
        epoch: Epoch(1),
        fences: BTreeMap::new(),
        unfinished: Vec::new(),
    };
    let found = walk.store.check_all(&[look]).await.unwrap().amiss;
    found.into_iter().filter(|a| a.kind == Kind::Instance).collect()
}

fn row(mended: Option<Mended>) -> Option<JobRow> {
    mended.and_then(|m| m.job)
}

#[tokio::test]
async fn what_nobody_owns_is_turned_off_kept_and_then_removed() {
    let (mut walk, one, host) = made().await;
    let found = stray(&host, ResourceId::new(), Owner::Nobody, one);
    let system = TenantId::from("system");
    let until = walk.store.now().await.unwrap();
    noted(&walk, &[&host], std::slice::from_ref(&found)).await;

    let quarantined = walk.store.accept_quarantine(&found, until, &make::origin()).await;
    let off = row(quarantined.unwrap()).unwrap();
    assert_eq!((off.action, &off.tenant), (Action::Stop, &system));
    // Nothing can be made of it, while that is open and after.
    let stands = resource(&walk, found.resource).await;
    let start = make::change(&stands, Action::Start, stands.spec.clone());
    let refused = walk.store.accept_change(&start).await.unwrap();
    assert!(matches!(refused, Err(Refusal::Quarantined)), "{refused:?}");
    let order = order_of(&mut walk, off.id).await;
    assert_eq!(
        (&order.host, names(&order)),
        (&host, vec!["set_power".to_owned()])
    );
    check(&walk, "it is being turned off").await;
    ends(&mut walk, off.id, &order, OutcomeKind::Succeeded).await;
    let stands = resource(&walk, found.resource).await;
    assert_eq!((stands.host, stands.applied), (None, None));
    assert_eq!(stands.reason.unwrap()["code"], "QUARANTINED");
    check(&walk, "it is in quarantine").await;
    let refused = walk.store.accept_change(&start).await.unwrap();
    assert!(matches!(refused, Err(Refusal::Quarantined)), "{refused:?}");
    let retried = walk
        .store
        .accept_retry(&system, off.id, JobId::new(), &[], None, &make::origin())
        .await;
    assert!(matches!(retried.unwrap(), Err(Refusal::NotRetryable { .. })));

    // Once more, when it no longer runs: all is so already.
    let mut at_rest = Amiss {
        asked_at: Utc::now(),
        ..found.clone()
    };
    if let Wrong::Stray(stray) = &mut at_rest.wrong {
        stray.runs = false;
    }
    let again = walk
        .store
        .accept_quarantine(&at_rest, until, &make::origin())
        .await;
    assert!(again.unwrap().is_none());

    let removal = walk.store.accept_removal(&at_rest, &make::origin()).await;
    let removal = row(removal.unwrap()).unwrap();
    assert_eq!(removal.action, Action::Delete);
    let order = order_of(&mut walk, removal.id).await;
    assert_eq!(order.host, host);
    assert_eq!(names(&order), ["remove_instance", "remove_disk", "drop_network"]);
    check(&walk, "it is being removed").await;
    // It goes on until it is done.
    ends(&mut walk, removal.id, &order, OutcomeKind::Failed).await;
    walk.time_passes().await;
    let order = order_of(&mut walk, removal.id).await;
    ends(&mut walk, removal.id, &order, OutcomeKind::Succeeded).await;
    assert!(walk.store.resource_by_id(found.resource).await.unwrap().is_none());
    check(&walk, "it is removed").await;
    assert_eq!(
        resource(&walk, one).await.host,
        Some(host),
        "what it was beside stays"
    );
}

#[tokio::test]
async fn an_operator_may_remove_what_is_in_quarantine_at_once() {
    let (mut walk, one, host) = made().await;
    let found = stray(&host, ResourceId::new(), Owner::Nobody, one);
    noted(&walk, &[&host], std::slice::from_ref(&found)).await;
    let now = walk.store.now().await.unwrap();
    let off = walk
        .store
        .accept_quarantine(&found, now, &make::origin())
        .await
        .unwrap();
    let off = row(off).unwrap();
    let order = order_of(&mut walk, off.id).await;
    ends(&mut walk, off.id, &order, OutcomeKind::Succeeded).await;
    let removal = delete(&walk, &TenantId::from("system"), found.resource).await;
    assert_eq!(job(&walk, removal).await.steps.len(), 3, "as it will be done");
    let order = order_of(&mut walk, removal).await;
    assert_eq!(order.host, host);
    assert_eq!(names(&order), ["remove_instance", "remove_disk", "drop_network"]);
    ends(&mut walk, removal, &order, OutcomeKind::Succeeded).await;
    assert!(walk.store.resource_by_id(found.resource).await.unwrap().is_none());
    check(&walk, "it is removed").await;
}

#[tokio::test]
async fn what_stands_in_for_something_goes_with_it_and_with_its_host() {
    let (walk, one, host) = made().await;
    let mut found = stray(&host, ResourceId::new(), Owner::Nobody, one);
    if let Wrong::Stray(stray) = &mut found.wrong {
        stray.runs = false;
    }
    noted(&walk, &[&host], std::slice::from_ref(&found)).await;
    let now = walk.store.now().await.unwrap();
    let quarantined = walk.store.accept_quarantine(&found, now, &make::origin()).await;
    assert!(quarantined.unwrap().unwrap().job.is_none());
    // On another host it is held too: one at a time.
    let elsewhere = walk.hosts.iter().find(|h| **h != host).unwrap().clone();
    let twin = Amiss {
        host: elsewhere.clone(),
        ..found.clone()
    };
    noted(&walk, &[&host, &elsewhere], &[found.clone(), twin.clone()]).await;
    let second = walk.store.accept_quarantine(&twin, now, &make::origin()).await;
    assert!(second.unwrap().is_none());

    assert!(
        walk.store.stand_ins_gone().await.unwrap().is_empty(),
        "it is there still"
    );
    noted(&walk, &[&host], &[]).await;
    assert_eq!(walk.store.stand_ins_gone().await.unwrap().len(), 1);
    assert!(walk.store.resource_by_id(found.resource).await.unwrap().is_none());
    let second = walk.store.accept_quarantine(&twin, now, &make::origin()).await;
    assert!(second.unwrap().is_some(), "now the other's turn");
    check(&walk, "one stands in").await;

    // A host that is removed says what stays on it, that nobody is going to look at.
    let stays = walk.store.host_remove(&elsewhere).await.unwrap();
    assert_eq!(stays, [format!("quarantined-{}", found.resource)]);
    assert_eq!(walk.store.stand_ins_gone().await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_a_resource_left_on_another_host_is_removed_there() {
    for kind in [OutcomeKind::Succeeded, OutcomeKind::Failed] {
        let (mut walk, id, host) = made().await;
        let elsewhere = walk.hosts.iter().find(|h| **h != host).unwrap().clone();
        let found = stray(&elsewhere, id, Owner::Resource, ResourceId::new());
        noted(&walk, &[&elsewhere], std::slice::from_ref(&found)).await;
        let before = resource(&walk, id).await;
        let cleared = walk
            .store
            .accept_clearing(&found, found.removal(), &make::origin())
            .await;
        let clearing = row(cleared.unwrap()).unwrap();
        let order = order_of(&mut walk, clearing.id).await;
        assert_eq!(order.host, elsewhere);
        assert_eq!(names(&order), ["remove_instance", "remove_disk", "drop_network"]);
        assert_eq!(
            resource(&walk, id).await.host,
            Some(host.clone()),
            "it lives where it did"
        );
        check(&walk, "its rest is being removed").await;
        ends(&mut walk, clearing.id, &order, kind).await;
        let after = resource(&walk, id).await;
        assert_eq!(
            (
                after.host,
                after.applied,
                after.spec,
                after.reason,
                after.observed_generation
            ),
            (
                before.host,
                before.applied,
                before.spec,
                before.reason,
                before.observed_generation
            ),
            "{kind:?}"
        );
        check(&walk, "its rest is removed").await;
        let (stop, order) = changed(&mut walk, id, Action::Stop, 1).await;
        assert_eq!(order.host, host);
        ends(&mut walk, stop, &order, OutcomeKind::Succeeded).await;
    }
}

/// Its objects are what it lives by.
#[tokio::test]
async fn of_what_lives_on_a_host_nothing_but_claims_is_cleared_there() {
    let (walk, id, host) = made().await;
    let found = stray(&host, id, Owner::Resource, ResourceId::new());
    noted(&walk, &[&host], std::slice::from_ref(&found)).await;
    let cleared = walk
        .store
        .accept_clearing(&found, found.removal(), &make::origin())
        .await;
    assert!(cleared.unwrap().is_none());
    let mut claims = found;
    if let Wrong::Stray(stray) = &mut claims.wrong {
        stray.objects.clear();
    }
    let cleared = walk
        .store
        .accept_clearing(&claims, claims.removal(), &make::origin())
        .await;
    assert!(row(cleared.unwrap()).is_some());
}

/// What is found is nothing to go by once its resource moved: it may live there by now, with just those claims.
#[tokio::test]
async fn what_was_found_before_a_job_ended_is_not_mended() {
    let (mut walk, id, host) = made().await;
    let lacks = incomplete(&host, id, false);
    let mut claims = stray(&host, id, Owner::Resource, ResourceId::new());
    if let Wrong::Stray(stray) = &mut claims.wrong {
        stray.objects.clear();
    }
    let (stop, order) = changed(&mut walk, id, Action::Stop, 1).await;
    ends(&mut walk, stop, &order, OutcomeKind::Succeeded).await;
    let clearing = async |walk: &Walk, found: &Amiss| {
        noted(walk, &[&host], std::slice::from_ref(found)).await;
        let cleared = walk
            .store
            .accept_clearing(found, found.removal(), &make::origin())
            .await;
        row(cleared.unwrap())
    };
    noted(&walk, &[&host], std::slice::from_ref(&lacks)).await;
    let repair = walk.store.accept_repair(&lacks, &make::origin()).await;
    assert!(repair.unwrap().is_none());
    assert!(clearing(&walk, &claims).await.is_none());
    // Found again since, it is.
    claims.asked_at = Utc::now();
    assert!(clearing(&walk, &claims).await.is_some());
}
