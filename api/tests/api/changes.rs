//! Changes and retries of what is there, and of what never came to be.

use crate::world::{World, instance, is, refused, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn pointers(body: &Value) -> BTreeSet<(String, String)> {
    let errors = body["errors"].as_array().unwrap();
    errors
        .iter()
        .map(|e| (text(&e["pointer"]), text(&e["code"])))
        .collect()
}

#[tokio::test]
async fn a_patch_names_all_that_may_not_change_though_what_it_names_is_not_there() {
    let w = World::new().await;
    w.image().await;
    w.network("lan").await;
    let made = w.post("/v1/instances", instance("one", "lan")).await;
    let path = format!("/v1/instances/{}", text(&made.body["resource"]["id"]));
    w.all_done().await;
    let patch = |spec: Value| {
        let (w, path) = (&w, &path);
        async move { w.call("PATCH", path, Some(json!({ "spec": spec }))).await }
    };
    let elsewhere = json!([{ "network": "nosuch" }]);
    let answer = patch(json!({ "image": "nosuch", "root_disk_gib": 5, "interfaces": elsewhere })).await;
    assert_eq!(refused(&answer), is(422, "VALIDATION_FAILED"));
    let immutable = ["/spec/image", "/spec/interfaces", "/spec/root_disk_gib"];
    assert_eq!(
        pointers(&answer.body),
        immutable.map(|at| (at.to_owned(), "IMMUTABLE".to_owned())).into(),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn what_an_image_needs_counts_from_its_change_on() {
    let w = World::new().await;
    let image = w.image().await;
    w.network("lan").await;
    let facts = r#"{"sha256": "00", "size_bytes": 1, "virtual_size_bytes": 1}"#;
    w.all_done().await;
    w.database
        .execute(&format!(
            "UPDATE resources SET facts = '{facts}' WHERE id = '{image}'"
        ))
        .await;
    let post = |name: &'static str| w.post("/v1/instances", instance(name, "lan"));
    assert_eq!(post("one").await.status, 202);
    let operator = w.operators.token("operator *:*");
    let patch = |mib: Value| {
        let (w, operator, path) = (&w, &operator, format!("/v1/images/{image}"));
        async move {
            let body = json!({ "spec": { "min_memory_mib": mib } });
            let answer = w.api.call(operator, "PATCH", &path, Some(body)).await;
            assert_eq!(answer.status, 202, "{}", answer.body);
        }
    };
    patch(json!(512)).await;
    assert_eq!(refused(&post("two").await), is(422, "VALIDATION_FAILED"));
    patch(Value::Null).await;
    assert_eq!(post("two").await.status, 202);
}

#[tokio::test]
async fn what_was_never_made_is_made_by_the_retry_of_any_of_its_jobs() {
    let w = World::new().await;
    w.image().await;
    w.network("lan").await;
    w.all_done().await;
    let made = w.post("/v1/instances", instance("one", "lan")).await;
    let id = text(&made.body["resource"]["id"]);
    let steps = made.body["job"]["steps"].clone();
    let reboot = w.call("POST", &format!("/v1/instances/{id}/reboot"), None).await;
    assert_eq!(reboot.status, 202, "{}", reboot.body);
    w.database
        .execute(
            "DELETE FROM job_resources;
             UPDATE jobs SET state = CASE WHEN action = 'create' THEN 'cancelled' ELSE 'failed' END, due = NULL, ended_at = now()
             WHERE ended_at IS NULL",
        )
        .await;
    let retry = |job: &Value| {
        let (w, path) = (&w, format!("/v1/jobs/{}/retry", text(job)));
        async move { w.call("POST", &path, None).await }
    };
    for job in [&reboot.body["job"]["id"], &made.body["job"]["id"]] {
        let again = retry(job).await;
        assert_eq!(again.status, 202, "{}", again.body);
        assert_eq!(
            (&again.body["job"]["kind"], &again.body["job"]["steps"]),
            (&json!("instance.create"), &steps),
            "{}",
            again.body
        );
        // One is under way.
        let twice = retry(job).await;
        assert_eq!(refused(&twice), is(409, "NOT_RETRYABLE"));
        let detail = text(&twice.body["detail"]);
        assert!(detail.contains(&text(&again.body["job"]["id"])), "{detail}");
        w.database
            .execute(
                "DELETE FROM job_resources;
                 UPDATE jobs SET state = 'failed', due = NULL, ended_at = now() WHERE ended_at IS NULL",
            )
            .await;
    }
}

#[tokio::test]
async fn a_delete_whose_failed_job_was_forgotten_is_accepted_anew() {
    let w = World::new().await;
    let path = format!("/v1/networks/{}", w.network("lan").await);
    w.all_done().await;
    let first = w.call("DELETE", &path, None).await;
    assert_eq!(first.status, 202, "{}", first.body);
    w.database
        .execute(
            "DELETE FROM job_resources;
             UPDATE jobs SET state = 'failed', due = NULL, ended_at = now() - interval '31 days' WHERE action = 'delete'",
        )
        .await;
    w.database.store(1).await.forget_old(100).await.unwrap();
    // It is still to go, and is told so, without a job.
    let patch = w.call("PATCH", &path, Some(json!({"tags": {"a": "b"}}))).await;
    assert_eq!(refused(&patch), is(409, "DELETING"), "{}", patch.body);
    let again = w.call("DELETE", &path, None).await;
    assert_eq!(again.status, 202, "{}", again.body);
    assert_ne!(again.body["job"]["id"], first.body["job"]["id"]);
    assert_eq!(again.body["job"]["state"], "queued");
    let same = w.call("DELETE", &path, None).await;
    assert_eq!(same.body["job"]["id"], again.body["job"]["id"]);
}
