//! Makes sure of the tools that the stack and the tests need.
//!
//! - [`packages`]: which program comes from which Debian package;
//! - [`apt`]: installs packages, or unpacks one into the cache without installing it;
//! - [`nats`]: a nats-server that is new enough;
//! - [`postgres`]: the folder of PostgreSQL's server programs.
//!
//! What is there already is used as it is; nothing is asked of the network then.

use std::path::PathBuf;

use anyhow::Result;

use crate::show::say;

pub(crate) mod apt;
mod nats;
mod packages;
mod postgres;

pub(crate) use packages::missing;

/// Where the tools are that are not simply on `PATH`.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// A nats-server that is new enough.
    pub(crate) nats_server: PathBuf,
    /// The folder of `initdb` and `postgres`.
    pub(crate) postgres_bin: PathBuf,
}

/// Gets what is missing.
pub(crate) fn ensure() -> Result<Tools> {
    packages::ensure()?;
    Ok(Tools {
        nats_server: nats::ensure()?,
        postgres_bin: postgres::bin_folder()?,
    })
}

/// `cargo xtask tools`.
pub(crate) fn command() -> Result<()> {
    let tools = ensure()?;
    for (program, path) in packages::found() {
        say(format!("{program:20} {}", path.display()));
    }
    say(format!("{:20} {}", "nats-server", tools.nats_server.display()));
    say(format!("{:20} {}", "postgres", tools.postgres_bin.display()));
    Ok(())
}
