//! A private nats-server for a crate's own tests: over mutual TLS, with the roles' users and rights, on a port of its own choice.
//!
//! It ends with the value, or with the test process; it can be killed, emptied and started again on its port.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rhyzome_nats::server::{ServerSettings, config_text};
use rhyzome_nats::{Connection, NatsConfig, Role};
use rhyzome_runtime::pki::{CA_DAYS, Ca, Existing, Request};
use rhyzome_runtime::tls::client_config;
use rhyzome_runtime::{Identity, TlsFiles};

use crate::patience::{PATIENCE, eventually_blocking};
use crate::{guard, tools};

/// A running server with its CA.
#[derive(Debug)]
pub struct NatsServer {
    folder: PathBuf,
    ca: Ca,
    child: Option<Child>,
    port: Option<u16>,
}

impl NatsServer {
    /// Starts a server, with a CA of its own.
    ///
    /// # Panics
    /// Where it doesn't start, with its log.
    pub fn start() -> Self {
        rhyzome_runtime::install_crypto();
        let folder = guard::folder("rz-nats-");
        guard::watch(&folder, std::process::id(), &[]);
        let ca = must(
            Ca::init(&folder.join("pki"), CA_DAYS, Existing::Keep),
            "making a CA",
        );
        must(
            ca.issue(&Request::new(rhyzome_runtime::Role::Nats, "nats"), Existing::Keep),
            "making the server's certificate",
        );
        let mut server = Self {
            folder,
            ca,
            child: None,
            port: None,
        };
        server.run();
        server
    }

    fn run(&mut self) {
        let pki = self.pki();
        let settings = ServerSettings {
            name: "test".to_owned(),
            host: "127.0.0.1".to_owned(),
            port: self.port,
            ports_dir: Some(self.folder.clone()),
            store_dir: self.store(),
            certificate: pki.join("nats-nats.crt"),
            key: pki.join("nats-nats.key"),
            ca: pki.join("ca.crt"),
        };
        let file = self.folder.join("nats.conf");
        must(std::fs::write(&file, config_text(&settings)), "writing nats.conf");
        let log = must(
            std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.folder.join("nats.log")),
            "opening nats.log",
        );
        let child = Command::new(tools::nats_server())
            .arg("-c")
            .arg(&file)
            .env(guard::MARK, &self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let child = must(child, "starting nats-server");
        let ports = self.folder.join(format!("nats-server_{}.ports", child.id()));
        self.child = Some(child);
        let port = eventually_blocking("nats-server to say its port", || {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                panic!("nats-server ended ({status}):\n{}", self.log());
            }
            port_in(&ports)
        });
        self.port = Some(port);
    }

    /// Certificates and keys of this server's CA.
    pub fn pki(&self) -> PathBuf {
        self.folder.join("pki")
    }

    /// Where JetStream keeps its streams.
    pub fn store(&self) -> PathBuf {
        self.folder.join("jetstream")
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("nats.log")).unwrap_or_default()
    }

    /// A configuration that names it.
    pub fn config(&self) -> NatsConfig {
        NatsConfig {
            url: format!("tls://127.0.0.1:{}", self.port.unwrap_or_default()),
            ..NatsConfig::default()
        }
    }

    /// A role's TLS, with a certificate for this name.
    ///
    /// # Panics
    /// Where none can be made.
    pub fn tls(&self, role: rhyzome_runtime::Role, name: &str) -> rustls::ClientConfig {
        must(self.ca.ensure(role, name), "making a certificate");
        let identity = must(
            Identity::load(&TlsFiles::in_pki(&self.pki(), role, name)),
            "reading a certificate",
        );
        must(client_config(&identity), "making a TLS configuration")
    }

    /// A connection that is connected.
    ///
    /// # Panics
    /// Where it isn't within [`PATIENCE`].
    pub async fn connect(&self, role: Role) -> Connection {
        let runtime = match role {
            Role::Api => rhyzome_runtime::Role::Api,
            Role::Scheduler => rhyzome_runtime::Role::Scheduler,
            Role::Worker => rhyzome_runtime::Role::Worker,
            Role::Admin => rhyzome_runtime::Role::Admin,
        };
        let name = format!("{}-1", role.as_str());
        let tls = self.tls(runtime, &name);
        let connection = must(
            rhyzome_nats::connect::connect(&self.config(), role, &name, Some(tls)).await,
            "connecting to nats-server",
        );
        let connected = tokio::time::timeout(PATIENCE, connection.connected()).await;
        must(
            must(connected, "connecting to nats-server"),
            "connecting to nats-server",
        );
        connection
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// On the port that it had.
    pub fn restart(&mut self) {
        self.kill();
        self.run();
    }

    /// Removes all that JetStream kept; the server must be dead.
    ///
    /// # Panics
    /// Where it runs.
    pub fn wipe(&mut self) {
        assert!(self.child.is_none(), "the server runs");
        must(
            std::fs::remove_dir_all(self.store()),
            "removing JetStream's folder",
        );
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
        if !guard::keeps() {
            // The guard tries again when this process has ended.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

fn port_in(file: &Path) -> Option<u16> {
    let text = std::fs::read_to_string(file).ok()?;
    let (_, rest) = text.split_once("127.0.0.1:")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn must<T, E: std::fmt::Display>(result: Result<T, E>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error}"),
    }
}
