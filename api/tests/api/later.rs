//! What a later version made, asked for here: told so, and in nobody's way.

use crate::world::{World, is, network, refused, text};

#[tokio::test]
async fn a_job_of_a_later_version_is_told_as_that_and_left_out_of_lists() {
    let w = World::new().await;
    w.network("known").await;
    let newer = w.post("/v1/networks", network("newer")).await.body;
    let (id, newer) = (text(&newer["job"]["id"]), text(&newer["resource"]["id"]));
    w.database
        .execute("UPDATE jobs SET action = 'transmute' WHERE resource_name = 'newer'")
        .await;
    let job = |answer: &crate::common::Answer| text(&answer.body["items"][0]["id"]);
    let all = w.get("/v1/jobs").await;
    assert_eq!(all.body["items"].as_array().unwrap().len(), 1, "{}", all.body);
    let known = job(&all);
    let networks = w.get("/v1/networks").await;
    assert_eq!(
        networks.body["items"].as_array().unwrap().len(),
        1,
        "{}",
        networks.body
    );
    let other = job(&w.get(&format!("/v1/jobs?target={}", job(&networks))).await);
    assert_eq!(other, known);

    for (method, path) in [
        ("GET", format!("/v1/jobs/{id}")),
        ("GET", format!("/v1/jobs/{id}?wait=1")),
        ("POST", format!("/v1/jobs/{id}/cancel")),
        ("GET", format!("/v1/networks/{newer}")),
        ("DELETE", format!("/v1/networks/{newer}")),
    ] {
        let answer = w.call(method, &path, None).await;
        assert_eq!(refused(&answer), is(503, "LATER_VERSION"), "{method} {path}");
        assert!(answer.headers.contains_key("retry-after"), "{method} {path}");
    }
    // Whoever may not know of it isn't told that it is there.
    let stranger = w.other.token("*:*");
    for path in [format!("/v1/jobs/{id}"), format!("/v1/networks/{newer}")] {
        let answer = w.api.call(&stranger, "GET", &path, None).await;
        assert_eq!(refused(&answer), is(404, "NOT_FOUND"), "{path}");
    }
    // Of another kind there is nothing with that id.
    w.database
        .execute("UPDATE resources SET kind = 'hologram' WHERE name = 'newer'")
        .await;
    let answer = w.get(&format!("/v1/networks/{newer}")).await;
    assert_eq!(refused(&answer), is(404, "NOT_FOUND"));
}
