//! The section `[api]` of the configuration.

use rhyzome_runtime::{Span, http};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// `[api]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Largest body of a request, bytes.
    pub body_limit_bytes: usize,
    /// How long a client may take to send the head of a request, from its connection or the head's first byte; who takes longer is
    /// disconnected.
    pub header_timeout: Span,
    /// How long a connection is kept between two requests.
    pub idle_timeout: Span,
    /// How long a request may take, the time that it asked to wait not counted.
    pub request_timeout: Span,
    /// Requests a second of one tenant; 0 is without end.
    pub rate_per_second: u32,
    /// How many may come at once.
    pub rate_burst: u32,
    /// Allowed difference between the issuer's clock and ours.
    pub token_leeway: Span,
    /// Verified tokens that are kept.
    pub token_cache_size: usize,
    /// How long a verified token is believed without another look at keys and issuers.
    pub token_cache_age: Span,
    /// URL prefixes at which issuers may be reached by plain http. Only loopback by default.
    pub issuer_http_allow: Vec<String>,
    /// PEM file of further CA certificates for issuers' https.
    pub issuer_ca: Option<PathBuf>,
    /// How often an issuer's keys are read anew.
    pub issuer_keys_refresh: Span,
    /// How often at most an issuer is asked for keys because of an unknown `kid`.
    pub issuer_keys_min_interval: Span,
    /// Creates in one transaction, at most.
    pub accept_batch: usize,
    /// Transactions at a time of creates that wait for a row that somebody holds, beside the one of all others.
    pub accept_in_flight: usize,
    /// How long a job may take to go forward where its request doesn't say: `scheduler.job_deadline`, which the program hands in.
    #[serde(skip, default = "default_deadline")]
    pub job_deadline: Span,
    /// How often waiting requests and watchers look at the database although nothing was heard.
    pub wait_poll: Span,
    /// Streams of `/v1/events` that one process holds open at once.
    pub event_streams: usize,
    /// The same of one tenant.
    pub event_streams_per_tenant: usize,
}

impl Default for ApiConfig {
    fn default() -> Self {
        let http = http::Limits::default();
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            body_limit_bytes: 1024 * 1024,
            header_timeout: Span(http.head),
            idle_timeout: Span(http.idle),
            request_timeout: Span::seconds(30),
            rate_per_second: 10_000,
            rate_burst: 20_000,
            token_leeway: Span::seconds(30),
            token_cache_size: 10_000,
            token_cache_age: Span::seconds(60),
            issuer_http_allow: ["http://127.0.0.1", "http://[::1]", "http://localhost"]
                .map(str::to_owned)
                .to_vec(),
            issuer_ca: None,
            issuer_keys_refresh: Span::minutes(10),
            issuer_keys_min_interval: Span::seconds(5),
            accept_batch: 200,
            accept_in_flight: 3,
            job_deadline: default_deadline(),
            wait_poll: Span::seconds(1),
            event_streams: 1000,
            event_streams_per_tenant: 100,
        }
    }
}

fn default_deadline() -> Span {
    Span::hours(1)
}
