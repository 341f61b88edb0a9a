//! `?dry_run=true`: all checks done, nothing written.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::Stack;
use rhyzome_testkit::rest::{small_instance, text, unique};
use serde_json::json;

#[tokio::test]
async fn a_dry_run_says_what_would_be_and_writes_nothing() {
    let rest = Stack::shared().demo();
    let network = rest.network(&unique("net")).await;
    let name = unique("guest");
    let body = json!({ "name": name, "spec": small_instance(&network) });
    let would = rest.post("/v1/instances?dry_run=true", &body).await.ok();
    let resource = &would["resource"];
    assert_eq!(
        (&resource["name"], &resource["kind"], &resource["state"]),
        (&json!(name), &json!("instance"), &json!("creating"))
    );
    assert_eq!(would["placement"]["fits"], true, "{would:#}");
    assert!(
        would["placement"]["hosts"]["total"].as_u64().unwrap() >= 3,
        "{would:#}"
    );
    assert_eq!(would["price"], json!(null));
    assert!(would.to_string().contains("ensure_disk"), "the steps: {would:#}");
    assert!(rest.all(&format!("/v1/instances?name={name}")).await.is_empty());
    assert!(
        rest.all(&format!("/v1/networks/{network}/leases"))
            .await
            .is_empty()
    );
    rest.make("instances", &name, small_instance(&network)).await;
}

#[tokio::test]
async fn a_dry_run_refuses_what_the_request_would_be_refused_for() {
    let rest = Stack::shared().demo();
    let name = unique("net");
    rest.network(&name).await;
    let taken = json!({ "name": name, "spec": { "cidr": "10.20.0.0/24" } });
    rest.post("/v1/networks?dry_run=true", &taken).await.refused(409);
    let wrong = json!({ "name": unique("net"), "spec": { "cidr": "10.20.0.1/24" } });
    rest.post("/v1/networks?dry_run=true", &wrong).await.refused(422);
    let unknown = json!({ "name": unique("net"), "spec": { "cdir": "10.20.0.0/24" } });
    rest.post("/v1/networks?dry_run=true", &unknown)
        .await
        .refused(400);
}

#[tokio::test]
async fn a_dry_run_of_what_fits_nowhere_says_why() {
    let rest = Stack::shared().demo();
    let network = rest.network(&unique("net")).await;
    let mut spec = small_instance(&network);
    spec["memory_mib"] = json!(10_000_000);
    let would = rest
        .post(
            "/v1/instances?dry_run=true",
            &json!({ "name": unique("guest"), "spec": spec }),
        )
        .await
        .ok();
    let placement = &would["placement"];
    assert_eq!(placement["fits"], false, "{would:#}");
    assert_eq!(
        placement["hosts"]["excluded"]["memory"], placement["hosts"]["total"],
        "{would:#}"
    );
}

#[tokio::test]
async fn every_change_can_be_tried_dry() {
    let rest = Stack::shared().demo();
    let network = rest.network(&unique("net")).await;
    let id = text(
        &rest
            .make("instances", &unique("guest"), small_instance(&network))
            .await,
        "/id",
    );
    let path = format!("/v1/instances/{id}");
    let would = rest.act(&format!("{path}/stop?dry_run=true")).await.ok();
    assert_eq!(would["resource"]["state"], "stopping", "{would:#}");
    rest.patch(&format!("{path}?dry_run=true"), &json!({ "tags": { "a": "b" } }))
        .await
        .ok();
    rest.delete(&format!("{path}?dry_run=true")).await.ok();
    rest.delete(&format!("/v1/networks/{network}?dry_run=true"))
        .await
        .refused(409);
    let after = rest.get(&path).await.ok();
    assert_eq!(
        (&after["state"], &after["tags"]),
        (&json!("running"), &json!({})),
        "{after:#}"
    );
    assert_eq!(rest.all(&format!("/v1/jobs?target={id}")).await.len(), 1);
}
