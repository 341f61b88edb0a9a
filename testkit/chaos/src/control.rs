//! Breaking things: fault points by their file, processes by signals, and their healing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use rhyzome_runtime::fault::{Point, Side};
use rhyzome_testkit::Stack;
use rhyzome_testkit::processes::send;
use rhyzome_testkit::stack::ProcessEntry;

/// What an armed point does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hit {
    /// The process aborts.
    Abort,
    /// It stops until it is continued.
    Stop,
}

/// A hit, as noted.
#[derive(Clone, Debug)]
pub(crate) struct Noted {
    pub(crate) at: String,
    pub(crate) role: String,
    pub(crate) pid: i32,
}

/// The file that arms points, in a folder that all processes can reach.
#[derive(Debug)]
pub(crate) struct Points {
    file: PathBuf,
    version: AtomicU64,
}

impl Points {
    pub(crate) fn in_folder(folder: &Path) -> Result<Self> {
        let points = Self {
            file: folder.join("points"),
            version: AtomicU64::new(0),
        };
        points.arm(&[])?;
        Ok(points)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.file
    }

    /// These points and no others, each so many times over all processes.
    pub(crate) fn arm(&self, points: &[(Point, Side, u32, f64, Hit)]) -> Result<()> {
        let taken = self.file.with_file_name("points.taken");
        std::fs::write(&self.file, "")?;
        if taken.exists() {
            std::fs::remove_dir_all(&taken)?;
        }
        std::fs::create_dir(&taken)?;
        let mut text = String::new();
        for (point, side, times, probability, hit) in points {
            let hit = match hit {
                Hit::Abort => "abort",
                Hit::Stop => "stop",
            };
            let line = format!(
                "{} {} {times} {probability} {hit}\n",
                point.as_str(),
                side.as_str()
            );
            text.push_str(&line);
        }
        // Another length each time: files are told apart by time and length.
        let version = self.version.fetch_add(1, Ordering::Relaxed);
        text.push_str(&"\n".repeat(usize::try_from(version % 50)?));
        let beside = self.file.with_file_name("points.new");
        std::fs::write(&beside, text)?;
        std::fs::rename(&beside, &self.file).context("arming fault points")
    }

    /// All hits so far.
    pub(crate) fn hits(&self) -> Vec<Noted> {
        let text = std::fs::read_to_string(self.file.with_file_name("points.log")).unwrap_or_default();
        text.lines()
            .filter_map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let [point, side, _, role, pid] = words.as_slice() else {
                    return None;
                };
                Some(Noted {
                    at: format!("{point} {side}"),
                    role: (*role).to_owned(),
                    pid: pid.parse().ok()?,
                })
            })
            .collect()
    }
}

/// Processes of a role.
pub(crate) fn of_role(stack: &Stack, role: &str) -> Vec<ProcessEntry> {
    stack.processes(role)
}

/// SIGSTOP for a time.
pub(crate) async fn pause(pid: i32, time: Duration) {
    send(pid, Signal::SIGSTOP);
    tokio::time::sleep(time).await;
    send(pid, Signal::SIGCONT);
}

/// Postgres as after `-m immediate`: no checkpoint, every session cut.
pub(crate) fn crash_postgres(stack: &Stack) {
    for process in stack.processes("postgres") {
        send(process.pid, Signal::SIGQUIT);
    }
}

/// nats-server killed, its storage gone: stopped first, so that it isn't started again before.
pub(crate) fn wipe_nats(stack: &Stack) -> Result<()> {
    let file = stack.file();
    for process in stack.processes("nats") {
        send(process.pid, Signal::SIGSTOP);
        let removed = std::fs::remove_dir_all(&file.nats.jetstream_dir);
        send(process.pid, Signal::SIGKILL);
        removed.context("removing the storage of nats-server")?;
    }
    Ok(())
}

/// Continues whatever stands still.
pub(crate) fn continue_all(stack: &Arc<Stack>) {
    for process in stack.file().processes {
        send(process.pid, Signal::SIGCONT);
    }
}
