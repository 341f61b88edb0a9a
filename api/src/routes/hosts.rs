//! `/v1/hosts`, for operators: what there is, read-only.

use super::table::{Answer, Body, Endpoint, Need};
use crate::accept::reply;
use crate::ctx::Ctx;
use crate::extract::path::Path;
use crate::problem::Problem;
use crate::shapes::page::{self, LIMIT_DEFAULT, LIMIT_MAX, PageDoc};
use axum::response::Response;
use axum::routing::get;
use chrono::{DateTime, Utc};
use http::{Method, StatusCode};
use rhyzome_model::ids::HostName;
use rhyzome_model::kinds::Demand;
use rhyzome_store::hosts::HostRow;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

const LIST: &[&str] = &["limit", "page_token"];

/// A hypervisor host.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct HostDoc<'a> {
    /// As in its certificate.
    name: &'a str,
    /// HOST:PORT of its agent.
    address: &'a str,
    /// `up`: its watch is up. `unreachable`: its agent isn't heard. `new`: it was never heard.
    state: &'static str,
    /// Why it is unreachable, where more is known than that it isn't heard. `two_agents`: two agents say that they are this host, and
    /// neither is believed.
    reason: Option<&'static str>,
    /// Takes nothing new.
    cordoned: bool,
    /// For placement.
    labels: &'a BTreeMap<String, String>,
    /// What it offers, overcommitment included.
    offered: Demand,
    /// What is reserved of that.
    reserved: Demand,
    /// Orders that have no outcome yet.
    orders_out: i32,
    /// Counts its lives.
    epoch: i64,
    /// Driver, accelerator, networking, version.
    #[schema(value_type = Object)]
    facts: &'a Value,
    /// As last reported.
    #[schema(value_type = Option<Object>)]
    load: Option<&'a Value>,
    /// Last heard of.
    seen_at: Option<DateTime<Utc>>,
}

fn document(row: &HostRow) -> HostDoc<'_> {
    HostDoc {
        name: row.name.as_str(),
        address: &row.address,
        state: match (row.up, row.seen_at) {
            (true, _) => "up",
            (false, Some(_)) => "unreachable",
            (false, None) => "new",
        },
        reason: row.two_agents.then_some("two_agents"),
        cordoned: row.cordoned,
        labels: &row.labels,
        offered: row.offered,
        reserved: row.used,
        orders_out: row.orders_out,
        epoch: row.epoch,
        facts: &row.facts,
        load: row.load.as_ref(),
        seen_at: row.seen_at,
    }
}

/// See the module.
pub fn endpoints() -> Vec<Endpoint> {
    let endpoint = |path: &str, summary: &str, query, answer, handler| Endpoint {
        method: Method::GET,
        path: path.to_owned(),
        need: Need::Operator,
        summary: summary.to_owned(),
        query,
        body: Body::None,
        answer,
        handler,
    };
    vec![
        endpoint(
            "/v1/hosts",
            "List hosts",
            LIST,
            Answer::Page("HostDoc"),
            get(list),
        ),
        endpoint(
            "/v1/hosts/{name}",
            "Read one host",
            &[],
            Answer::Document("HostDoc"),
            get(read),
        ),
    ]
}

async fn list(ctx: Ctx) -> Result<Response, Problem> {
    let mut query = ctx.query(LIST);
    let limit = query.number("limit", 1..=LIMIT_MAX).unwrap_or(LIMIT_DEFAULT) as usize;
    let after = query.parsed("page_token", "a token of a page", page::text_after);
    query.finish()?;
    let rows = ctx.app.store.host_list().await?;
    let mut rest = rows
        .iter()
        .filter(|row| after.as_deref().is_none_or(|a| row.name.as_str() > a));
    let items: Vec<HostDoc<'_>> = rest.by_ref().take(limit).map(document).collect();
    let next_page_token = match (rest.next(), items.last()) {
        (Some(_), Some(last)) => Some(page::text_token(last.name)),
        (None, _) | (_, None) => None,
    };
    reply::json(
        StatusCode::OK,
        &PageDoc {
            items,
            next_page_token,
        },
    )
}

async fn read(Path(name): Path<String>, ctx: Ctx) -> Result<Response, Problem> {
    ctx.query(&[]).finish()?;
    let name = HostName(name.chars().take(80).collect());
    let row = ctx.app.store.host_get(&name).await?;
    let row = row.ok_or_else(|| Problem::not_found("host", name.as_str()))?;
    reply::json(StatusCode::OK, &document(&row))
}
