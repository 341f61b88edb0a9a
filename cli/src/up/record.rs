//! What a later `up` or `down` needs to know of this stack: its processes by id, start time and boot, and the ports to take again.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Its name in the data folder.
pub(crate) const FILE: &str = "supervisor.json";

/// The file's content.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The process that supervises; none where nothing runs.
    pub(crate) supervisor: Option<Known>,
    /// Its parts, by name.
    pub(crate) parts: BTreeMap<String, Known>,
    /// The ports that parts had, by name.
    pub(crate) ports: BTreeMap<String, Ports>,
}

/// What a part listened on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports {
    /// Its own.
    pub(crate) own: Option<u16>,
    /// Of its metrics.
    pub(crate) metrics: Option<u16>,
}

/// A process that can't be taken for another that got its id later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Its id.
    pub(crate) pid: i32,
    /// Clock ticks from the machine's start to its own (field 22 of `/proc/PID/stat`, proc(5)).
    pub(crate) started: u64,
    /// The machine's start; none as versions before wrote it, or where the kernel doesn't say.
    #[serde(default)]
    pub(crate) boot: Option<Uuid>,
}

/// Of this start of the machine (random(4)).
fn boot() -> Option<Uuid> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    text.trim().parse().ok()
}

impl Known {
    /// Of a running process; none where it runs no more.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses, and may hold spaces and parentheses itself.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        if state == "Z" || state == "X" {
            return None;
        }
        Some(Self {
            pid,
            started: fields.nth(18)?.parse().ok()?,
            boot: boot(),
        })
    }

    /// This process.
    pub(crate) fn own() -> Option<Self> {
        i32::try_from(std::process::id()).ok().and_then(Self::of)
    }

    /// Whether it still runs.
    pub(crate) fn runs(self) -> bool {
        let same_boot = |now: Self| self.boot.is_none() || now.boot.is_none() || self.boot == now.boot;
        Self::of(self.pid).is_some_and(|now| now.started == self.started && same_boot(now))
    }

    /// Signals it, if it still runs.
    pub(crate) fn signal(self, signal: Signal) -> Result<()> {
        if !self.runs() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("sending {signal} to {}", self.pid)),
        }
    }

    /// Waits until it runs no more; whether that was within `limit`.
    pub(crate) async fn gone_within(self, limit: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + limit;
        while self.runs() {
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }
}

impl Record {
    /// Of a data folder; empty where there is none.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        Ok(read_json(&root.join(FILE))?.unwrap_or_default())
    }

    /// Writes it whole or not at all.
    pub(crate) fn write(&self, root: &Path) -> Result<()> {
        write_json(&root.join(FILE), self)
    }
}

/// Reads a file as JSON; none where there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(
            serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))?,
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Writes a file of JSON, for its owner only, whole or not at all.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    let mut neighbour = path.as_os_str().to_owned();
    neighbour.push(".new");
    let neighbour = PathBuf::from(neighbour);
    let written = || -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&neighbour)?
            .write_all(&bytes)?;
        std::fs::rename(&neighbour, path)
    };
    written().with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_more_than_its_id() {
        let own = Known::own().unwrap();
        assert!(own.runs());
        assert!(
            !Known {
                started: own.started + 1,
                ..own
            }
            .runs()
        );
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let known = Known::of(i32::try_from(child.id()).unwrap());
        child.wait().unwrap();
        assert!(known.is_none_or(|known| !known.runs()));
    }

    #[test]
    fn a_process_of_another_boot_is_not_one_that_has_its_numbers_now() {
        let own = Known::own().unwrap();
        assert!(own.boot.is_some());
        let before = Known {
            boot: Some(Uuid::new_v4()),
            ..own
        };
        assert!(!before.runs());
        // A signal to it would end this test.
        before.signal(Signal::SIGKILL).unwrap();
        // As a version before wrote it.
        let text = format!(r#"{{"pid":{},"started":{}}}"#, own.pid, own.started);
        let former: Known = serde_json::from_str(&text).unwrap();
        assert!(former.runs());
    }

    #[test]
    fn what_is_written_is_read_and_is_nobody_elses() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        assert!(Record::read(dir.path()).unwrap().parts.is_empty());
        let mut record = Record::default();
        record.ports.insert(
            "api-1".into(),
            Ports {
                own: Some(4000),
                metrics: None,
            },
        );
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap().ports, record.ports);
        let meta = std::fs::metadata(dir.path().join(FILE)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    }
}
