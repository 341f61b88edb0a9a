//! A real nats-server as a process of one test: on a port of its own choice, ended with the test.
//!
//! The server's path is `RHYZOME_NATS_SERVER`, or `nats-server` on PATH.

#![allow(dead_code, unreachable_pub, missing_docs)]

use rhyzome_nats::NatsConfig;
use rhyzome_nats::server::{ServerSettings, config_text};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a test waits for a state before it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The server's certificate files.
#[derive(Clone, Debug)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

/// A running server.
pub struct NatsServer {
    dir: TempDir,
    files: Files,
    child: Option<Child>,
    port: u16,
}

impl NatsServer {
    pub fn start(files: Files) -> Self {
        let mut server = Self {
            dir: tempfile::tempdir().unwrap(),
            files,
            child: None,
            port: 0,
        };
        server.run(None);
        server
    }

    fn run(&mut self, port: Option<u16>) {
        let dir = self.dir.path();
        let settings = ServerSettings {
            name: "test".into(),
            host: "127.0.0.1".into(),
            port,
            ports_dir: Some(dir.to_owned()),
            store_dir: self.store(),
            certificate: self.files.certificate.clone(),
            key: self.files.key.clone(),
            ca: self.files.ca.clone(),
        };
        let file = dir.join("nats.conf");
        std::fs::write(&file, config_text(&settings)).unwrap();
        let program = std::env::var_os("RHYZOME_NATS_SERVER")
            .map_or_else(|| PathBuf::from("nats-server"), PathBuf::from);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.join("nats.log"))
            .unwrap();
        let child = Command::new(&program)
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("start {} (set RHYZOME_NATS_SERVER): {e}", program.display()));
        let ports = dir.join(format!("nats-server_{}.ports", child.id()));
        self.child = Some(child);
        self.port = self.read_port(&ports);
    }

    fn read_port(&mut self, file: &Path) -> u16 {
        let until = Instant::now() + PATIENCE;
        loop {
            let port = std::fs::read_to_string(file).ok().and_then(|text| {
                let text = text.split_once("127.0.0.1:")?.1.to_owned();
                text.chars()
                    .take_while(char::is_ascii_digit)
                    .collect::<String>()
                    .parse()
                    .ok()
            });
            if let Some(port) = port {
                return port;
            }
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < until,
                "nats-server: {ended:?}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("nats.log")).unwrap_or_default()
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("jetstream")
    }

    pub fn url(&self) -> String {
        format!("tls://127.0.0.1:{}", self.port)
    }

    pub fn config(&self) -> NatsConfig {
        NatsConfig {
            url: self.url(),
            publish_timeout: Duration::from_secs(1),
            ..NatsConfig::default()
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// On the port that it had.
    pub fn restart(&mut self) {
        self.kill();
        self.run(Some(self.port));
    }

    pub fn wipe(&mut self) {
        assert!(self.child.is_none());
        std::fs::remove_dir_all(self.store()).unwrap();
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `is` answers something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut is: impl FnMut() -> F) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(t) = is().await {
            return t;
        }
        assert!(Instant::now() < until, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
