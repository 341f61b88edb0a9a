//! What a resource left on a host where it doesn't live, or needs no longer, is removed there.

use crate::looks::{made, names, noted, row, stray};
use crate::support::common::make;
use crate::support::furnished::{changed, check, ends, order_of, resource};
use rhyzome_model::check::{Owner, Wrong};
use rhyzome_model::ids::ResourceId;
use rhyzome_model::job::Action;
use rhyzome_proto::event::OutcomeKind;

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
