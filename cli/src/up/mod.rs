//! `rhyzome up` and `down`: the whole stack on one machine, each part a process of its own, as in production.
//!
//! - [`layout`]: what lies where in the data folder.
//! - [`stack`]: `stack.json`, for scripts; [`record`]: what a later `up` or `down` needs to know of this one.
//! - [`parts`]: what runs, and by which command line; [`postgres`], [`nats`]: the two that aren't ours; [`private`]: files of ours where
//!   anybody may put some.
//! - [`keep`]: one task owns each part: starts it, sees it ready, restarts it, stops it. [`board`]: what they know together.
//! - [`begin`]: everything in order until all is ready; [`bootstrap`]: tenants, issuers, hosts, the image.
//! - [`stop`]: everything in order until nothing is left; [`down`]: the command that asks for it.
//! - [`detach`]: the process that stays; [`under`]: how a part ends with it, even where it is killed.

pub(crate) mod begin;
pub(crate) mod board;
pub(crate) mod bootstrap;
pub(crate) mod detach;
pub(crate) mod down;
pub(crate) mod image;
pub(crate) mod keep;
pub(crate) mod layout;
pub(crate) mod nats;
pub(crate) mod parts;
pub(crate) mod postgres;
pub(crate) mod private;
pub(crate) mod record;
pub(crate) mod stack;
pub(crate) mod stop;
pub(crate) mod under;

use anyhow::{Context, Result};

use crate::args::{Configured, UpArgs};

/// `rhyzome up`. One thread only: a part ends with the thread that started it (see [`under`]).
pub(crate) fn run(configured: &Configured, args: &UpArgs) -> Result<()> {
    if args.detach && !args.stays {
        return detach::run(args);
    }
    if args.stays {
        nix::unistd::setsid().context("leaving the terminal")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(begin::run(configured, args))
}
