//! Lists of what is large: a page ends where it is long enough, and the pages together hold everything once.

use crate::world::{World, instance, text};
use serde_json::Value;

/// Instances with as much `user_data` as there may be, beside one with none; all at rest.
async fn large(w: &World, count: usize) {
    w.image().await;
    w.network("lan").await;
    let made = w.post("/v1/instances", instance("one", "lan")).await;
    assert_eq!(made.status, 202, "{}", made.body);
    w.all_done().await;
    w.database
        .execute(&format!(
            "INSERT INTO resources (id, tenant, kind, name, spec, applied, observed_generation, created_at)
             SELECT gen_random_uuid(), r.tenant, r.kind, 'large-' || n, s.spec, s.spec, 1, r.created_at + n * interval '1 ms'
             FROM resources r, generate_series(1, {count}) n,
                  LATERAL (SELECT r.spec || jsonb_build_object('user_data', repeat('x', 65536), 'power', CASE n % 2 WHEN 0 THEN 'on' ELSE 'off' END)) s(spec)
             WHERE r.name = 'one'"
        ))
        .await;
}

/// The names on each page.
async fn pages(w: &World, query: &str) -> Vec<Vec<String>> {
    let (mut pages, mut token) = (Vec::new(), None::<String>);
    loop {
        let further = token.map(|t| format!("&page_token={t}")).unwrap_or_default();
        let page = w.get(&format!("/v1/instances?{query}{further}")).await;
        assert_eq!(page.status, 200, "{}", page.body);
        let bytes = page.body.to_string().len();
        assert!(bytes < 4_300_000, "a page of {bytes} bytes");
        let items = page.body["items"].as_array().unwrap();
        pages.push(items.iter().map(|item| text(&item["name"])).collect());
        match &page.body["next_page_token"] {
            Value::Null => return pages,
            next => token = Some(text(next)),
        }
    }
}

#[tokio::test]
async fn a_page_ends_where_it_is_long_enough_and_nothing_is_left_out() {
    let w = World::new().await;
    large(&w, 150).await;
    let all: Vec<String> = std::iter::once("one".to_owned())
        .chain((1..=150).map(|n| format!("large-{n}")))
        .collect();
    let of_all = pages(&w, "limit=500").await;
    assert!(of_all.len() == 3 && of_all[0].len() > 50, "{of_all:?}");
    assert_eq!(of_all.concat(), all);

    let of_seven = pages(&w, "limit=7").await;
    assert!(
        of_seven.iter().rev().skip(1).all(|page| page.len() == 7),
        "{of_seven:?}"
    );
    assert_eq!(of_seven.concat(), all);

    let stopped = pages(&w, "limit=500&state=stopped").await;
    let odd = all.iter().skip(1).step_by(2);
    assert_eq!(stopped.concat(), odd.cloned().collect::<Vec<_>>());
    // As many as there are: no empty page at the end.
    let exact = pages(&w, "limit=25&state=stopped").await;
    assert_eq!(exact.iter().map(Vec::len).collect::<Vec<_>>(), [25, 25, 25]);
}
