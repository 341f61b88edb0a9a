//! `stack.json`: what runs where, for scripts. Rewritten whole whenever a process changes; readable by its owner only, since the
//! database's URL holds a password.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Its name in the data folder.
pub(crate) const FILE: &str = "stack.json";

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stack {
    /// Without `/v1`.
    pub(crate) api_url: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) log_dir: PathBuf,
    pub(crate) pki_dir: PathBuf,
    /// A tenant's issuer is `<issuer_url>/<tenant>`.
    pub(crate) issuer_url: String,
    pub(crate) postgres: PostgresAt,
    pub(crate) nats: NatsAt,
    pub(crate) agents: Vec<AgentAt>,
    pub(crate) processes: Vec<ProcessAt>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PostgresAt {
    pub(crate) url: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NatsAt {
    pub(crate) url: String,
    pub(crate) jetstream_dir: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgentAt {
    pub(crate) host: String,
    pub(crate) address: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessAt {
    pub(crate) role: String,
    pub(crate) name: String,
    pub(crate) pid: i32,
    pub(crate) metrics_url: Option<String>,
}

impl Stack {
    /// Of a data folder; none where there is none.
    pub(crate) fn read(data: &Path) -> Result<Option<Self>> {
        super::record::read_json(&data.join(FILE))
    }

    /// Writes it whole or not at all.
    pub(crate) fn write(&self, data: &Path) -> Result<()> {
        super::record::write_json(&data.join(FILE), self).context("writing stack.json")
    }
}
