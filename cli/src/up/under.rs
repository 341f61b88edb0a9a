//! How a part ends with the process that started it, even where that is killed: the kernel signals it (prctl(2), `PR_SET_PDEATHSIG`).
//!
//! Our own roles ask for it themselves (`--end-with-parent`). Others are run by `rhyzome under`, which becomes another user first, if
//! asked to (a change of user forgets the signal), and then the program.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{User, getppid, initgroups, setgid, setuid};

use crate::args::UnderArgs;

/// Becomes the program; returns only if it can't.
pub(crate) fn run(args: &UnderArgs) -> Result<()> {
    let signal = Signal::from_str(&args.signal).with_context(|| format!("--signal {}", args.signal))?;
    if let Some(name) = &args.user {
        let user = User::from_name(name)?.with_context(|| format!("there is no user {name}"))?;
        let c_name = std::ffi::CString::new(name.as_bytes())?;
        initgroups(&c_name, user.gid).context("taking the user's groups")?;
        setgid(user.gid).context("taking the user's group")?;
        setuid(user.uid).with_context(|| format!("becoming {name}"))?;
    }
    tie(args.parent, signal)?;
    let (program, rest) = args.program.split_first().context("no program")?;
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}

/// For our own roles: SIGTERM once the parent is gone.
pub(crate) fn end_with_parent(parent: Option<i32>) -> Result<()> {
    parent.map_or(Ok(()), |parent| tie(parent, Signal::SIGTERM))
}

fn tie(parent: i32, signal: Signal) -> Result<()> {
    set_pdeathsig(signal).context("tying this process to its parent")?;
    if getppid().as_raw() != parent {
        bail!("the process {parent}, whose part this is, is gone already");
    }
    Ok(())
}
