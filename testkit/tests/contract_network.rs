//! The contract of networks: create, read, list, patch, delete, leases, and every refusal that a network can meet.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::Stack;
use rhyzome_testkit::rest::{pointers, small_instance, text, unique};
use serde_json::json;

#[tokio::test]
async fn a_network_is_accepted_made_read_and_deleted() {
    let rest = Stack::shared().demo();
    let name = unique("net");
    let body = json!({ "name": name, "tags": { "env": "test" },
                       "spec": { "cidr": "10.20.0.0/24", "dns": ["9.9.9.9"],
                                 "leases": [{ "mac": "02:00:00:00:00:AA", "ip": "10.20.0.9", "hostname": "printer" }] } });
    let accepted = rest.post("/v1/networks", &body).await.accepted();
    let resource = &accepted.answer.body["resource"];
    assert_eq!(resource["kind"], "network");
    assert_eq!(resource["tenant"], "demo");
    assert_eq!(resource["name"], name.as_str());
    assert_eq!(resource["tags"], json!({ "env": "test" }));
    assert_eq!(resource["generation"], 1);
    assert_eq!(resource["spec"]["cidr"], "10.20.0.0/24");
    for field in [
        "observed_generation",
        "state",
        "reason",
        "status",
        "active_job",
        "created_at",
        "updated_at",
    ] {
        assert!(resource.get(field).is_some(), "no {field} in {resource:#}");
    }
    assert!(text(resource, "/created_at").ends_with('Z'), "{resource:#}");
    let id = uuid::Uuid::parse_str(&accepted.id).unwrap();
    assert_eq!(id.get_version_num(), 7);

    rest.get(&format!("/v1/networks/{}", accepted.id)).await.ok();
    rest.succeed(&accepted.job).await;
    let made = rest.resource("networks", &accepted.id).await;
    assert_eq!(
        (&made["state"], &made["active_job"], &made["reason"]),
        (&json!("ready"), &json!(null), &json!(null))
    );
    assert_eq!(made["observed_generation"], made["generation"]);

    let leases = rest
        .get(&format!("/v1/networks/{}/leases", accepted.id))
        .await
        .ok();
    assert_eq!(leases["next_page_token"], json!(null));
    assert_eq!(leases["items"].as_array().unwrap().len(), 1);
    let lease = &leases["items"][0];
    assert_eq!(lease["ip"], "10.20.0.9");
    assert_eq!(text(lease, "/mac").to_ascii_lowercase(), "02:00:00:00:00:aa");
    assert_eq!(
        (&lease["hostname"], &lease["automatic"]),
        (&json!("printer"), &json!(false))
    );
    assert_eq!(lease["instance"], json!(null));

    rest.remove("networks", &accepted.id).await;
    let job = rest.job(&accepted.job).await;
    assert_eq!(job["state"], "succeeded", "a resource's jobs stay readable");
    assert!(rest.all(&format!("/v1/networks?name={name}")).await.is_empty());
}

#[tokio::test]
async fn a_name_that_is_taken_is_a_conflict_until_its_holder_is_gone() {
    let rest = Stack::shared().demo();
    let name = unique("net");
    let id = rest.network(&name).await;
    let body = json!({ "name": name, "spec": { "cidr": "10.30.0.0/24" } });
    let problem = rest.post("/v1/networks", &body).await.refused(409);
    assert!(problem.to_string().contains(&id), "with what: {problem:#}");
    rest.remove("networks", &id).await;
    let again = rest
        .create("networks", &name, json!({ "cidr": "10.30.0.0/24" }))
        .await;
    rest.succeed(&again.job).await;
}

#[tokio::test]
async fn ranges_may_overlap_in_one_tenant_and_in_two() {
    let stack = Stack::shared();
    let (demo, other) = (stack.demo(), stack.tenant("other"));
    let name = unique("same");
    demo.network(&name).await;
    demo.network(&unique("same")).await;
    other.network(&name).await;
}

#[tokio::test]
async fn a_range_that_cannot_be_is_refused() {
    let rest = Stack::shared().demo();
    // Not understood.
    for cidr in [
        json!("10.20.0.0"),
        json!("10.20.0.0/33"),
        json!("nonsense"),
        json!("fe80::/64"),
        json!(7),
        json!(null),
    ] {
        let body = json!({ "name": unique("net"), "spec": { "cidr": cidr } });
        let problem = rest.post("/v1/networks", &body).await.refused(400);
        assert_eq!(pointers(&problem), ["/spec/cidr"], "{cidr}: {problem:#}");
    }
    // Understood, and can't be.
    for spec in [
        json!({ "cidr": "10.20.0.5/24" }),
        json!({ "cidr": "10.20.0.0/31" }),
        json!({ "cidr": "127.0.0.0/24" }),
        json!({ "cidr": "224.0.0.0/24" }),
    ] {
        let body = json!({ "name": unique("net"), "spec": spec });
        let problem = rest.post("/v1/networks", &body).await.refused(422);
        assert_eq!(pointers(&problem), ["/spec/cidr"], "{spec}: {problem:#}");
    }
    for gateway in ["10.21.0.1", "10.20.0.0", "10.20.0.255"] {
        let body = json!({ "name": unique("net"), "spec": { "cidr": "10.20.0.0/24", "gateway": gateway } });
        let problem = rest.post("/v1/networks", &body).await.refused(422);
        assert_eq!(pointers(&problem), ["/spec/gateway"], "{gateway}: {problem:#}");
    }
}

