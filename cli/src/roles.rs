//! The roles: reads the configuration, starts telemetry, and hands over to the role's crate.

use std::path::Path;

use anyhow::{Context, Result};
use rhyzome_runtime::telemetry::{self, TelemetryConfig};
use rhyzome_runtime::{Process, Role, Shutdown};

use crate::args::{AgentArgs, ApiArgs, Configured, ProcessArgs, RoleArgs};
use crate::limits;
use crate::settings::{Layers, Settings};

/// `rhyzome api`.
pub(crate) async fn api(configured: &Configured, args: &ApiArgs) -> Result<()> {
    let settings = common(configured, args.pki.as_deref(), &args.process)
        .flag("api.listen", "--listen", args.listen)
        .load()?;
    let process = start(&settings, Role::Api, &args.name, &args.process).await?;
    let store = settings.database.store()?;
    let api = rhyzome_api::ApiConfig {
        job_deadline: settings.scheduler.job_deadline,
        ..settings.api
    };
    rhyzome_api::run(api, settings.nats, store, process)
        .await
        .context("the API ended")
}

/// `rhyzome scheduler`.
pub(crate) async fn scheduler(configured: &Configured, args: &RoleArgs) -> Result<()> {
    let settings = common(configured, args.pki.as_deref(), &args.process).load()?;
    let process = start(&settings, Role::Scheduler, &args.name, &args.process).await?;
    let store = settings.database.store()?;
    rhyzome_scheduler::run(
        settings.scheduler,
        settings.instance,
        settings.nats,
        store,
        process,
    )
    .await
    .context("the scheduler ended")
}

/// `rhyzome worker`.
pub(crate) async fn worker(configured: &Configured, args: &RoleArgs) -> Result<()> {
    let settings = common(configured, args.pki.as_deref(), &args.process).load()?;
    let process = start(&settings, Role::Worker, &args.name, &args.process).await?;
    rhyzome_worker::run(settings.worker, settings.nats, process)
        .await
        .context("the worker ended")
}

/// `rhyzome agent`.
pub(crate) async fn agent(configured: &Configured, args: &AgentArgs) -> Result<()> {
    let mut layers = common(configured, args.pki.as_deref(), &args.process)
        .flag("agent.listen", "--listen", args.listen)
        .flag("agent.state", "--state", shown(args.state.as_deref()))
        .flag(
            "agent.driver",
            "--driver",
            args.driver.map(crate::args::Driver::as_str),
        )
        .flag("agent.hosts", "--hosts", args.hosts)
        .flag("agent.vcpus", "--vcpus", args.vcpus)
        .flag("agent.memory_mib", "--memory-mib", args.memory_mib)
        .flag("agent.disk_gib", "--disk-gib", args.disk_gib)
        .flag("agent.image_dir", "--image-dir", shown(args.image_dir.as_deref()))
        .flag("agent.faults", "--faults", shown(args.faults.as_deref()));
    for (key, value) in &args.labels {
        layers = layers.flag(&format!("agent.labels.{key}"), "--label", Some(value));
    }
    let settings = layers.load()?;
    let process = start(&settings, Role::Agent, &args.name, &args.process).await?;
    if args.stop_guests {
        let stopped = rhyzome_agent::stop_guests(settings.agent, process)
            .await
            .context("stopping guests")?;
        tracing::info!(stopped, "no guest runs here any more");
        return Ok(());
    }
    rhyzome_agent::run(settings.agent, process)
        .await
        .context("the agent ended")
}

fn shown(path: Option<&Path>) -> Option<std::path::Display<'_>> {
    path.map(Path::display)
}

fn common(configured: &Configured, pki: Option<&Path>, process: &ProcessArgs) -> Layers {
    Layers::of(configured).flag("tls.pki", "--pki", shown(pki)).flag(
        "telemetry.metrics_listen",
        "--metrics-listen",
        process.metrics_listen,
    )
}

async fn start(settings: &Settings, role: Role, name: &str, args: &ProcessArgs) -> Result<Process> {
    let shutdown = begin(&settings.telemetry, args)?;
    let metrics = telemetry::start_metrics(
        role.as_str(),
        settings.telemetry.metrics_listen,
        shutdown.token.clone(),
    )
    .await?;
    Ok(Process {
        role,
        name: name.to_owned(),
        tls: settings.tls.clone(),
        shutdown,
        metrics_address: Some(metrics.address),
        ready_file: args.ready_file.clone(),
    })
}

/// Limits, logs and signals, for every serving process.
pub(crate) fn begin(telemetry: &TelemetryConfig, args: &ProcessArgs) -> Result<Shutdown> {
    limits::raise_open_files()?;
    telemetry::init_logs(telemetry.log_format)?;
    Shutdown::on_signals(args.grace.duration()).context("listening for signals")
}
