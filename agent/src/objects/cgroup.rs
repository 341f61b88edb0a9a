//! Limits of a guest's process by control groups, of either version, where this machine lets us make them.
//!
//! A group of its own for each guest, directly below the hierarchy's root; it goes when the guest's process has. Where none can be
//! made guests run without, and the host's facts say so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What QEMU needs beside the guest's memory, MiB: its own, caches of the emulation, buffers.
const OVERHEAD_MIB: u64 = 384;
/// What QEMU needs beside a thread for each processor: monitor, I/O.
const OVERHEAD_THREADS: u32 = 160;
/// Period of the processor's quota, microseconds.
const PERIOD_US: u64 = 100_000;

/// How this machine's groups are laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// Version 2: one tree.
    Unified(PathBuf),
    /// Version 1: a tree for each controller.
    Split(PathBuf),
    /// None that we may write to.
    None,
}

/// What a guest may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) vcpus: u32,
    pub(crate) memory_mib: u32,
}

impl Limits {
    fn memory_bytes(self) -> u64 {
        (u64::from(self.memory_mib) + OVERHEAD_MIB) << 20
    }

    /// A guest's processors, and one more for QEMU's own work.
    fn quota_us(self) -> u64 {
        (u64::from(self.vcpus) + 1) * PERIOD_US
    }

    fn threads(self) -> u32 {
        self.vcpus + OVERHEAD_THREADS
    }

    /// Controller, file and value for version 1.
    fn split(self) -> [(&'static str, &'static str, String); 4] {
        [
            ("memory", "memory.limit_in_bytes", self.memory_bytes().to_string()),
            ("cpu", "cpu.cfs_period_us", PERIOD_US.to_string()),
            ("cpu", "cpu.cfs_quota_us", self.quota_us().to_string()),
            ("pids", "pids.max", self.threads().to_string()),
        ]
    }

    fn unified(self) -> [(&'static str, String); 3] {
        [
            ("memory.max", self.memory_bytes().to_string()),
            ("cpu.max", format!("{} {PERIOD_US}", self.quota_us())),
            ("pids.max", self.threads().to_string()),
        ]
    }
}

const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

impl Hierarchy {
    /// Tries what is mounted at `root` (`/sys/fs/cgroup`), with a group of this name that is made and removed.
    pub(crate) fn probe(root: &Path, name: &str) -> Self {
        let unified = Self::Unified(root.to_owned());
        let split = Self::Split(root.to_owned());
        let candidate = if root.join("cgroup.controllers").exists() {
            unified
        } else {
            split
        };
        let limits = Limits {
            vcpus: 1,
            memory_mib: 64,
        };
        let tried = candidate.make(name, limits);
        let removed = candidate.remove(name);
        match tried.and(removed) {
            Ok(()) => candidate,
            Err(error) => {
                tracing::info!(%error, "no control groups: guests run without limits of their processes");
                Self::None
            }
        }
    }

    /// The folders of a group.
    fn folders(&self, name: &str) -> Vec<PathBuf> {
        match self {
            Self::Unified(root) => vec![root.join(name)],
            Self::Split(root) => CONTROLLERS.iter().map(|c| root.join(c).join(name)).collect(),
            Self::None => Vec::new(),
        }
    }

    /// Makes a group with its limits.
    pub(crate) fn make(&self, name: &str, limits: Limits) -> io::Result<()> {
        for folder in self.folders(name) {
            match fs::create_dir(&folder) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                Ok(()) | Err(_) => {}
            }
        }
        match self {
            Self::Unified(root) => limits
                .unified()
                .iter()
                .try_for_each(|(file, value)| fs::write(root.join(name).join(file), value)),
            Self::Split(root) => limits.split().iter().try_for_each(|(controller, file, value)| {
                fs::write(root.join(controller).join(name).join(file), value)
            }),
            Self::None => Ok(()),
        }
    }

    /// Puts a process in it.
    pub(crate) fn enter(&self, name: &str, pid: i32) -> io::Result<()> {
        self.folders(name)
            .iter()
            .try_for_each(|f| fs::write(f.join("cgroup.procs"), pid.to_string()))
    }

    /// Removes it; one that isn't there is no error.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        for folder in self.folders(name) {
            match fs::remove_dir(&folder) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// As in the host's facts.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Unified(_) => "cgroup2",
            Self::Split(_) => "cgroup1",
            Self::None => "none",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_leave_room_for_qemu_itself() {
        let limits = Limits {
            vcpus: 2,
            memory_mib: 128,
        };
        assert_eq!(limits.unified()[1].1, "300000 100000");
        assert_eq!(limits.split()[0].2, ((128u64 + 384) << 20).to_string());
    }

    #[test]
    fn where_none_can_be_made_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Hierarchy::probe(dir.path(), "rhyzome-try"), Hierarchy::None);
    }
}
