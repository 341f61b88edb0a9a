//! `/docs`: a page that lists the routes; it loads nothing from elsewhere.

use super::table::{Answer, Body, Endpoint, Need, endpoints as all};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use http::Method;
use http::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use std::sync::OnceLock;

/// See the module.
pub fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Method::GET,
        path: "/docs".to_owned(),
        need: Need::Public,
        summary: "This page".to_owned(),
        query: &[],
        body: Body::None,
        answer: Answer::Text("text/html"),
        handler: get(|| async { docs() }),
    }]
}

fn docs() -> Response {
    static PAGE: OnceLock<String> = OnceLock::new();
    let mut response = Html(PAGE.get_or_init(page).as_str()).into_response();
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    response
}

fn page() -> String {
    let rows: String = all().iter().map(row).collect();
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Rhyzome API</title>\
         <style>body{{font:16px/1.5 sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}}\
         table{{border-collapse:collapse;width:100%}}td,th{{text-align:left;padding:.3rem .6rem;\
         border-bottom:1px solid #ddd;vertical-align:top}}code{{white-space:nowrap}}</style>\
         <h1>Rhyzome API</h1><p>The whole contract is at <a href=\"/openapi.json\"><code>/openapi.json</code></a> \
         (OpenAPI 3.1), the schemas of specs at <code>/v1/kinds</code>.</p>\
         <table><tr><th>Request<th>What it does<th>Needs<th>Query{rows}</table></html>"
    )
}

fn row(endpoint: &Endpoint) -> String {
    format!(
        "<tr><td><code>{} {}</code><td>{}<td><code>{}</code><td>{}",
        endpoint.method,
        endpoint.path,
        endpoint.summary,
        need(endpoint.need),
        endpoint.query.join(", ")
    )
}

/// A need in words.
pub(super) fn need(need: Need) -> String {
    match need {
        Need::Public => "nothing".to_owned(),
        Need::Token => "a token".to_owned(),
        Need::Scope { kind, verb } => format!("{kind}:{verb}"),
        Need::Job => "the verb on the job's resource".to_owned(),
        Need::AnyRead => "read of any kind, or job:read".to_owned(),
        Need::Operator => "operator".to_owned(),
    }
}
