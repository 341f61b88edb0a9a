//! The end of a tenant: nothing is accepted for it from then on, and whoever has its name next sees nothing of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::make;
use rhyzome_model::ids::TenantId;
use rhyzome_store::Store;
use rhyzome_store::accept::Refusal;
use rhyzome_store::changes::{Position, Whose};
use rhyzome_store::jobs::JobFilter;
use rhyzome_store::resources::{Page, Scope};
use rhyzome_store::tenants::TenantError;

async fn sql(store: &Store, text: &'static str) {
    sqlx::raw_sql(text).execute(store.pool()).await.unwrap();
}

/// Ends once a session waits for a lock.
async fn until_one_waits(store: &Store) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while make::count(store, waiting).await == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nothing_is_accepted_for_a_tenant_that_is_gone() {
    let store = common::store().await;
    let (gone, other) = (make::tenant(&store, "a").await, make::tenant(&store, "b").await);
    store.tenant_delete(&gone).await.unwrap();
    let batch = [
        make::network(&gone, "lan", "10.0.0.0/24"),
        make::network(&other, "lan", "10.0.0.0/24"),
    ];
    let answers = store.accept_creates(&batch).await.unwrap();
    assert_eq!(answers[0].as_ref().err(), Some(&Refusal::TenantGone));
    assert!(answers[1].is_ok(), "{:?}", answers[1]);
    let dry = store.check_create(batch[0].clone()).await.unwrap();
    assert_eq!(dry.err(), Some(Refusal::TenantGone));
    assert_eq!(make::count(&store, "SELECT count(*) FROM jobs").await, 1);
}

#[tokio::test]
async fn a_create_and_the_end_of_its_tenant_wait_for_each_other() {
    let store = common::store().await;
    let tenant = make::tenant(&store, "a").await;
    // The create comes first, and is not committed yet.
    let mut create = store.pool().begin().await.unwrap();
    sqlx::raw_sql(
        "SELECT FROM tenants WHERE id = 'a' FOR KEY SHARE;
         INSERT INTO resources (id, tenant, kind, name, spec) VALUES (gen_random_uuid(), 'a', 'network', 'lan', '{}')",
    )
    .execute(&mut *create)
    .await
    .unwrap();
    let end = tokio::spawn({
        let (store, tenant) = (store.clone(), tenant.clone());
        async move { store.tenant_delete(&tenant).await }
    });
    until_one_waits(&store).await;
    create.commit().await.unwrap();
    let refused = end.await.unwrap();
    assert!(
        matches!(refused, Err(TenantError::NotEmpty { .. })),
        "{refused:?}"
    );

    // The end comes first.
    sql(&store, "DELETE FROM resources").await;
    let mut end = store.pool().begin().await.unwrap();
    sqlx::raw_sql("SELECT FROM tenants WHERE id = 'a' FOR UPDATE; DELETE FROM tenants WHERE id = 'a'")
        .execute(&mut *end)
        .await
        .unwrap();
    let create = tokio::spawn({
        let (store, request) = (store.clone(), make::network(&tenant, "lan", "10.0.0.0/24"));
        async move { store.accept_creates(&[request]).await.unwrap().pop().unwrap() }
    });
    until_one_waits(&store).await;
    end.commit().await.unwrap();
    assert_eq!(create.await.unwrap().err(), Some(Refusal::TenantGone));
    assert_eq!(make::count(&store, "SELECT count(*) FROM resources").await, 0);
}

#[tokio::test]
async fn whoever_has_a_tenants_name_next_sees_nothing_of_it() {
    let store = common::store().await;
    let tenant = make::tenant(&store, "a").await;
    let mut request = make::network(&tenant, "lan", "10.0.0.0/24");
    request.idempotency = make::key("k", 1);
    make::accepted(&store, request).await;
    sql(
        &store,
        "DELETE FROM job_resources;
         UPDATE jobs SET state = 'succeeded', due = NULL, ended_at = now();
         DELETE FROM resources",
    )
    .await;
    store.tenant_delete(&tenant).await.unwrap();
    make::tenant(&store, "a").await;
    let all = Page {
        after: None,
        limit: 10,
    };
    let own = Scope::Tenant(tenant.clone());
    let jobs = store
        .job_list(&own, &JobFilter::default(), &all)
        .await
        .unwrap()
        .rows;
    assert!(jobs.is_empty(), "{jobs:?}");
    let key = make::key("k", 1).unwrap();
    assert!(store.idempotency_find(&tenant, &key).await.unwrap().is_none());
    // What changed is still told to operators.
    let rows = async |whose: &Whose| {
        let from: Position = "1-0-0".parse().unwrap();
        store.changes_page(whose, from, 10).await.unwrap().unwrap().rows
    };
    while rows(&Whose::Everyone).await.is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(rows(&Whose::Tenant(TenantId::from("a"))).await.is_empty());
    // What is its own, it sees.
    make::accepted(&store, make::network(&tenant, "lan", "10.0.0.0/24")).await;
    while rows(&Whose::Tenant(TenantId::from("a"))).await.is_empty() {
        tokio::task::yield_now().await;
    }
}
