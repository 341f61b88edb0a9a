//! `cargo xtask test`: every test of the workspace, with the real tools that they need.
//!
//! Tests find the tools in the environment: `RHYZOME_NATS_SERVER`, `RHYZOME_POSTGRES_BIN`, `RHYZOME_IMAGE_DIR` and
//! `RHYZOME_BIN`, the built binary.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::image::{self, Image};
use crate::show::Progress;
use crate::tools::{self, Tools};
use crate::{paths, run, stack};

/// Options of `test`.
#[derive(Debug, Args, Default)]
pub(crate) struct TestArgs {
    /// Given to the test runner: a part of tests' names, `-p CRATE`, and so on.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    filter: Vec<String>,
}

/// `cargo xtask test`.
pub(crate) fn command(args: &TestArgs) -> Result<()> {
    let tools = tools::ensure()?;
    let image = image::ensure()?;
    let progress = Progress::start("building the workspace and its tests");
    run::moving(
        paths::cargo()?.args(["build", "--locked", "--workspace", "--bins", "--tests"]),
        &progress,
    )?;
    progress.done("done");

    let has_nextest = run::output(paths::cargo()?.args(["nextest", "--version"])).is_ok();
    let runner: &[&str] = if has_nextest {
        &["nextest", "run"]
    } else {
        &["test"]
    };
    let mut tests = with_tools(paths::cargo()?, &tools, &image)?;
    tests.args(runner).arg("--locked");
    if !names_packages(&args.filter) {
        tests.arg("--workspace");
    }
    run::loud(tests.args(&args.filter))?;
    if has_nextest && args.filter.is_empty() {
        // nextest runs no examples of the documentation.
        run::loud(with_tools(paths::cargo()?, &tools, &image)?.args([
            "test",
            "--locked",
            "--workspace",
            "--doc",
            "--quiet",
        ]))?;
    }
    Ok(())
}

fn with_tools(mut command: Command, tools: &Tools, image: &Image) -> Result<Command> {
    command
        .env("RHYZOME_NATS_SERVER", &tools.nats_server)
        .env("RHYZOME_POSTGRES_BIN", &tools.postgres_bin)
        .env("RHYZOME_IMAGE_DIR", &image.folder)
        .env("RHYZOME_BIN", stack::binary()?);
    // Of the test runner, and of the one that stands in for it.
    for variable in ["NEXTEST_TEST_THREADS", "RUST_TEST_THREADS"] {
        if std::env::var_os(variable).is_none() {
            command.env(variable, threads().to_string());
        }
    }
    Ok(command)
}

/// How many tests run at a time: half as many again as there are processors, for a third of their time tests wait for guests and servers.
fn threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    processors + processors.div_ceil(2)
}

fn names_packages(filter: &[String]) -> bool {
    filter
        .iter()
        .take_while(|arg| *arg != "--")
        .any(|arg| arg.starts_with("-p") || arg.starts_with("--package"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_the_filter_stand_in_place_of_the_workspace() {
        let args = |list: &[&str]| list.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
        assert!(names_packages(&args(&["-p", "rhyzome-model"])));
        assert!(names_packages(&args(&["--package=x"])));
        assert!(!names_packages(&args(&["some_test", "--", "-p"])));
    }
}
