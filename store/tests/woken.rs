//! Who waits for something to go is woken by its end, however the two meet.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::make;
use rhyzome_model::ids::{JobId, ResourceId, TenantId};
use rhyzome_model::job::JobState;
use rhyzome_model::kinds::Kind;
use rhyzome_store::Store;
use rhyzome_store::dispatch::{Decision, DispatchLimits};
use rhyzome_store::rows::Waiting;
use rhyzome_store::settle::{Effect, End, Settlement};

const LIMITS: DispatchLimits = DispatchLimits {
    batch: 100,
    tenant_cap: 64,
    host_cap: 64,
};

/// Sessions that wait for a lock.
async fn waiting(store: &Store) -> i64 {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    make::count(store, waiting).await
}

async fn delete(store: &Store, tenant: &TenantId, kind: Kind, id: ResourceId) -> JobId {
    let deleted = store
        .accept_delete(tenant, kind, id, None, JobId::new(), &[], &make::origin())
        .await
        .unwrap();
    deleted.unwrap().job.id
}

/// An instance that is there, on a network and with an image that are.
async fn guest(store: &Store, tenant: &TenantId) -> (ResourceId, ResourceId) {
    let network = make::accepted(store, make::network(tenant, "lan", "10.0.0.0/24")).await;
    make::accepted(store, make::image(tenant, "img")).await;
    let guest = make::accepted(store, make::instance(tenant, "guest", "img", "lan")).await;
    sqlx::raw_sql(
        "UPDATE resources SET applied = spec;
         DELETE FROM job_resources;
         UPDATE jobs SET state = 'succeeded', due = NULL, ended_at = now()",
    )
    .execute(store.pool())
    .await
    .unwrap();
    (guest.resource.id, network.resource.id)
}

/// Settles that a resource was removed.
async fn removed(store: Store, job: JobId) {
    let tx = store.settle_begin(&[job]).await.unwrap();
    let open = &tx.jobs[0];
    let end = End {
        job: open.id,
        tenant: open.tenant.clone(),
        kind: open.kind,
        action: open.action,
        resource: open.resource,
        state: JobState::Succeeded,
        error: None,
        steps: None,
        host: None,
        held_slot: false,
        order_out: false,
        answered: None,
        created_at: open.created_at,
        networks: Vec::new(),
        effect: Effect::Removed,
    };
    tx.commit(vec![Settlement::End(end)]).await.unwrap();
}

/// A round of dispatch, in which a delete of what others refer to is put to wait for them.
async fn dispatch(store: &Store) {
    let Some(batch) = store.dispatch_begin(LIMITS).await.unwrap() else {
        return;
    };
    let waits = |job: JobId| Decision::Wait {
        job,
        state: JobState::Blocked,
        waiting: Waiting {
            reason: "reference".to_owned(),
            detail: "Others need it.".to_owned(),
            since: batch.now,
            until: None,
            hosts: None,
            fits_with: None,
        },
        due: None,
    };
    let decisions = batch
        .jobs
        .iter()
        .filter(|job| job.referrers > 0)
        .map(|job| waits(job.id));
    let decisions = decisions.collect();
    batch.commit(decisions).await.unwrap();
}

#[tokio::test]
async fn a_delete_that_is_accepted_while_the_last_that_needs_it_goes() {
    let store = common::store().await;
    let tenant = make::tenant(&store, "demo").await;
    let (guest, network) = guest(&store, &tenant).await;
    let job = delete(&store, &tenant, Kind::Instance, guest).await;

    // The guest's end has woken whom it wakes, and gets no further: somebody holds the row that goes.
    let mut hold = store.pool().begin().await.unwrap();
    sqlx::query("SELECT FROM resources WHERE id = $1 FOR KEY SHARE")
        .bind(guest.0)
        .execute(&mut *hold)
        .await
        .unwrap();
    let end = tokio::spawn(removed(store.clone(), job));
    while waiting(&store).await == 0 {
        tokio::task::yield_now().await;
    }

    // Now the network's delete comes: it is either accepted, and judged, or it waits for the end.
    let next = tokio::spawn({
        let (store, tenant) = (store.clone(), tenant.clone());
        async move { delete(&store, &tenant, Kind::Network, network).await }
    });
    while !next.is_finished() && waiting(&store).await < 2 {
        tokio::task::yield_now().await;
    }
    dispatch(&store).await;
    hold.commit().await.unwrap();
    end.await.unwrap();
    let next = next.await.unwrap();

    let left = make::count(&store, "SELECT count(*) FROM resource_refs").await;
    assert_eq!(left, 0, "nothing needs the network any more");
    let (state, due): (String, bool) =
        sqlx::query_as("SELECT state, due IS NOT NULL FROM jobs WHERE id = $1")
            .bind(next.0)
            .fetch_one(store.pool())
            .await
            .unwrap();
    assert_eq!(
        (state.as_str(), due),
        ("queued", true),
        "nobody else would wake it"
    );
}
