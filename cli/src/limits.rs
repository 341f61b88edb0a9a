//! What the machine lets a process have.

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// As many open files as are allowed: each caller that waits, each host and each guest is one, and what most machines give at first is
/// 1,024.
pub(crate) fn raise_open_files() -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("asking for the limit of open files")?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising the limit of open files")?;
    }
    Ok(())
}
