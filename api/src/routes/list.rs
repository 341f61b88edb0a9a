//! `GET /v1/{kinds}`: a page of resources, read in parts and written item by item.
//!
//! What a request holds in memory is bounded in bytes, whatever its `limit` and however large the resources are: a page ends when it is
//! [`PAGE_BYTES`] long, with a token for the next, and of what was read no more is kept than one part.

use super::resources::LIST;
use crate::accept::reply;
use crate::ctx::Ctx;
use crate::problem::Problem;
use crate::shapes::page::{self, After, LIMIT_DEFAULT, LIMIT_MAX, PageText};
use crate::shapes::resource::{self, Beside};
use axum::response::Response;
use rhyzome_model::kinds::Kind;
use rhyzome_model::shown::ResourceState;
use rhyzome_store::resources::{Page, ResourceFilter, Scope};
use rhyzome_store::rows::ResourceRow;
use serde_json::Value;
use std::collections::BTreeMap;

/// A page that is as long as this gets no further item.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// The specs that a part has, about, by those of the part before.
const PART_BYTES: usize = 2 * 1024 * 1024;
/// Rows of the first part: nothing is known of their size.
const FIRST: usize = LIMIT_DEFAULT as usize + 1;
/// Rows looked at for one page: filters that are judged here may pass over many.
const LOOK_MAX: usize = 5_000;

/// What is listed.
struct Asked {
    kind: Kind,
    scope: Scope,
    filter: ResourceFilter,
    state: Option<ResourceState>,
    limit: usize,
    after: Option<After>,
}

/// Answers with a page.
pub(super) async fn list(kind: Kind, ctx: Ctx) -> Result<Response, Problem> {
    let asked = asked(kind, &ctx).await?;
    let mut page = PageText::new();
    let next = write(&ctx, &asked, &mut page).await?;
    let token = next.map(page::token);
    Ok(reply::json_text(page.finish(token.as_deref())?))
}

async fn asked(kind: Kind, ctx: &Ctx) -> Result<Asked, Problem> {
    let mut query = ctx.query(LIST);
    let mut filter = ResourceFilter {
        name: query.text("name"),
        tags: BTreeMap::new(),
    };
    for tag in query.many("tag") {
        match tag.split_once(':') {
            Some((key, value)) if !key.is_empty() => {
                let before = filter.tags.insert(key.to_owned(), value.to_owned());
                if before.is_some_and(|b| b != value) {
                    query.fault("tag", format!("{key:?} can't have two values"));
                }
            }
            Some(_) | None => query.fault("tag", format!("{tag:?} is not KEY:VALUE")),
        }
    }
    let states: Vec<&str> = ResourceState::ALL.iter().map(|s| s.as_str()).collect();
    let wanted = format!("one of {}", states.join(", "));
    let state = query.parsed("state", &wanted, ResourceState::parse);
    let limit = query.number("limit", 1..=LIMIT_MAX).unwrap_or(LIMIT_DEFAULT) as usize;
    let after = query.parsed("page_token", "a token of a page", page::after);
    let tenant = query.text("tenant");
    query.finish()?;
    Ok(Asked {
        kind,
        scope: ctx.scope(tenant).await?,
        filter,
        state,
        limit,
        after,
    })
}

/// Writes what fits on the page. Says after which place the next one begins; none where this is the last.
async fn write(ctx: &Ctx, asked: &Asked, page: &mut PageText) -> Result<Option<After>, Problem> {
    // The shown state is computed and scopes may be limited, so both are judged here, over as many rows as it takes.
    let judged = asked.state.is_some() || !ctx.caller.reads_all(asked.kind.as_str());
    let most = if judged {
        LIMIT_MAX as usize
    } else {
        asked.limit + 1
    };
    let (mut after, mut last) = (asked.after, asked.after);
    let (mut part, mut looked) = (FIRST.min(most), 0);
    loop {
        let from = Page {
            after,
            limit: part as i64,
        };
        let store = &ctx.app.store;
        let found = store
            .resource_list(&asked.scope, asked.kind, &asked.filter, &from)
            .await?;
        looked += found.looked;
        let mut rows = found.rows;
        let bytes: usize = rows.iter().map(|row| weight(&row.spec)).sum();
        part = (PART_BYTES / (bytes / rows.len().max(1)).max(1)).clamp(1, most);
        rows.retain(|row| may(ctx, asked, row));
        let besides = reply::besides(ctx, asked.kind, &rows).await?;
        for row in &rows {
            if page.items() == asked.limit || page.bytes() >= PAGE_BYTES {
                return Ok(last);
            }
            let nothing = Beside::default();
            let beside = besides.get(&row.id).unwrap_or(&nothing);
            page.push(&resource::document(row, beside, ctx.reader()))?;
            last = Some(place(row));
        }
        if found.next.is_none() || looked >= LOOK_MAX {
            return Ok(found.next);
        }
        after = found.next;
    }
}

fn place(row: &ResourceRow) -> After {
    (row.created_at, row.id.0)
}

fn may(ctx: &Ctx, asked: &Asked, row: &ResourceRow) -> bool {
    asked.state.is_none_or(|s| resource::state(row) == s)
        && ctx
            .caller
            .may(asked.kind.as_str(), "read", Some(&row.id.to_string()), &row.tags)
}

/// Bytes of a document, about.
fn weight(value: &Value) -> usize {
    const NODE: usize = 16;
    NODE + match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| name.len() + weight(value))
            .sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}
