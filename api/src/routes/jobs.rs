//! `/v1/jobs`: read, wait, list, cancel, retry.

use super::table::{Answer, Body, Endpoint, Need};
use crate::accept::{ended, placement, refusal, reply};
use crate::auth::Caller;
use crate::auth::caller::missing;
use crate::ctx::{Ctx, deadline};
use crate::extract::headers::{WAIT_MAX_S, prefer_wait};
use crate::extract::path::Path;
use crate::problem::Problem;
use crate::shapes::job::{self, JobDoc};
use crate::shapes::page::{self, LIMIT_DEFAULT, LIMIT_MAX, PageDoc};
use axum::response::Response;
use axum::routing::{get, post};
use chrono::Utc;
use http::header::{HeaderValue, LOCATION, RETRY_AFTER};
use http::{Method, StatusCode};
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::job::JobState;
use rhyzome_model::kinds::Kind;
use rhyzome_runtime::fault::{self, Point, Side};
use rhyzome_store::accept::AcceptedNow;
use rhyzome_store::jobs::JobFilter;
use rhyzome_store::resources::Page;
use rhyzome_store::rows::JobRow;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

const LIST: &[&str] = &["target", "state", "limit", "page_token", "tenant"];
const READ: &[&str] = &["wait", "tenant"];
const RETRY: &[&str] = &["deadline_seconds"];
/// Jobs looked at for one page.
const LOOK_MAX: usize = 5_000;

/// `{job}`.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct JobOnly<'a> {
    /// As it is now.
    job: JobDoc<'a>,
}

/// See the module.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint {
            method: Method::GET,
            path: "/v1/jobs".to_owned(),
            need: Need::Job,
            summary: "List jobs".to_owned(),
            query: LIST,
            body: Body::None,
            answer: Answer::Jobs,
            handler: get(list),
        },
        Endpoint {
            method: Method::GET,
            path: "/v1/jobs/{id}".to_owned(),
            need: Need::Job,
            summary: "Read one job; with wait, once it is done".to_owned(),
            query: READ,
            body: Body::None,
            answer: Answer::Job,
            handler: get(read),
        },
        Endpoint {
            method: Method::POST,
            path: "/v1/jobs/{id}/cancel".to_owned(),
            need: Need::Job,
            summary: "Cancel one job".to_owned(),
            query: &[],
            body: Body::None,
            answer: Answer::AcceptedJob,
            handler: post(cancel),
        },
        Endpoint {
            method: Method::POST,
            path: "/v1/jobs/{id}/retry".to_owned(),
            need: Need::Job,
            summary: "Try a failed or cancelled job again".to_owned(),
            query: RETRY,
            body: Body::None,
            answer: Answer::AcceptedJob,
            handler: post(retry),
        },
    ]
}

/// Tags of resources that jobs are about, read once.
#[derive(Default)]
struct Tags(HashMap<ResourceId, BTreeMap<String, String>>);

static NO_TAGS: BTreeMap<String, String> = BTreeMap::new();

impl Tags {
    /// Reads those that it takes to say which of these jobs may be read: only a limited scope needs any.
    async fn learn(&mut self, ctx: &Ctx, rows: &[JobRow]) -> Result<(), Problem> {
        let limited = rows.iter().filter(|row| !reads_all(&ctx.caller, row.kind));
        let ids: Vec<ResourceId> = limited.map(|row| row.resource_id).collect();
        self.learn_of(ctx, &ids).await
    }

    /// Reads those of these resources, all at once.
    async fn learn_of(&mut self, ctx: &Ctx, ids: &[ResourceId]) -> Result<(), Problem> {
        let new: BTreeSet<ResourceId> = ids
            .iter()
            .copied()
            .filter(|id| !self.0.contains_key(id))
            .collect();
        if !new.is_empty() {
            let new: Vec<ResourceId> = new.into_iter().collect();
            self.0.extend(ctx.app.store.tags_of(&new).await?);
        }
        Ok(())
    }

    /// Whether the caller may do this to what a job is about, of which the tags were read where it takes them.
    fn may(&self, caller: &Caller, row: &JobRow, verb: &str) -> bool {
        let tags = self.0.get(&row.resource_id).unwrap_or(&NO_TAGS);
        (verb == "read" && reads_all(caller, row.kind))
            || caller.may(row.kind.as_str(), verb, Some(&row.resource_id.to_string()), tags)
    }
}

