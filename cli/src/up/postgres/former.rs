//! The server that a folder had before.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

use crate::up::layout::remove;

/// How long it may take to end.
const FORMER_ENDS: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// A server whose stack was killed is still on its way out: the data folder is its until it is gone. One that is dead, and whom nobody
/// has reaped yet, holds it no more, though its number still looks taken to Postgres.
pub(super) async fn wait_for_former(data: &Path) -> Result<()> {
    let deadline = Instant::now() + FORMER_ENDS;
    loop {
        match former(data) {
            Former::None => return Ok(()),
            Former::Unreaped => return remove(&data.join("postmaster.pid")),
            Former::Lives(pid) if Instant::now() >= deadline => {
                bail!("a former Postgres (process {pid}) still holds {}", data.display());
            }
            Former::Lives(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Who the lock file names.
enum Former {
    /// Nobody, or a process that has nothing to do with this folder: Postgres judges by itself.
    None,
    /// A process that has ended, and is not reaped.
    Unreaped,
    /// A Postgres on this folder.
    Lives(u32),
}

fn former(data: &Path) -> Former {
    let Ok(lock) = std::fs::read_to_string(data.join("postmaster.pid")) else {
        return Former::None;
    };
    let Some(pid) = lock
        .lines()
        .next()
        .and_then(|line| line.trim().parse::<u32>().ok())
    else {
        return Former::None;
    };
    // proc(5): the state stands behind the name, which ends with the last parenthesis.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .next();
    if state == Some("Z") {
        return Former::Unreaped;
    }
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let folder = data.as_os_str().as_encoded_bytes();
    if line.split(|b| *b == 0).any(|word| word == folder) {
        Former::Lives(pid)
    } else {
        Former::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::{Command, Stdio};

    #[tokio::test]
    async fn others_go_on_while_a_former_server_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        // Any process on the folder; it ends with its input. Before its program has begun, the kernel shows no arguments: it says a word.
        let mut former = Command::new("sh")
            .args(["-c", "echo; read -r _; exit", "sh"])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        former.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        std::fs::write(dir.path().join("postmaster.pid"), former.id().to_string()).unwrap();
        let of_others = async {
            drop(former.stdin.take());
            tokio::task::yield_now().await;
        };
        // The wait first; on the one thread that there is.
        let (waited, ()) = tokio::join!(wait_for_former(dir.path()), of_others);
        waited.unwrap();
        former.wait().unwrap();
    }
}
