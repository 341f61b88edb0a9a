//! `cargo xtask bench`: gets the tools, builds everything for release, and hands over to `rhyzome-bench`.
//!
//! Its hosts are simulated, so that no image is needed.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::Result;
use clap::Args;

use crate::show::Progress;
use crate::{paths, run, tools};

/// The options are those of `rhyzome-bench`: `cargo xtask bench --help` lists them.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Handed on as they are.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<OsString>,
}

/// `cargo xtask bench`.
pub(crate) fn command(args: &BenchArgs) -> Result<()> {
    let tools = tools::ensure()?;
    let progress = Progress::start("building rhyzome and rhyzome-bench for release");
    run::moving(
        paths::cargo()?.args([
            "build",
            "--locked",
            "--release",
            "-p",
            "rhyzome-cli",
            "-p",
            "rhyzome-bench",
        ]),
        &progress,
    )?;
    progress.done("done");
    let built = paths::target()?.join("release");
    let mut command = run::program(built.join("rhyzome-bench"));
    command.arg("--rhyzome").arg(built.join("rhyzome"));
    command.arg("--nats-server").arg(&tools.nats_server);
    command.arg("--postgres-bin").arg(&tools.postgres_bin);
    command.args(&args.options);
    // From here on this process is `rhyzome-bench`: signals reach it directly.
    let error = command.exec();
    Err(run::start_error(&command, error))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    #[command(disable_help_flag = true)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    #[test]
    fn every_option_is_handed_on_as_it_was_given() {
        let given = [
            "--creates",
            "100",
            "--json",
            "out.json",
            "--help",
            "--set",
            "worker.slots=8",
        ];
        let line = Line::try_parse_from(["bench"].iter().chain(&given)).unwrap();
        assert_eq!(line.bench.options, given);
    }
}
