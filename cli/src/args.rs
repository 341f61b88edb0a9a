//! The command line, as `--help` shows it.

mod admin;
mod up;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use rhyzome_model::quota::Dimension;
use rhyzome_runtime::{Role, Span};

pub(crate) use admin::{
    AdminArgs, AdminJobTask, AdminTask, DeadLettersTask, HostTask, SetBackTask, TenantTask,
};
pub(crate) use up::{DownArgs, UnderArgs, UpArgs};

/// Rhyzome: a cloud of one's own. REST requests become durable jobs, workers drive them on hypervisor hosts.
///
/// Configuration is `./rhyzome.toml` or `/etc/rhyzome/rhyzome.toml`; the environment (`RHYZOME_SECTION__KEY`) is over it, and flags over
/// both. Secrets come from files or the environment, never from flags. `RHYZOME_LOG` filters the log (`info`, `debug`, `rhyzome_worker=trace`).
#[derive(Debug, Parser)]
#[command(
    name = "rhyzome",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) configured: Configured,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where configuration comes from; for every command.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Configured {
    /// The configuration file, instead of ./rhyzome.toml or /etc/rhyzome/rhyzome.toml
    #[arg(long, global = true, value_name = "FILE", env = "RHYZOME_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Any key of the configuration, as scheduler.job_deadline=30m; can be given again
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the REST API
    Api(ApiArgs),
    /// Dispatch jobs, settle what came of them, watch hosts
    Scheduler(RoleArgs),
    /// Drive orders on agents
    Worker(RoleArgs),
    /// Serve a hypervisor host, or many simulated ones
    Agent(AgentArgs),
    /// Serve the development issuer of tokens (loopback only)
    DevIssuer(DevIssuerArgs),
    /// Bring the database's schema up to date
    Migrate(DataArgs),
    /// Run the whole stack on this machine
    Up(UpArgs),
    /// Stop a stack that `up` started, its guests too
    Down(DownArgs),
    /// Print a token of the development issuer
    Token(TokenArgs),
    /// A small certificate authority
    Pki(PkiArgs),
    /// Tenants and hosts, straight on the database
    Admin(AdminArgs),
    /// Run a program that ends with its parent (used by `up`)
    #[command(hide = true)]
    Under(UnderArgs),
}

/// What every serving process takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProcessArgs {
    /// Where to write, once it serves, the JSON {address, metrics_address}
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// Where /metrics listens (port 0 takes a free one)
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// How long work under way may take after SIGTERM
    #[arg(long, value_name = "TIME", default_value = "20s")]
    pub(crate) grace: Span,
    /// Worker threads, instead of one for each processor
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// End when the process that started this one ends; its id
    #[arg(long, value_name = "PID", hide = true)]
    pub(crate) end_with_parent: Option<i32>,
}

/// A role with a name.
#[derive(Debug, Clone, Args)]
pub(crate) struct RoleArgs {
    /// Its name, as in its certificate
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
    /// The folder with its certificate, as `rhyzome pki` lays it out
    #[arg(long, value_name = "DIR")]
    pub(crate) pki: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ApiArgs {
    /// Its name, as in its certificate
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
    /// The folder with its certificate, as `rhyzome pki` lays it out
    #[arg(long, value_name = "DIR")]
    pub(crate) pki: Option<PathBuf>,
    /// Where it listens (port 0 takes a free one)
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct AgentArgs {
    /// The host's name, as in its certificate; of simulated hosts what stands before -1 to -N
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
    /// Where it listens (port 0 takes a free one)
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Where it keeps its ledger, disks and networks
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// The folder with its certificate, as `rhyzome pki` lays it out
    #[arg(long, value_name = "DIR")]
    pub(crate) pki: Option<PathBuf>,
    /// What makes the guests
    #[arg(long, value_name = "DRIVER")]
    pub(crate) driver: Option<Driver>,
    /// How many simulated hosts
    #[arg(long, value_name = "N")]
    pub(crate) hosts: Option<u32>,
    /// Virtual processors that a host has, before overcommit
    #[arg(long, value_name = "V")]
    pub(crate) vcpus: Option<u32>,
    /// Memory that a host has
    #[arg(long, value_name = "M")]
    pub(crate) memory_mib: Option<u64>,
    /// Disk that a host has
    #[arg(long, value_name = "G")]
    pub(crate) disk_gib: Option<u64>,
    /// A label of the host; can be given again
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) labels: Vec<(String, String)>,
    /// Operator's folder of images
    #[arg(long, value_name = "DIR")]
    pub(crate) image_dir: Option<PathBuf>,
    /// Faults of simulated hosts, re-read when the file changes
    #[arg(long, value_name = "FILE")]
    pub(crate) faults: Option<PathBuf>,
    /// Don't serve: stop every guest on this host (ACPI, then off), remove its networks, and end
    #[arg(long)]
    pub(crate) stop_guests: bool,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
}

/// What makes the guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Driver {
    /// QEMU, with KVM where that works
    Qemu,
    /// Nothing but files; for tests and measurements
    Simulated,
}

