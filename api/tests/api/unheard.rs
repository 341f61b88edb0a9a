//! An instance whose host can't be reached: `unknown`, with why, wherever its state is read.

use crate::common::Answer;
use crate::world::{World, instance, text};
use serde_json::{Value, json};

const SINCE: &str = "2026-01-02T03:04:05Z";

/// Instances on hosts that are and that aren't heard, by name, all running.
async fn running(w: &World) -> Vec<String> {
    w.image().await;
    w.network("lan").await;
    let mut paths = Vec::new();
    for name in ["heard", "unheard", "changing", "failed"] {
        let made = w.post("/v1/instances", instance(name, "lan")).await;
        assert_eq!(made.status, 202, "{}", made.body);
        paths.push(format!("/v1/instances/{}", text(&made.body["resource"]["id"])));
    }
    w.all_done().await;
    w.database
        .execute(
            "INSERT INTO hosts (name, address, watch_up, watch_until, known_until, seen_at)
             VALUES ('host-1', '127.0.0.1:1', true, now() + interval '1 hour', now() + interval '1 hour', now()),
                    ('host-2', '127.0.0.1:1', false, now() + interval '1 hour', now() - interval '1 second', '2026-01-02T03:04:05.9Z');
             UPDATE resources SET host = CASE name WHEN 'heard' THEN 'host-1' ELSE 'host-2' END, observed = '{\"power\": \"on\", \"detail\": \"\"}',
                    observed_at = '2026-01-02T03:04:04Z' WHERE kind = 'instance';
             UPDATE resources SET reason = '{\"code\": \"BAD_LUCK\", \"detail\": \"It went wrong.\", \"job\": null}' WHERE name = 'failed'",
        )
        .await;
    let stop = w.call("POST", &format!("{}/stop", paths[2]), None).await;
    assert_eq!(stop.status, 202, "{}", stop.body);
    paths
}

fn names(answer: &Answer) -> Vec<String> {
    let items = answer.body["items"].as_array().unwrap();
    items.iter().map(|item| text(&item["name"])).collect()
}

#[tokio::test]
async fn is_unknown_with_the_reason_and_as_last_seen() {
    let w = World::new().await;
    let paths = running(&w).await;
    let operator = w.operators.token("operator *:*");
    let as_operator = |path: &str| {
        let (api, token, path) = (w.api.clone(), operator.clone(), path.to_owned());
        async move { api.call(&token, "GET", &path, None).await.body }
    };
    let heard = w.get(&paths[0]).await.body;
    assert_eq!(
        (&heard["state"], &heard["reason"]),
        (&json!("running"), &Value::Null)
    );
    for path in [&paths[1], &paths[3]] {
        let seen = w.get(path).await.body;
        let detail = format!("Its host can't be reached: nothing was heard of it since {SINCE}.");
        assert_eq!(
            (&seen["state"], &seen["reason"]),
            (
                &json!("unknown"),
                &json!({"code": "HOST_UNREACHABLE", "detail": detail, "job": null})
            )
        );
        assert_eq!(
            (&seen["status"]["power"], &seen["status"]["observed_at"]),
            (&json!("on"), &json!("2026-01-02T03:04:04Z"))
        );
        assert!(!seen.to_string().contains("host-2"), "{seen}");
        let told = text(&as_operator(path).await["reason"]["detail"]);
        assert!(told.starts_with("Its host host-2 can't be reached"), "{told}");
    }
    let changing = w.get(&paths[2]).await.body;
    assert_eq!(
        (&changing["state"], &changing["reason"]),
        (&json!("stopping"), &Value::Null)
    );
}

#[tokio::test]
async fn is_found_by_the_state_that_is_shown() {
    let w = World::new().await;
    running(&w).await;
    let all = w.get("/v1/instances").await;
    let states: Vec<String> = all.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| text(&i["state"]))
        .collect();
    assert_eq!(states, ["running", "unknown", "stopping", "unknown"]);
    for (state, found) in [
        ("running", vec!["heard"]),
        ("unknown", vec!["unheard", "failed"]),
        ("stopping", vec!["changing"]),
        ("stopped", vec![]),
    ] {
        let page = w.get(&format!("/v1/instances?state={state}")).await;
        assert_eq!(names(&page), found, "{state}");
    }
}

#[tokio::test]
async fn takes_every_action_as_before() {
    let w = World::new().await;
    let paths = running(&w).await;
    let unheard = &paths[1];
    let reboot = w.call("POST", &format!("{unheard}/reboot"), None).await;
    assert_eq!(
        (reboot.status.as_u16(), &reboot.body["resource"]["state"]),
        (202, &json!("updating")),
        "{}",
        reboot.body
    );
    let stop = w.call("POST", &format!("{unheard}/stop"), None).await;
    assert_eq!(stop.status, 202, "{}", stop.body);
    let start = w.call("POST", &format!("{}/start", paths[3]), None).await;
    assert_eq!(start.status, 202, "{}", start.body);
    let delete = w.call("DELETE", unheard, None).await;
    assert_eq!(
        (delete.status.as_u16(), &delete.body["resource"]["state"]),
        (202, &json!("deleting")),
        "{}",
        delete.body
    );
}
