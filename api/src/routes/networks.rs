//! `/v1/networks/{id}/leases`: every lease of a network, the user's static ones and those made for instances.

use super::resources::{id_of, visible};
use super::table::{Answer, Body, Endpoint, Need};
use crate::accept::reply;
use crate::ctx::Ctx;
use crate::extract::path::Path;
use crate::problem::Problem;
use crate::shapes::page::{self, LIMIT_DEFAULT, LIMIT_MAX, PageDoc};
use axum::response::Response;
use axum::routing::get;
use http::{Method, StatusCode};
use rhyzome_model::ids::ResourceId;
use rhyzome_model::kinds::Kind;
use rhyzome_store::leases::LeaseView;
use serde::Serialize;
use std::net::Ipv4Addr;

const QUERY: &[&str] = &["limit", "page_token", "tenant"];

/// A lease.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LeaseDoc {
    /// Inside the network's range.
    #[schema(value_type = String)]
    ip: Ipv4Addr,
    /// Lower case with colons.
    mac: String,
    /// A DNS label.
    hostname: Option<String>,
    /// The instance that it was made for.
    #[schema(value_type = Option<uuid::Uuid>)]
    instance: Option<ResourceId>,
    /// Made for an instance, and goes with it.
    automatic: bool,
}

impl From<LeaseView> for LeaseDoc {
    fn from(lease: LeaseView) -> Self {
        Self {
            ip: lease.ip,
            mac: lease.mac,
            hostname: lease.hostname,
            instance: lease.instance,
            automatic: lease.automatic,
        }
    }
}

/// See the module.
pub fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Method::GET,
        path: "/v1/networks/{id}/leases".to_owned(),
        need: Need::Scope {
            kind: Kind::Network,
            verb: "read",
        },
        summary: "List a network's leases".to_owned(),
        query: QUERY,
        body: Body::None,
        answer: Answer::Page("LeaseDoc"),
        handler: get(leases),
    }]
}

async fn leases(Path(id): Path<String>, ctx: Ctx) -> Result<Response, Problem> {
    let mut query = ctx.query(QUERY);
    let limit = query.number("limit", 1..=LIMIT_MAX).unwrap_or(LIMIT_DEFAULT);
    let after = query.parsed("page_token", "a token of a page", |token| {
        page::text_after(token)?.parse::<Ipv4Addr>().ok()
    });
    let tenant = query.text("tenant");
    query.finish()?;
    let network = visible(&ctx, Kind::Network, id_of(Kind::Network, &id)?, tenant).await?;
    let mut found = ctx.app.store.lease_list(network.id, after, limit + 1).await?;
    let more = found.len() as i64 > limit;
    found.truncate(limit as usize);
    let next_page_token = found
        .last()
        .filter(|_| more)
        .map(|lease| page::text_token(&lease.ip.to_string()));
    let items: Vec<LeaseDoc> = found.into_iter().map(LeaseDoc::from).collect();
    reply::json(
        StatusCode::OK,
        &PageDoc {
            items,
            next_page_token,
        },
    )
}
