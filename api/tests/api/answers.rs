//! What answers say: of a job that is waited for in vain, of a taken name, of what isn't there.

use crate::world::{World, network};
use serde_json::json;

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
