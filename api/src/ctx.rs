//! What a handler is given of a request: who asks, in which trace, and the parts that are still to be read.

use crate::app::App;
use crate::auth::Caller;
use crate::extract::headers::idempotency_key;
use crate::extract::json;
use crate::extract::query::Query;
use crate::observe::RequestTrace;
use crate::problem::{Code, Problem, shortened};
use crate::shapes::Reader;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method};
use rhyzome_model::ids::TenantId;
use rhyzome_runtime::trace::TraceParent;
use rhyzome_store::accept::{IdempotencyKey, Origin};
use rhyzome_store::resources::Scope;
use serde_json::Value;
use std::sync::Arc;

/// A deadline may be so far away, seconds: 30 days, as long as jobs are kept.
const DEADLINE_MAX_S: i64 = 30 * 24 * 3600;

/// See the module.
#[derive(Debug)]
pub struct Ctx {
    /// What all handlers share.
    pub app: App,
    /// Who asks.
    pub caller: Arc<Caller>,
    /// In which trace.
    pub trace: TraceParent,
    /// GET, POST …
    pub method: Method,
    /// Without query.
    pub path: String,
    /// The query as sent.
    pub raw_query: Option<String>,
    /// All headers.
    pub headers: HeaderMap,
    /// The body as sent, within the limit.
    pub body: Bytes,
}

impl FromRequest<App> for Ctx {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let limit = app.config.body_limit_bytes;
        let body = if parts.method == Method::GET || parts.method == Method::HEAD {
            Bytes::new()
        } else {
            let read = axum::body::to_bytes(body, limit);
            match tokio::time::timeout(app.config.request_timeout.duration(), read).await {
                Ok(Ok(body)) => body,
                Ok(Err(error)) if error_is_limit(&error) => {
                    let detail = format!("The body is larger than {limit} bytes.");
                    return Err(Problem::new(Code::BodyTooLarge, detail));
                }
                Ok(Err(_)) => return Err(Problem::new(Code::MalformedJson, "The body broke off.")),
                Err(_) => return Err(Problem::new(Code::Timeout, "The body took too long to come.")),
            }
        };
        let caller = parts.extensions.get::<Arc<Caller>>().cloned();
        Ok(Self {
            caller: caller.ok_or_else(|| Problem::unauthenticated("There is no bearer token."))?,
            trace: parts
                .extensions
                .get::<RequestTrace>()
                .map_or_else(TraceParent::new, |t| t.0),
            app: app.clone(),
            method: parts.method,
            path: parts.uri.path().to_owned(),
            raw_query: parts.uri.query().map(str::to_owned),
            headers: parts.headers,
            body,
        })
    }
}

fn error_is_limit(error: &axum::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        source = inner.source();
    }
    false
}

impl Ctx {
    /// The query, of which these names are known.
    pub fn query(&self, known: &[&str]) -> Query {
        Query::new(self.raw_query.as_deref(), known)
    }

    /// The JSON document of the body.
    pub fn document(&self) -> Result<Value, Problem> {
        self.check_media_type()?;
        json::parse(&self.body)
    }

    /// Refuses a body where none is read; an empty object is none. Nothing else of it is looked at.
    pub fn no_body(&self) -> Result<(), Problem> {
        if self.body.is_empty() {
            return Ok(());
        }
        self.check_media_type()?;
        let fields = self
            .body
            .trim_ascii()
            .strip_prefix(b"{")
            .and_then(|rest| rest.strip_suffix(b"}"));
        match fields {
            Some(fields) if fields.trim_ascii().is_empty() => Ok(()),
            Some(_) | None => Err(Problem::new(Code::InvalidRequest, "This request has no body.")),
        }
    }

    fn check_media_type(&self) -> Result<(), Problem> {
        let Some(value) = self.headers.get(CONTENT_TYPE) else {
            return Ok(());
        };
        let text = value
            .to_str()
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        let is_json = ["application/json", "application/merge-patch+json"]
            .iter()
            .any(|t| text.eq_ignore_ascii_case(t));
        if is_json {
            return Ok(());
        }
        Err(Problem::new(
            Code::UnsupportedMediaType,
            "The body must be application/json.",
        ))
    }

    /// The idempotency key of a POST with the meaning of its body.
    pub fn idempotency(&self, document: &Value) -> Result<Option<IdempotencyKey>, Problem> {
        Ok(idempotency_key(&self.headers)?.map(|key| IdempotencyKey {
            method: self.method.to_string(),
            path: self.path.clone(),
            key,
            body_hash: json::meaning_hash(document),
        }))
    }

    /// Who asks, for the job and the audit. `deadline_s` as asked for.
    pub fn origin(&self, deadline_s: Option<i64>) -> Origin {
        let default =
            i64::try_from(self.app.config.job_deadline.duration().as_secs()).unwrap_or(DEADLINE_MAX_S);
        Origin {
            actor: self.caller.actor.clone(),
            trace_id: self.trace.trace_id(),
            traceparent: self.trace.to_string(),
            deadline_s: deadline_s.unwrap_or(default),
        }
    }

    /// Whose eyes read.
    pub fn reader(&self) -> Reader {
        if self.caller.is_operator() {
            Reader::Operator
        } else {
            Reader::Tenant
        }
    }

    /// What they see: their tenant's; an operator without `tenant` sees every tenant's. One that isn't there is no empty one: 404.
    pub async fn scope(&self, tenant: Option<String>) -> Result<Scope, Problem> {
        match tenant {
            None if self.caller.is_operator() => Ok(Scope::Operator(None)),
            None => Ok(Scope::Tenant(self.caller.tenant.clone())),
            Some(tenant) => {
                self.caller.require_operator()?;
                let tenant = TenantId(tenant);
                if self.app.store.tenant_get(&tenant).await?.is_none() {
                    return Err(Problem::not_found(
                        "tenant",
                        &format!("{:?}", shortened(&tenant.0)),
                    ));
                }
                Ok(Scope::Operator(Some(tenant)))
            }
        }
    }
}

/// `?deadline_seconds=`.
pub fn deadline(query: &mut Query) -> Option<i64> {
    query.number("deadline_seconds", 1..=DEADLINE_MAX_S)
}
