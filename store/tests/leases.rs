//! Static leases of networks that are there already, and addresses of batches.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::make;
use common::reads::{ours, read_of};
use rhyzome_model::ids::TenantId;
use rhyzome_model::job::Action;
use rhyzome_model::kinds::Kind;
use rhyzome_store::accept::{CreateRequest, Refusal, StaticLeaseRequest};
use rhyzome_store::change::ChangeRequest;
use rhyzome_store::rows::ResourceRow;
use serde_json::json;
use std::net::Ipv4Addr;

const LEASES: u32 = 500;

fn lease(n: u32, mac: &str) -> StaticLeaseRequest {
    StaticLeaseRequest {
        pointer: format!("/leases/{n}"),
        ip: Ipv4Addr::from_bits(0x0a00_0100 + n),
        mac: mac.to_owned(),
        hostname: None,
    }
}

fn leases(first: u32) -> Vec<StaticLeaseRequest> {
    let mac = |n: u32| format!("02:00:00:00:{:02x}:{:02x}", n >> 8, n & 0xff);
    (first..first + LEASES).map(|n| lease(n, &mac(n))).collect()
}

fn with_leases(network: &ResourceRow, leases: Vec<StaticLeaseRequest>) -> ChangeRequest {
    ChangeRequest {
        static_leases: Some(leases),
        ..make::change(network, Action::Update, network.spec.clone())
    }
}

fn with_mac(tenant: &TenantId, name: &str, ip: &str, mac: &str) -> CreateRequest {
    let interface = json!({ "network": "net", "ip": ip, "mac": mac });
    let spec = json!({ "vcpus": 1, "memory_mib": 512, "image": "img", "interfaces": [interface] });
    make::create(tenant, Kind::Instance, name, &spec)
}

#[tokio::test]
async fn many_static_leases_are_changed_by_reading_each_a_few_times() {
    let store = ours(&common::store().await).await;
    let tenant = make::tenant(&store, "a").await;
    let network = make::accepted(&store, make::network(&tenant, "net", "10.0.0.0/16")).await;
    let first = with_leases(&network.resource, leases(0));
    let first = store
        .accept_change(&first)
        .await
        .unwrap()
        .unwrap()
        .accepted
        .resource;
    let before = read_of(&store, "leases").await;
    // Half of them are as they were.
    let second = with_leases(&first, leases(LEASES / 2));
    store.accept_change(&second).await.unwrap().unwrap();
    let after = read_of(&store, "leases").await;
    let read = after.0 - before.0 + after.1 - before.1;
    assert!(
        read <= 10 * i64::from(LEASES),
        "{read} rows were read for {LEASES} leases"
    );
    let there = "SELECT count(*) FROM leases WHERE NOT automatic AND ip >= '10.0.1.250'";
    assert_eq!(make::count(&store, there).await, i64::from(LEASES));
}

#[tokio::test]
async fn a_static_lease_that_an_instance_has_is_refused_and_dry_as_well() {
    let store = common::store().await;
    let tenant = make::tenant(&store, "a").await;
    let network = make::accepted(&store, make::network(&tenant, "net", "10.0.0.0/16"))
        .await
        .resource;
    make::accepted(&store, make::image(&tenant, "img")).await;
    let guest = with_mac(&tenant, "guest", "10.0.1.7", "02:00:00:00:00:07");
    let guest = make::accepted(&store, guest).await.resource;
    let table = [
        (lease(7, "02:00:00:00:00:01"), "ip", "10.0.1.7"),
        (lease(8, "02:00:00:00:00:07"), "mac", "02:00:00:00:00:07"),
        (lease(7, "02:00:00:00:00:07"), "ip", "10.0.1.7"),
    ];
    for (bad, field, value) in table {
        let wanted = vec![lease(1, "02:00:00:00:00:aa"), bad];
        let refusal = Refusal::AddressTaken {
            pointer: format!("{}/{field}", wanted[1].pointer),
            value: value.to_owned(),
            holder: Some(guest.id),
        };
        let dry = store
            .check_change(&network, &network.spec, Some(&wanted))
            .await
            .unwrap();
        assert_eq!(dry, Err(refusal.clone()));
        let answer = store.accept_change(&with_leases(&network, wanted)).await.unwrap();
        assert_eq!(answer.err(), Some(refusal));
    }
    let free = vec![lease(1, "02:00:00:00:00:aa")];
    assert_eq!(
        store
            .check_change(&network, &network.spec, Some(&free))
            .await
            .unwrap(),
        Ok(())
    );
    assert_eq!(make::count(&store, "SELECT count(*) FROM leases").await, 1);
    store
        .accept_change(&with_leases(&network, free.clone()))
        .await
        .unwrap()
        .unwrap();
    // What the network has itself is in nobody's way.
    assert_eq!(
        store
            .check_change(&network, &network.spec, Some(&free))
            .await
            .unwrap(),
        Ok(())
    );
}

#[tokio::test]
async fn an_address_that_a_refused_neighbour_named_is_free_for_others() {
    let store = common::store().await;
    let tenant = make::tenant(&store, "a").await;
    make::accepted(&store, make::network(&tenant, "net", "10.0.0.0/29")).await;
    make::accepted(&store, make::image(&tenant, "img")).await;
    make::accepted(
        &store,
        with_mac(&tenant, "has-mac", "10.0.0.2", "02:00:00:00:00:01"),
    )
    .await;
    for n in 3..6 {
        make::accepted(
            &store,
            make::with_ip(&tenant, &format!("n{n}"), "img", "net", &format!("10.0.0.{n}")),
        )
        .await;
    }
    let batch = [
        with_mac(&tenant, "refused", "10.0.0.6", "02:00:00:00:00:01"),
        make::instance(&tenant, "good", "img", "net"),
        make::instance(&tenant, "late", "img", "net"),
    ];
    let answers = store.accept_creates(&batch).await.unwrap();
    assert!(
        matches!(answers[0], Err(Refusal::AddressTaken { .. })),
        "{:?}",
        answers[0]
    );
    assert!(answers[1].is_ok(), "{:?}", answers[1]);
    assert!(
        matches!(answers[2], Err(Refusal::RangeUsedUp { .. })),
        "{:?}",
        answers[2]
    );
}
