//! Errors: problem details, all faults at once, unknown fields and parameters, methods and paths.

use rhyzome_testkit::Stack;
use rhyzome_testkit::rest::{Rest, pointers, text, unique};
use serde_json::json;

#[tokio::test]
async fn unknown_fields_are_refused_wherever_they_are() {
    let rest = Stack::shared().demo();
    let bodies = [
        (
            json!({ "name": unique("n"), "spec": { "cidr": "10.0.0.0/24" }, "tag": {} }),
            "/tag",
        ),
        (
            json!({ "name": unique("n"), "spec": { "cidr": "10.0.0.0/24", "gatway": "10.0.0.1" } }),
            "/spec/gatway",
        ),
        (
            json!({ "name": unique("n"), "spec": { "cidr": "10.0.0.0/24",
                 "leases": [{ "mac": "02:00:00:00:00:01", "ip": "10.0.0.2", "host": "x" }] } }),
            "/spec/leases/0/host",
        ),
        (
            json!({ "id": "x", "name": unique("n"), "spec": { "cidr": "10.0.0.0/24" } }),
            "/id",
        ),
    ];
    for (body, pointer) in bodies {
        let problem = rest.post("/v1/networks", &body).await.refused(400);
        assert_eq!(pointers(&problem), [pointer], "{problem:#}");
    }
}

#[tokio::test]
async fn unknown_query_parameters_are_refused_on_every_kind_of_request() {
    let rest = Stack::shared().demo();
    let id = rest.network(&unique("net")).await;
    let path = format!("/v1/networks/{id}");
    let body = json!({ "name": unique("n"), "spec": { "cidr": "10.0.0.0/24" } });
    rest.get("/v1/networks?nmae=x").await.refused(400);
    rest.get(&format!("{path}?x=1")).await.refused(400);
    rest.post("/v1/networks?dryrun=true", &body).await.refused(400);
    rest.patch(&format!("{path}?dryrun=true"), &json!({ "tags": { "a": "b" } }))
        .await
        .refused(400);
    rest.delete(&format!("{path}?force=true")).await.refused(400);
    rest.get("/v1/jobs?targett=x").await.refused(400);
    rest.get("/v1/kinds?x=1").await.refused(400);
    for wrong in ["?limit=0", "?limit=ten", "?page_token=nonsense", "?state=flying"] {
        rest.get(&format!("/v1/networks{wrong}")).await.refused(400);
    }
    rest.post("/v1/networks?dry_run=maybe", &body).await.refused(400);
    rest.post("/v1/networks?deadline_seconds=soon", &body)
        .await
        .refused(400);
}

#[tokio::test]
async fn a_body_that_is_no_document_is_refused() {
    let rest = Stack::shared().demo();
    for body in ["", "{", "[]", "\"text\"", "null"] {
        let answer = rest.post_text("/v1/networks", body).await;
        assert_eq!(answer.status, 400, "{body:?}: {}", answer.text);
    }
    let problem = rest.post("/v1/networks", &json!({})).await.refused(400);
    assert_eq!(
        pointers(&problem),
        ["/name", "/spec"],
        "every missing field at once"
    );
    let problem = rest
        .post("/v1/networks", &json!({ "name": 5, "tags": [], "spec": {} }))
        .await
        .refused(400);
    assert_eq!(pointers(&problem), ["/name", "/spec/cidr", "/tags"]);
}

#[tokio::test]
async fn names_are_dns_labels() {
    let rest = Stack::shared().demo();
    let long = "a".repeat(64);
    for name in ["", "-a", "a-", "A", "a.b", "a_b", "ä", long.as_str()] {
        let body = json!({ "name": name, "spec": { "cidr": "10.0.0.0/24" } });
        let answer = rest.post("/v1/networks", &body).await;
        assert!([400, 422].contains(&answer.status), "{name:?}: {}", answer.text);
        assert_eq!(pointers(&answer.body), ["/name"], "{name:?}");
    }
    let longest = format!("{}{}", "a".repeat(53), &unique("x")[2..]);
    assert_eq!(longest.len(), 63);
    rest.network(&longest).await;
}

#[tokio::test]
async fn what_is_not_there_is_404_and_what_cannot_be_done_405() {
    let rest = Stack::shared().demo();
    let nobody = uuid::Uuid::now_v7();
    for path in [
        format!("/v1/networks/{nobody}"),
        format!("/v1/instances/{nobody}"),
        format!("/v1/jobs/{nobody}"),
        "/v1/flowers".to_owned(),
        "/v1/kinds/flower".to_owned(),
        "/nothing".to_owned(),
    ] {
        rest.get(&path).await.refused(404);
    }
    rest.act(&format!("/v1/instances/{nobody}/start"))
        .await
        .refused(404);
    let network = rest.network(&unique("net")).await;
    rest.act(&format!("/v1/networks/{network}/start"))
        .await
        .refused(404);
    // A resource of another kind isn't one of this kind.
    rest.get(&format!("/v1/instances/{network}")).await.refused(404);
    assert_eq!(rest.patch("/v1/networks", &json!({})).await.status, 405);
}

#[tokio::test]
async fn a_problem_says_its_request_and_every_answer_has_an_id() {
    let rest = Stack::shared().demo();
    let path = format!("/v1/networks/{}", uuid::Uuid::now_v7());
    let first = rest.get(&path).await.refused(404);
    let second = rest.get(&path).await.refused(404);
    assert_ne!(first["request_id"], second["request_id"]);
    assert!(
        text(&first, "/instance").contains(&path)
            || text(&first, "/instance").contains(&text(&first, "/request_id"))
    );
}

#[tokio::test]
async fn the_open_pages_need_no_token() {
    let stack = Stack::shared();
    let nobody = Rest::new(&stack.file().api_url, None);
    for path in ["/healthz", "/readyz", "/openapi.json", "/docs"] {
        let answer = nobody.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    }
    let document = nobody.get("/openapi.json").await.ok();
    assert!(text(&document, "/openapi").starts_with("3."));
    for path in [
        "/v1/networks",
        "/v1/networks/{id}",
        "/v1/instances/{id}/start",
        "/v1/jobs/{id}",
        "/v1/kinds",
        "/v1/networks/{id}/leases",
    ] {
        assert!(
            document["paths"].get(path).is_some(),
            "{path} isn't in openapi.json"
        );
    }
    let metrics = nobody.get("/metrics").await;
    assert_eq!(metrics.status, 404, "metrics have a listener of their own");
}

#[tokio::test]
async fn kinds_say_their_schema() {
    let rest = Stack::shared().demo();
    let kinds = rest.get("/v1/kinds").await.ok();
    for (kind, field) in [("network", "cidr"), ("image", "source"), ("instance", "vcpus")] {
        assert!(kinds.to_string().contains(&format!("\"{kind}\"")), "{kinds:#}");
        let one = rest.get(&format!("/v1/kinds/{kind}")).await.ok();
        assert!(
            one.to_string().contains(&format!("\"{field}\"")),
            "no schema with {field}: {one:#}"
        );
    }
}
