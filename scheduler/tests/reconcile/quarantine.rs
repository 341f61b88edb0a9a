//! What a host holds and nobody owns: a row stands in for it, it is turned off, kept, and removed.

use crate::looks::{delete, made, names, noted, row, stray};
use crate::support::common::make;
use crate::support::furnished::{check, ends, job, order_of, resource};
use chrono::Utc;
use rhyzome_model::check::{Amiss, Owner, Wrong};
use rhyzome_model::ids::{JobId, ResourceId, TenantId};
use rhyzome_model::job::Action;
use rhyzome_proto::event::OutcomeKind;
use rhyzome_store::accept::Refusal;

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

/// What it is, and why, is no matter of a job.
#[tokio::test]
async fn a_cancel_of_what_turns_it_off_leaves_it_in_quarantine() {
    let (walk, one, host) = made().await;
    let found = stray(&host, ResourceId::new(), Owner::Nobody, one);
    noted(&walk, &[&host], std::slice::from_ref(&found)).await;
    let until = walk.store.now().await.unwrap();
    let off = walk.store.accept_quarantine(&found, until, &make::origin()).await;
    let off = row(off.unwrap()).unwrap();
    let cancelled = walk
        .store
        .accept_cancel(&TenantId::from("system"), off.id, None, &make::origin())
        .await;
    cancelled.unwrap().unwrap();
    let stands = resource(&walk, found.resource).await;
    assert!(stands.in_quarantine);
    assert_eq!(stands.reason.unwrap()["code"], "QUARANTINED");
    check(&walk, "its stop is cancelled").await;
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
