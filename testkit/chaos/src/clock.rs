//! A clock that jumps: processes of a stack whose wall clock is another one, by libfaketime where the machine has it.
//!
//! One file says by how much all of them are off, and is looked at with every question for the time. Time-outs and timers go on: those are of
//! the monotonic clock, which doesn't jump on a real machine either.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use rhyzome_testkit::processes::send;
use rhyzome_testkit::{Agent, AgentSize, Stack, guard, tools};

use crate::effects::History;
use crate::run::SIMULATED;

/// The agent whose clock it is, for the whole run.
const AGENT: &str = "clock";
/// How long a process may take to end in order.
const ENDS_WITHIN: Duration = Duration::from_secs(40);

/// See the module.
pub(crate) struct Clock {
    library: PathBuf,
    file: PathBuf,
    pub(crate) history: History,
    /// It ends with this.
    _agent: Agent,
}

impl Clock {
    /// An agent with one host, and a clock that is right until it is told otherwise; none without the library.
    pub(crate) fn start(stack: &Stack) -> Result<Option<Self>> {
        let Some(library) = library() else {
            return Ok(None);
        };
        let file = stack.folder().join("clock");
        std::fs::write(&file, "+0\n").context("writing the clock's file")?;
        let size = AgentSize::default();
        let agent = Agent::start_in(stack, AGENT, SIMULATED, 1, size, environment(&library, &file));
        let history = History::follow(&agent.state(), &stack.folder().join("effects-of-clock"))?;
        Ok(Some(Self {
            library,
            file,
            history,
            _agent: agent,
        }))
    }

    /// From now on it is this much ahead, or behind.
    pub(crate) fn is_off_by(&self, seconds: i64) -> Result<()> {
        let beside = self.file.with_extension("new");
        std::fs::write(&beside, format!("{seconds:+}\n"))?;
        std::fs::rename(&beside, &self.file).context("setting the clock")
    }

    /// Another process like the first of this role, with this clock.
    pub(crate) fn another(&self, stack: &Stack, role: &str) -> Result<Other> {
        let like = stack.process(role);
        let name = format!("{role}-clock");
        let certificate = format!("{role}-{name}.crt");
        if !stack.file().pki_dir.join(certificate).exists() {
            stack.run(&["pki", "issue", role, &name]);
        }
        let line =
            std::fs::read(format!("/proc/{}/cmdline", like.pid)).context("reading how it was started")?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(stack.file().log_dir.join(format!("{name}.log")))
            .context("opening its log")?;
        let mut command = Command::new(tools::binary());
        let mut words = line.split(|byte| *byte == 0).skip(1);
        while let Some(word) = words.next() {
            let word = String::from_utf8_lossy(word).replace(&like.name, &name);
            match word.as_str() {
                "" => {}
                // Its parent is another.
                "--end-with-parent" => drop(words.next()),
                "--metrics-listen" => {
                    words.next();
                    command.args(["--metrics-listen", "127.0.0.1:0"]);
                }
                _ => {
                    command.arg(word);
                }
            }
        }
        let child = command
            .env(guard::MARK, stack.folder())
            .envs(environment(&self.library, &self.file))
            .current_dir(stack.folder())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Other { name, child })
    }
}

/// A process with a clock of its own.
pub(crate) struct Other {
    name: String,
    child: Child,
}

impl Other {
    /// Tells it to end, and waits until it has.
    pub(crate) async fn end(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended by itself ({status})", self.name);
        }
        send(i32::try_from(self.child.id())?, Signal::SIGTERM);
        let until = Instant::now() + ENDS_WITHIN;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > until {
                self.child.kill()?;
                self.child.wait()?;
                bail!("{} didn't end in {ENDS_WITHIN:?}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

fn environment(library: &Path, file: &Path) -> Vec<(String, String)> {
    [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("NO_FAKE_STAT", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Where Debian has it.
fn library() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib")
        .ok()?
        .flatten()
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
        .filter(|path| path.is_file())
        .collect();
    folders.sort();
    folders.pop()
}
