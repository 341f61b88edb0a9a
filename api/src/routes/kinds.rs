//! `/v1/kinds`: every kind with its actions and the JSON Schema of its spec.

use super::table::{Answer, Body, Endpoint, Need};
use crate::accept::reply;
use crate::ctx::Ctx;
use crate::extract::path::Path;
use crate::problem::Problem;
use crate::shapes::page::PageDoc;
use axum::response::Response;
use axum::routing::get;
use http::{Method, StatusCode};
use rhyzome_model::job::Action;
use rhyzome_model::kinds::Kind;
use serde::Serialize;
use serde_json::Value;

/// A kind.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct KindDoc {
    /// `instance`.
    kind: Kind,
    /// As in paths: `instances`.
    plural: &'static str,
    /// Beside create, read, update and delete.
    actions: &'static [Action],
    /// JSON Schema (2020-12) of `spec`.
    #[schema(value_type = Object)]
    schema: &'static Value,
}

impl KindDoc {
    fn of(kind: Kind) -> Self {
        let ops = kind.ops();
        Self {
            kind,
            plural: kind.plural(),
            actions: ops.actions(),
            schema: ops.schema(),
        }
    }
}

/// See the module.
pub fn endpoints() -> Vec<Endpoint> {
    let endpoint = |path: &str, summary: &str, answer, handler| Endpoint {
        method: Method::GET,
        path: path.to_owned(),
        need: Need::Token,
        summary: summary.to_owned(),
        query: &[],
        body: Body::None,
        answer,
        handler,
    };
    vec![
        endpoint(
            "/v1/kinds",
            "List the kinds of resources with their JSON Schema",
            Answer::Page("KindDoc"),
            get(list),
        ),
        endpoint(
            "/v1/kinds/{kind}",
            "Read one kind with its JSON Schema",
            Answer::Document("KindDoc"),
            get(read),
        ),
    ]
}

async fn list(ctx: Ctx) -> Result<Response, Problem> {
    ctx.query(&[]).finish()?;
    let items: Vec<KindDoc> = Kind::ALL.iter().map(|kind| KindDoc::of(*kind)).collect();
    reply::json(
        StatusCode::OK,
        &PageDoc {
            items,
            next_page_token: None,
        },
    )
}

async fn read(Path(name): Path<String>, ctx: Ctx) -> Result<Response, Problem> {
    ctx.query(&[]).finish()?;
    let kind = Kind::ALL
        .iter()
        .find(|kind| kind.as_str() == name || kind.plural() == name);
    let kind = kind.ok_or_else(|| Problem::not_found("kind", &name.chars().take(80).collect::<String>()))?;
    reply::json(StatusCode::OK, &KindDoc::of(*kind))
}
