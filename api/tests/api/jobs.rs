//! Jobs as those see them who may not see all.

use crate::world::{World, text};
use serde_json::json;

#[tokio::test]
async fn a_limited_scope_sees_the_jobs_of_what_it_may_read_also_when_that_is_gone() {
    let w = World::new().await;
    let mut wanted = Vec::new();
    for n in 0..9 {
        let env = if n % 3 == 0 { "prod" } else { "dev" };
        let body = json!({"name": format!("n{n}"), "tags": {"env": env}, "spec": {"cidr": "10.0.0.0/24"}});
        let made = w.post("/v1/networks", body).await;
        assert_eq!(made.status, 202, "{}", made.body);
        if env == "prod" {
            wanted.push(text(&made.body["job"]["id"]));
        }
    }
    w.all_done().await;
    w.database
        .execute(
            "INSERT INTO gone_resources (id, tags, public) SELECT id, tags, public FROM resources WHERE name IN ('n0', 'n1');
             DELETE FROM resources WHERE name IN ('n0', 'n1')",
        )
        .await;
    let token = w.demo.token("network:read?env=prod");
    let mut seen = Vec::new();
    let mut path = "/v1/jobs?limit=2".to_owned();
    loop {
        let page = w.api.call(&token, "GET", &path, None).await;
        assert_eq!(page.status, 200, "{}", page.body);
        let items = page.body["items"].as_array().unwrap();
        assert!(items.len() <= 2, "{}", page.body);
        seen.extend(items.iter().map(|job| text(&job["id"])));
        let Some(next) = page.body["next_page_token"].as_str() else {
            break;
        };
        path = format!("/v1/jobs?limit=2&page_token={next}");
    }
    assert_eq!(seen, wanted);
    let gone = w
        .api
        .call(&token, "GET", &format!("/v1/jobs/{}", wanted[0]), None)
        .await;
    assert_eq!(gone.status, 200, "{}", gone.body);
}