impl Driver {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Simulated => "simulated",
        }
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DevIssuerArgs {
    /// Where the stack keeps everything; the keys are in DIR/issuer
    #[arg(long, value_name = "DIR", default_value = "./.rhyzome")]
    pub(crate) data: PathBuf,
    /// Where it listens; loopback only
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
}

/// Whose database or certificates are meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataArgs {
    /// The data folder of a stack that `up` made, instead of the ordinary configuration
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct TokenArgs {
    /// Whose token
    #[arg(
        long,
        value_name = "TENANT",
        default_value = "demo",
        conflicts_with = "operator"
    )]
    pub(crate) tenant: String,
    /// What it may do, as "instance:read network:*"; all in the tenant where left out
    #[arg(long, value_name = "SCOPE")]
    pub(crate) scope: Option<String>,
    /// A token of the operators' issuer
    #[arg(long)]
    pub(crate) operator: bool,
    /// Whom it names (sub)
    #[arg(long, value_name = "NAME", default_value = "developer")]
    pub(crate) subject: String,
    /// How long it lasts
    #[arg(long, value_name = "TIME", default_value = "12h")]
    pub(crate) lifetime: Span,
    /// The data folder of the stack
    #[arg(long, value_name = "DIR", default_value = "./.rhyzome")]
    pub(crate) data: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PkiArgs {
    #[command(subcommand)]
    pub(crate) task: PkiTask,
    /// The data folder of a stack that `up` made; the certificates are in DIR/pki
    #[arg(long, global = true, value_name = "DIR", conflicts_with = "pki")]
    pub(crate) data: Option<PathBuf>,
    /// The folder of certificates, instead of tls.pki of the configuration
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) pki: Option<PathBuf>,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum PkiTask {
    /// Make a certificate authority
    Init {
        /// How many days it lasts
        #[arg(long, value_name = "N", default_value_t = rhyzome_runtime::pki::CA_DAYS)]
        days: u32,
        /// Overwrite what is there: nothing that it signed counts any more
        #[arg(long)]
        force: bool,
    },
    /// Make a certificate and its key
    Issue {
        /// api, scheduler, worker, agent, admin or nats
        role: Role,
        /// The component's name; a host's for an agent
        name: String,
        /// How many days it lasts
        #[arg(long, value_name = "N", default_value_t = rhyzome_runtime::pki::DAYS)]
        days: u32,
        /// The trust domain in the URI SAN
        #[arg(long, value_name = "DOMAIN")]
        trust_domain: Option<String>,
        /// Overwrite what is there
        #[arg(long)]
        force: bool,
    },
    /// List the certificates: role, name, expiry
    Show {
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// A table for people, or JSON
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` isn't KEY=VALUE")),
    }
}

fn quota(text: &str) -> Result<(Dimension, i64), String> {
    let (what, most) = key_value(text).map_err(|_| format!("`{text}` isn't WHAT=NUMBER"))?;
    let dimension = what.parse::<Dimension>().map_err(|e| e.to_string())?;
    match most.parse() {
        Ok(most @ 0..) => Ok((dimension, most)),
        Ok(_) | Err(_) => Err(format!(
            "`{most}` is no limit of {dimension}: a whole number from 0"
        )),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::up::Size;
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_has_help() {
        fn look(command: &clap::Command, path: &str) {
            assert!(
                command.get_about().is_some() || command.get_name() == "help",
                "{path} says nothing"
            );
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(
                    argument.get_help().is_some(),
                    "{path}: {} says nothing",
                    argument.get_id()
                );
            }
            for inner in command.get_subcommands() {
                look(inner, &format!("{path} {}", inner.get_name()));
            }
        }
        look(&Cli::command(), "rhyzome");
    }

    #[test]
    fn sizes() {
        assert_eq!(
            "4,8192,100".parse(),
            Ok(Size {
                vcpus: 4,
                memory_mib: 8192,
                disk_gib: 100
            })
        );
        for wrong in ["", "4", "4,8192", "4,8192,100,1", "four,1,1"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }
}
