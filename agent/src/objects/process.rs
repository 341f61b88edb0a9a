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
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::process::Child;

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

/// Of a process that has this number and is no zombie. An error where that can't be told.
fn stat_of(pid: i32) -> io::Result<Option<Stat>> {
    let path = format!("/proc/{pid}/stat");
    let Some(text) = unless_gone(fs::read_to_string(&path))? else {
        return Ok(None);
    };
    let stat =
        parse_stat(&text).ok_or_else(|| io::Error::other(format!("{path} can't be read: {text:?}")))?;
    Ok(Some(stat).filter(|stat| !matches!(stat.state, 'Z' | 'X')))
}

/// What was read of a process in `/proc`; none where it has ended.
pub(crate) fn unless_gone<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(Errno::ESRCH as i32) => {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// The numbers of all processes of the machine.
pub(crate) fn all() -> io::Result<Vec<i32>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        all.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok()),
        );
    }
    Ok(all)
}

/// The first figure of a line of proc(5)'s `status`.
fn figure_of<T: FromStr>(status: &str, name: &str) -> Option<T> {
    let line = status.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Who a process is (its real user; proc(5)'s `status`); none where it has ended.
pub(crate) fn user_of(pid: i32) -> io::Result<Option<u32>> {
    let path = format!("/proc/{pid}/status");
    let Some(text) = unless_gone(fs::read_to_string(&path))? else {
        return Ok(None);
    };
    figure_of(&text, "Uid:")
        .map(Some)
        .ok_or_else(|| io::Error::other(format!("{path} doesn't say whose it is")))
}

/// The machine's present start. It is asked for once: it can't change while this process lives.
pub(crate) fn boot_id() -> io::Result<&'static str> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(id) = BOOT.get() {
        return Ok(id);
    }
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(BOOT.get_or_init(|| id.trim().to_owned()))
}

impl ProcessId {
    /// The process that has this number now; none where there is none.
    pub(crate) fn of(pid: i32) -> io::Result<Option<Self>> {
        let boot = boot_id()?;
        Ok(stat_of(pid)?.map(|stat| Self {
            pid,
            started: stat.started,
            boot: boot.to_owned(),
        }))
    }

    /// A program's that this agent has just started.
    pub(crate) fn of_child(child: &Child) -> io::Result<Self> {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let process = pid.map(Self::of).transpose()?.flatten();
        process.ok_or_else(|| io::Error::other("it ended at once"))
    }

    fn stat(&self) -> io::Result<Option<Stat>> {
        if boot_id()? != self.boot {
            return Ok(None);
        }
        Ok(stat_of(self.pid)?.filter(|stat| stat.started == self.started))
    }

    /// Whether it runs. One of which that can't be told does: nothing is begun in its place.
    pub(crate) fn is_alive(&self) -> bool {
        self.stat().map_or(true, |stat| stat.is_some())
    }

    /// Whether the machine was started again since.
    pub(crate) fn is_of_another_boot(&self) -> bool {
        boot_id().is_ok_and(|boot| boot != self.boot)
    }

    /// What it used so far; none once it has ended.
    pub(crate) fn figures(&self) -> Option<Figures> {
        let stat = self.stat().ok()??;
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let rss_kib: f64 = figure_of(&status, "VmRSS:").unwrap_or(0.0);
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
        self.stat().ok()??;
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
        if self.stat()?.is_none() {
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
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    #[test]
    fn a_name_with_parentheses_doesnt_confuse() {
        let text = "7 (a) b) R 1 2 3 4 5 6 7 8 9 10 11 12 0 0 20 0 1 0 4242 0 0";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.state, stat.cpu_ticks, stat.started), ('R', 23, 4242));
    }

    #[test]
    fn a_process_with_another_start_time_is_never_signalled() {
        let me = ProcessId::of(i32::try_from(std::process::id()).unwrap())
            .unwrap()
            .unwrap();
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
        let id = ProcessId::of(i32::try_from(child.id()).unwrap())
            .unwrap()
            .unwrap();
        child.kill().unwrap();
        assert!(id.ended_within(Duration::from_secs(10)).await);
        child.wait().unwrap();
    }

    /// Set in the process that the next test starts from itself: limits are a whole process'.
    const POOR: &str = "RHYZOME_TEST_NO_FILES";

    #[test]
    fn what_cant_be_told_is_taken_for_alive_and_not_signalled() {
        const THIS: &str = "objects::process::tests::what_cant_be_told_is_taken_for_alive_and_not_signalled";
        if std::env::var_os(POOR).is_none() {
            let ended = std::process::Command::new(std::env::current_exe().unwrap())
                .args([THIS, "--exact", "--nocapture"])
                .env(POOR, "1")
                .output()
                .unwrap();
            assert!(ended.status.success(), "{ended:?}");
            return;
        }
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(i32::try_from(child.id()).unwrap())
            .unwrap()
            .unwrap();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
        // It is gone, and that can't be read.
        child.kill().unwrap();
        child.wait().unwrap();
        let (alive, signalled, other) = (id.is_alive(), id.signal(Signal::SIGTERM), ProcessId::of(id.pid));
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        assert!(alive);
        assert_eq!(signalled.unwrap_err().raw_os_error(), Some(Errno::EMFILE as i32));
        assert!(other.is_err());
        assert!(!id.is_alive());
    }
}
