//! A worker between a real nats-server and a scripted agent, all over mutual TLS, with the certificates of `rhyzome pki`.

#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod agent;
#[path = "../../../nats/tests/common/server.rs"]
pub mod server;

use agent::{Act, FakeAgent};
use rhyzome_model::ids::JobId;
use rhyzome_nats::events::{self, EventsPuller};
use rhyzome_nats::orders::{self, OrderPresence, Publication};
use rhyzome_nats::{Connection, NatsConfig, streams};
use rhyzome_proto::event::Report;
use rhyzome_proto::job::{Mode, Order};
use rhyzome_runtime::pki::{self, Ca, Existing, Request};
use rhyzome_runtime::tls::{TlsConfig, client_config};
use rhyzome_runtime::{Identity, Process, Role, Shutdown, Span, TlsFiles};
use rhyzome_worker::{WorkerConfig, WorkerError};
use server::{Files, NatsServer, PATIENCE};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub const HOST: &str = "host-1";

pub struct Stack {
    pub server: NatsServer,
    pub agent: FakeAgent,
    pub scheduler: Connection,
    pub nats: NatsConfig,
    pki: TempDir,
    events: EventsPuller,
    seen: Vec<Report>,
}

pub struct Running {
    pub shutdown: Shutdown,
    pub ended: JoinHandle<Result<(), WorkerError>>,
}

impl Running {
    /// As SIGTERM does, and waits for the end.
    pub async fn end(self) {
        self.shutdown.token.cancel();
        timeout(PATIENCE, self.ended)
            .await
            .expect("the worker ends")
            .unwrap()
            .unwrap();
    }

    /// As SIGKILL does: nothing is said to anybody.
    pub async fn kill(self) {
        self.ended.abort();
        assert!(self.ended.await.unwrap_err().is_cancelled());
    }
}

fn identity(pki: &Path, role: Role, name: &str) -> Identity {
    Identity::load(&TlsFiles::in_pki(pki, role, name)).unwrap()
}

/// Short enough for tests, with the tries of the default.
pub fn quick() -> WorkerConfig {
    WorkerConfig {
        quick_pause: Span::millis(10),
        ..WorkerConfig::default()
    }
}

impl Stack {
    pub async fn new(script: impl Fn(&Order, usize) -> Act + Send + Sync + 'static) -> Self {
        Self::with(|_| {}, script).await
    }

    pub async fn with(
        nats: impl Fn(&mut NatsConfig),
        script: impl Fn(&Order, usize) -> Act + Send + Sync + 'static,
    ) -> Self {
        rhyzome_runtime::install_crypto();
        let pki = tempfile::tempdir().unwrap();
        let dir = pki.path();
        let ca = Ca::init(dir, pki::CA_DAYS, Existing::Keep).unwrap();
        for (role, name) in [
            (Role::Nats, "nats"),
            (Role::Scheduler, "scheduler-1"),
            (Role::Worker, "worker-1"),
            (Role::Worker, "worker-2"),
            (Role::Agent, HOST),
        ] {
            ca.issue(&Request::new(role, name), Existing::Keep).unwrap();
        }
        let files = TlsFiles::in_pki(dir, Role::Nats, "nats");
        let server = NatsServer::start(Files {
            certificate: files.cert,
            key: files.key,
            ca: files.ca,
        });
        let mut config = server.config();
        nats(&mut config);
        let tls = client_config(&identity(dir, Role::Scheduler, "scheduler-1")).unwrap();
        let scheduler =
            rhyzome_nats::connect::connect(&config, rhyzome_nats::Role::Scheduler, "scheduler-1", Some(tls))
                .await
                .unwrap();
        timeout(PATIENCE, scheduler.connected()).await.unwrap().unwrap();
        streams::ensure(&scheduler, &config).await.unwrap();
        let agent = FakeAgent::start(&identity(dir, Role::Agent, HOST), script).await;
        let events = EventsPuller::new(&scheduler).await.unwrap();
        Self {
            server,
            agent,
            scheduler,
            nats: config,
            pki,
            events,
            seen: Vec::new(),
        }
    }