#[tokio::test]
async fn leases_that_cannot_be_are_all_named_at_once() {
    let rest = Stack::shared().demo();
    let body = json!({ "name": unique("net"), "spec": { "cidr": "10.20.0.0/24", "leases": [
        { "mac": "02:00:00:00:00:01", "ip": "10.99.0.1" },
        { "mac": "02:00:00:00:00:02", "ip": "10.20.0.1" },
        { "mac": "02:00:00:00:00:02", "ip": "10.20.0.8" },
        { "mac": "02:00:00:00:00:03", "ip": "10.20.0.8", "hostname": "No_Label" } ] } });
    let problem = rest.post("/v1/networks", &body).await.refused(422);
    let pointers = pointers(&problem);
    for expected in [
        "/spec/leases/0/ip",
        "/spec/leases/1/ip",
        "/spec/leases/2/mac",
        "/spec/leases/3/ip",
        "/spec/leases/3/hostname",
    ] {
        assert!(
            pointers.iter().any(|pointer| pointer == expected),
            "{expected} is missing: {problem:#}"
        );
    }
}

#[tokio::test]
async fn tags_change_without_a_job_and_the_spec_with_one() {
    let rest = Stack::shared().demo();
    let id = rest.network(&unique("net")).await;
    let path = format!("/v1/networks/{id}");
    let before = rest.get(&path).await;
    let etag = before.header("etag").unwrap().to_owned();
    assert!(
        etag.starts_with('"') && etag.ends_with('"'),
        "a strong ETag: {etag}"
    );

    let tagged = rest
        .patch(&path, &json!({ "tags": { "a": "1", "b": "2" } }))
        .await
        .ok();
    assert_eq!(tagged["job"], json!(null));
    assert_eq!(tagged["resource"]["tags"], json!({ "a": "1", "b": "2" }));
    let tagged = rest.patch(&path, &json!({ "tags": { "a": null } })).await.ok();
    assert_eq!(
        tagged["resource"]["tags"],
        json!({ "b": "2" }),
        "a merge patch removes by null"
    );

    let stale = rest
        .header("if-match", &etag)
        .patch(&path, &json!({ "tags": { "c": "3" } }))
        .await;
    stale.refused(412);
    let now = rest.get(&path).await;
    let fresh = now.header("etag").unwrap();
    assert_ne!(fresh, etag);
    rest.header("if-match", fresh)
        .patch(&path, &json!({ "tags": { "c": "3" } }))
        .await
        .ok();

    let changed = rest
        .patch(&path, &json!({ "spec": { "dns": ["1.1.1.1"] } }))
        .await
        .accepted();
    rest.succeed(&changed.job).await;
    let after = rest.resource("networks", &id).await;
    assert_eq!(after["spec"]["dns"], json!(["1.1.1.1"]));
    assert_eq!(
        after["spec"]["cidr"], "10.20.0.0/24",
        "what the patch doesn't name stays"
    );
    assert_eq!(after["observed_generation"], after["generation"]);

    let problem = rest
        .patch(&path, &json!({ "spec": { "cidrr": "10.0.0.0/24" } }))
        .await
        .refused(400);
    assert_eq!(pointers(&problem), ["/spec/cidrr"]);
}

#[tokio::test]
async fn the_etag_is_over_intent_and_progress_leaves_it_alone() {
    let rest = Stack::shared().demo();
    let accepted = rest
        .create("networks", &unique("net"), json!({ "cidr": "10.20.0.0/24" }))
        .await;
    let path = format!("/v1/networks/{}", accepted.id);
    let early = rest.get(&path).await;
    rest.succeed(&accepted.job).await;
    let late = rest.get(&path).await;
    assert_eq!(early.header("etag"), late.header("etag"));
}

#[tokio::test]
async fn a_network_that_an_instance_needs_is_not_deleted() {
    let rest = Stack::shared().demo();
    let network = rest.network(&unique("net")).await;
    let name = unique("guest");
    let instance = rest.make("instances", &name, small_instance(&network)).await;
    let problem = rest.delete(&format!("/v1/networks/{network}")).await.refused(409);
    assert!(
        problem.to_string().contains(&name),
        "it names the dependant: {problem:#}"
    );

    // Dependants that are being deleted themselves don't refuse it: the job waits for them.
    let going = rest
        .delete(&format!("/v1/instances/{}", text(&instance, "/id")))
        .await
        .accepted();
    let network_going = rest.delete(&format!("/v1/networks/{network}")).await.accepted();
    rest.succeed(&network_going.job).await;
    assert_eq!(rest.job(&going.job).await["state"], "succeeded");
    rest.get(&format!("/v1/networks/{network}")).await.refused(404);
}

#[tokio::test]
async fn an_operator_sees_where_a_network_lives_and_a_tenant_does_not() {
    let stack = Stack::shared();
    let (rest, operator) = (stack.demo(), stack.operator());
    let network = rest.network(&unique("net")).await;
    rest.make("instances", &unique("guest"), small_instance(&network))
        .await;
    let seen = operator
        .get(&format!("/v1/networks/{network}?tenant=demo"))
        .await
        .ok();
    assert!(seen["status"]["host"].is_string(), "{seen:#}");
    let own = rest.resource("networks", &network).await;
    assert!(
        own["status"].get("host").is_none_or(serde_json::Value::is_null),
        "{own:#}"
    );
}
