//! `/healthz`: the process answers. `/readyz`: it can serve, or what is missing.

use super::table::{Answer, Body, Endpoint, Need};
use crate::accept::reply;
use crate::app::App;
use crate::problem::Problem;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::{Method, StatusCode};
use rhyzome_store::StoreError;
use serde::Serialize;
use std::time::Duration;

/// How long a part may take to answer.
const TIME: Duration = Duration::from_secs(2);

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum Part {
    Ok,
    Unreachable,
    Missing,
}

/// The answer of `/readyz`.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Readiness {
    /// Whether it can serve.
    ready: bool,
    database: Part,
    migrations: Part,
    nats: Part,
    /// Parts that are not `ok`.
    missing: Vec<&'static str>,
    /// What an operator must look at. It serves all the same: what is accepted waits.
    alarms: Vec<&'static str>,
}

/// See the module.
pub fn endpoints() -> Vec<Endpoint> {
    let endpoint = |path: &str, summary: &str, answer, handler| Endpoint {
        method: Method::GET,
        path: path.to_owned(),
        need: Need::Public,
        summary: summary.to_owned(),
        query: &[],
        body: Body::None,
        answer,
        handler,
    };
    vec![
        endpoint(
            "/healthz",
            "Whether the process answers",
            Answer::Object,
            get(|| async { healthz() }),
        ),
        endpoint(
            "/readyz",
            "Whether it can serve, or what is missing",
            Answer::Readiness,
            get(readyz),
        ),
    ]
}

fn healthz() -> Result<Response, Problem> {
    reply::json(StatusCode::OK, &serde_json::json!({ "ok": true }))
}

async fn readyz(State(app): State<App>) -> Result<Response, Problem> {
    let (database, migrations) = match tokio::time::timeout(TIME, app.store.ready()).await {
        Ok(Ok(())) => (Part::Ok, Part::Ok),
        // Without any migration their table isn't there at all.
        Ok(Err(StoreError::NotMigrated { .. } | StoreError::Other(_))) => (Part::Ok, Part::Missing),
        Ok(Err(_)) | Err(_) => (Part::Unreachable, Part::Unreachable),
    };
    let nats = match &app.nats {
        Some(nats) if nats.is_connected() => Part::Ok,
        Some(_) => Part::Unreachable,
        None => Part::Missing,
    };
    let parts = [("database", database), ("migrations", migrations), ("nats", nats)];
    let missing: Vec<&str> = parts
        .iter()
        .filter(|(_, part)| *part != Part::Ok)
        .map(|(name, _)| *name)
        .collect();
    let alarms = match migrations {
        Part::Ok => alarms(&app).await,
        Part::Unreachable | Part::Missing => Vec::new(),
    };
    let ready = missing.is_empty();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    reply::json(
        status,
        &Readiness {
            ready,
            database,
            migrations,
            nats,
            missing,
            alarms,
        },
    )
}

/// What can't be read is no alarm: that the database doesn't answer is told elsewhere.
async fn alarms(app: &App) -> Vec<&'static str> {
    match tokio::time::timeout(TIME, app.store.set_backs()).await {
        Ok(Ok(hosts)) if !hosts.is_empty() => vec!["set_back"],
        Ok(Ok(_) | Err(_)) | Err(_) => Vec::new(),
    }
}
