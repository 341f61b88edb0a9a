//! `rhyzome admin`: tenants and hosts, straight on the database.
//!
//! - [`tenant`]: customers, and where their tokens come from.
//! - [`host`]: hypervisor hosts; an inventory is asked of the agent itself.

pub(crate) mod host;
mod tenant;

use anyhow::{Context, Result};

pub(crate) use host::ADMIN_NAME;

use crate::args::{AdminArgs, AdminTask, Configured};
use crate::settings::Layers;

/// Performs one of its tasks.
pub(crate) async fn run(configured: &Configured, args: &AdminArgs) -> Result<()> {
    let settings = Layers::of_data(configured, args.data.data.as_deref())?.load()?;
    let store = settings
        .database
        .connect()
        .await
        .context("connecting to the database")?;
    match &args.task {
        AdminTask::Tenant(task) => tenant::run(&store, task).await,
        AdminTask::Host(task) => host::run(&store, &settings.tls, task).await,
    }
}
