//! A process that outlives the agent, known by its pid and the time it was started.
//!
//! A pid alone can be given to somebody else: nothing here signals a process whose start time isn't the recorded one. A zombie
//! is no process.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Clock ticks a second in `/proc`: fixed at 100 on Linux (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Which process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// Its number.
    pub(crate) pid: i32,
    /// Clock ticks after the machine's start; field 22 of proc(5)'s `stat`.
    pub(crate) started: u64,
    /// The machine's start that this counts from.
    pub(crate) boot: String,
}

/// Figures of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    pub(crate) cpu_seconds: f64,
    pub(crate) memory_rss_mib: f64,
    pub(crate) uptime_seconds: f64,
}

struct Stat {
    state: char,
    cpu_ticks: u64,
    started: u64,
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The command's name may hold blanks and parentheses: the fields begin after the last one.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        cpu_ticks: fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

fn stat_of(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The machine's present start.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|s| s.trim().to_owned())
        .unwrap_or_default()
}

impl ProcessId {
    /// The process that has this number now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = stat_of(pid)?;
        (!matches!(stat.state, 'Z' | 'X')).then(|| Self {
            pid,
            started: stat.started,
            boot: boot_id(),
        })
    }

    fn stat(&self) -> Option<Stat> {
        let stat = stat_of(self.pid)?;
        (stat.started == self.started && !matches!(stat.state, 'Z' | 'X') && boot_id() == self.boot)
            .then_some(stat)
    }

    /// Whether it runs.
    pub(crate) fn is_alive(&self) -> bool {
        self.stat().is_some()
    }

    /// Whether the machine was started again since.
    pub(crate) fn is_of_another_boot(&self) -> bool {
        boot_id() != self.boot
    }

    /// What it used so far; none once it has ended.
    pub(crate) fn figures(&self) -> Option<Figures> {
        let stat = self.stat()?;
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let rss_kib: f64 = status
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:"))
            .and_then(|v| v.split_whitespace().next()?.parse().ok())
            .unwrap_or(0.0);
        Some(Figures {
            cpu_seconds: stat.cpu_ticks as f64 / TICKS_PER_SECOND,
            memory_rss_mib: rss_kib / 1024.0,
            uptime_seconds: self.age_seconds(),
        })
    }

    /// Seconds since it was started, whether it still runs or not.
    pub(crate) fn age_seconds(&self) -> f64 {
        let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let now: f64 = text
            .split_whitespace()
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0.0);
        (now - self.started as f64 / TICKS_PER_SECOND).max(0.0)
    }

    /// The command's name (`comm`).
    pub(crate) fn command(&self) -> Option<String> {
        self.stat()?;
        fs::read_to_string(self.proc("comm"))
            .ok()
            .map(|s| s.trim().to_owned())
    }

    /// A file of it in `/proc`.
    pub(crate) fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid))
    }

    /// Sends a signal, if it is still the same process.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits until it has ended; `false` when the time is up before.
    pub(crate) async fn ended_within(&self, within: Duration) -> bool {
        let until = tokio::time::Instant::now() + within;
        let mut pause = Duration::from_millis(2);
        while self.is_alive() {
            if tokio::time::Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        true
    }

    /// Ends it: asked first, then cut off. An error where it can't be signalled or doesn't go.
    pub(crate) async fn end(&self, grace: Duration) -> io::Result<()> {
        self.signal(Signal::SIGTERM)?;
        if self.ended_within(grace).await {
            return Ok(());
        }
        self.signal(Signal::SIGKILL)?;
        if self.ended_within(Duration::from_secs(10)).await {
            return Ok(());
        }
        Err(io::Error::other(format!("process {} doesn't end", self.pid)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_doesnt_confuse() {
        let text = "7 (a) b) R 1 2 3 4 5 6 7 8 9 10 11 12 0 0 20 0 1 0 4242 0 0";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.state, stat.cpu_ticks, stat.started), ('R', 23, 4242));
    }

    #[test]
    fn a_process_with_another_start_time_is_never_signalled() {
        let me = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.is_alive());
        let other = ProcessId {
            started: me.started + 1,
            ..me
        };
        assert!(!other.is_alive());
        other.signal(Signal::SIGKILL).unwrap();
    }

    #[tokio::test]
    async fn a_zombie_has_ended() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(i32::try_from(child.id()).unwrap()).unwrap();
        child.kill().unwrap();
        assert!(id.ended_within(Duration::from_secs(10)).await);
        child.wait().unwrap();
    }
}
