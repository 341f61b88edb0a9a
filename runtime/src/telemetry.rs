//! What is seen from outside: logs by `tracing`, metrics on a listener of their own.
//!
//! `RHYZOME_LOG` filters (as `RUST_LOG` does elsewhere). Labels must be bounded; this module can't check it.

use std::net::SocketAddr;
use std::time::Duration;

use crate::http;
use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The environment variable that filters logs.
pub const LOG_FILTER: &str = "RHYZOME_LOG";

/// Section `[telemetry]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// `plain` or `json`.
    pub log_format: LogFormat,
    /// Where `/metrics` listens; port 0 takes a free one.
    pub metrics_listen: SocketAddr,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Plain,
            metrics_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Plain,
    /// One JSON object a line.
    Json,
}

/// Why telemetry couldn't start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter isn't understood.
    #[error("{LOG_FILTER}: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody else set a logger first.
    #[error("logging is set up already: {0}")]
    Logger(#[from] tracing_subscriber::util::TryInitError),
    /// The recorder can't be built or is there already.
    #[error("metrics recorder: {0}")]
    Recorder(#[from] metrics_exporter_prometheus::BuildError),
    /// The listener can't be bound.
    #[error("metrics listener {address}: {source}")]
    Listener {
        /// Where it should have listened.
        address: SocketAddr,
        /// Why it can't.
        source: std::io::Error,
    },
}

/// Starts logging to standard error. Once per process.
///
/// # Errors
/// The filter isn't understood, or there is a logger already.
pub fn init_logs(format: LogFormat) -> Result<(), TelemetryError> {
    let filter = match std::env::var(LOG_FILTER) {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(text)?,
        Ok(_) | Err(_) => EnvFilter::new("info"),
    };
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Plain => registry.with(layer.with_ansi(false)).try_init()?,
        LogFormat::Json => registry
            .with(layer.json().with_current_span(true).with_span_list(false))
            .try_init()?,
    }
    Ok(())
}

/// A process's metrics: the recorder, and where it is read.
#[derive(Debug, Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    /// Where `/metrics` is bound.
    pub address: SocketAddr,
}

impl Metrics {
    /// What `/metrics` would answer now.
    pub fn render(&self) -> String {
        self.handle.render()
    }
}

/// Seconds; from half a millisecond to a minute.
const DURATION_BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
const SIZE_BUCKETS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 300.0, 500.0];

/// Installs the process's recorder and serves it at `/metrics` until `token` is cancelled.
/// Metrics ending in `_seconds` are histograms to a minute, those ending in `_size` to 500.
///
/// # Errors
/// There is a recorder already, or the listener can't be bound.
pub async fn start_metrics(
    role: &'static str,
    listen: SocketAddr,
    token: CancellationToken,
) -> Result<Metrics, TelemetryError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &DURATION_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_size".into()), &SIZE_BUCKETS)?
        .install_recorder()?;
    metrics::gauge!("rhyzome_build_info", "role" => role, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let refused = |source| TelemetryError::Listener {
        address: listen,
        source,
    };
    let listener = TcpListener::bind(listen).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let rendered = handle.clone();
    let router = Router::new().route(
        "/metrics",
        get(move || {
            let body = rendered.render();
            async move {
                (
                    [("content-type", "text/plain; version=0.0.4; charset=utf-8")],
                    body,
                )
            }
        }),
    );
    let upkeep = handle.clone();
    let upkeep_token = token.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                _ = ticks.tick() => upkeep.run_upkeep(),
                () = upkeep_token.cancelled() => return,
            }
        }
    });
    tokio::spawn(http::serve(listener, router, http::Limits::default(), token));
    Ok(Metrics { handle, address })
}
