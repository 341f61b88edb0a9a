//! What answers say: of a job that is waited for in vain, of a taken name, of what isn't there.

use crate::world::{World, instance, is, network, refused, text};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

#[tokio::test]
async fn when_the_time_is_up_the_answer_is_of_then() {
    let w = World::new().await;
    let create = w.api.call_with(
        &w.token,
        "POST",
        "/v1/networks",
        Some(network("lan")),
        &[("prefer", "wait=3")],
    );
    let begin = async {
        loop {
            let jobs = w.get("/v1/jobs").await;
            if !jobs.body["items"][0]["id"].is_null() {
                w.database
                    .execute("UPDATE jobs SET state = 'running', attempt = 1; UPDATE resources SET tags = '{\"seen\": \"then\"}'")
                    .await;
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let (answer, ()) = tokio::join!(create, begin);
    let (job, resource) = (&answer.body["job"], &answer.body["resource"]);
    assert_eq!(
        (&job["state"], &job["attempt"], &job["done"]),
        (&json!("running"), &json!(1), &json!(false)),
        "{job:#}"
    );
    assert_eq!(resource["tags"], json!({"seen": "then"}));
}

#[tokio::test]
async fn a_name_is_taken_by_the_one_that_has_it() {
    let w = World::new().await;
    let (lan, other) = (w.network("lan").await, w.network("other").await);
    w.all_done().await;
    let path = format!("/v1/networks/{lan}");
    for path in [path.clone(), format!("{path}?dry_run=true")] {
        let taken = w.call("PATCH", &path, Some(json!({"name": "other"}))).await;
        assert_eq!(refused(&taken), is(409, "NAME_TAKEN"));
        assert_eq!(taken.body["conflicts"][0]["id"], json!(other));
        let detail = text(&taken.body["detail"]);
        assert!(detail.contains(&other) && !detail.contains(&lan), "{detail}");
    }
}

#[tokio::test]
async fn a_tenant_that_is_not_there_is_no_empty_one() {
    let w = World::new().await;
    let lan = w.network("lan").await;
    let operator = w.operators.token("operator");
    for path in [
        "/v1/networks".to_owned(),
        "/v1/jobs".to_owned(),
        "/v1/events".to_owned(),
        format!("/v1/networks/{lan}"),
        format!("/v1/networks/{lan}/leases"),
    ] {
        for tenant in ["nope", ""] {
            let answer = w
                .api
                .call(&operator, "GET", &format!("{path}?tenant={tenant}"), None)
                .await;
            assert_eq!(refused(&answer), is(404, "NOT_FOUND"), "{path} {tenant:?}");
            let detail = text(&answer.body["detail"]);
            assert_eq!(detail, format!("There is no tenant {tenant:?}."));
        }
    }
    for tenant in ["other", "system"] {
        let answer = w
            .api
            .call(&operator, "GET", &format!("/v1/networks?tenant={tenant}"), None)
            .await;
        assert_eq!(answer.body["items"], json!([]), "{tenant}");
    }
    let asked = w.get("/v1/networks?tenant=nope").await;
    assert_eq!(asked.status, 403, "only operators are told which there are");
}

#[tokio::test]
async fn a_forged_token_of_a_page_is_refused() {
    let w = World::new().await;
    for micros in [i64::MIN / 4, -220_000_000_000_000_000, -1] {
        let token = URL_SAFE_NO_PAD.encode(format!("{micros}.{}", uuid::Uuid::nil().simple()));
        for list in ["jobs", "networks"] {
            let answer = w.get(&format!("/v1/{list}?page_token={token}")).await;
            assert_eq!(refused(&answer), is(400, "INVALID_REQUEST"), "{list} {micros}");
        }
    }
}

#[tokio::test]
async fn a_patch_that_takes_away_what_can_not_be_there_is_refused() {
    let w = World::new().await;
    w.image().await;
    w.network("lan").await;
    let made = w.post("/v1/instances", instance("one", "lan")).await;
    w.all_done().await;
    let path = format!("/v1/instances/{}", text(&made.body["resource"]["id"]));
    let patch = |spec: Value| w.call("PATCH", &path, Some(json!({ "spec": spec })));
    for (spec, pointer) in [
        (json!({"placment": null}), "/spec/placment"),
        (
            json!({"placement": {"host_labls": null}}),
            "/spec/placement/host_labls",
        ),
    ] {
        let answer = patch(spec).await;
        assert_eq!(refused(&answer), is(400, "INVALID_REQUEST"));
        assert_eq!(answer.body["errors"][0]["pointer"], pointer, "{}", answer.body);
    }
    assert_eq!(patch(json!({"placement": null})).await.status, 200);
}

#[tokio::test]
async fn pointers_in_sentences_lead_into_the_document() {
    let w = World::new().await;
    w.image().await;
    w.network("lan").await;
    let mut twice = instance("one", "lan");
    let interface = json!({"network": "lan", "ip": "10.20.0.3"});
    twice["spec"]["interfaces"] = json!([interface, interface]);
    let answer = w.post("/v1/instances", twice).await;
    assert_eq!(
        answer.body["errors"][0]["detail"],
        "10.20.0.3 is in /spec/interfaces/0 already"
    );
}

#[tokio::test]
async fn a_retry_says_what_was_made_so() {
    let w = World::new().await;
    let made = w.post("/v1/networks", network("lan")).await;
    let job = text(&made.body["job"]["id"]);
    w.all_done().await;
    w.database
        .execute(&format!("UPDATE jobs SET state = 'failed' WHERE id = '{job}'"))
        .await;
    let path = format!("/v1/jobs/{job}/retry");
    let again = || w.call("POST", &path, None);
    let answer = again().await;
    assert_eq!(refused(&answer), is(409, "NOT_RETRYABLE"));
    let detail = text(&answer.body["detail"]);
    assert!(
        detail.contains("generation 1 of the network") && !detail.contains("moved on"),
        "{detail}"
    );
    w.database.execute("UPDATE resources SET generation = 2").await;
    let detail = text(&again().await.body["detail"]);
    assert!(
        detail.contains("moved on") && detail.contains("generation 2"),
        "{detail}"
    );
}
