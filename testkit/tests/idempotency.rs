//! `Idempotency-Key`: one key, one job (invariant 2).

use rhyzome_testkit::Stack;
use rhyzome_testkit::rest::{small_instance, text, unique};
use serde_json::json;

#[tokio::test]
async fn the_same_request_again_is_answered_as_the_first_was() {
    let stack = Stack::shared();
    let rest = stack.demo();
    let name = unique("net");
    let keyed = rest.header("idempotency-key", &unique("key"));
    let first = keyed
        .post(
            "/v1/networks",
            &json!({ "name": name, "spec": { "cidr": "10.20.0.0/24", "dns": [] } }),
        )
        .await
        .accepted();
    // Equal as JSON, not as text.
    let same =
        format!("{{ \"spec\": {{\"dns\": [ ], \"cidr\": \"10.20.0.0/24\"}},\n \"name\" : \"{name}\" }}");
    let again = keyed.post_text("/v1/networks", &same).await.accepted();
    assert_eq!((&first.id, &first.job), (&again.id, &again.job));
    rest.succeed(&first.job).await;
    let late = keyed.post_text("/v1/networks", &same).await.accepted();
    assert_eq!(late.job, first.job);
    assert_eq!(rest.all(&format!("/v1/networks?name={name}")).await.len(), 1);
    assert_eq!(rest.all(&format!("/v1/jobs?target={}", first.id)).await.len(), 1);

    let other = json!({ "name": name, "spec": { "cidr": "10.21.0.0/24", "dns": [] } });
    keyed.post("/v1/networks", &other).await.refused(422);
}

#[tokio::test]
async fn a_key_is_the_tenants_and_the_paths() {
    let stack = Stack::shared();
    let key = unique("key");
    let demo = stack.demo().header("idempotency-key", &key);
    let other = stack.tenant("other").header("idempotency-key", &key);
    let body = json!({ "name": unique("net"), "spec": { "cidr": "10.20.0.0/24" } });
    let one = demo.post("/v1/networks", &body).await.accepted();
    let two = other.post("/v1/networks", &body).await.accepted();
    assert_ne!(one.id, two.id);
    let guest = json!({ "name": unique("guest"), "spec": small_instance(&one.id) });
    demo.post("/v1/instances", &guest).await.accepted();
}

#[tokio::test]
async fn many_at_once_are_one() {
    let rest = Stack::shared().demo();
    let keyed = rest.header("idempotency-key", &unique("key"));
    let body = json!({ "name": unique("net"), "spec": { "cidr": "10.20.0.0/24" } });
    let answers = futures::future::join_all((0..12).map(|_| keyed.post("/v1/networks", &body))).await;
    let jobs: std::collections::BTreeSet<String> =
        answers.into_iter().map(|answer| answer.accepted().job).collect();
    assert_eq!(jobs.len(), 1, "{jobs:?}");
}

#[tokio::test]
async fn a_refusal_is_not_kept() {
    let rest = Stack::shared().demo();
    let name = unique("net");
    let holder = rest.network(&name).await;
    let keyed = rest.header("idempotency-key", &unique("key"));
    let body = json!({ "name": name, "spec": { "cidr": "10.20.0.0/24" } });
    keyed.post("/v1/networks", &body).await.refused(409);
    rest.remove("networks", &holder).await;
    let accepted = keyed.post("/v1/networks", &body).await.accepted();
    rest.succeed(&accepted.job).await;
}

#[tokio::test]
async fn actions_have_keys_too() {
    let rest = Stack::shared().demo();
    let network = rest.network(&unique("net")).await;
    let id = text(
        &rest
            .make("instances", &unique("guest"), small_instance(&network))
            .await,
        "/id",
    );
    let keyed = rest.header("idempotency-key", &unique("key"));
    let first = keyed.act(&format!("/v1/instances/{id}/reboot")).await.accepted();
    rest.succeed(&first.job).await;
    let again = keyed.act(&format!("/v1/instances/{id}/reboot")).await.accepted();
    assert_eq!(first.job, again.job);
    let reboots = rest.all(&format!("/v1/jobs?target={id}")).await;
    assert_eq!(
        reboots
            .iter()
            .filter(|job| job["kind"] == "instance.reboot")
            .count(),
        1
    );
}
