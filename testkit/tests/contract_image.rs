//! The contract of images: sources, digest, visibility, use by other tenants.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::Stack;
use rhyzome_testkit::rest::{pointers, small_instance, text, unique};
use serde_json::json;

const WRONG_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

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
async fn an_image_with_a_wrong_digest_fails_and_leaves_its_name_and_the_reason() {
    let stack = Stack::shared();
    let operator = stack.operator();
    let spec = json!({ "source": { "file": "tiny.qcow2" }, "format": "qcow2", "sha256": WRONG_DIGEST });
    let accepted = operator.create("images", &unique("image"), spec).await;
    let job = operator.fail(&accepted.job).await;
    assert_eq!(job["error"]["step"], "ensure_image", "{job:#}");
    assert!(
        job["error"]["code"].is_string() && job["error"]["detail"].is_string(),
        "{job:#}"
    );
    assert_eq!(job["error"]["retryable"], false, "{job:#}");
    let image = operator.resource("images", &accepted.id).await;
    assert_eq!(
        (&image["state"], &image["reason"]["job"]),
        (&json!("failed"), &json!(accepted.job)),
        "{image:#}"
    );
    assert_eq!(image["reason"]["code"], job["error"]["code"]);
    for (host, inventory) in stack.inventories() {
        assert!(
            inventory.traces_of(&accepted.id).is_empty(),
            "{host}: {inventory:?}"
        );
    }
    operator.remove("images", &accepted.id).await;
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

#[tokio::test]
async fn an_instance_of_an_image_that_failed_is_refused() {
    let stack = Stack::shared();
    let operator = stack.operator();
    let name = unique("image");
    let spec = json!({ "source": { "file": "tiny.qcow2" }, "format": "qcow2", "visibility": "public", "sha256": WRONG_DIGEST });
    let image = operator.create("images", &name, spec).await;
    operator.fail(&image.job).await;
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    let mut spec = small_instance(&network);
    spec["image"] = json!(image.id);
    let problem = rest
        .post("/v1/instances", &json!({ "name": unique("guest"), "spec": spec }))
        .await
        .refused(422);
    assert!(problem.to_string().contains("REFERENCE_FAILED"), "{problem:#}");
    operator.remove("images", &image.id).await;
}
