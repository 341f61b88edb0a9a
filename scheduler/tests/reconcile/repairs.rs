//! What a host lacks of what is applied is made again: where nothing moves, once at a time, and in nobody's way.

use crate::looks::{delete, incomplete, made, names, noted, repair, row, stray};
use crate::support::agent::report;
use crate::support::common::make;
use crate::support::furnished::{changed, check, ends, job, order_of, resource};
use crate::support::walk::Walk;
use chrono::Utc;
use rhyzome_model::check::{Amiss, Owner, Wrong};
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::job::{Action, JobState};
use rhyzome_model::problem::JobError;
use rhyzome_proto::event::OutcomeKind;
use rhyzome_store::accept::Refusal;

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
