//! The one binary, `rhyzome`: every role of the control plane, the stack on one machine, and the operators' commands.

mod admin;
mod args;
mod issuer;
mod limits;
mod migrate;
mod output;
mod pki;
mod roles;
mod settings;
mod up;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use crate::args::{Cli, Command};

/// Made for many small strings and documents that one thread makes and another drops, as all roles have them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long an agent that is ending waits for what its threads are doing.
const LAST_WORDS: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = Cli::parse();
    rhyzome_runtime::install_crypto();
    match perform(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes. Some say theirs themselves: nothing is said twice.
fn told(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if told.is_empty() {
            told = cause;
        } else if !told.ends_with(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}

fn perform(cli: Cli) -> Result<ExitCode> {
    settings::check_environment()?;
    let configured = cli.configured;
    match cli.command {
        Command::Api(args) => threads(&args.process)?.block_on(roles::api(&configured, &args))?,
        Command::Scheduler(args) => threads(&args.process)?.block_on(roles::scheduler(&configured, &args))?,
        Command::Worker(args) => threads(&args.process)?.block_on(roles::worker(&configured, &args))?,
        Command::Agent(args) => {
            let runtime = threads(&args.process)?;
            let ended = runtime.block_on(roles::agent(&configured, &args));
            // What hangs in the host's storage would be waited for without end.
            runtime.shutdown_timeout(LAST_WORDS);
            ended?;
        }
        Command::DevIssuer(args) => threads(&args.process)?.block_on(issuer::serve(&configured, &args))?,
        Command::Migrate(args) => single()?.block_on(migrate::run(&configured, &args))?,
        Command::Token(args) => issuer::token::print(&args)?,
        Command::Pki(args) => pki::run(&configured, &args)?,
        Command::Admin(args) => return single()?.block_on(admin::run(&configured, &args)),
        Command::Up(args) => up::run(&configured, &args)?,
        Command::Down(args) => single()?.block_on(up::down::run(&configured, &args))?,
        Command::Under(args) => up::under::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// For roles: as many threads as the machine has processors, or as `--threads` says.
fn threads(process: &args::ProcessArgs) -> Result<tokio::runtime::Runtime> {
    up::under::end_with_parent(process.end_with_parent)?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = process.threads {
        builder.worker_threads(threads.get());
    }
    builder.enable_all().build().context("starting the runtime")
}

/// For commands that wait more than they work.
fn single() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cause_is_told_twice() {
        let error = anyhow::Error::from(rhyzome_runtime::config::ConfigError::Unreadable {
            path: "x.toml".into(),
            source: std::io::Error::other("not there"),
        });
        assert_eq!(
            told(&error.context("reading")),
            "reading: the configuration file x.toml: not there"
        );
        assert_eq!(told(&anyhow::anyhow!("a").context("b")), "b: a");
    }
}
