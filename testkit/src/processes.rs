//! Breaking a stack's processes from outside: kill, stop, continue; by role and name as in `stack.json`.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::patience::eventually_blocking;
use crate::stack::{ProcessEntry, Stack};

impl Stack {
    /// The first process of a role.
    ///
    /// # Panics
    /// Where there is none.
    pub fn process(&self, role: &str) -> ProcessEntry {
        let found = self
            .file()
            .processes
            .into_iter()
            .find(|process| process.role == role);
        found.unwrap_or_else(|| panic!("stack.json has no process of the role {role}"))
    }

    /// All processes of a role.
    pub fn processes(&self, role: &str) -> Vec<ProcessEntry> {
        let mut all = self.file().processes;
        all.retain(|process| process.role == role);
        all
    }

    /// SIGKILL to all processes of a role; who they were.
    pub fn kill_role(&self, role: &str) -> Vec<ProcessEntry> {
        let killed = self.processes(role);
        assert!(!killed.is_empty(), "stack.json has no process of the role {role}");
        for process in &killed {
            send(process.pid, Signal::SIGKILL);
        }
        killed
    }

    /// Waits until the stack has started the process again: another id under the same role and name, and it is ready.
    pub fn wait_restarted(&self, before: &ProcessEntry) -> ProcessEntry {
        eventually_blocking(
            &format!("{} {} to be started again", before.role, before.name),
            || {
                self.file()
                    .processes
                    .into_iter()
                    .find(|now| now.role == before.role && now.name == before.name && now.pid != before.pid)
                    .filter(|now| is_alive(now.pid))
            },
        )
    }
}

/// Sends a signal; that the process is gone already is fine.
///
/// # Panics
/// Where the process is somebody else's.
pub fn send(pid: i32, signal: Signal) {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => panic!("sending {signal} to {pid}: {error}"),
    }
}

/// Whether the process is there and hasn't ended: one that waits to be collected is gone.
pub fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| {
            stat.rsplit_once(')')
                .map(|(_, rest)| rest.trim_start().to_owned())
        })
        .is_some_and(|rest| !rest.starts_with(['Z', 'X']))
}

/// A process that is stopped until this is dropped.
#[derive(Debug)]
pub struct Paused(i32);

impl Paused {
    /// SIGSTOP.
    pub fn new(pid: i32) -> Self {
        send(pid, Signal::SIGSTOP);
        Self(pid)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        send(self.0, Signal::SIGCONT);
    }
}
