//! `cargo xtask sim`: builds `rhyzome-sim` and hands over to it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::Result;
use clap::Args;

use crate::show::Progress;
use crate::{paths, run};

/// The options are those of `rhyzome-sim`: `cargo xtask sim --help` lists them.
#[derive(Debug, Args)]
pub(crate) struct SimArgs {
    /// Handed on as they are.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<OsString>,
}

/// `cargo xtask sim`.
pub(crate) fn command(args: &SimArgs) -> Result<()> {
    let progress = Progress::start("building rhyzome-sim");
    run::moving(
        paths::cargo()?.args(["build", "--locked", "--workspace", "--bin", "rhyzome-sim"]),
        &progress,
    )?;
    progress.done("done");
    let mut command = run::program(paths::target()?.join("debug/rhyzome-sim"));
    command.args(&args.options);
    let error = command.exec();
    Err(run::start_error(&command, error))
}
