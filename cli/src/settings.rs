//! All sections of the configuration in one, so that an unknown key is found whichever role reads the file.

use std::fmt::Display;
use std::path::Path;

use anyhow::{Context, Result};
use rhyzome_agent::AgentConfig;
use rhyzome_api::ApiConfig;
use rhyzome_nats::NatsConfig;
use rhyzome_runtime::config::{self, Sources, variables};
use rhyzome_runtime::telemetry::TelemetryConfig;
use rhyzome_runtime::tls::TlsConfig;
use rhyzome_scheduler::{InstanceConfig, SchedulerConfig};
use rhyzome_store::DatabaseConfig;
use rhyzome_worker::WorkerConfig;
use serde::{Deserialize, Serialize};

use crate::args::Configured;

/// `rhyzome.toml`.
#[derive(Debug, Default, Serialize, Deserialize)]
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
        config::load_judged(&sources, fault).context("reading the configuration")
    }
}

/// Refuses a variable of the environment that is ours by its name, and that nobody reads.
pub(crate) fn check_environment() -> Result<()> {
    let built_in = serde_json::to_value(Settings::default()).context("listing the configuration's keys")?;
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    Ok(variables::check(names, &variables::Keys::of(&built_in))?)
}

/// The first value that makes no sense, whichever role reads it, and what would.
fn fault(settings: &Settings) -> Option<(&'static str, String)> {
    let (scheduler, worker, agent) = (&settings.scheduler, &settings.worker, &settings.agent);
    let (api, nats) = (&settings.api, &settings.nats);
    let counts = [
        ("api.accept_batch", as_i128(api.accept_batch)),
        ("api.accept_in_flight", as_i128(api.accept_in_flight)),
        ("api.body_limit_bytes", as_i128(api.body_limit_bytes)),
        (
            "scheduler.tenant_running_cap",
            scheduler.tenant_running_cap.into(),
        ),
        ("scheduler.host_orders_cap", scheduler.host_orders_cap.into()),
        ("scheduler.dispatch_batch", scheduler.dispatch_batch.into()),
        ("scheduler.watch_take", scheduler.watch_take.into()),
        ("worker.slots", as_i128(worker.slots)),
        ("agent.hosts", agent.hosts.map_or(1, Into::into)),
        ("nats.max_deliver", nats.max_deliver.into()),
        ("nats.max_ack_pending", nats.max_ack_pending.into()),
        ("nats.replicas", as_i128(nats.replicas)),
        (
            "database.max_connections",
            settings.database.max_connections.into(),
        ),
    ];
    if let Some((key, count)) = counts.into_iter().find(|(_, count)| *count < 1) {
        return Some((key, format!("{count} is too few: 1 or more")));
    }
    let times = [
        ("api.header_timeout", api.header_timeout.duration()),
        ("api.idle_timeout", api.idle_timeout.duration()),
        ("api.request_timeout", api.request_timeout.duration()),
        ("api.wait_poll", api.wait_poll.duration()),
        ("scheduler.job_deadline", scheduler.job_deadline.duration()),
        ("scheduler.retry_first", scheduler.retry_first.duration()),
        ("scheduler.retry_most", scheduler.retry_most.duration()),
        ("scheduler.quiet", scheduler.quiet.duration()),
        (
            "scheduler.capacity_recheck",
            scheduler.capacity_recheck.duration(),
        ),
        ("scheduler.watch_lease", scheduler.watch_lease.duration()),
        ("scheduler.host_silence", scheduler.host_silence.duration()),
        ("scheduler.check_interval", scheduler.check_interval.duration()),
        ("worker.silence", worker.silence.duration()),
        ("worker.progress_after", worker.progress_after.duration()),
        ("agent.heartbeat", agent.heartbeat.duration()),
        ("agent.guest_refresh", agent.guest_refresh.duration()),
        ("nats.ack_wait", nats.ack_wait),
        ("nats.duplicate_window", nats.duplicate_window),
        ("nats.publish_timeout", nats.publish_timeout),
    ];
    if let Some((key, _)) = times.into_iter().find(|(_, time)| time.is_zero()) {
        return Some((key, "no time at all: some is needed, such as `5s`".to_owned()));
    }
    let overcommit = agent.vcpu_overcommit;
    (!(overcommit.is_finite() && overcommit > 0.0)).then(|| {
        (
            "agent.vcpu_overcommit",
            format!("{overcommit} can't be: a number above 0, such as 4"),
        )
    })
}

fn as_i128(count: usize) -> i128 {
    i128::try_from(count).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_is_all_right() {
        assert_eq!(fault(&Settings::default()), None);
    }

    #[test]
    fn what_the_command_line_reads_of_the_environment_is_known() {
        fn read(command: &clap::Command) -> Vec<String> {
            let own = command.get_arguments().filter_map(clap::Arg::get_env);
            let own = own.map(|name| name.to_string_lossy().into_owned());
            own.chain(command.get_subcommands().flat_map(read)).collect()
        }
        let read = read(&<crate::args::Cli as clap::CommandFactory>::command());
        assert!(!read.is_empty());
        for name in read {
            assert!(variables::OTHERS.contains(&name.as_str()), "{name}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_origin() {
        for (key, value) in [
            ("scheduler.tenant_running_cap", "-1"),
            ("scheduler.watch_lease", "0s"),
            ("agent.vcpu_overcommit", "nan"),
            ("agent.vcpu_overcommit", "-3"),
            ("agent.hosts", "0"),
            ("nats.ack_wait", "0s"),
            ("database.max_connections", "0"),
            ("worker.slots", "0"),
        ] {
            let layers = Layers {
                sources: Sources::only(None, Vec::new()),
                set: vec![format!("{key}={value}")],
            };
            let said = format!("{:#}", layers.load().unwrap_err());
            assert!(
                said.contains(&format!("`{key}` (from the flag --set {key})")),
                "{said}"
            );
        }
        let layers = Layers {
            sources: Sources::only(None, Vec::new()),
            set: vec!["database.url=postgres://a:b@c/d".to_owned()],
        };
        let said = format!("{:#}", layers.load().unwrap_err());
        assert!(
            said.contains("has a password in it") && !said.contains("a:b"),
            "{said}"
        );
    }
}
