//! The development issuer: an OpenID provider for one machine, with an issuer for each tenant under one listener.
//!
//! - [`keys`]: the signing keys, in files.
//! - [`token`]: tokens, and `rhyzome token`.
//!
//! `/{tenant}/.well-known/openid-configuration`, `/{tenant}/jwks` and `/{tenant}/token` (OpenID Connect Discovery 1.0, RFC 7517, RFC 6749
//! 4.4). It listens on loopback only, asks for no password, and is not for production. Operators' tokens aren't given over HTTP: who
//! can read the keys makes them with `rhyzome token --operator`.

pub(crate) mod keys;
pub(crate) mod token;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use rhyzome_runtime::ready::{self, Ready};
use rhyzome_runtime::{http, telemetry};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

use crate::args::{Configured, DevIssuerArgs};
use crate::settings::Layers;

/// The issuer whose tokens may be operators'.
pub(crate) const OPERATORS: &str = "operators";
/// For whom tokens are, as in `aud`.
pub(crate) const AUDIENCE: &str = "rhyzome";

struct Served {
    keys: PathBuf,
    base: String,
}

/// Serves until it is told to end.
pub(crate) async fn serve(configured: &Configured, args: &DevIssuerArgs) -> Result<()> {
    if !args.listen.ip().is_loopback() {
        bail!(
            "--listen {}: the development issuer listens on loopback only",
            args.listen
        );
    }
    let settings = Layers::of(configured)
        .flag(
            "telemetry.metrics_listen",
            "--metrics-listen",
            args.process.metrics_listen,
        )
        .load()?;
    let shutdown = crate::roles::begin(&settings.telemetry, &args.process)?;
    let metrics = telemetry::start_metrics(
        "dev-issuer",
        settings.telemetry.metrics_listen,
        shutdown.token.clone(),
    )
    .await?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("listening on {}", args.listen))?;
    let address = listener.local_addr()?;
    let served = Arc::new(Served {
        keys: keys::folder(&args.data),
        base: format!("http://{address}"),
    });
    let router = Router::new()
        .route("/{issuer}/.well-known/openid-configuration", get(discovery))
        .route("/{issuer}/jwks", get(jwks))
        .route("/{issuer}/token", post(give))
        .with_state(served);
    ready::write(
        args.process.ready_file.as_deref(),
        &Ready {
            address: Some(address),
            metrics_address: Some(metrics.address),
        },
    )?;
    tracing::info!(%address, "serving");
    http::serve(listener, router, http::Limits::default(), shutdown.token.clone()).await;
    Ok(())
}

/// What went wrong, for the caller and for the log.
enum Refusal {
    NoIssuer,
    Inside(anyhow::Error),
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self::Inside(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::NoIssuer => {
                (StatusCode::NOT_FOUND, Json(json!({ "error": "no such issuer" }))).into_response()
            }
            Self::Inside(error) => {
                tracing::error!(error = format!("{error:#}"), "answering");
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    Json(json!({ "error": "server_error" })),
                )
                    .into_response()
            }
        }
    }
}

async fn discovery(
    State(served): State<Arc<Served>>,
    Path(issuer): Path<String>,
) -> Result<Response, Refusal> {
    keys_of(&served, &issuer)?;
    let url = format!("{}/{issuer}", served.base);
    Ok(Json(json!({
        "issuer": url,
        "jwks_uri": format!("{url}/jwks"),
        "token_endpoint": format!("{url}/token"),
        "authorization_endpoint": format!("{url}/authorize"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "grant_types_supported": ["client_credentials"],
        "id_token_signing_alg_values_supported": ["ES256"],
    }))
    .into_response())
}

async fn jwks(State(served): State<Arc<Served>>, Path(issuer): Path<String>) -> Result<Response, Refusal> {
    let keys: Vec<_> = keys_of(&served, &issuer)?.iter().map(keys::Key::jwk).collect();
    Ok(Json(json!({ "keys": keys })).into_response())
}

#[derive(Debug, Deserialize)]
struct Asked {
    grant_type: String,
    scope: Option<String>,
    client_id: Option<String>,
}

async fn give(
    State(served): State<Arc<Served>>,
    Path(issuer): Path<String>,
    Form(asked): Form<Asked>,
) -> Result<Response, Refusal> {
    let keys = keys_of(&served, &issuer)?;
    let refused = |error: &str| (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response();
    if asked.grant_type != "client_credentials" {
        return Ok(refused("unsupported_grant_type"));
    }
    if issuer == OPERATORS {
        return Ok(refused("unauthorized_client"));
    }
    let Some(key) = keys.first() else {
        return Err(Refusal::NoIssuer);
    };
    let lifetime = Duration::from_hours(1);
    let claims = token::Claims {
        issuer: format!("{}/{issuer}", served.base),
        subject: asked.client_id.unwrap_or_else(|| "developer".to_owned()),
        scope: asked.scope.unwrap_or_else(|| token::ALL.to_owned()),
        lifetime,
    };
    let signed = token::sign(key, &claims)?;
    let body = json!({ "access_token": signed, "token_type": "Bearer", "expires_in": lifetime.as_secs(), "scope": claims.scope });
    Ok(([("cache-control", "no-store")], Json(body)).into_response())
}

fn keys_of(served: &Served, issuer: &str) -> Result<Vec<keys::Key>, Refusal> {
    if !keys::is_name(issuer) {
        return Err(Refusal::NoIssuer);
    }
    let keys = keys::read(&served.keys, issuer)?;
    if keys.is_empty() {
        Err(Refusal::NoIssuer)
    } else {
        Ok(keys)
    }
}
