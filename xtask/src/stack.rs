//! `up` and `down`: gets the tools and the image, builds the binary, and hands over to `rhyzome up` or `rhyzome down`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::image::{self, Image};
use crate::show::Progress;
use crate::tools::{self, Tools};
use crate::{paths, run};

/// The options of `up` and `demo`; `rhyzome up` has the same.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag on the command line")]
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Where the stack keeps everything.
    #[arg(long, value_name = "DIR", default_value = "./.rhyzome")]
    pub(crate) data: PathBuf,
    /// Begin with empty data.
    #[arg(long)]
    fresh: bool,
    /// How many workers.
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// How many schedulers.
    #[arg(long, value_name = "N")]
    schedulers: Option<u32>,
    /// How many API servers.
    #[arg(long, value_name = "N")]
    apis: Option<u32>,
    /// How many simulated hosts, besides this machine.
    #[arg(long, value_name = "N")]
    simulated_hosts: Option<u32>,
    /// What each simulated host has.
    #[arg(long, value_name = "VCPUS,MEMORY_MIB,DISK_GIB")]
    simulated_size: Option<String>,
    /// A label of the simulated hosts.
    #[arg(long, value_name = "KEY=VALUE")]
    simulated_label: Vec<String>,
    /// Run no agent for this machine.
    #[arg(long)]
    no_local_host: bool,
    /// Any key of the configuration.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Return as soon as all is ready.
    #[arg(long)]
    pub(crate) detach: bool,
    /// Leave a process dead that dies.
    #[arg(long)]
    no_restart: bool,
}

/// The options of `down`; `rhyzome down` has the same.
#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// Where the stack keeps everything.
    #[arg(long, value_name = "DIR", default_value = "./.rhyzome")]
    data: PathBuf,
    /// Leave the guests running; the next `up` on the same data adopts them.
    #[arg(long)]
    keep_guests: bool,
}

/// What a stack is started from.
#[derive(Debug)]
pub(crate) struct Ready {
    /// The binary.
    pub(crate) rhyzome: PathBuf,
    tools: Tools,
    image: Image,
}

impl UpArgs {
    /// The same options, for `rhyzome up`; whether it detaches is the caller's to say.
    fn handed_on(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["--data".into(), self.data.clone().into()];
        let flags = [
            (self.fresh, "--fresh"),
            (self.no_local_host, "--no-local-host"),
            (self.no_restart, "--no-restart"),
        ];
        args.extend(
            flags
                .iter()
                .filter(|(set, _)| *set)
                .map(|(_, flag)| OsString::from(flag)),
        );
        let numbers = [
            (self.workers, "--workers"),
            (self.schedulers, "--schedulers"),
            (self.apis, "--apis"),
            (self.simulated_hosts, "--simulated-hosts"),
        ];
        for (number, option) in numbers {
            if let Some(number) = number {
                args.extend([option.into(), number.to_string().into()]);
            }
        }
        if let Some(size) = &self.simulated_size {
            args.extend(["--simulated-size".into(), size.into()]);
        }
        for (values, option) in [(&self.simulated_label, "--simulated-label"), (&self.set, "--set")] {
            for value in values {
                args.extend([option.into(), value.into()]);
            }
        }
        args
    }
}

impl Ready {
    /// `rhyzome up` with the options of `args`, and where the tools and the image are.
    pub(crate) fn up_command(&self, args: &UpArgs) -> Command {
        let mut command = run::program(&self.rhyzome);
        command.arg("up").args(args.handed_on());
        command.arg("--nats-server").arg(&self.tools.nats_server);
        command.arg("--postgres-bin").arg(&self.tools.postgres_bin);
        command.arg("--image-dir").arg(&self.image.folder);
        command
    }

    /// `rhyzome down` for the stack in `data`.
    pub(crate) fn down_command(&self, data: &Path) -> Command {
        let mut command = run::program(&self.rhyzome);
        command.arg("down").arg("--data").arg(data);
        command
    }
}

/// Gets and builds all that a stack needs.
pub(crate) fn prepare() -> Result<Ready> {
    let tools = tools::ensure()?;
    let image = image::ensure()?;
    Ok(Ready {
        rhyzome: build_binary()?,
        tools,
        image,
    })
}

fn build_binary() -> Result<PathBuf> {
    let progress = Progress::start("building rhyzome");
    run::moving(
        paths::cargo()?.args(["build", "--locked", "-p", "rhyzome-cli"]),
        &progress,
    )?;
    progress.done("done");
    binary()
}

/// Where cargo puts the binary.
pub(crate) fn binary() -> Result<PathBuf> {
    Ok(paths::target()?.join("debug/rhyzome"))
}

/// `cargo xtask up`.
pub(crate) fn up(args: &UpArgs) -> Result<()> {
    let mut command = prepare()?.up_command(args);
    if args.detach {
        return run::loud(command.arg("--detach"));
    }
    // From here on this process is `rhyzome up`: signals reach it directly.
    let error = command.exec();
    Err(run::start_error(&command, error))
}

/// `cargo xtask down`.
pub(crate) fn down(args: &DownArgs) -> Result<()> {
    let built = binary()?;
    let rhyzome = if built.is_file() { built } else { build_binary()? };
    let mut command = run::program(rhyzome);
    command.arg("down").arg("--data").arg(&args.data);
    if args.keep_guests {
        command.arg("--keep-guests");
    }
    run::loud(&mut command).context("stopping the stack")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        up: UpArgs,
    }

    #[test]
    fn every_option_is_handed_on_as_it_was_given() {
        let given = [
            "--data",
            "/d",
            "--fresh",
            "--no-local-host",
            "--no-restart",
            "--workers",
            "3",
            "--schedulers",
            "2",
            "--apis",
            "1",
            "--simulated-hosts",
            "10",
            "--simulated-size",
            "4,8192,100",
            "--simulated-label",
            "a=b",
            "--set",
            "worker.slots=8",
            "--set",
            "nats.ack_wait=5s",
        ];
        let line = Line::try_parse_from(["up"].iter().chain(&given)).unwrap();
        assert_eq!(line.up.handed_on(), given);
        let line = Line::try_parse_from(["up"]).unwrap();
        assert_eq!(line.up.handed_on(), ["--data", "./.rhyzome"]);
    }
}
