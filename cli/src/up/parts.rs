//! What runs in a stack, and by which command line.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use rhyzome_runtime::Role;
use tokio::process::Command;

use super::layout::{LOCAL_HOST, Layout, SIMULATED};
use super::nats;
use super::postgres::Postgres;
use super::record::Ports;
use crate::admin::ADMIN_NAME;
use crate::args::UpArgs;

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    Nats,
    DevIssuer,
    Api,
    Scheduler,
    Worker,
    LocalAgent,
    SimulatedAgent,
}

impl Kind {
    /// As in `stack.json`.
    pub(crate) fn role(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Nats => "nats",
            Self::DevIssuer => "dev-issuer",
            Self::Api => "api",
            Self::Scheduler => "scheduler",
            Self::Worker => "worker",
            Self::LocalAgent | Self::SimulatedAgent => "agent",
        }
    }

    /// What tells it to end in good order; Postgres' SIGTERM would wait for its clients.
    pub(crate) fn end_signal(self) -> Signal {
        match self {
            Self::Postgres => Signal::SIGINT,
            Self::Nats
            | Self::DevIssuer
            | Self::Api
            | Self::Scheduler
            | Self::Worker
            | Self::LocalAgent
            | Self::SimulatedAgent => Signal::SIGTERM,
        }
    }

    /// Whether others have its port in their configuration, so that it must come back on the same.
    pub(crate) fn port_is_known(self) -> bool {
        match self {
            Self::Postgres | Self::Nats | Self::DevIssuer => true,
            Self::Api | Self::Scheduler | Self::Worker | Self::LocalAgent | Self::SimulatedAgent => false,
        }
    }

    /// Whether its address is in the rows of hosts.
    pub(crate) fn is_agent(self) -> bool {
        match self {
            Self::LocalAgent | Self::SimulatedAgent => true,
            Self::Postgres | Self::Nats | Self::DevIssuer | Self::Api | Self::Scheduler | Self::Worker => {
                false
            }
        }
    }
}

/// One process of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) kind: Kind,
    /// As `worker-1`.
    pub(crate) name: String,
}

/// All that a stack is made from.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) layout: Layout,
    pub(crate) postgres: Postgres,
    args: UpArgs,
    set: Vec<String>,
    nats_server: PathBuf,
    image_dir: Option<PathBuf>,
    program: PathBuf,
}

impl Plan {
    /// Finds the tools.
    pub(crate) fn new(layout: Layout, args: &UpArgs, set: &[String]) -> Result<Self> {
        let image_dir = match &args.image_dir {
            Some(dir) => Some(
                dir.canonicalize()
                    .with_context(|| format!("--image-dir {}", dir.display()))?,
            ),
            None => None,
        };
        Ok(Self {
            postgres: Postgres::find(&layout, args.postgres_bin.as_deref())?,
            nats_server: nats::find(args.nats_server.as_deref())?,
            program: std::env::current_exe().context("finding this program")?,
            args: args.clone(),
            set: set.to_vec(),
            image_dir,
            layout,
        })
    }

    /// The operator's folder of images.
    pub(crate) fn image_dir(&self) -> Option<&Path> {
        self.image_dir.as_deref()
    }

    /// What the others stand on.
    pub(crate) fn foundations() -> Vec<Part> {
        let part = |kind: Kind| Part {
            kind,
            name: kind.role().to_owned(),
        };
        vec![part(Kind::Postgres), part(Kind::Nats), part(Kind::DevIssuer)]
    }

    /// The roles, and the agents.
    pub(crate) fn roles(&self) -> Vec<Part> {
        let numbered = |kind: Kind, count: u32| {
            (1..=count).map(move |number| Part {
                kind,
                name: format!("{}-{number}", kind.role()),
            })
        };
        let mut parts: Vec<Part> = numbered(Kind::Api, self.args.apis)
            .chain(numbered(Kind::Scheduler, self.args.schedulers))
            .chain(numbered(Kind::Worker, self.args.workers))
            .collect();
        if !self.args.no_local_host {
            parts.push(Part {
                kind: Kind::LocalAgent,
                name: LOCAL_HOST.to_owned(),
            });
        }
        if self.args.simulated_hosts > 0 {
            parts.push(Part {
                kind: Kind::SimulatedAgent,
                name: SIMULATED.to_owned(),
            });
        }
        parts
    }

