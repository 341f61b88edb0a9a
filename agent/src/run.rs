//! Starts an agent and runs it to its end.
//!
//! Order of things: the ledger and the driver first, since what they find decides whether the agent can serve at all; then the
//! listener. At the end nothing new is taken on, what runs gets the grace period, and the ledger is closed last. Guests stay.

use crate::apply::Engine;
use crate::config::{AcceleratorKind, AgentConfig, DriverKind, NetworkingKind};
use crate::driver::{Driver, StepError};
use crate::ledger::{Ledger, LedgerError};
use crate::objects::{Accelerator, Choice, Networking, RealConfig, RealDriver};
use crate::serve::{GuestHub, Offered, Service, WatchSettings};
use crate::simulated::{EffectsError, Settings, SimulatedDriver};
use rhyzome_model::ids::HostName;
use rhyzome_proto::agent::agent_server::AgentServer;
use rhyzome_runtime::tls::{KeyPair, ServerTls, TlsError, Trust, incoming};
use rhyzome_runtime::{Process, Role, part};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

/// Bytes under way; above the 64 KiB of HTTP/2 so that many small calls share a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Calls of one connection at once; a call that is followed is one.
const CALLS_AT_ONCE: u32 = 8192;
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long connections may take to close once nothing runs.
const LAST_WORDS: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(500);
const COUNT_GUESTS: Duration = Duration::from_secs(5);

