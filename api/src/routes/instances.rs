//! `/v1/instances/{id}/console`: the last lines of the serial console.

use super::resources::{id_of, visible};
use super::table::{Answer, Body, Endpoint, Need};
use crate::ctx::Ctx;
use crate::extract::path::Path;
use crate::problem::Problem;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::Method;
use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use rhyzome_model::kinds::Kind;

const QUERY: &[&str] = &["tail", "tenant"];
/// Lines where the request doesn't say, and at most.
const TAIL_DEFAULT: i64 = 200;
const TAIL_MAX: i64 = 10_000;

/// See the module.
pub fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Method::GET,
        path: "/v1/instances/{id}/console".to_owned(),
        need: Need::Scope {
            kind: Kind::Instance,
            verb: "read",
        },
        summary: "The last lines of an instance's serial console".to_owned(),
        query: QUERY,
        body: Body::None,
        answer: Answer::Text("text/plain"),
        handler: get(console),
    }]
}

async fn console(Path(id): Path<String>, ctx: Ctx) -> Result<Response, Problem> {
    let mut query = ctx.query(QUERY);
    let tail = query.number("tail", 1..=TAIL_MAX).unwrap_or(TAIL_DEFAULT);
    let tenant = query.text("tenant");
    query.finish()?;
    let row = visible(&ctx, Kind::Instance, id_of(Kind::Instance, &id)?, tenant).await?;
    let text = match &row.host {
        // It was on no host yet: nothing was written.
        None => Vec::new(),
        Some(name) => {
            let host = ctx.app.store.host_get(name).await?;
            let host =
                host.ok_or_else(|| Problem::unavailable("The instance's host is not known any more."))?;
            ctx.app
                .consoles
                .tail(name, &host.address, row.id, tail as u32)
                .await?
        }
    };
    // What a guest writes may be anything; nobody shall take it for a page.
    let headers = [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, text).into_response())
}
