//! The answer to what was accepted: 202 with the resource and the job, at once or when the job ends.

use crate::apart;
use crate::ctx::Ctx;
use crate::problem::Problem;
use crate::shapes::job::{self, JobDoc};
use crate::shapes::resource::{self, Beside, ResourceDoc};
use axum::response::Response;
use chrono::Utc;
use http::StatusCode;
use http::header::{CONTENT_TYPE, ETAG, HeaderValue, LOCATION};
use rhyzome_model::ids::ResourceId;
use rhyzome_model::kinds::Kind;
use rhyzome_store::accept::Reply;
use rhyzome_store::rows::{JobRow, ResourceRow};
use rhyzome_store::{Store, StoreError};
use serde::Serialize;
use std::collections::HashMap;
use std::time::Duration;

/// `{resource, job}`.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct AcceptedDoc<'a> {
    /// As it is after the change.
    resource: ResourceDoc<'a>,
    /// None where nothing has to be done.
    job: Option<JobDoc<'a>>,
}

/// 202, or 200 where nothing has to be done.
pub async fn accepted(ctx: &Ctx, reply: Reply, wait: Option<Duration>) -> Result<Response, Problem> {
    let mut resource = reply.accepted.resource;
    let mut job = reply.accepted.job;
    let addresses = reply.accepted.addresses;
    if let (Some(open), Some(wait)) = (&mut job, wait.filter(|w| !w.is_zero())) {
        *open = waited(ctx, open.clone(), wait).await?;
        // Gone after a delete: then it is told as it was last.
        if let Some(now) = ctx.app.store.resource_by_id(resource.id).await? {
            resource = now;
        }
    }
    let beside = match addresses {
        Some(addresses) => Beside {
            addresses,
            ..Beside::default()
        },
        None => beside(ctx, &resource).await?,
    };
    respond(ctx, &resource, &beside, job.as_ref())
}

/// The job once it is done; when the time is up first, as it is then.
pub async fn waited(ctx: &Ctx, row: JobRow, wait: Duration) -> Result<JobRow, Problem> {
    if row.state.is_done() {
        return Ok(row);
    }
    let mut row = match ctx.app.jobs.done(row.id, wait).await {
        Some(done) => done,
        None => ctx.app.store.job_get(row.id).await?.unwrap_or(row),
    };
    ctx.app.store.job_stalls(std::slice::from_mut(&mut row)).await?;
    Ok(row)
}

/// The response of a resource and its job.
pub fn respond(
    ctx: &Ctx,
    resource: &ResourceRow,
    beside: &Beside,
    job: Option<&JobRow>,
) -> Result<Response, Problem> {
    let document = AcceptedDoc {
        resource: resource::document(resource, beside, ctx.reader()),
        job: job.map(|job| job::document(job, ctx.reader(), Utc::now())),
    };
    let status = if job.is_some() {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    let mut response = json(status, &document)?;
    let headers = response.headers_mut();
    if let Some(job) = job {
        headers.insert(LOCATION, ascii(&format!("/v1/jobs/{}", job.id))?);
    }
    headers.insert(ETAG, ascii(&resource::etag(resource))?);
    Ok(response)
}

/// What a resource's document needs from other tables.
pub async fn beside(ctx: &Ctx, row: &ResourceRow) -> Result<Beside, Problem> {
    let mut of_one = besides(ctx, row.kind, std::slice::from_ref(row)).await?;
    Ok(of_one.remove(&row.id).unwrap_or_default())
}

/// The same of many resources of a kind, in one query.
pub async fn besides(
    ctx: &Ctx,
    kind: Kind,
    rows: &[ResourceRow],
) -> Result<HashMap<ResourceId, Beside>, Problem> {
    let rows: Vec<&ResourceRow> = rows.iter().collect();
    Ok(besides_of(&ctx.app.store, kind, &rows).await?)
}

/// The same where there is no request.
pub async fn besides_of(
    store: &Store,
    kind: Kind,
    rows: &[&ResourceRow],
) -> Result<HashMap<ResourceId, Beside>, StoreError> {
    let mut besides: HashMap<ResourceId, Beside> = HashMap::new();
    if rows.is_empty() {
        return Ok(besides);
    }
    let ids: Vec<ResourceId> = rows.iter().map(|row| row.id).collect();
    match kind {
        Kind::Image => {}
        Kind::Network => {
            for (network, (host, facts)) in store.network_homes(&ids).await? {
                besides.insert(
                    network,
                    Beside {
                        host: Some(host),
                        facts,
                        ..Beside::default()
                    },
                );
            }
        }
        Kind::Instance => {
            for lease in store.leases_of(&ids).await? {
                if let Some(instance) = lease.instance {
                    besides.entry(instance).or_default().addresses.push(lease.ip);
                }
            }
            let gone = apart::gone(store, rows.iter().map(|row| &row.spec)).await?;
            for row in rows.iter().filter(|_| !gone.is_empty()) {
                besides.entry(row.id).or_default().gone = apart::of(&row.spec, &gone);
            }
        }
    }
    Ok(besides)
}

/// A JSON response.
pub fn json(status: StatusCode, document: &impl Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(document).map_err(|error| Problem::internal("response", &error))?;
    let mut response = json_text(body);
    *response.status_mut() = status;
    Ok(response)
}

/// A response of what is JSON already: 200.
pub fn json_text(text: Vec<u8>) -> Response {
    let mut response = Response::new(axum::body::Body::from(text));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A header of our own making.
pub fn ascii(text: &str) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(text).map_err(|error| Problem::internal("response header", &error))
}
