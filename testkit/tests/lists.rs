//! Lists: pages by key, order, filters.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::Stack;
use rhyzome_testkit::rest::{text, unique};
use serde_json::{Value, json};

#[tokio::test]
async fn pages_hold_everything_once_newest_last_while_more_is_made() {
    let rest = Stack::shared().demo();
    let tag = unique("page");
    let make = |n: usize| {
        let (rest, tag) = (rest.clone(), tag.clone());
        async move {
            let body = json!({ "name": unique("net"), "tags": { "run": tag, "n": n.to_string() }, "spec": { "cidr": "10.20.0.0/24" } });
            let accepted = rest.post("/v1/networks", &body).await.accepted();
            rest.succeed(&accepted.job).await;
            accepted.id
        }
    };
    let mut made = Vec::new();
    for n in 0..5 {
        made.push(make(n).await);
    }
    let path = format!("/v1/networks?tag=run:{tag}&limit=2");
    let first = rest.get(&path).await.ok();
    assert_eq!(ids(&first), made[..2]);
    let token = text(&first, "/next_page_token");
    made.push(make(5).await);
    let second = rest.get(&format!("{path}&page_token={token}")).await.ok();
    assert_eq!(ids(&second), made[2..4]);
    let all: Vec<String> = rest
        .all(&path)
        .await
        .iter()
        .map(|item| text(item, "/id"))
        .collect();
    assert_eq!(all, made);
    let whole = rest
        .get(&format!("/v1/networks?tag=run:{tag}&limit=50"))
        .await
        .ok();
    assert_eq!(
        (ids(&whole), &whole["next_page_token"]),
        (made.clone(), &json!(null))
    );
    let exact = rest
        .get(&format!("/v1/networks?tag=run:{tag}&limit=6"))
        .await
        .ok();
    assert_eq!(exact["next_page_token"], json!(null), "no empty page at the end");
}

#[tokio::test]
async fn filters_are_all_of_them_at_once() {
    let rest = Stack::shared().demo();
    let tag = unique("f");
    let name = unique("net");
    for (name, env) in [
        (name.clone(), "prod"),
        (unique("net"), "prod"),
        (unique("net"), "dev"),
    ] {
        let body =
            json!({ "name": name, "tags": { "run": tag, "env": env }, "spec": { "cidr": "10.20.0.0/24" } });
        let accepted = rest.post("/v1/networks", &body).await.accepted();
        rest.succeed(&accepted.job).await;
    }
    let count = |query: String| {
        let rest = rest.clone();
        async move { rest.all(&format!("/v1/networks?{query}")).await.len() }
    };
    assert_eq!(count(format!("tag=run:{tag}")).await, 3);
    assert_eq!(count(format!("tag=run:{tag}&tag=env:prod")).await, 2);
    assert_eq!(count(format!("tag=run:{tag}&name={name}")).await, 1);
    assert_eq!(count(format!("tag=run:{tag}&state=ready")).await, 3);
    assert_eq!(count(format!("tag=run:{tag}&state=failed")).await, 0);
    assert_eq!(count(format!("name={}", unique("nobody"))).await, 0);
}

#[tokio::test]
async fn leases_are_a_list_as_any_other() {
    let rest = Stack::shared().demo();
    let leases: Vec<Value> = (2..7)
        .map(|n| json!({ "mac": format!("02:00:00:00:00:0{n}"), "ip": format!("10.20.0.{n}") }))
        .collect();
    let network = rest
        .make(
            "networks",
            &unique("net"),
            json!({ "cidr": "10.20.0.0/24", "leases": leases }),
        )
        .await;
    let path = format!("/v1/networks/{}/leases?limit=2", text(&network, "/id"));
    let page = rest.get(&path).await.ok();
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    let all = rest.all(&path).await;
    let mut addresses: Vec<String> = all.iter().map(|lease| text(lease, "/ip")).collect();
    addresses.sort();
    assert_eq!(
        addresses,
        ["10.20.0.2", "10.20.0.3", "10.20.0.4", "10.20.0.5", "10.20.0.6"]
    );
}

fn ids(page: &Value) -> Vec<String> {
    page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| text(item, "/id"))
        .collect()
}
