//! What a tenant may have: judged with what it has, whoever asks at the same time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::make;
use rhyzome_model::ids::TenantId;
use rhyzome_model::kinds::Kind;
use rhyzome_model::quota::{Dimension, Exceeded, Limits};
use rhyzome_store::Store;
use rhyzome_store::accept::{CreateRequest, Refusal};
use rhyzome_store::quotas::Share;
use rhyzome_store::tenants::TenantError;
use std::collections::BTreeSet;

const INSTANCES: Dimension = Dimension::Resources(Kind::Instance);

/// A tenant with an image and a network that may have so much.
async fn limited(store: &Store, limits: &[(Dimension, i64)]) -> TenantId {
    let tenant = make::tenant(store, "a").await;
    make::accepted(store, make::image(&tenant, "image")).await;
    make::accepted(store, make::network(&tenant, "net", "10.0.0.0/16")).await;
    limit(store, &tenant, limits).await;
    tenant
}

async fn limit(store: &Store, tenant: &TenantId, limits: &[(Dimension, i64)]) {
    let limits: Limits = limits.iter().copied().collect();
    store.quotas_set(tenant, &limits, &BTreeSet::new()).await.unwrap();
}

fn instance(tenant: &TenantId, name: &str) -> CreateRequest {
    make::instance(tenant, name, "image", "net")
}

/// `ok`, or why not, of each.
async fn answers(store: &Store, requests: Vec<CreateRequest>) -> Vec<String> {
    let answers = store.accept_creates(&requests).await.unwrap();
    answers
        .into_iter()
        .map(|answer| match answer {
            Ok(_) => "ok".to_owned(),
            Err(Refusal::QuotaExceeded { over }) => over
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; "),
            Err(Refusal::NameTaken { .. }) => "name taken".to_owned(),
            Err(other) => format!("{other:?}"),
        })
        .collect()
}

#[tokio::test]
async fn a_batch_is_accepted_up_to_the_limit() {
    let store = common::store().await;
    let tenant = limited(&store, &[(INSTANCES, 3), (Dimension::MemoryMib, 1024)]).await;
    let other = make::tenant(&store, "b").await;
    make::accepted(&store, make::image(&other, "image")).await;
    make::accepted(&store, make::network(&other, "net", "10.0.0.0/16")).await;
    let mut batch: Vec<CreateRequest> = ["1", "2", "3"].map(|name| instance(&tenant, name)).into();
    batch.push(instance(&other, "1"));
    batch.push(make::network(&tenant, "more", "10.1.0.0/16"));
    assert_eq!(
        answers(&store, batch).await,
        [
            "ok",
            "ok",
            "memory_mib: 1024 of 1024 used, 512 more asked",
            "ok",
            "ok"
        ]
    );
    limit(&store, &tenant, &[(INSTANCES, 2), (Dimension::DiskGib, 100)]).await;
    assert_eq!(
        answers(&store, vec![instance(&tenant, "4")]).await,
        ["instances: 2 of 2 used, 1 more asked; memory_mib: 1024 of 1024 used, 512 more asked"]
    );
    let shares = store.quotas_of(&tenant).await.unwrap();
    assert_eq!(shares[&INSTANCES], Share { limit: 2, used: 2 });
    // An image counts for one GiB while nothing else is known of it.
    assert_eq!(shares[&Dimension::DiskGib], Share { limit: 100, used: 3 });
    assert!(store.quotas_of(&other).await.unwrap().is_empty());
    // What is no longer limited is let in again.
    let removed = BTreeSet::from([INSTANCES, Dimension::MemoryMib]);
    store.quotas_set(&tenant, &Limits::new(), &removed).await.unwrap();
    assert_eq!(answers(&store, vec![instance(&tenant, "4")]).await, ["ok"]);
    assert_eq!(store.check(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn who_is_refused_takes_nothing_from_who_comes_after() {
    let store = common::store().await;
    let tenant = limited(&store, &[(INSTANCES, 2)]).await;
    assert_eq!(answers(&store, vec![instance(&tenant, "taken")]).await, ["ok"]);
    let batch = ["taken", "next", "last"]
        .map(|name| instance(&tenant, name))
        .into();
    assert_eq!(
        answers(&store, batch).await,
        ["name taken", "ok", "instances: 2 of 2 used, 1 more asked"]
    );
}

#[tokio::test]
async fn of_many_at_once_as_many_are_accepted_as_there_is_room_for() {
    let store = common::store().await;
    let tenant = limited(&store, &[(Dimension::Vcpus, 5)]).await;
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..24 {
        let (store, request) = (store.clone(), instance(&tenant, &format!("x{n}")));
        asking.spawn(async move { answers(&store, vec![request]).await.remove(0) });
    }
    let answers = asking.join_all().await;
    assert_eq!(answers.iter().filter(|a| *a == "ok").count(), 5, "{answers:?}");
    let refused = "vcpus: 5 of 5 used, 1 more asked";
    assert_eq!(
        answers.iter().filter(|a| *a == refused).count(),
        19,
        "{answers:?}"
    );
}

#[tokio::test]
async fn a_dry_run_says_the_same() {
    let store = common::store().await;
    let tenant = limited(&store, &[(INSTANCES, 0)]).await;
    let refused = store
        .check_create(instance(&tenant, "x"))
        .await
        .unwrap()
        .unwrap_err();
    let over = vec![Exceeded {
        dimension: INSTANCES,
        limit: 0,
        used: 0,
        asked: 1,
    }];
    assert_eq!(refused, Refusal::QuotaExceeded { over });
}

#[tokio::test]
async fn of_no_tenant_there_are_no_limits() {
    let store = common::store().await;
    let none = TenantId::from("none");
    let answer = store
        .quotas_set(&none, &Limits::from([(INSTANCES, 1)]), &BTreeSet::new())
        .await;
    assert!(matches!(answer, Err(TenantError::NotFound(id)) if id == none));
}
