//! The contract of images: sources, visibility, use by other tenants. Digests need real bytes: `real_guest.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::Stack;
use rhyzome_testkit::rest::{pointers, small_instance, text, unique};
use serde_json::json;

#[tokio::test]
async fn the_public_image_tiny_is_everybodys_to_use_and_nobodys_to_change() {
    let stack = Stack::shared();
    for tenant in ["demo", "other"] {
        let rest = stack.tenant(tenant);
        let network = rest.network(&unique("net")).await;
        rest.make("instances", &unique("guest"), small_instance(&network))
            .await;
    }
    let rest = stack.demo();
    let listed = rest.all("/v1/images?name=tiny").await;
    let tiny = listed.iter().find(|image| image["tenant"] == "system").unwrap();
    assert_eq!(
        (&tiny["state"], &tiny["spec"]["visibility"]),
        (&json!("ready"), &json!("public")),
        "{tiny:#}"
    );
    let path = format!("/v1/images/{}", text(tiny, "/id"));
    let answers = [
        rest.delete(&path).await,
        rest.patch(&path, &json!({ "tags": { "mine": "1" } })).await,
    ];
    for answer in answers {
        assert!(
            [403, 404].contains(&answer.status),
            "{}: {}",
            answer.request,
            answer.text
        );
    }
}

#[tokio::test]
async fn a_file_is_for_operators_and_a_bare_name() {
    let stack = Stack::shared();
    let spec = |file: &str| json!({ "source": { "file": file }, "format": "qcow2" });
    let body = json!({ "name": unique("image"), "spec": spec("tiny.qcow2") });
    stack.demo().post("/v1/images", &body).await.refused(403);
    for file in ["../tiny.qcow2", "/etc/passwd", ".hidden", "a/b"] {
        let body = json!({ "name": unique("image"), "spec": spec(file) });
        let problem = stack.operator().post("/v1/images", &body).await.refused(422);
        assert_eq!(pointers(&problem), ["/spec/source/file"], "{file}");
    }
}

#[tokio::test]
async fn an_operators_image_is_fetched_checked_and_its_digest_frozen() {
    let stack = Stack::shared();
    let operator = stack.operator();
    let spec = json!({ "source": { "file": "tiny.qcow2" }, "format": "qcow2", "visibility": "public" });
    let image = operator.make("images", &unique("image"), spec).await;
    assert_eq!(
        (&image["state"], &image["tenant"]),
        (&json!("ready"), &json!("system")),
        "{image:#}"
    );
    let digest = text(&image, "/status/sha256");
    assert!(
        digest.len() == 64 && digest.chars().all(|c| c.is_ascii_hexdigit()),
        "{digest}"
    );
    operator.remove("images", &text(&image, "/id")).await;
}

#[tokio::test]
async fn a_public_image_belongs_to_the_operators() {
    let rest = Stack::shared().demo();
    let spec = json!({ "source": { "url": "https://images.example.org/a.qcow2" }, "format": "qcow2", "visibility": "public" });
    let answer = rest
        .post("/v1/images", &json!({ "name": unique("image"), "spec": spec }))
        .await;
    assert!([403, 422].contains(&answer.status), "{}", answer.text);
}

#[tokio::test]
async fn urls_that_cannot_be_fetched_from_are_refused() {
    let rest = Stack::shared().demo();
    for url in [
        "ftp://example.org/a",
        "file:///etc/passwd",
        "no url",
        "https://user:secret@example.org/a",
    ] {
        let body =
            json!({ "name": unique("image"), "spec": { "source": { "url": url }, "format": "qcow2" } });
        let answer = rest.post("/v1/images", &body).await;
        assert!(
            [400, 422].contains(&answer.status),
            "{url}: {} {}",
            answer.status,
            answer.text
        );
        let problem = answer.body;
        assert_eq!(pointers(&problem), ["/spec/source/url"], "{url}: {problem:#}");
    }
    let two = json!({ "name": unique("image"), "spec": { "source": { "url": "https://a.example/x", "file": "x" }, "format": "qcow2" } });
    rest.post("/v1/images", &two).await.refused(400);
    let digest = json!({ "name": unique("image"),
                         "spec": { "source": { "url": "https://a.example/x" }, "format": "qcow2", "sha256": "beef" } });
    let problem = rest.post("/v1/images", &digest).await.refused(400);
    assert_eq!(pointers(&problem), ["/spec/sha256"]);
    let format = json!({ "name": unique("image"), "spec": { "source": { "url": "https://a.example/x" }, "format": "vmdk" } });
    let problem = rest.post("/v1/images", &format).await.refused(400);
    assert_eq!(pointers(&problem), ["/spec/format"]);
}
