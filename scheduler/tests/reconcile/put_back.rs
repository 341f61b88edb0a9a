//! A host that was put back to an older copy of itself is noticed, and all that lives there is made so again.

use crate::looks::{incomplete, made, noted, repair};
use crate::support::common::make;
use crate::support::furnished::{changed, ends, order_of};
use crate::support::walk::Walk;
use rhyzome_model::check::{Amiss, HeldObject, HostInventory, Older, Part};
use rhyzome_model::ids::{Epoch, Fence, HostName, ResourceId};
use rhyzome_model::job::Action;
use rhyzome_model::kinds::Kind;
use rhyzome_model::step::ObjectKind;
use rhyzome_proto::event::OutcomeKind;
use rhyzome_store::watches::{Greeting, Hello, Watch};
use std::collections::BTreeMap;

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