/// Why an agent can't start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration is wrong.
    #[error("agent: {0}")]
    Config(String),
    /// The ledger can't be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Simulated hosts can't be had.
    #[error(transparent)]
    Effects(#[from] EffectsError),
    /// The driver can't take over what is there.
    #[error("the driver: {error}{}", inside(.error))]
    Driver {
        /// Why not.
        error: StepError,
    },
    /// Certificates are missing or wrong.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The listener can't be bound, or the ready file not written.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The server ended by itself.
    #[error("the agent's server: {0}")]
    Server(#[from] tonic::transport::Error),
}

fn driver_error(error: StepError) -> AgentError {
    AgentError::Driver { error }
}

fn inside(error: &StepError) -> String {
    error
        .inside
        .as_ref()
        .map_or_else(String::new, |inside| format!(" ({inside})"))
}

/// Serves until told to end. Prints `listening on HOST:PORT`.
///
/// # Errors
/// See [`AgentError`]. After a failed write to the ledger too, since nothing can be promised any more.
pub async fn run(config: AgentConfig, process: Process) -> Result<(), AgentError> {
    let hosts = config.host_names(&process.name).map_err(AgentError::Config)?;
    let tls = server_tls(&process, &hosts)?;
    let ledger = Ledger::open(&config.state, &hosts)?;
    let driver = driver(&config, hosts)?;
    driver.start().await.map_err(driver_error)?;
    let engine = Engine::new(ledger, driver, now_ms);
    let token = process.shutdown.token.clone();
    let ending = token.child_token();
    let hub = GuestHub::start(engine.driver(), ending.clone());
    part::spawn("guest counts", count_guests(engine.clone(), ending.clone()));
    let settings = WatchSettings {
        heartbeat: config.heartbeat.duration(),
        guest_refresh: config.guest_refresh.duration(),
        offered: Offered {
            vcpus: config.vcpus,
            memory_mib: config.memory_mib,
            disk_gib: config.disk_gib,
            vcpu_overcommit: config.vcpu_overcommit,
        },
    };
    let service = Service::new(engine.clone(), hub, settings, ending.clone());
    let (listener, address) = listen(config.listen).await?;
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(CALLS_AT_ONCE)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .add_service(AgentServer::new(service))
        .serve_with_incoming_shutdown(
            incoming(listener, tls, ending.clone()),
            ending.clone().cancelled_owned(),
        );
    let mut server = tokio::spawn(server);
    say(address)?;
    process.ready(Some(address)).map_err(|source| AgentError::Io {
        doing: "writing the ready file".into(),
        source,
    })?;

    // The server ends with the same signal: only where there was none did it end by itself.
    let failed = tokio::select! {
        biased;
        () = process.shutdown.triggered() => None,
        error = failure(&engine) => Some(AgentError::Ledger(error)),
        ended = &mut server => Some(match ended {
            Ok(Err(error)) => AgentError::Server(error),
            Ok(Ok(())) | Err(_) => AgentError::Config("the server ended by itself".into()),
        }),
    };
    let serving = !server.is_finished();
    if tokio::time::timeout(process.shutdown.grace, engine.drained())
        .await
        .is_err()
    {
        tracing::warn!("what runs is left as it is: its orders go on when they are asked for again");
    }
    ending.cancel();
    if serving && tokio::time::timeout(LAST_WORDS, &mut server).await.is_err() {
        server.abort();
    }
    let closing = engine.clone();
    if tokio::task::spawn_blocking(move || closing.close())
        .await
        .is_err()
    {
        tracing::error!("the ledger couldn't be closed in order");
    }
    failed.map_or(Ok(()), Err)
}

/// Stops every guest of the process's hosts, in a process of its own after the agent ended; how many it stopped.
///
/// # Errors
/// The driver can't be had, or can't stop them.
pub async fn stop_guests(config: AgentConfig, process: Process) -> Result<usize, AgentError> {
    let hosts = config.host_names(&process.name).map_err(AgentError::Config)?;
    // The ledger's lock keeps out an agent that still runs.
    let ledger = Ledger::open(&config.state, &hosts)?;
    let driver = driver(&config, hosts)?;
    let stopped = driver.stop_guests().await.map_err(driver_error);
    drop(ledger);
    stopped
}

/// Unix milliseconds.
fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

fn driver(config: &AgentConfig, hosts: Vec<HostName>) -> Result<Arc<dyn Driver>, AgentError> {
    match config.driver {
        DriverKind::Simulated => Ok(Arc::new(SimulatedDriver::open(Settings {
            hosts,
            vcpus: config.vcpus.unwrap_or(32),
            memory_mib: config.memory_mib.unwrap_or(128 << 10),
            disk_gib: config.disk_gib.unwrap_or(2000),
            vcpu_overcommit: config.vcpu_overcommit,
            labels: config.labels.clone(),
            dir: config.state.clone(),
            faults: config.faults.clone(),
        })?)),
        DriverKind::Qemu => {
            let [host] = hosts.as_slice() else {
                return Err(AgentError::Config("the QEMU driver serves one host".into()));
            };
            let real = RealConfig {
                image_dir: config.image_dir.clone(),
                image_allow: config.image_allow.clone(),
                image_max_bytes: config.image_max_gib << 30,
                labels: config.labels.clone(),
                memory_reserve_mib: config.memory_reserve_mib,
                disk_reserve_gib: config.disk_reserve_gib,
                networking: config.networking.map_or(Choice::Probe, |chosen| {
                    Choice::Fixed(match chosen {
                        NetworkingKind::Bridge => Networking::Bridge,
                        NetworkingKind::User => Networking::User,
                    })
                }),
                accelerator: config.accelerator.map_or(Choice::Probe, |chosen| {
                    Choice::Fixed(match chosen {
                        AcceleratorKind::Kvm => Accelerator::Kvm,
                        AcceleratorKind::Tcg => Accelerator::Tcg,
                    })
                }),
                ..RealConfig::new(host.clone(), config.state.clone())
            };
            Ok(Arc::new(RealDriver::open(real).map_err(driver_error)?))
        }
    }
}

fn server_tls(process: &Process, hosts: &[HostName]) -> Result<ServerTls, AgentError> {
    let mut pairs = Vec::with_capacity(hosts.len());
    let mut trust = None;
    for host in hosts {
        let files = process.tls.files(Role::Agent, host.as_str())?;
        pairs.push(KeyPair::load(&files.cert, &files.key)?);
        if trust.is_none() {
            trust = Some(Trust::load(&files.ca, &files.trust_domain)?);
        }
    }
    let trust = trust.ok_or_else(|| AgentError::Config("there is no host to serve".into()))?;
    Ok(ServerTls::several(&trust, pairs)?)
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), AgentError> {
    let io = |source| AgentError::Io {
        doing: format!("listening on {address}"),
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(io)?;
    let bound = listener.local_addr().map_err(io)?;
    Ok((listener, bound))
}

fn say(address: SocketAddr) -> Result<(), AgentError> {
    let mut out = std::io::stdout().lock();
    let said = writeln!(out, "listening on {address}").and_then(|()| out.flush());
    said.map_err(|source| AgentError::Io {
        doing: "writing to standard output".into(),
        source,
    })
}

async fn failure(engine: &Engine) -> LedgerError {
    loop {
        if let Some(error) = engine.failure() {
            return error;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn count_guests(engine: Arc<Engine>, ending: CancellationToken) {
    let gauge = |state: &'static str| metrics::gauge!("rhyzome_guests", "state" => state);
    let (on, off, crashed, unknown) = (gauge("on"), gauge("off"), gauge("crashed"), gauge("unknown"));
    let mut ticks = tokio::time::interval(COUNT_GUESTS);
    while ending.run_until_cancelled(ticks.tick()).await.is_some() {
        match engine.driver().guest_counts().await {
            Ok(counts) => {
                on.set(counts.on as f64);
                off.set(counts.off as f64);
                crashed.set(counts.crashed as f64);
                unknown.set(counts.unknown as f64);
            }
            Err(error) => tracing::warn!(%error, inside = error.inside, "the guests can't be counted"),
        }
    }
}
