//! All sections of the configuration in one, so that an unknown key is found whichever role reads the file.

use std::fmt::Display;
use std::path::Path;

use anyhow::{Context, Result};
use rhyzome_agent::AgentConfig;
use rhyzome_api::ApiConfig;
use rhyzome_nats::NatsConfig;
use rhyzome_runtime::config::{self, Sources};
use rhyzome_runtime::telemetry::TelemetryConfig;
use rhyzome_runtime::tls::TlsConfig;
use rhyzome_scheduler::{InstanceConfig, SchedulerConfig};
use rhyzome_store::DatabaseConfig;
use rhyzome_worker::WorkerConfig;
use serde::Deserialize;

use crate::args::Configured;

/// `rhyzome.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) api: ApiConfig,
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) worker: WorkerConfig,
    pub(crate) agent: AgentConfig,
    pub(crate) nats: NatsConfig,
    pub(crate) database: DatabaseConfig,
    pub(crate) tls: TlsConfig,
    pub(crate) instance: InstanceConfig,
    pub(crate) telemetry: TelemetryConfig,
}

/// The layers: a command's own flags are added before `--set`, which is over them.
pub(crate) struct Layers {
    sources: Sources,
    set: Vec<String>,
}

impl Layers {
    /// The ordinary configuration.
    pub(crate) fn of(configured: &Configured) -> Self {
        Self {
            sources: Sources::of_process(configured.config.clone()),
            set: configured.set.clone(),
        }
    }

    /// That of a stack in `data`, if one is named.
    pub(crate) fn of_data(configured: &Configured, data: Option<&Path>) -> Result<Self> {
        let Some(data) = data else {
            return Ok(Self::of(configured));
        };
        let file = data.join(crate::up::layout::CONFIG);
        if !file.is_file() {
            anyhow::bail!(
                "there is no stack in {}: `rhyzome up --data {0}` makes one",
                data.display()
            );
        }
        let configured = Configured {
            config: Some(file),
            set: configured.set.clone(),
        };
        Ok(Self::of(&configured))
    }

    /// A command's own flag for a key.
    pub(crate) fn flag(mut self, key: &str, flag: &str, value: Option<impl Display>) -> Self {
        self.sources = self.sources.flag(key, flag, value);
        self
    }

    /// Reads them.
    pub(crate) fn load(self) -> Result<Settings> {
        let mut sources = self.sources;
        for set in &self.set {
            sources = sources.set(set)?;
        }
        config::load(&sources).context("reading the configuration")
    }
}
