//! `up --detach`: starts the process that stays, shows what it says, and returns when all is ready.

use std::fs::OpenOptions;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::down::Follow;
use super::layout::Layout;
use super::{begin, layout};
use crate::args::UpArgs;

const LOOK: Duration = Duration::from_millis(50);

/// Performs it.
pub(crate) fn run(args: &UpArgs) -> Result<()> {
    let layout = Layout::make(&args.data)?;
    // Only to say at once that a stack runs here; the process that stays takes it for itself.
    drop(begin::lock(&layout)?);
    layout::remove(&layout.ready(begin::READY))?;
    let path = layout.log("up");
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    let mut said = Follow::from_end(&path);
    let arguments = std::env::args_os()
        .skip(1)
        .filter(|argument| argument != "--detach");
    let mut child = Command::new(std::env::current_exe().context("finding this program")?)
        .args(arguments)
        .arg("--stays")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting the process that stays")?;
    loop {
        said.print_new()?;
        if layout.ready(begin::READY).exists() {
            said.print_new()?;
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            said.print_new()?;
            bail!("the stack did not start ({status}); its log: {}", path.display());
        }
        std::thread::sleep(LOOK);
    }
}
