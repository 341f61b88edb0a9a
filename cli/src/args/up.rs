//! `rhyzome up`, `down` and what runs under them.

use std::path::PathBuf;

use clap::Args;

use super::key_value;

/// The stack on one machine.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag on the command line")]
#[derive(Debug, Clone, Args)]
pub(crate) struct UpArgs {
    /// Where the stack keeps everything
    #[arg(long, value_name = "DIR", default_value = "./.rhyzome")]
    pub(crate) data: PathBuf,
    /// Begin with empty data
    #[arg(long)]
    pub(crate) fresh: bool,
    /// How many workers
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) workers: u32,
    /// How many schedulers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) schedulers: u32,
    /// How many API servers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) apis: u32,
    /// How many simulated hosts, besides this machine
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) simulated_hosts: u32,
    /// What each simulated host has
    #[arg(
        long,
        value_name = "VCPUS,MEMORY_MIB,DISK_GIB",
        default_value = "32,131072,2048"
    )]
    pub(crate) simulated_size: Size,
    /// A label of the simulated hosts; can be given again
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) simulated_label: Vec<(String, String)>,
    /// Run no agent for this machine
    #[arg(long)]
    pub(crate) no_local_host: bool,
    /// Return as soon as all is ready
    #[arg(long)]
    pub(crate) detach: bool,
    /// Leave a process dead that dies
    #[arg(long)]
    pub(crate) no_restart: bool,
    /// The nats-server program
    #[arg(long, value_name = "FILE", env = "RHYZOME_NATS_SERVER")]
    pub(crate) nats_server: Option<PathBuf>,
    /// The folder with initdb and postgres
    #[arg(long, value_name = "DIR", env = "RHYZOME_POSTGRES_BIN")]
    pub(crate) postgres_bin: Option<PathBuf>,
    /// The operator's folder of images; tiny.qcow2 in it becomes the public image `tiny`
    #[arg(long, value_name = "DIR", env = "RHYZOME_IMAGE_DIR")]
    pub(crate) image_dir: Option<PathBuf>,
    /// This process is the one that stays, started by `up --detach`
    #[arg(long, hide = true)]
    pub(crate) stays: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DownArgs {
    /// Where the stack keeps everything
    #[arg(long, value_name = "DIR", default_value = "./.rhyzome")]
    pub(crate) data: PathBuf,
    /// Leave the guests running; the next `up` on the same data adopts them
    #[arg(long)]
    pub(crate) keep_guests: bool,
}

/// See `up/under.rs`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UnderArgs {
    /// Whose end is to be this one's too
    #[arg(long, value_name = "PID")]
    pub(crate) parent: i32,
    /// The signal that says so
    #[arg(long, value_name = "SIGNAL", default_value = "SIGTERM")]
    pub(crate) signal: String,
    /// As whom
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub(crate) program: Vec<std::ffi::OsString>,
}

/// What a host has: `VCPUS,MEMORY_MIB,DISK_GIB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) vcpus: u32,
    pub(crate) memory_mib: u64,
    pub(crate) disk_gib: u64,
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` isn't VCPUS,MEMORY_MIB,DISK_GIB, as in 32,131072,2048");
        let mut parts = text.split(',').map(str::trim);
        let (Some(vcpus), Some(memory), Some(disk), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        Ok(Self {
            vcpus: vcpus.parse().map_err(|_| wrong())?,
            memory_mib: memory.parse().map_err(|_| wrong())?,
            disk_gib: disk.parse().map_err(|_| wrong())?,
        })
    }
}
