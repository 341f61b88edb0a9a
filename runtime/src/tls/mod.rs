//! Who a process is, and whom it speaks to: X.509 with a SPIFFE URI SAN (`spiffe://<domain>/<role>/<name>`) both ways.
//!
//! - [`spiffe`]: roles and names in URI SANs.
//! - [`identity`]: certificate, key and CA from files, re-read when they change: what follows a change uses the new ones.
//! - [`server`]: connections from certified callers only, for tonic; a service reads [`Peer`] from the request.
//! - [`client`]: channels to agents, that check that the agent is the host that was meant; configuration for other clients.

pub mod client;
pub mod identity;
pub mod server;
pub mod spiffe;

pub use client::{client_config, connect_agent};
pub use identity::{Identity, KeyPair, TlsConfig, TlsFiles, Trust};
pub use server::{ServerTls, TlsStream, incoming};
pub use spiffe::{Peer, Role, SpiffeId};

/// Why TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else than it should.
    #[error("{}: {what}", path.display())]
    Content {
        /// Which.
        path: std::path::PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A name that can't be one.
    #[error("`{0}` can't be the name of a host")]
    HostName(String),
    /// An address that can't be one.
    #[error("`{0}` is no address of an agent: HOST:PORT is")]
    Address(String),
    /// The settings name too little.
    #[error("{0}")]
    Settings(String),
    /// rustls refuses.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Makes ring the process's cryptography. Call it first in every `main` and in tests; again is harmless.
pub fn install_crypto() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Lost only to another thread that installs the same.
        drop(rustls::crypto::ring::default_provider().install_default());
    }
}