    /// The hosts that a part serves.
    pub(crate) fn hosts(&self, part: &Part) -> Vec<String> {
        match part.kind {
            Kind::LocalAgent => vec![part.name.clone()],
            Kind::SimulatedAgent => (1..=self.args.simulated_hosts)
                .map(|number| format!("{}-{number}", part.name))
                .collect(),
            Kind::Postgres | Kind::Nats | Kind::DevIssuer | Kind::Api | Kind::Scheduler | Kind::Worker => {
                Vec::new()
            }
        }
    }

    /// Every identity that needs a certificate.
    pub(crate) fn identities(&self) -> Vec<(Role, String)> {
        let mut identities = vec![
            (Role::Nats, nats::NAME.to_owned()),
            (Role::Admin, ADMIN_NAME.to_owned()),
        ];
        for part in self.roles() {
            match part.kind {
                Kind::Api => identities.push((Role::Api, part.name)),
                Kind::Scheduler => identities.push((Role::Scheduler, part.name)),
                Kind::Worker => identities.push((Role::Worker, part.name)),
                Kind::LocalAgent | Kind::SimulatedAgent => {
                    identities.extend(self.hosts(&part).into_iter().map(|host| (Role::Agent, host)));
                }
                Kind::Postgres | Kind::Nats | Kind::DevIssuer => {}
            }
        }
        identities
    }

    /// How a part is started, on these ports or, where there is none, on free ones.
    pub(crate) async fn command(&self, part: &Part, ports: Ports) -> Result<Command> {
        match part.kind {
            Kind::Postgres => {
                self.postgres
                    .server(ports.own.context("Postgres has no port")?)
                    .await
            }
            Kind::Nats => nats::server(&self.layout, &self.nats_server, ports.own),
            Kind::DevIssuer => {
                let mut command = self.role(part, "dev-issuer", ports);
                command
                    .arg("--data")
                    .arg(self.layout.root())
                    .arg("--listen")
                    .arg(listen(ports.own));
                Ok(command)
            }
            Kind::Api => {
                let mut command = self.role(part, "api", ports);
                command.args(["--name", &part.name, "--listen", &listen(ports.own)]);
                Ok(command)
            }
            Kind::Scheduler | Kind::Worker => {
                let mut command = self.role(part, part.kind.role(), ports);
                command.args(["--name", &part.name]);
                Ok(command)
            }
            Kind::LocalAgent => Ok(self.agent(part, ports, "qemu")),
            Kind::SimulatedAgent => {
                let mut command = self.agent(part, ports, "simulated");
                let size = self.args.simulated_size;
                command.arg("--hosts").arg(self.args.simulated_hosts.to_string());
                command.arg("--vcpus").arg(size.vcpus.to_string());
                command.arg("--memory-mib").arg(size.memory_mib.to_string());
                command.arg("--disk-gib").arg(size.disk_gib.to_string());
                command.arg("--faults").arg(self.layout.faults());
                for (key, value) in &self.args.simulated_label {
                    command.arg("--label").arg(format!("{key}={value}"));
                }
                Ok(command)
            }
        }
    }

    fn agent(&self, part: &Part, ports: Ports, driver: &str) -> Command {
        let mut command = self.role(part, "agent", ports);
        command.args([
            "--name",
            &part.name,
            "--driver",
            driver,
            "--listen",
            &listen(ports.own),
        ]);
        command.arg("--state").arg(self.layout.agent(&part.name));
        if let Some(dir) = &self.image_dir {
            command.arg("--image-dir").arg(dir);
        }
        command
    }

    fn role(&self, part: &Part, role: &str, ports: Ports) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(role).arg("--config").arg(self.layout.config());
        command.arg("--ready-file").arg(self.layout.ready(&part.name));
        command.arg("--metrics-listen").arg(listen(ports.metrics));
        command
            .arg("--end-with-parent")
            .arg(std::process::id().to_string());
        for set in &self.set {
            command.arg("--set").arg(set);
        }
        command
    }
}

/// Stops what runs on this machine's host, once its agent is gone.
pub(crate) fn stop_guests(layout: &Layout) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.arg("agent").arg("--config").arg(layout.config());
    command.args([
        "--name",
        LOCAL_HOST,
        "--driver",
        "qemu",
        "--stop-guests",
        "--state",
    ]);
    command.arg(layout.agent(LOCAL_HOST));
    Ok(command)
}

fn listen(port: Option<u16>) -> String {
    format!("127.0.0.1:{}", port.unwrap_or(0))
}

/// Whether nobody listens on a port of loopback.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_ok()
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> Result<u16> {
    let listener =
        TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).context("looking for a free port")?;
    Ok(listener.local_addr()?.port())
}
