//! Accept under concurrency: one key one job, names in opposite order, good requests beside bad ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::unused_self,
    reason = "a test"
)]

mod common;

use common::make;
use rhyzome_store::accept::{AcceptedNow, CreateRequest, Refusal};
use std::collections::BTreeSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_key_is_one_job_however_often_it_is_sent() {
    let store = common::store().await;
    let tenant = make::tenant(&store, "a").await;
    let sent = (0..12).map(|_| {
        let (store, tenant) = (store.clone(), tenant.clone());
        tokio::spawn(async move {
            let request = CreateRequest {
                idempotency: make::key("k", 1),
                ..make::network(&tenant, "n", "10.0.0.0/24")
            };
            store.accept_creates(&[request]).await.unwrap().remove(0).unwrap()
        })
    });
    let mut jobs = BTreeSet::new();
    let mut fresh = 0;
    for task in sent.collect::<Vec<_>>() {
        let reply = task.await.unwrap();
        jobs.insert(reply.accepted.job.unwrap().id);
        fresh += i32::from(reply.now == AcceptedNow::Now);
    }
    assert_eq!((jobs.len(), fresh), (1, 1));
    assert_eq!(make::count(&store, "SELECT count(*) FROM jobs").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_names_in_opposite_order() {
    let store = common::store().await;
    let tenant = make::tenant(&store, "a").await;
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let (store, tenant) = (store.clone(), tenant.clone());
            tokio::spawn(async move {
                let mut names: Vec<u32> = (0..40).collect();
                if n % 2 == 1 {
                    names.reverse();
                }
                let batch: Vec<_> = names
                    .iter()
                    .map(|i| make::network(&tenant, &format!("n{i}"), "10.0.0.0/24"))
                    .collect();
                store
                    .accept_creates(&batch)
                    .await
                    .unwrap()
                    .into_iter()
                    .flatten()
                    .count()
            })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        made += task.await.unwrap();
    }
    assert_eq!(made, 40);
    assert_eq!(make::count(&store, "SELECT count(*) FROM jobs").await, 40);
}

#[tokio::test]
async fn a_bad_request_never_fails_its_neighbours() {
    let store = common::store().await;
    let tenant = make::tenant(&store, "a").await;
    make::accepted(&store, make::network(&tenant, "n", "10.0.0.0/29")).await;
    make::accepted(&store, make::image(&tenant, "i")).await;
    make::accepted(&store, make::instance(&tenant, "taken", "i", "n")).await;
    // The first is refused for its name, and held the address that the second asks for.
    let batch: Vec<_> = vec![
        make::with_ip(&tenant, "taken", "i", "n", "10.0.0.6"),
        make::with_ip(&tenant, "good", "i", "n", "10.0.0.6"),
        make::instance(&tenant, "lost", "nothing", "n"),
        make::with_ip(&tenant, "gateway", "i", "n", "10.0.0.1"),
    ];
    let answers = store.accept_creates(&batch).await.unwrap();
    assert!(
        matches!(answers[0], Err(Refusal::NameTaken { .. })),
        "{:?}",
        answers[0]
    );
    assert!(answers[1].is_ok(), "{:?}", answers[1]);
    assert!(
        matches!(answers[2], Err(Refusal::ReferenceNotFound { .. })),
        "{:?}",
        answers[2]
    );
    assert!(
        matches!(answers[3], Err(Refusal::AddressInvalid { .. })),
        "{:?}",
        answers[3]
    );
    // Of 5 addresses 2 are given: 3 go, the fourth finds none.
    let batch: Vec<_> = (0..4)
        .map(|n| make::instance(&tenant, &format!("more{n}"), "i", "n"))
        .collect();
    let answers = store.accept_creates(&batch).await.unwrap();
    assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), 3);
    assert!(
        answers
            .iter()
            .any(|a| matches!(a, Err(Refusal::RangeUsedUp { .. })))
    );
    assert_eq!(make::count(&store, "SELECT count(*) FROM leases").await, 5);
}
