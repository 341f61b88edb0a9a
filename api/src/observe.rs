//! The outermost room: request id, trace, time limit, a net for panics, metrics, the last word on problems, and what wasn't read of a
//! request.
//!
//! Guarantees: every response carries `x-request-id` and `traceparent`; every problem its `instance` and `request_id`; labels of metrics
//! are route templates, never paths, and methods that are known by name; nothing of a body or a token is logged.

use crate::problem::Code;
use crate::problem::Problem;
use crate::unread::Unread;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use http::Method;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use rhyzome_runtime::trace::TraceParent;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};
use tracing::Instrument;
use uuid::Uuid;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Requests may ask to wait so long beyond the time limit.
const WAIT_MAX: Duration = Duration::from_secs(crate::extract::headers::WAIT_MAX_S);

/// The trace that a request belongs to.
#[derive(Clone, Copy, Debug)]
pub struct RequestTrace(pub TraceParent);

/// See the module.
pub async fn observe(State(limit): State<Duration>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let sent = request.headers().get(&TRACEPARENT).and_then(|v| v.to_str().ok());
    let trace = match sent {
        Some(_) => TraceParent::from_caller(sent).child(),
        None => TraceParent::new(),
    };
    let request_id = Uuid::now_v7().to_string();
    request.extensions_mut().insert(RequestTrace(trace));
    let unread = Unread::watch(&mut request);

    let span = tracing::info_span!("request", trace_id = %trace.trace_id(), request_id, %method, route);
    let handled = AssertUnwindSafe(tokio::time::timeout(limit + WAIT_MAX, next.run(request)))
        .catch_unwind()
        .instrument(span.clone())
        .await;
    let mut response = span.in_scope(|| match handled {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => Problem::new(Code::Timeout, "The request took longer than it may.").into_response(),
        // The panic hook has logged what and where.
        Err(_) => Problem::internal("handler", &"it panicked").into_response(),
    });
    finish(&mut response, &path, &request_id, &trace);

    let status = response.status().as_u16();
    let took = begun.elapsed();
    span.in_scope(|| tracing::debug!(status, took_us = took.as_micros() as u64, "answered"));
    let labels = [
        ("route", route),
        ("method", method_label(&method).to_owned()),
        ("status", status.to_string()),
    ];
    metrics::counter!("rhyzome_http_requests_total", &labels).increment(1);
    metrics::histogram!("rhyzome_http_request_duration_seconds").record(took.as_secs_f64());
    if let Some(unread) = unread {
        unread.settle(&mut response).await;
    }
    response
}

/// Anybody may send any word as a method, and each value of a label is kept for good.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "other",
    }
}

fn finish(response: &mut Response, path: &str, request_id: &str, trace: &TraceParent) {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let document = problem.document(path, request_id);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(document.len()));
        *response.body_mut() = axum::body::Body::from(document);
    }
    let headers = response.headers_mut();
    for (name, value) in [(REQUEST_ID, request_id), (TRACEPARENT, &trace.to_string())] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
}

/// Puts the counters whose labels are known there, at 0.
pub fn register_metrics<'a>(routes: impl Iterator<Item = (&'a str, &'a str, u16)>) {
    for (route, method, status) in routes {
        let labels = [
            ("route", route.to_owned()),
            ("method", method.to_owned()),
            ("status", status.to_string()),
        ];
        metrics::counter!("rhyzome_http_requests_total", &labels).absolute(0);
    }
}

#[cfg(test)]
mod tests {
    use super::method_label;
    use crate::routes::table::endpoints;
    use http::Method;

    #[test]
    fn a_method_of_ones_own_is_no_label_of_its_own() {
        for invented in ["ZZ7Q", "get", "PROPFIND"] {
            assert_eq!(method_label(&invented.parse().unwrap()), "other", "{invented}");
        }
        for endpoint in endpoints() {
            assert_eq!(method_label(&endpoint.method), endpoint.method.as_str());
        }
        assert_eq!(method_label(&Method::OPTIONS), "OPTIONS");
    }
}