fn reads_all(caller: &Caller, kind: Kind) -> bool {
    caller.reads_all(kind.as_str()) || caller.reads_all("job")
}

/// A job that the caller may know of, and may do this to.
async fn allowed(ctx: &Ctx, id: &str, tenant: Option<String>, verb: Verb) -> Result<JobRow, Problem> {
    let unknown = || Problem::not_found("job", &id.chars().take(80).collect::<String>());
    let scope = ctx.scope(tenant).await?;
    let job: JobId = id.parse().map_err(|_| unknown())?;
    let row = ctx
        .app
        .store
        .job_seen_by(&scope, job)
        .await?
        .ok_or_else(unknown)?;
    let mut tags = Tags::default();
    match verb {
        Verb::Read => tags.learn(ctx, std::slice::from_ref(&row)).await?,
        Verb::Change => tags.learn_of(ctx, &[row.resource_id]).await?,
    }
    let may = |verb: &str| tags.may(&ctx.caller, &row, verb);
    match verb {
        Verb::Read if may("read") => Ok(row),
        // With another scope on this kind they may know of it.
        Verb::Read => {
            if ctx.caller.require(row.kind.as_str(), "read").is_ok() {
                Err(unknown())
            } else {
                Err(missing(row.kind.as_str(), "read"))
            }
        }
        Verb::Change => {
            let verb = row.action.as_str();
            if may(verb) {
                if row.tenant == ctx.caller.tenant {
                    Ok(row)
                } else {
                    Err(missing(row.kind.as_str(), verb))
                }
            } else if may("read") || ctx.caller.require(row.kind.as_str(), verb).is_err() {
                Err(missing(row.kind.as_str(), verb))
            } else {
                Err(unknown())
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Read,
    Change,
}

async fn read(Path(id): Path<String>, ctx: Ctx) -> Result<Response, Problem> {
    let mut query = ctx.query(READ);
    let wait = query
        .number("wait", 0..=WAIT_MAX_S as i64)
        .map(|s| Duration::from_secs(s as u64));
    let tenant = query.text("tenant");
    query.finish()?;
    let mut row = allowed(&ctx, &id, tenant, Verb::Read).await?;
    let wait = wait
        .or_else(|| prefer_wait(&ctx.headers))
        .filter(|w| !w.is_zero());
    match wait {
        Some(wait) => row = reply::waited(&ctx, row, wait).await?,
        None => ctx.app.store.job_stalls(std::slice::from_mut(&mut row)).await?,
    }
    let by_host = placement::by_host(&ctx, &row).await?;
    let document = job::document(&row, ctx.reader(), Utc::now()).with_hosts(by_host);
    let mut response = reply::json(StatusCode::OK, &document)?;
    if !row.state.is_done() {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    Ok(response)
}

async fn list(ctx: Ctx) -> Result<Response, Problem> {
    ctx.caller.require_any_read()?;
    let mut query = ctx.query(LIST);
    let target = query.parsed("target", "the id of a resource", |text| {
        text.parse::<ResourceId>().ok()
    });
    let states = JobState::ALL
        .iter()
        .filter(|s| s.shown() == **s)
        .map(|s| s.as_str());
    let wanted = format!("one of {}", states.collect::<Vec<_>>().join(", "));
    let state = query.parsed("state", &wanted, |text| {
        JobState::parse(text).filter(|s| s.shown() == *s)
    });
    let limit = query.number("limit", 1..=LIMIT_MAX).unwrap_or(LIMIT_DEFAULT) as usize;
    let mut after = query.parsed("page_token", "a token of a page", page::after);
    let tenant = query.text("tenant");
    query.finish()?;
    let (scope, filter) = (ctx.scope(tenant).await?, JobFilter { target, state });

    let mut tags = Tags::default();
    let mut rows: Vec<JobRow> = Vec::new();
    let mut looked = 0;
    // Where each is judged, it takes more of them to fill a page.
    let judged = !Kind::ALL.iter().all(|kind| reads_all(&ctx.caller, *kind));
    let step = if judged { LIMIT_MAX } else { limit as i64 + 1 };
    let more = loop {
        let found = ctx
            .app
            .store
            .job_list(&scope, &filter, &Page { after, limit: step })
            .await?;
        looked += found.looked;
        tags.learn(&ctx, &found.rows).await?;
        rows.extend(
            found
                .rows
                .into_iter()
                .filter(|row| tags.may(&ctx.caller, row, "read")),
        );
        if rows.len() > limit {
            rows.truncate(limit);
            break rows.last().map(|row| (row.created_at, row.id.0));
        }
        if found.next.is_none() || looked >= LOOK_MAX {
            break found.next;
        }
        after = found.next;
    };
    ctx.app.store.job_stalls(&mut rows).await?;
    let (reader, now) = (ctx.reader(), Utc::now());
    let items = rows.iter().map(|row| job::document(row, reader, now)).collect();
    reply::json(
        StatusCode::OK,
        &PageDoc {
            items,
            next_page_token: more.map(page::token),
        },
    )
}

async fn cancel(Path(id): Path<String>, ctx: Ctx) -> Result<Response, Problem> {
    ctx.query(&[]).finish()?;
    ctx.no_body()?;
    let idempotency = ctx.idempotency(&Value::Null)?;
    let row = allowed(&ctx, &id, None, Verb::Change).await?;
    let _turn = ctx.app.keys.lock(&ctx.caller.tenant, idempotency.as_ref()).await;
    let what = format!("job {id}");
    fault::point(Point::AcceptCommit, Side::Before);
    let reply = ctx
        .app
        .store
        .accept_cancel(
            &ctx.caller.tenant,
            row.id,
            idempotency.as_ref(),
            &ctx.origin(None),
        )
        .await?
        .map_err(|refused| refusal::problem(refused, row.kind, &what))?;
    fault::point(Point::AcceptCommit, Side::After);
    let cancelled = reply
        .accepted
        .job
        .ok_or_else(|| Problem::internal("cancel", &"a cancel without a job"))?;
    if reply.now == AcceptedNow::Now {
        ended::cancelled(
            cancelled.kind,
            cancelled.action,
            cancelled.state,
            cancelled.created_at,
        );
        ctx.app.announcer.cancelled(
            &cancelled.tenant,
            cancelled.kind,
            cancelled.id,
            cancelled.resource_id,
        );
    }
    answer(&ctx, cancelled).await
}

async fn retry(Path(id): Path<String>, ctx: Ctx) -> Result<Response, Problem> {
    let mut query = ctx.query(RETRY);
    let deadline_s = deadline(&mut query);
    query.finish()?;
    ctx.no_body()?;
    let idempotency = ctx.idempotency(&Value::Null)?;
    let row = allowed(&ctx, &id, None, Verb::Change).await?;
    let steps = steps(&ctx, &row).await?;
    let _turn = ctx.app.keys.lock(&ctx.caller.tenant, idempotency.as_ref()).await;
    let what = format!("job {id}");
    fault::point(Point::AcceptCommit, Side::Before);
    let reply = ctx
        .app
        .store
        .accept_retry(
            &ctx.caller.tenant,
            row.id,
            JobId::new(),
            &steps,
            idempotency.as_ref(),
            &ctx.origin(deadline_s),
        )
        .await?
        .map_err(|refused| refusal::problem(refused, row.kind, &what))?;
    fault::point(Point::AcceptCommit, Side::After);
    if reply.now == AcceptedNow::Now {
        ctx.app
            .announcer
            .accepted(&reply.accepted.resource, reply.accepted.job.as_ref());
    }
    let job = reply
        .accepted
        .job
        .ok_or_else(|| Problem::internal("retry", &"a retry without a job"))?;
    answer(&ctx, job).await
}

/// The steps that a job would have now; those of before where its resource is gone, which the store refuses.
async fn steps(ctx: &Ctx, row: &JobRow) -> Result<Vec<&'static str>, Problem> {
    let Some(resource) = ctx.app.store.resource_by_id(row.resource_id).await? else {
        return Ok(Vec::new());
    };
    let action = resource.retried(row.action);
    Ok(row
        .kind
        .ops()
        .step_names(action, &resource.spec, resource.planned_against(action)?.as_ref())?)
}

/// 202 with the job, once it is done where the caller prefers to wait.
async fn answer(ctx: &Ctx, row: JobRow) -> Result<Response, Problem> {
    let row = match prefer_wait(&ctx.headers).filter(|w| !w.is_zero()) {
        Some(wait) => reply::waited(ctx, row, wait).await?,
        None => row,
    };
    let document = JobOnly {
        job: job::document(&row, ctx.reader(), Utc::now()),
    };
    let mut response = reply::json(StatusCode::ACCEPTED, &document)?;
    response
        .headers_mut()
        .insert(LOCATION, reply::ascii(&format!("/v1/jobs/{}", row.id))?);
    Ok(response)
}
