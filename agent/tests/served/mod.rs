//! An agent over mTLS, with those who call it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::expect_used
)]

use rhyzome_agent::config::{AgentConfig, DriverKind};
use rhyzome_agent::{AgentError, run};
use rhyzome_proto::agent::agent_client::AgentClient;
use rhyzome_proto::agent::host_report::Report;
use rhyzome_proto::agent::{ApplyOutcome, ApplyRequest, HostReport, WatchControl, apply_report};
use rhyzome_proto::event;
use rhyzome_proto::job::Order;
use rhyzome_runtime::tls::{TlsConfig, connect_agent};
use rhyzome_runtime::{Identity, Process, Role, Shutdown, Span, TlsFiles, install_crypto, pki, ready};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// Certificates, and room for an agent's state.
pub struct World {
    pub dir: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        install_crypto();
        let dir = tempfile::tempdir().unwrap();
        let ca = pki::Ca::init(&dir.path().join("pki"), pki::CA_DAYS, pki::Existing::Keep).unwrap();
        for name in ["sim-1", "sim-2"] {
            ca.ensure(Role::Agent, name).unwrap();
        }
        for role in [Role::Worker, Role::Scheduler, Role::Api, Role::Admin] {
            ca.ensure(role, "test").unwrap();
        }
        Self { dir }
    }

    pub fn pki(&self) -> PathBuf {
        self.dir.path().join("pki")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn faults(&self) -> PathBuf {
        self.dir.path().join("faults.toml")
    }

    pub fn client(&self, role: Role, address: &str, host: &str) -> AgentClient<Channel> {
        let identity = Identity::load(&TlsFiles::in_pki(&self.pki(), role, "test")).unwrap();
        AgentClient::new(connect_agent(address, host, &identity).unwrap())
    }

    /// Of two simulated hosts.
    pub async fn agent(&self) -> Agent {
        let config = AgentConfig {
            driver: DriverKind::Simulated,
            hosts: Some(2),
            vcpus: Some(4),
            memory_mib: Some(4096),
            disk_gib: Some(100),
            faults: Some(self.faults()),
            ..AgentConfig::default()
        };
        self.agent_with("sim", config).await
    }

    /// Of this name, on the world's state folder.
    pub async fn agent_with(&self, name: &str, config: AgentConfig) -> Agent {
        let config = AgentConfig {
            state: self.state(),
            heartbeat: Span::millis(50),
            ..config
        };
        let ready_file = self.dir.path().join("ready.json");
        // The one of an agent before this.
        let _ = std::fs::remove_file(&ready_file);
        let process = Process {
            role: Role::Agent,
            name: name.into(),
            tls: TlsConfig {
                pki: Some(self.pki()),
                ..TlsConfig::default()
            },
            shutdown: Shutdown::manual(Duration::from_secs(5)),
            metrics_address: None,
            ready_file: Some(ready_file.clone()),
        };
        let shutdown = process.shutdown.clone();
        let mut running = tokio::spawn(run(config, process));
        let address = tokio::select! {
            address = address_in(&ready_file) => address,
            ended = &mut running => panic!("the agent ended: {ended:?}"),
        };
        Agent {
            address,
            shutdown,
            running,
        }
    }
}

async fn address_in(ready_file: &Path) -> String {
    loop {
        if let Some(ready) = ready::read(ready_file).unwrap() {
            return ready.address.unwrap().to_string();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub struct Agent {
    pub address: String,
    pub shutdown: Shutdown,
    running: JoinHandle<Result<(), AgentError>>,
}

impl Agent {
    pub async fn end(self) {
        self.shutdown.token.cancel();
        self.running.await.unwrap().unwrap();
    }
}

pub struct Watch {
    controls: mpsc::Sender<WatchControl>,
    pub reports: Streaming<HostReport>,
}

impl Watch {
    pub async fn open(client: &mut AgentClient<Channel>) -> Self {
        let (controls, receiver) = mpsc::channel(4);
        let reports = client
            .watch(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        Self { controls, reports }
    }

    pub async fn tell(&self, host: &str, epoch: i64) {
        let control = WatchControl {
            host: host.into(),
            epoch,
            floor: 1,
            inventory: true,
        };
        self.controls.send(control).await.unwrap();
    }

    pub async fn until<T>(&mut self, mut wanted: impl FnMut(Report) -> Option<T>) -> T {
        loop {
            let report = self.reports.message().await.unwrap().expect("the watch ended");
            if let Some(found) = wanted(report.report.unwrap()) {
                return found;
            }
        }
    }
}

/// An order to its end.
pub async fn apply(
    client: &mut AgentClient<Channel>,
    order: Order,
) -> (Vec<event::StepResult>, ApplyOutcome) {
    let mut reports = client
        .apply(ApplyRequest { order: Some(order) })
        .await
        .unwrap()
        .into_inner();
    let mut steps = Vec::new();
    while let Some(report) = reports.message().await.unwrap() {
        match report.report.unwrap() {
            apply_report::Report::Step(step) => steps.push(step),
            apply_report::Report::Outcome(outcome) => {
                assert!(
                    reports.message().await.unwrap().is_none(),
                    "the outcome is the last word"
                );
                return (steps, outcome);
            }
        }
    }
    panic!("no outcome");
}

/// Waits until the agent was told its epoch: orders are taken from then on.
pub async fn told(world: &World, agent: &Agent, host: &str) -> Watch {
    let mut scheduler = world.client(Role::Scheduler, &agent.address, host);
    let mut watch = Watch::open(&mut scheduler).await;
    watch.tell(host, 1).await;
    // One comes unasked, and knows the epoch of an earlier life; the other was asked for, once the epoch was taken in.
    let mut inventories = 0;
    watch
        .until(|report| {
            inventories += usize::from(matches!(report, Report::Inventory(_)));
            (inventories == 2).then_some(())
        })
        .await;
    watch
}
