//! `rhyzome admin`: what operators do, straight on the database and on NATS.
//!
//! - [`tenant`]: customers, and where their tokens come from.
//! - [`host`]: hypervisor hosts; an inventory is asked of the agent itself.
//! - [`job`]: a job as operators see it, and giving its undo up.
//! - [`dead_letters`]: what nobody could read or carry out; on NATS, with the certificate of the role admin.
//! - [`set_back`]: a database that was set back.
//! - [`check`]: whether the books hold.

mod check;
mod dead_letters;
pub(crate) mod host;
mod job;
mod set_back;
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
        (
            AdminTask::Check { .. }
            | AdminTask::Tenant(_)
            | AdminTask::Host(_)
            | AdminTask::Job(_)
            | AdminTask::DeadLetters(_)
            | AdminTask::PostgresSetBack(_),
            done,
        ) => done,
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
        AdminTask::Job(task) => job::run(&store, task).await?,
        AdminTask::DeadLetters(task) => dead_letters::run(&store, &settings, task).await?,
        AdminTask::PostgresSetBack(task) => set_back::run(&store, task).await?,
        AdminTask::Check { output } => return check::run(&store, &settings.tls, output.output).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// Whom the audit names: who is at the command line.
fn actor() -> String {
    let user = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER"));
    match user {
        Ok(user) => format!("{ADMIN_NAME}:{user}"),
        Err(_) => ADMIN_NAME.to_owned(),
    }
}

/// When, as tables show it.
fn when(at: chrono::DateTime<chrono::Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}
