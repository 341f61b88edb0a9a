//! Starts the role: connects, listens, serves until told to end.

use crate::accept::batch::Batcher;
use crate::accept::image_floor::ImageFloors;
use crate::accept::keys::KeyLocks;
use crate::announce::Announcer;
use crate::app::{App, AppState};
use crate::auth::Verifier;
use crate::auth::cache::TokenCache;
use crate::auth::issuers::{IssuerSource, Issuers};
use crate::auth::jwks::{self, KeySettings, KeySource};
use crate::config::ApiConfig;
use crate::console::Consoles;
use crate::events::{Limits, Seats};
use crate::hear;
use crate::rate::TenantRate;
use crate::routes::table::router;
use crate::wait::JobWatch;
use rhyzome_nats::{Connection, NatsConfig, NatsError, Role};
use rhyzome_runtime::tls::TlsError;
use rhyzome_runtime::{Identity, Process, http, install_crypto, tls};
use rhyzome_store::Store;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Why the API can't serve.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Its certificate and key.
    #[error("the API's identity: {0}")]
    Identity(#[from] TlsError),
    /// The client for issuers.
    #[error("the client for issuers: {0}")]
    Client(#[from] reqwest::Error),
    /// A file of the configuration.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// NATS is configured wrongly; one that can't be reached is waited for.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The listener.
    #[error("listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The ready file.
    #[error("ready file: {0}")]
    Ready(std::io::Error),
}

/// Serves until the process is told to end.
pub async fn run(
    config: ApiConfig,
    nats: NatsConfig,
    store: Store,
    process: Process,
) -> Result<(), ApiError> {
    install_crypto();
    let identity = process.identity()?;
    let nats = rhyzome_nats::connect::connect(
        &nats,
        Role::Api,
        &process.name,
        Some(tls::client_config(&identity)?),
    )
    .await?;
    let token = process.shutdown.token.clone();
    let issuers: Arc<dyn IssuerSource> = Arc::new(store.clone());
    let listen = config.listen;
    let limits = http::Limits {
        head: config.header_timeout.duration(),
        idle: config.idle_timeout.duration(),
    };
    let app = assemble(config, store, Some(nats), Some(identity), issuers, token.clone())?;
    let refused = |source| ApiError::Listen {
        address: listen,
        source,
    };
    let listener = TcpListener::bind(listen).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let served = http::serve(listener, router(app), limits, token);
    process.ready(Some(address)).map_err(ApiError::Ready)?;
    tracing::info!(%address, "the API serves");
    tokio::select! {
        () = served => Ok(()),
        () = process.shutdown.grace_over() => {
            tracing::warn!("requests were still open when the grace period ended");
            Ok(())
        }
    }
}

/// What the handlers share; its tasks end with the token.
pub fn assemble(
    config: ApiConfig,
    store: Store,
    nats: Option<Connection>,
    identity: Option<Identity>,
    issuers: Arc<dyn IssuerSource>,
    token: CancellationToken,
) -> Result<App, ApiError> {
    crate::accept::ended::register();
    let announcer = Announcer::spawn(nats.clone());
    let poll = config.wait_poll.duration();
    let jobs = JobWatch::spawn(store.clone(), poll, token.clone());
    let limits = Limits {
        all: config.event_streams,
        tenant: config.event_streams_per_tenant,
    };
    let events = Seats::spawn(store.clone(), limits, poll, token.clone());
    if let Some(nats) = &nats {
        hear::spawn(nats.clone(), jobs.clone(), events.clone(), token);
    }
    Ok(Arc::new(AppState {
        verifier: verifier(&config, issuers)?,
        rate: TenantRate::new(&config),
        batcher: Batcher::spawn(&store, &announcer, config.accept_batch, config.accept_in_flight),
        keys: KeyLocks::default(),
        image_floors: ImageFloors::default(),
        jobs,
        events,
        consoles: Consoles::new(identity),
        announcer,
        nats,
        store,
        config,
    }))
}

fn verifier(config: &ApiConfig, issuers: Arc<dyn IssuerSource>) -> Result<Verifier, ApiError> {
    let ca = config.issuer_ca.as_ref().map(|path| {
        std::fs::read(path).map_err(|source| ApiError::File {
            path: path.display().to_string(),
            source,
        })
    });
    let keys = KeySource::new(
        jwks::client(ca.transpose()?.as_deref())?,
        KeySettings {
            http_allow: config.issuer_http_allow.clone(),
            refresh: config.issuer_keys_refresh.duration(),
            min_interval: config.issuer_keys_min_interval.duration(),
        },
    );
    let cache = TokenCache::new(config.token_cache_size, config.token_cache_age.duration());
    Ok(Verifier::new(
        Issuers::new(issuers),
        keys,
        cache,
        config.token_leeway.duration(),
    ))
}
