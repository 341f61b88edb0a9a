//! What a client is told who asks for more than its tenant may have.

use crate::common::Answer;
use crate::world::{World, instance, is, network, refused};
use rhyzome_model::ids::TenantId;
use rhyzome_model::kinds::Kind;
use rhyzome_model::quota::{Dimension, Limits};
use serde_json::{Value, json};
use std::collections::BTreeSet;

async fn limit(w: &World, dimension: Dimension, most: i64) {
    let store = w.database.store(1).await;
    let limits = Limits::from([(dimension, most)]);
    let demo = TenantId::from("demo");
    store.quotas_set(&demo, &limits, &BTreeSet::new()).await.unwrap();
}

/// Quota, limit, used, asked.
fn told(answer: &Answer) -> [Value; 4] {
    assert_eq!(refused(answer), is(403, "QUOTA_EXCEEDED"), "{}", answer.body);
    assert_eq!(answer.body["retryable"], false);
    ["quota", "limit", "used", "asked"].map(|member| answer.body[member].clone())
}

#[tokio::test]
async fn a_create_and_its_dry_run_are_told_limit_used_and_asked() {
    let w = World::new().await;
    limit(&w, Dimension::Resources(Kind::Network), 1).await;
    w.network("lan").await;
    for path in ["/v1/networks", "/v1/networks?dry_run=true"] {
        let answer = w.post(path, network("more")).await;
        assert_eq!(told(&answer), [json!("networks"), json!(1), json!(1), json!(1)]);
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(
            detail.contains("network more") && detail.contains("1 of 1 used"),
            "{detail}"
        );
    }
    let others = w.other.token("*:*");
    let made = w
        .api
        .call(&others, "POST", "/v1/networks", Some(network("lan")))
        .await;
    assert_eq!(
        made.status, 202,
        "another tenant's limits are its own: {}",
        made.body
    );
    // The same request again, with its key, is answered as it was.
    limit(&w, Dimension::Resources(Kind::Network), 2).await;
    let w = &w;
    let again = || {
        let key = [("idempotency-key", "k1")];
        async move {
            w.api
                .call_with(&w.token, "POST", "/v1/networks", Some(network("more")), &key)
                .await
        }
    };
    let (once, twice) = (again().await, again().await);
    assert_eq!(
        (once.status.as_u16(), twice.status.as_u16()),
        (202, 202),
        "{}",
        twice.body
    );
    assert_eq!(once.body["resource"]["id"], twice.body["resource"]["id"]);
}

#[tokio::test]
async fn a_change_and_its_dry_run_are_told_what_they_add() {
    let w = World::new().await;
    w.image().await;
    w.network("lan").await;
    let mut off = instance("web", "lan");
    off["spec"]["power"] = json!("off");
    let made = w.post("/v1/instances", off).await;
    assert_eq!(made.status, 202, "{}", made.body);
    w.all_done().await;
    limit(&w, Dimension::MemoryMib, 200).await;
    let path = format!("/v1/instances/{}", made.body["resource"]["id"].as_str().unwrap());
    let patch = |mib: i64| Some(json!({"spec": {"memory_mib": mib}}));
    for path in [path.clone(), format!("{path}?dry_run=true")] {
        let answer = w.call("PATCH", &path, patch(256)).await;
        assert_eq!(
            told(&answer),
            [json!("memory_mib"), json!(200), json!(128), json!(128)]
        );
    }
    let read = w.get(&path).await;
    assert_eq!(read.body["spec"]["memory_mib"], 128, "nothing of it was written");
    let within = w.call("PATCH", &path, patch(192)).await;
    assert_eq!(within.status, 202, "{}", within.body);
}
