//! The stack that is measured: started by `rhyzome up` in a temporary folder, or one that runs already.
//!
//! A stack that was started here is brought down when the value ends, however that happens short of SIGKILL; its folder is then removed.
//! It stays, with the logs, where `up` or the measurement failed. Simulated hosts only pretend, so that the image `tiny` is a file of a few bytes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::args::Args;

/// Measured at the defaults, a burst of one tenant is a measurement of the cap on its running jobs.
const SETTINGS: [&str; 3] = [
    "scheduler.tenant_running_cap=2048",
    "scheduler.host_orders_cap=256",
    "worker.slots=512",
];
/// How long `stack.json` may take to be there after `up` returned.
const PATIENCE: Duration = Duration::from_secs(10);

/// `stack.json`, as far as it is needed here.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct StackFile {
    /// Without `/v1`.
    pub(crate) api_url: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) log_dir: PathBuf,
    pub(crate) pki_dir: PathBuf,
    pub(crate) postgres: At,
    pub(crate) nats: At,
    pub(crate) agents: Vec<AgentAt>,
    pub(crate) processes: Vec<ProcessAt>,
}

/// Where something is.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct At {
    pub(crate) url: String,
}

/// The agent of a host.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct AgentAt {
    pub(crate) host: String,
    pub(crate) address: String,
}

/// A process of the stack.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ProcessAt {
    pub(crate) role: String,
    pub(crate) name: String,
    pub(crate) pid: i32,
    pub(crate) metrics_url: Option<String>,
}

/// What becomes of the stack in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It is brought down, and its folder removed.
    Down,
    /// It is somebody else's, or asked to stay.
    Stays,
}

/// A stack.
#[derive(Debug)]
pub(crate) struct Stack {
    rhyzome: PathBuf,
    data: PathBuf,
    /// Removed with the stack.
    folder: Option<PathBuf>,
    ending: Ending,
}

impl Stack {
    /// Starts one, or takes the one that `--on` names.
    pub(crate) fn of(args: &Args) -> Result<Self> {
        let rhyzome = args
            .rhyzome
            .canonicalize()
            .with_context(|| format!("--rhyzome {}", args.rhyzome.display()))?;
        if let Some(data) = &args.on {
            let stack = Self {
                rhyzome,
                data: data.clone(),
                folder: None,
                ending: Ending::Stays,
            };
            stack.file()?;
            return Ok(stack);
        }
        // Postgres runs as another user where this is root, and must get through.
        let folder = tempfile::Builder::new()
            .prefix("rhyzome-bench-")
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir()
            .context("making a temporary folder")?
            .keep();
        let images = folder.join("images");
        std::fs::create_dir(&images).with_context(|| format!("making {}", images.display()))?;
        std::fs::write(images.join("tiny.qcow2"), "not looked at by simulated hosts\n")
            .context("writing the image")?;
        let mut stack = Self {
            rhyzome,
            data: folder.join("data"),
            folder: Some(folder),
            ending: Ending::Down,
        };
        stack.up(args, &images)?;
        if args.profile {
            stack.ending = Ending::Stays;
        }
        Ok(stack)
    }

    fn up(&self, args: &Args, images: &Path) -> Result<()> {
        let mut command = self.command("up");
        command.args([
            "--detach",
            "--no-local-host",
            "--simulated-hosts",
            &args.hosts.to_string(),
        ]);
        // Any one host could take all: what is measured is the path, not a lack of room.
        let room = u64::from(args.creates + args.alone) + 1_000;
        command.args(["--simulated-size", &format!("{room},{},{}", room * 256, room * 4)]);
        for (count, flag) in [
            (args.workers, "--workers"),
            (args.schedulers, "--schedulers"),
            (args.apis, "--apis"),
        ] {
            if let Some(count) = count {
                command.args([flag, &count.to_string()]);
            }
        }
        for setting in SETTINGS.into_iter().chain(args.set.iter().map(String::as_str)) {
            command.args(["--set", setting]);
        }
        if let Some(nats) = &args.nats_server {
            command.arg("--nats-server").arg(nats);
        }
        if let Some(postgres) = &args.postgres_bin {
            command.arg("--postgres-bin").arg(postgres);
        }
        command.arg("--image-dir").arg(images);
        let status = command
            .status()
            .with_context(|| format!("starting {}", self.rhyzome.display()))?;
        if !status.success() {
            bail!(
                "rhyzome up ended with {status}; its logs are in {}",
                self.data.display()
            );
        }
        Ok(())
    }

    /// `DIR/stack.json`, as it is now.
    pub(crate) fn file(&self) -> Result<StackFile> {
        let path = self.data.join("stack.json");
        let until = Instant::now() + PATIENCE;
        while !path.is_file() && Instant::now() < until {
            thread::sleep(Duration::from_millis(50));
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// A token that may do all in the tenant `demo`.
    pub(crate) fn token(&self) -> Result<String> {
        let output = self.command("token").output().context("asking for a token")?;
        if !output.status.success() {
            bail!(
                "rhyzome token: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8(output.stdout)
            .context("the token")?
            .trim()
            .to_owned())
    }

    /// The data folder.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Leaves the folder, for its logs, when the stack is down.
    pub(crate) fn keep_logs(&mut self) {
        if self.ending == Ending::Down && self.folder.take().is_some() {
            eprintln!("the logs stay in {}", self.data.join("logs").display());
        }
    }

    /// Brings it down, unless it is to stay.
    pub(crate) fn end(&mut self) -> Result<()> {
        if self.ending == Ending::Stays {
            return Ok(());
        }
        self.ending = Ending::Stays;
        let output = self.command("down").output().context("starting rhyzome down")?;
        if !output.status.success() {
            bail!("rhyzome down: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        if let Some(folder) = self.folder.take() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        }
        Ok(())
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.rhyzome);
        command.arg(name).arg("--data").arg(&self.data);
        command
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

impl StackFile {
    /// Processes of a role.
    pub(crate) fn of_role<'a>(&'a self, role: &'a str) -> impl Iterator<Item = &'a ProcessAt> {
        self.processes.iter().filter(move |process| process.role == role)
    }

    /// `HOST:PORT` of every API server: of the first from `stack.json`, of others from the files in which they say that they serve.
    pub(crate) fn apis(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Ready {
            address: String,
        }
        let first = self
            .api_url
            .strip_prefix("http://")
            .context("api_url isn't http")?;
        let mut all = vec![first.trim_end_matches('/').to_owned()];
        for process in self.of_role("api") {
            let path = self.data_dir.join("run").join(format!("{}.json", process.name));
            let Ok(text) = std::fs::read_to_string(&path) else {
                continue;
            };
            let ready: Ready =
                serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
            if !all.contains(&ready.address) {
                all.push(ready.address);
            }
        }
        Ok(all)
    }
}
