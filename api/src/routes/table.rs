//! Every endpoint with what it needs. The router is made of this table alone, so no route can be without a need.
//!
//! A need is judged before the handler runs: no good token is 401, a scope that is missing on every resource is 403. A handler judges
//! again on the very resource, where a scope is limited to some.

use super::{docs, events, health, hosts, instances, jobs, kinds, networks, openapi, resources};
use crate::app::App;
use crate::observe;
use crate::problem::{Code, Problem};
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use http::Method;
use http::header::AUTHORIZATION;
use rhyzome_model::kinds::Kind;
use std::sync::Arc;

/// What a caller needs for an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Public,
    /// A good token.
    Token,
    /// `KIND:VERB`.
    Scope {
        /// Of resource.
        kind: Kind,
        /// `read create update delete` or an action.
        verb: &'static str,
    },
    /// To read a job: `KIND:read` of what it changes, or `job:read`; to cancel or retry it: the verb that it does.
    Job,
    /// `read` of any kind, or of jobs.
    AnyRead,
    /// The scope `operator`.
    Operator,
}

/// What a request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// None.
    None,
    /// `{name, tags, spec}` of a kind.
    Create(Kind),
    /// A merge patch of that.
    Patch(Kind),
}

/// What a good answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 202 with a resource and a job.
    Accepted,
    /// 202 with a job.
    AcceptedJob,
    /// 200 with a resource.
    Resource,
    /// 200 with a page of resources.
    Resources,
    /// 200 with a job.
    Job,
    /// 200 with a page of jobs.
    Jobs,
    /// 200 with another document, by its schema's name.
    Document(&'static str),
    /// 200 with a page of other documents, by their schema's name.
    Page(&'static str),
    /// 200 with another JSON object.
    Object,
    /// 200, or 503 with the same document: what is missing.
    Readiness,
    /// 200 with text, of a media type.
    Text(&'static str),
    /// 200 with a stream of events.
    Events,
}

impl Answer {
    /// Its status.
    pub fn status(self) -> u16 {
        match self {
            Self::Accepted | Self::AcceptedJob => 202,
            Self::Resource
            | Self::Resources
            | Self::Job
            | Self::Jobs
            | Self::Document(_)
            | Self::Page(_)
            | Self::Object
            | Self::Readiness
            | Self::Text(_)
            | Self::Events => 200,
        }
    }
}

/// An endpoint.
pub struct Endpoint {
    /// GET, POST …
    pub method: Method,
    /// Template: `/v1/networks/{id}`.
    pub path: String,
    /// What a caller needs.
    pub need: Need,
    /// A line for people.
    pub summary: String,
    /// Query parameters that are known.
    pub query: &'static [&'static str],
    /// What is sent.
    pub body: Body,
    /// What comes back.
    pub answer: Answer,
    /// Who answers.
    pub handler: MethodRouter<App>,
}

/// Every endpoint.
pub fn endpoints() -> Vec<Endpoint> {
    let mut all = Vec::new();
    for &kind in Kind::ALL {
        all.extend(resources::endpoints(kind));
    }
    all.extend(networks::endpoints());
    all.extend(instances::endpoints());
    all.extend(jobs::endpoints());
    all.extend(events::endpoints());
    all.extend(kinds::endpoints());
    all.extend(hosts::endpoints());
    all.extend(health::endpoints());
    all.extend(openapi::endpoints());
    all.extend(docs::endpoints());
    all
}

/// The router.
pub fn router(app: App) -> Router {
    let endpoints = endpoints();
    observe::register_metrics(
        endpoints
            .iter()
            .map(|e| (e.path.as_str(), e.method.as_str(), e.answer.status())),
    );
    let mut router = Router::new();
    for endpoint in endpoints {
        let gate = middleware::from_fn_with_state((app.clone(), endpoint.need), admit);
        router = router.route(&endpoint.path, endpoint.handler.layer(gate));
    }
    let limit = app.config.request_timeout.duration();
    router
        .method_not_allowed_fallback(|| async {
            Problem::new(Code::MethodNotAllowed, "The path has no such method.")
        })
        .fallback(|| async { Problem::new(Code::NotFound, "There is no such path.") })
        .layer(middleware::from_fn_with_state(limit, observe::observe))
        .with_state(app)
}

async fn admit(State((app, need)): State<(App, Need)>, mut request: Request, next: Next) -> Response {
    if need == Need::Public {
        return next.run(request).await;
    }
    let header = request
        .headers()
        .get(AUTHORIZATION)
        .map(http::HeaderValue::as_bytes);
    let caller = match app.verifier.caller(header).await {
        Ok(caller) => caller,
        Err(error) => return Problem::from(error).into_response(),
    };
    let allowed = app.rate.check(&caller.tenant).and_then(|()| match need {
        Need::Public | Need::Token | Need::Job => Ok(()),
        Need::Scope { kind, verb } => caller.require(kind.as_str(), verb),
        Need::AnyRead => caller.require_any_read(),
        Need::Operator => caller.require_operator(),
    });
    if let Err(problem) = allowed {
        return problem.into_response();
    }
    request
        .extensions_mut()
        .insert::<Arc<crate::auth::Caller>>(caller);
    next.run(request).await
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({:?})", self.method, self.path, self.need)
    }
}