    pub fn worker(&self, name: &str, config: WorkerConfig) -> Running {
        self.worker_of_grace(name, config, Duration::from_millis(200))
    }

    pub fn worker_of_grace(&self, name: &str, config: WorkerConfig, grace: Duration) -> Running {
        let shutdown = Shutdown::manual(grace);
        let process = Process {
            role: Role::Worker,
            name: name.into(),
            tls: TlsConfig {
                pki: Some(self.pki.path().to_owned()),
                ..TlsConfig::default()
            },
            shutdown: shutdown.clone(),
            metrics_address: None,
            ready_file: Some(self.pki.path().join(format!("{name}.ready"))),
        };
        let ended = tokio::spawn(rhyzome_worker::run(config, self.nats.clone(), process));
        Running { shutdown, ended }
    }

    /// An order on the agent's host.
    pub fn order(&self, action: &str) -> Order {
        Order {
            version: 1,
            job: JobId::new().0.as_bytes().to_vec(),
            attempt: 1,
            fence: 7,
            epoch: 1,
            mode: Mode::Forward.into(),
            host: HOST.into(),
            address: self.agent.address.clone(),
            tenant: "demo".into(),
            resource_kind: "instance".into(),
            resource: JobId::new().0.as_bytes().to_vec(),
            action: action.into(),
            steps: vec!["{}".into(), "{}".into()],
            ..Default::default()
        }
    }

    pub async fn publish(&self, order: &Order) {
        orders::publish_all(&self.scheduler, std::slice::from_ref(order), Publication::First)
            .await
            .remove(0)
            .unwrap();
    }

    pub async fn raw(&self) -> async_nats::jetstream::Context {
        let tls = client_config(&identity(self.pki.path(), Role::Scheduler, "scheduler-1")).unwrap();
        let client = async_nats::ConnectOptions::new()
            .require_tls(true)
            .tls_client_config(tls)
            .custom_inbox_prefix("_INBOX_scheduler")
            .connect(self.server.url())
            .await
            .unwrap();
        async_nats::jetstream::new(client)
    }

    /// A worker's own connection, for a delivery that no worker of ours gets.
    pub async fn as_worker(&self) -> Connection {
        let tls = client_config(&identity(self.pki.path(), Role::Worker, "worker-2")).unwrap();
        rhyzome_nats::connect::connect(&self.nats, rhyzome_nats::Role::Worker, "worker-2", Some(tls))
            .await
            .unwrap()
    }

    /// The report that ends this order; settles (acks) all that comes before it.
    pub async fn outcome(&mut self, order: &Order) -> Report {
        timeout(PATIENCE, async {
            loop {
                if let Some(i) = self
                    .seen
                    .iter()
                    .position(|r| r.job == order.job && r.outcome.is_some())
                {
                    return self.seen.remove(i);
                }
                for delivery in self.events.next_batch().await.unwrap() {
                    self.seen.push(events::read(delivery.payload()).unwrap());
                    delivery.ack().await;
                }
            }
        })
        .await
        .expect("an outcome")
    }

    /// Reports that came and aren't the one that ended their order.
    pub fn others(&self) -> &[Report] {
        &self.seen
    }

    pub async fn presence(&self, order: &Order) -> OrderPresence {
        let state = orders::consumer_state(&self.scheduler).await.unwrap();
        let job = order.job_id().unwrap();
        orders::presence(&self.scheduler, &order.resource_kind, job, state)
            .await
            .unwrap()
    }

    /// Waits until the order is acked.
    pub async fn acked(&self, order: &Order) {
        server::eventually("the order is acked", || async {
            (self.presence(order).await == OrderPresence::Absent).then_some(())
        })
        .await;
    }

    /// Publishes, waits for the outcome, and for the ack.
    pub async fn through(&mut self, order: &Order) -> Report {
        self.publish(order).await;
        let report = self.outcome(order).await;
        self.acked(order).await;
        report
    }
}
