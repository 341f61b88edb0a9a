//! One idempotency key, one effect and one answer, whatever has changed since and whoever has gone.

use crate::common::{Answer, Api};
use crate::held::{HOLD, let_go, until_one_waits};
use crate::world::{World, instance, is, network, refused, text};
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

#[tokio::test]
async fn a_reply_is_given_again_to_whom_its_resource_may_be_known_and_to_no_other() {
    let w = World::new().await;
    w.image().await;
    w.network("lan").await;
    let mut body = instance("web", "lan");
    body["tags"] = json!({"env": "prod"});
    let made = w.post("/v1/instances", body).await;
    w.all_done().await;
    let id = text(&made.body["resource"]["id"]);
    let stop = async |scope: &str, key: &str| {
        let token = w.demo.token(scope);
        let path = format!("/v1/instances/{id}/stop");
        w.api
            .call_with(&token, "POST", &path, None, &[("idempotency-key", key)])
            .await
    };
    let first = stop("instance:stop?env=prod", "k-1").await;
    assert_eq!(first.status, 202, "{}", first.body);
    let job = first.body["job"]["id"].clone();
    let other = "instance:read?env=dev instance:stop?env=dev";
    for key in ["k-1", "k-2"] {
        assert_eq!(refused(&stop(other, key).await), is(404, "NOT_FOUND"), "{key}");
    }
    let reader = "instance:read instance:stop?env=dev";
    assert_eq!(refused(&stop(reader, "k-1").await), is(403, "SCOPE_MISSING"));
    let by_id = format!("instance:stop?id={id}");
    for scope in ["instance:stop?env=prod", &by_id] {
        assert_eq!(stop(scope, "k-1").await.body["job"]["id"], job);
    }
    // Its tags changed, and then it went: what was answered is answered still.
    for change in ["UPDATE resources SET tags = '{}'", "DELETE FROM resources"] {
        w.database
            .execute(&format!(
                "DELETE FROM job_resources WHERE resource_id = '{id}'; {change} WHERE id = '{id}'"
            ))
            .await;
        let again = stop("instance:stop?env=prod", "k-1").await;
        assert_eq!((again.status.as_u16(), &again.body["job"]["id"]), (202, &job));
        assert_eq!(refused(&stop(other, "k-1").await), is(404, "NOT_FOUND"));
    }
}

#[tokio::test]
async fn a_cancel_that_was_accepted_is_answered_again() {
    let w = World::new().await;
    let made = w.post("/v1/networks", network("lan")).await;
    let path = format!("/v1/jobs/{}/cancel", text(&made.body["job"]["id"]));
    let cancel = async |key: &str| {
        w.api
            .call_with(&w.token, "POST", &path, None, &[("idempotency-key", key)])
            .await
    };
    let first = cancel("k-1").await;
    assert_eq!(first.status, 202, "{}", first.body);
    let again = cancel("k-1").await;
    assert_eq!((again.status.as_u16(), &again.body), (202, &first.body));
    assert_eq!(refused(&cancel("k-2").await), is(409, "JOB_DONE"));
    let told = "DO $$ BEGIN ASSERT (SELECT count(*) FROM audit WHERE action = 'cancel') = 1; END $$";
    w.database.execute(told).await;
}

#[tokio::test]
async fn a_token_of_a_tenant_that_is_gone_makes_nothing() {
    let w = World::new().await;
    let store = w.database.store(1).await;
    assert_eq!(w.get("/v1/networks").await.status, 200);
    store.tenant_delete(&"demo".into()).await.unwrap();
    for path in ["/v1/networks", "/v1/networks?dry_run=true"] {
        let answer = w.post(path, network("lan")).await;
        assert_eq!(refused(&answer), is(401, "UNAUTHENTICATED"), "{}", answer.body);
    }
}
