//! What an instance is kept apart from is named by id or name, and kept by id.

use crate::world::{World, instance, is, refused, text};
use serde_json::{Value, json};

fn apart(from: &[&str]) -> Value {
    json!({"spec": {"placement": {"apart_from": from}}})
}

#[tokio::test]
async fn names_become_ids_and_what_is_not_there_is_refused() {
    let w = World::new().await;
    w.image().await;
    let wide = json!({"name": "lan", "spec": {"cidr": "10.30.0.0/24"}});
    assert_eq!(w.post("/v1/networks", wide).await.status, 202);
    let first = w.post("/v1/instances", instance("web-1", "lan")).await;
    let first = text(&first.body["resource"]["id"]);
    let with = |name: &str, from: &[&str]| {
        let mut body = instance(name, "lan");
        body["spec"]["placement"] = apart(from)["spec"]["placement"].clone();
        body
    };
    for path in ["/v1/instances", "/v1/instances?dry_run=true"] {
        let bad = w.post(path, with("web-2", &["web-1", "nope"])).await;
        assert_eq!(refused(&bad), is(422, "REFERENCE_NOT_FOUND"), "{}", bad.body);
        assert_eq!(bad.body["errors"][0]["pointer"], "/spec/placement/apart_from/1");
    }
    let second = w.post("/v1/instances", with("web-2", &["web-1"])).await;
    assert_eq!(second.status, 202, "{}", second.body);
    let of =
        |answer: &crate::common::Answer| answer.body["resource"]["spec"]["placement"]["apart_from"].clone();
    assert_eq!(of(&second), json!([first]));
    w.all_done().await;

    // As it was written it is what is kept: no change. Another would be one, and that can't be.
    let path = format!("/v1/instances/{}", text(&second.body["resource"]["id"]));
    for same in ["web-1", &first] {
        let same = w.call("PATCH", &path, Some(apart(&[same]))).await;
        assert_eq!(
            (same.status.as_u16(), of(&same)),
            (200, json!([first])),
            "{}",
            same.body
        );
    }
    let bad = w.call("PATCH", &path, Some(apart(&["nope"]))).await;
    assert_eq!(refused(&bad), is(422, "VALIDATION_FAILED"), "{}", bad.body);

    // It is no dependency: what others are kept apart from may go.
    let gone = w.call("DELETE", &format!("/v1/instances/{first}"), None).await;
    assert_eq!(gone.status, 202, "{}", gone.body);
    w.database
        .execute(&format!(
            "DELETE FROM job_resources WHERE resource_id = '{first}'; DELETE FROM resources WHERE id = '{first}'"
        ))
        .await;
    // Once it is gone it is told of no more, in no reading; what was read, now or before, can be sent again, and is no change.
    let read = w.get(&path).await;
    assert_eq!(read.body["spec"]["placement"], json!({}), "{}", read.body);
    let tag = read.headers["etag"].clone();
    let list = w.get("/v1/instances?name=web-2").await;
    assert_eq!(list.body["items"][0]["spec"], read.body["spec"], "{}", list.body);
    let spec = json!({"spec": read.body["spec"]});
    for same in [spec.clone(), apart(&[&first]), apart(&[])] {
        let again = w.call("PATCH", &path, Some(same)).await;
        assert_eq!(
            (again.status.as_u16(), &again.body["resource"]["spec"]),
            (200, &read.body["spec"]),
            "{}",
            again.body
        );
        assert_eq!(again.headers["etag"], tag);
    }
    let mut changed = spec;
    changed["spec"]["restart"] = json!("never");
    for (query, status) in [("?dry_run=true", 200), ("", 202)] {
        let answer = w
            .call("PATCH", &format!("{path}{query}"), Some(changed.clone()))
            .await;
        let shown = &answer.body["resource"]["spec"];
        assert_eq!(
            (answer.status.as_u16(), shown),
            (status, &changed["spec"]),
            "{}",
            answer.body
        );
    }
}
