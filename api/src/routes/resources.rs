//! `/v1/{kinds}`: create, list, read, patch, delete and the kind's actions, the same for every kind.

use super::list::list;
use super::table::{Answer, Body, Endpoint, Need};
use crate::accept::change::{self, Ask, Terms};
use crate::accept::{create, dry_run, ended, image_floor, refusal, reply};
use crate::ctx::{Ctx, deadline};
use crate::extract::headers::{IfMatch, prefer_wait};
use crate::extract::path::Path;
use crate::problem::Problem;
use crate::shapes::resource::{self, etag};
use axum::response::Response;
use axum::routing::{delete, get, patch, post};
use http::header::ETAG;
use http::{Method, StatusCode};
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::job::Action;
use rhyzome_model::kinds::Kind;
use rhyzome_runtime::fault::{self, Point, Side};
use rhyzome_store::accept::{AcceptedNow, Refusal};
use rhyzome_store::rows::ResourceRow;
use serde_json::Value;

pub(super) const LIST: &[&str] = &["tag", "state", "name", "limit", "page_token", "tenant"];
const READ: &[&str] = &["tenant"];
const CHANGE: &[&str] = &["dry_run", "deadline_seconds"];
const DELETE: &[&str] = &["dry_run"];

/// The endpoints of a kind.
pub fn endpoints(kind: Kind) -> Vec<Endpoint> {
    let all = format!("/v1/{}", kind.plural());
    let one = format!("{all}/{{id}}");
    let need = |verb| Need::Scope { kind, verb };
    let mut endpoints = vec![
        Endpoint {
            method: Method::POST,
            path: all.clone(),
            need: need("create"),
            summary: format!("Make a {kind}"),
            query: CHANGE,
            body: Body::Create(kind),
            answer: Answer::Accepted,
            handler: post(move |ctx: Ctx| create_one(kind, ctx)),
        },
        Endpoint {
            method: Method::GET,
            path: all,
            need: need("read"),
            summary: format!("List {}", kind.plural()),
            query: LIST,
            body: Body::None,
            answer: Answer::Resources,
            handler: get(move |ctx: Ctx| list(kind, ctx)),
        },
        Endpoint {
            method: Method::GET,
            path: one.clone(),
            need: need("read"),
            summary: format!("Read one {kind}"),
            query: READ,
            body: Body::None,
            answer: Answer::Resource,
            handler: get(move |Path(id): Path<String>, ctx: Ctx| read(kind, id, ctx)),
        },
        Endpoint {
            method: Method::PATCH,
            path: one.clone(),
            need: need("update"),
            summary: format!("Change one {kind} by a JSON merge patch"),
            query: CHANGE,
            body: Body::Patch(kind),
            answer: Answer::Accepted,
            handler: patch(move |Path(id): Path<String>, ctx: Ctx| update(kind, id, ctx)),
        },
        Endpoint {
            method: Method::DELETE,
            path: one.clone(),
            need: need("delete"),
            summary: format!("Remove one {kind}"),
            query: DELETE,
            body: Body::None,
            answer: Answer::Accepted,
            handler: delete(move |Path(id): Path<String>, ctx: Ctx| remove(kind, id, ctx)),
        },
    ];
    for &action in kind.ops().actions() {
        endpoints.push(Endpoint {
            method: Method::POST,
            path: format!("{one}/{action}"),
            need: need(action.as_str()),
            summary: format!("{} one {kind}", capital(action.as_str())),
            query: CHANGE,
            body: Body::None,
            answer: Answer::Accepted,
            handler: post(move |Path(id): Path<String>, ctx: Ctx| act(kind, action, id, ctx)),
        });
    }
    endpoints
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars
        .next()
        .map(|c| c.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

/// The id in a path; what is no id is of nothing.
pub(super) fn id_of(kind: Kind, text: &str) -> Result<ResourceId, Problem> {
    text.parse()
        .map_err(|_| Problem::not_found(kind.as_str(), &text.chars().take(80).collect::<String>()))
}

async fn create_one(kind: Kind, ctx: Ctx) -> Result<Response, Problem> {
    let mut query = ctx.query(CHANGE);
    let (dry, deadline_s) = (query.flag("dry_run"), deadline(&mut query));
    query.finish()?;
    let document = ctx.document()?;
    let idempotency = ctx.idempotency(&document)?;
    let envelope = create::checked(&ctx, kind, document)?;
    let large_enough = image_floor::check(&ctx, kind, &envelope.spec).await;
    if dry {
        large_enough?;
        return dry_run::of_create(&ctx, kind, envelope, deadline_s).await;
    }
    let what = format!("{kind} {}", envelope.name);
    let turn = ctx.app.keys.lock(&ctx.caller.tenant, idempotency.as_ref()).await;
    let answer = match (large_enough, &idempotency) {
        (Ok(()), _) => {
            let request = create::request(&ctx, kind, envelope, idempotency, deadline_s)?;
            ctx.app.batcher.accept(request, turn).await?
        }
        (Err(problem), None) => return Err(problem),
        // The image may have come since this very request was accepted.
        (Err(problem), Some(key)) => {
            let earlier = ctx.app.store.idempotency_find(&ctx.caller.tenant, key).await?;
            earlier.ok_or(problem)?
        }
    };
    let reply = answer.map_err(|refused| refusal::problem(refused, kind, &what))?;
    reply::accepted(&ctx, reply, prefer_wait(&ctx.headers)).await
}

async fn read(kind: Kind, id: String, ctx: Ctx) -> Result<Response, Problem> {
    let mut query = ctx.query(READ);
    let tenant = query.text("tenant");
    query.finish()?;
    let row = visible(&ctx, kind, id_of(kind, &id)?, tenant).await?;
    let beside = reply::beside(&ctx, &row).await?;
    let mut response = reply::json(StatusCode::OK, &resource::document(&row, &beside, ctx.reader()))?;
    response.headers_mut().insert(ETAG, reply::ascii(&etag(&row))?);
    Ok(response)
}

/// A resource that the caller may read.
pub(super) async fn visible(
    ctx: &Ctx,
    kind: Kind,
    id: ResourceId,
    tenant: Option<String>,
) -> Result<ResourceRow, Problem> {
    let found = ctx
        .app
        .store
        .resource_get(&ctx.scope(tenant).await?, kind, id)
        .await?;
    let row = found.ok_or_else(|| Problem::not_found(kind.as_str(), &id.to_string()))?;
    change::allowed(&ctx.caller, &row, "read")?;
    Ok(row)
}

async fn update(kind: Kind, id: String, ctx: Ctx) -> Result<Response, Problem> {
    let mut query = ctx.query(CHANGE);
    let (dry, deadline_s) = (query.flag("dry_run"), deadline(&mut query));
    query.finish()?;
    let id = id_of(kind, &id)?;
    let ask = Ask::Patch(ctx.document()?);
    let if_match = IfMatch::of(&ctx.headers)?;
    if dry {
        return dry_run::of_change(&ctx, kind, id, &ask, &if_match).await;
    }
    let terms = Terms {
        idempotency: None,
        if_match,
        deadline_s,
        wait: prefer_wait(&ctx.headers),
    };
    change::accept(&ctx, kind, id, &ask, terms).await
}

async fn act(kind: Kind, action: Action, id: String, ctx: Ctx) -> Result<Response, Problem> {
    let mut query = ctx.query(CHANGE);
    let (dry, deadline_s) = (query.flag("dry_run"), deadline(&mut query));
    query.finish()?;
    ctx.no_body()?;
    let id = id_of(kind, &id)?;
    let ask = Ask::Act(action);
    let if_match = IfMatch::of(&ctx.headers)?;
    if dry {
        return dry_run::of_change(&ctx, kind, id, &ask, &if_match).await;
    }
    let idempotency = ctx.idempotency(&Value::Null)?;
    let terms = Terms {
        idempotency,
        if_match,
        deadline_s,
        wait: prefer_wait(&ctx.headers),
    };
    change::accept(&ctx, kind, id, &ask, terms).await
}

async fn remove(kind: Kind, id: String, ctx: Ctx) -> Result<Response, Problem> {
    let mut query = ctx.query(DELETE);
    let dry = query.flag("dry_run");
    query.finish()?;
    ctx.no_body()?;
    let id = id_of(kind, &id)?;
    let if_match = IfMatch::of(&ctx.headers)?;
    if dry {
        return dry_run::of_delete(&ctx, kind, id, &if_match).await;
    }
    let before = change::own(&ctx, kind, id, Action::Delete.as_str()).await?;
    if !before.deleting {
        if_match.check(&etag(&before))?;
    }
    // Judged again under the lock where the caller named a state.
    let from = (if_match != IfMatch::Any).then_some(before.generation);
    let steps = kind
        .ops()
        .step_names(Action::Delete, &before.spec, before.applied.as_ref())?;
    let what = format!("{kind} {}", before.name);
    fault::point(Point::AcceptCommit, Side::Before);
    let deleted = ctx
        .app
        .store
        .accept_delete(
            &ctx.caller.tenant,
            kind,
            id,
            from,
            JobId::new(),
            &steps,
            &ctx.origin(None),
        )
        .await?
        .map_err(|refused| match refused {
            Refusal::Moved => if_match
                .check("\"?\"")
                .err()
                .unwrap_or_else(|| refusal::problem(Refusal::Moved, kind, &what)),
            other => refusal::problem(other, kind, &what),
        })?;
    fault::point(Point::AcceptCommit, Side::After);
    if deleted.now == AcceptedNow::Now {
        for other in &deleted.cancelled {
            ended::cancelled(kind, other.action, other.state, other.created_at);
            ctx.app
                .announcer
                .cancelled(&ctx.caller.tenant, kind, other.job, id);
        }
        ctx.app.announcer.accepted(&deleted.resource, Some(&deleted.job));
    }
    let reply = rhyzome_store::accept::Reply {
        accepted: rhyzome_store::accept::Accepted {
            resource: deleted.resource,
            job: Some(deleted.job),
            addresses: None,
        },
        now: deleted.now,
    };
    reply::accepted(&ctx, reply, prefer_wait(&ctx.headers)).await
}
