//! The stack's own NATS server: JetStream, mutual TLS, a user per role, on a free port of loopback.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rhyzome_nats::server::{ServerSettings, config_text};
use rhyzome_runtime::{Role, TlsFiles};
use serde::Deserialize;
use tokio::process::Command;

use super::layout::Layout;

/// Its name, and its certificate's.
pub(crate) const NAME: &str = "nats";

/// The program: the one named, else what `PATH` has.
pub(crate) fn find(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = named {
        if path.is_file() {
            return Ok(path.to_owned());
        }
        bail!("--nats-server {}: there is no such file", path.display());
    }
    std::env::var_os("PATH")
        .and_then(|path| {
            std::env::split_paths(&path)
                .map(|folder| folder.join("nats-server"))
                .find(|p| p.is_file())
        })
        .context("no nats-server on PATH: `cargo xtask tools` gets one, --nats-server says where it is")
}

fn ports_dir(layout: &Layout) -> PathBuf {
    layout.nats().join("ports")
}

/// The server, on a port or a free one.
pub(crate) fn server(layout: &Layout, program: &Path, port: Option<u16>) -> Result<Command> {
    let ports = ports_dir(layout);
    super::layout::remove(&ports)?;
    for folder in [&ports, &layout.jetstream()] {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let files = TlsFiles::in_pki(&layout.pki(), Role::Nats, NAME);
    let text = config_text(&ServerSettings {
        name: NAME.to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        ports_dir: Some(ports),
        store_dir: layout.jetstream(),
        certificate: files.cert,
        key: files.key,
        ca: files.ca,
    });
    let config = layout.nats().join("nats-server.conf");
    std::fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    let mut command = super::postgres::under("SIGTERM")?;
    command.arg("--").arg(program).arg("-c").arg(config);
    Ok(command)
}

/// As the server writes it (`ports_file_dir`).
#[derive(Debug, Deserialize)]
struct PortsFile {
    nats: Vec<String>,
}

/// The port that the server with this id listens on; none while it doesn't.
pub(crate) fn port(layout: &Layout, pid: i32) -> Result<Option<u16>> {
    let path = ports_dir(layout).join(format!("nats-server_{pid}.ports"));
    let Ok(bytes) = std::fs::read(&path) else {
        return Ok(None);
    };
    // Half written, perhaps.
    let Ok(ports) = serde_json::from_slice::<PortsFile>(&bytes) else {
        return Ok(None);
    };
    let port = ports
        .nats
        .first()
        .and_then(|url| url.rsplit_once(':'))
        .and_then(|(_, port)| port.parse().ok());
    port.map(Some)
        .with_context(|| format!("no port in {}", path.display()))
}
