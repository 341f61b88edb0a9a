//! `rhyzome admin`: tenants and hosts, straight on the database.
//!
//! - [`tenant`]: customers, and where their tokens come from.
//! - [`host`]: hypervisor hosts; an inventory is asked of the agent itself.
//! - [`check`]: whether the books hold.

mod check;
pub(crate) mod host;
mod tenant;

use std::process::ExitCode;

use anyhow::{Context, Result};

pub(crate) use host::ADMIN_NAME;

use crate::args::{AdminArgs, AdminTask, Configured};
use crate::settings::Layers;

/// Performs one of its tasks.
pub(crate) async fn run(configured: &Configured, args: &AdminArgs) -> Result<ExitCode> {
    match (&args.task, perform(configured, args).await) {
        (AdminTask::Check { .. }, Err(error)) => {
            eprintln!("error: {error:#}");
            Ok(ExitCode::from(check::NOT_LOOKED))
        }
        (AdminTask::Check { .. } | AdminTask::Tenant(_) | AdminTask::Host(_), done) => done,
    }
}

async fn perform(configured: &Configured, args: &AdminArgs) -> Result<ExitCode> {
    let settings = Layers::of_data(configured, args.data.data.as_deref())?.load()?;
    let store = settings
        .database
        .connect()
        .await
        .context("connecting to the database")?;
    match &args.task {
        AdminTask::Tenant(task) => tenant::run(&store, task).await?,
        AdminTask::Host(task) => host::run(&store, &settings.tls, task).await?,
        AdminTask::Check { output } => return check::run(&store, &settings.tls, output.output).await,
    }
    Ok(ExitCode::SUCCESS)
}
