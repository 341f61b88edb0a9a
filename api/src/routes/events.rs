//! `/v1/events`: what changes, as it changes.

use super::table::{Answer, Body, Endpoint, Need};
use crate::accept::reply;
use crate::ctx::Ctx;
use crate::events::{Feed, Full, Start};
use crate::extract::headers::last_event_id;
use crate::problem::{Code, Problem};
use axum::response::Response;
use axum::routing::get;
use http::Method;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use rhyzome_store::changes::Whose;
use rhyzome_store::resources::Scope;

const WATCH: &[&str] = &["tenant"];

/// See the module.
pub fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Method::GET,
        path: "/v1/events".to_owned(),
        need: Need::AnyRead,
        summary: "Watch what changes (Server-Sent Events); resumes after Last-Event-ID".to_owned(),
        query: WATCH,
        body: Body::None,
        answer: Answer::Events,
        handler: get(watch),
    }]
}

async fn watch(ctx: Ctx) -> Result<Response, Problem> {
    let mut query = ctx.query(WATCH);
    let tenant = query.text("tenant");
    query.finish()?;
    let start = last_event_id(&ctx.headers)?.map_or(Start::Now, Start::After);
    let (whose, watched) = match ctx.scope(tenant).await? {
        Scope::Tenant(tenant) => (Whose::TenantAndSystem(tenant.clone()), Some(tenant)),
        Scope::Operator(Some(tenant)) => (Whose::Tenant(tenant.clone()), Some(tenant)),
        Scope::Operator(None) => (Whose::Everyone, None),
    };
    let authorization = ctx
        .headers
        .get(AUTHORIZATION)
        .cloned()
        .ok_or_else(|| Problem::unauthenticated("There is no bearer token."))?;
    let seat = ctx
        .app
        .events
        .take(&ctx.caller.tenant, watched.as_ref())
        .map_err(full)?;
    let feed = Feed::begin(ctx.app, ctx.caller, authorization, whose, seat, start).await?;
    let mut response = Response::new(axum::body::Body::from_stream(feed.stream()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that hold back what comes in pieces are asked not to.
    headers.insert("x-accel-buffering", reply::ascii("no")?);
    Ok(response)
}

fn full(full: Full) -> Problem {
    let (code, detail) = match full {
        Full::All(limit) => (
            Code::StreamsUsedUp,
            format!("This server has {limit} streams of events open, as many as it may."),
        ),
        Full::Tenant(limit) => (
            Code::TooManyStreams,
            format!("The tenant has {limit} streams of events open at this server, as many as it may."),
        ),
    };
    Problem::new(code, detail).with_header(RETRY_AFTER, HeaderValue::from_static("5"))
}
