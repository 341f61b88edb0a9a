//! What a role's `run` is handed: who the process is, how it is told to end, and how it says that it serves.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::ready::{self, Ready};
use crate::shutdown::Shutdown;
use crate::tls::{Identity, Role, TlsConfig, TlsError};

/// One process of the one binary. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Process {
    /// What it is.
    pub role: Role,
    /// Which one, as `worker-1`; a host's name for an agent.
    pub name: String,
    /// Where its certificates are.
    pub tls: TlsConfig,
    /// How it is told to end.
    pub shutdown: Shutdown,
    /// Where its metrics are served.
    pub metrics_address: Option<SocketAddr>,
    /// Where it says that it serves.
    pub ready_file: Option<PathBuf>,
}

impl Process {
    /// Its identity, read from the files.
    ///
    /// # Errors
    /// They can't be read, or don't belong together.
    pub fn identity(&self) -> Result<Identity, TlsError> {
        Identity::load(&self.tls.files(self.role, &self.name)?)
    }

    /// Says that it serves, and where. Called once all that is needed is there.
    ///
    /// # Errors
    /// The ready file can't be written.
    pub fn ready(&self, address: Option<SocketAddr>) -> io::Result<()> {
        tracing::info!(role = %self.role, name = self.name, ?address, metrics = ?self.metrics_address, "serving");
        ready::write(
            self.ready_file.as_deref(),
            &Ready {
                address,
                metrics_address: self.metrics_address,
            },
        )
    }
}
