//! The command line of `rhyzome-bench`, and so of `cargo xtask bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Measures the whole path of a job, from the REST request to its end, on a stack with simulated hosts; and this machine's own limits.
#[derive(Debug, Parser)]
#[command(name = "rhyzome-bench", version)]
pub(crate) struct Args {
    /// The binary rhyzome; build it with --release
    #[arg(long, value_name = "FILE", env = "RHYZOME_BIN")]
    pub(crate) rhyzome: PathBuf,
    /// The nats-server program, instead of the one on PATH
    #[arg(long, value_name = "FILE", env = "RHYZOME_NATS_SERVER")]
    pub(crate) nats_server: Option<PathBuf>,
    /// The folder with initdb, postgres, psql and pgbench
    #[arg(long, value_name = "DIR", env = "RHYZOME_POSTGRES_BIN")]
    pub(crate) postgres_bin: Option<PathBuf>,
    /// How many instances are asked for
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) creates: u32,
    /// How many requests are open at a time, each on a connection of its own that is kept
    #[arg(long, value_name = "C", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) concurrency: u32,
    /// How many instances are asked for one after the other
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) alone: u32,
    /// How many simulated hosts
    #[arg(long, value_name = "H", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) hosts: u32,
    /// How many networks the instances are spread over; a network lives on one host
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) networks: u32,
    /// How many workers; `rhyzome up`'s own number where left out
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<u32>,
    /// How many schedulers
    #[arg(long, value_name = "N")]
    pub(crate) schedulers: Option<u32>,
    /// How many API servers; connections are spread over them
    #[arg(long, value_name = "N")]
    pub(crate) apis: Option<u32>,
    /// Any key of the configuration, over those that the measurement sets; can be given again
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Ask for nothing more after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) duration: Option<Duration>,
    /// Also write the figures here, by name
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Measure only this; can be given again
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Vec<Measurement>,
    /// Print the processes' ids before the load, and leave the stack running
    #[arg(long, conflicts_with = "on")]
    pub(crate) profile: bool,
    /// Measure the stack that runs with this data folder (as --profile leaves one), and leave it running
    #[arg(long, value_name = "DIR")]
    pub(crate) on: Option<PathBuf>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measurement {
    /// What this machine's Postgres, NATS, TLS and disk can do
    Limits,
    /// Placements per second at 100, 1,000 and 10,000 hosts
    Placements,
    /// The time of one create, while nothing else is asked for
    Alone,
    /// Many creates at once, until the last is done
    RestToDone,
}

impl Args {
    /// Whether it is to be measured.
    pub(crate) fn wants(&self, measurement: Measurement) -> bool {
        self.only.is_empty() || self.only.contains(&measurement)
    }

    /// Whether anything needs a stack.
    pub(crate) fn wants_stack(&self) -> bool {
        [Measurement::Limits, Measurement::Alone, Measurement::RestToDone]
            .into_iter()
            .any(|m| self.wants(m))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds < 1e6 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("`{text}` isn't a number of seconds")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn only_narrows_what_is_measured() {
        let parse =
            |words: &[&str]| Args::try_parse_from([&["b", "--rhyzome", "r"], words].concat()).unwrap();
        assert!(parse(&[]).wants(Measurement::Alone) && parse(&[]).wants_stack());
        let one = parse(&["--only", "placements"]);
        assert!(one.wants(Measurement::Placements) && !one.wants(Measurement::Limits) && !one.wants_stack());
    }
}
