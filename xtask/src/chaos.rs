//! `cargo xtask chaos`: builds the binary with its fault points, and hands over to `rhyzome-chaos`.
//!
//! The binary with the feature has a target folder of its own, so that the ordinary build stays as it is. Both are built as
//! parts of the workspace: with a package alone the features of what it depends on would be others, and be built anew.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::Result;
use clap::Args;

use crate::show::Progress;
use crate::{image, paths, run, tools};

/// The options are those of `rhyzome-chaos`: `cargo xtask chaos --help` lists them.
#[derive(Debug, Args)]
pub(crate) struct ChaosArgs {
    /// Handed on as they are.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<OsString>,
}

/// `cargo xtask chaos`.
pub(crate) fn command(args: &ChaosArgs) -> Result<()> {
    let tools = tools::ensure()?;
    let image = image::ensure()?;
    let target = paths::target()?;
    let with_faults = target.join("chaos");
    let progress = Progress::start("building rhyzome with fault points, and rhyzome-chaos");
    run::moving(
        paths::cargo()?
            .args([
                "build",
                "--locked",
                "--workspace",
                "--bin",
                "rhyzome",
                "--features",
                "rhyzome-cli/faults",
                "--target-dir",
            ])
            .arg(&with_faults),
        &progress,
    )?;
    run::moving(
        paths::cargo()?.args(["build", "--locked", "--workspace", "--bin", "rhyzome-chaos"]),
        &progress,
    )?;
    progress.done("done");
    let mut command = run::program(target.join("debug/rhyzome-chaos"));
    command
        .env("RHYZOME_BIN", with_faults.join("debug/rhyzome"))
        .env("RHYZOME_NATS_SERVER", &tools.nats_server)
        .env("RHYZOME_POSTGRES_BIN", &tools.postgres_bin)
        .env("RHYZOME_IMAGE_DIR", &image.folder)
        .args(&args.options);
    // From here on this process is `rhyzome-chaos`: signals reach it directly.
    let error = command.exec();
    Err(run::start_error(&command, error))
}
