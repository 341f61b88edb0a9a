//! One idempotency key, one effect and one answer, whatever has changed since and whoever has gone.

use crate::common::{Answer, Api};
use crate::held::{HOLD, let_go, until_one_waits};
use crate::world::{World, instance, is, refused};
use futures::future::join;
use rhyzome_store::accept::IdempotencyKey;
use serde_json::{Value, json};
use std::pin::pin;

async fn post(api: &Api, w: &World, key: &str, body: &Value) -> Answer {
    let headers = [("idempotency-key", key)];
    api.call_with(&w.token, "POST", "/v1/instances", Some(body.clone()), &headers)
        .await
}

#[tokio::test]
async fn what_was_accepted_is_answered_though_it_would_be_refused_by_now() {
    let w = World::new().await;
    let image = w.image().await;
    w.network("lan").await;
    let mut small = instance("one", "lan");
    small["spec"]["root_disk_gib"] = json!(2);
    let accepted = post(&w.api, &w, "k-1", &small).await;
    assert_eq!(accepted.status, 202, "{}", accepted.body);

    // The image comes, and is larger. Another process serves, that has not looked at it before.
    let facts = r#"{"sha256": "00", "size_bytes": 1, "virtual_size_bytes": 3221225472}"#;
    w.database
        .execute(&format!(
            "UPDATE resources SET facts = '{facts}' WHERE id = '{image}'"
        ))
        .await;
    let store = w.database.store(4).await;
    let issuers = store.issuer_list().await.unwrap();
    let other = Api::new(store, issuers);
    let again = post(&other, &w, "k-1", &small).await;
    assert_eq!(
        (again.status.as_u16(), &again.body["resource"]["id"]),
        (202, &accepted.body["resource"]["id"]),
        "{}",
        again.body
    );
    // Another body under the key is that first of all; and another key is a request of its own.
    small["name"] = json!("two");
    assert_eq!(
        refused(&post(&other, &w, "k-1", &small).await),
        is(422, "IDEMPOTENCY_KEY_REUSED")
    );
    assert_eq!(
        refused(&post(&other, &w, "k-2", &small).await),
        is(422, "VALIDATION_FAILED")
    );
}

#[tokio::test]
async fn a_key_keeps_its_turn_until_its_request_is_accepted_though_who_asked_has_gone() {
    let w = World::new().await;
    w.image().await;
    w.network("held").await;
    let key = IdempotencyKey {
        method: "POST".into(),
        path: "/v1/instances".into(),
        key: "k-1".into(),
        body_hash: [0; 32],
    };
    let asked = async {
        until_one_waits(&w, "wait_event = 'PgSleep'").await;
        {
            let body = instance("one", "held");
            let asks = pin!(post(&w.api, &w, "k-1", &body));
            tokio::select! {
                answer = asks => panic!("it needs what is held: {}", answer.body),
                () = until_one_waits(&w, "wait_event_type = 'Lock'") => {}
            }
        }
        let tenant = "demo".into();
        let mut next = pin!(w.api.app.keys.lock(&tenant, Some(&key)));
        assert!(futures::poll!(&mut next).is_pending(), "it is being accepted");
        let_go(&w).await;
        assert!(next.await.is_some());
    };
    join(w.database.execute(HOLD), asked).await;
    let again = post(&w.api, &w, "k-1", &instance("one", "held")).await;
    assert_eq!(again.status, 202, "{}", again.body);
    assert_eq!(
        w.get("/v1/instances").await.body["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}
