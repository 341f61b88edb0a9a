//! `rhyzome down`: asks the stack's process to end, and waits for it; clears up behind one that was killed.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::layout::Layout;
use super::record::Record;
use super::{begin, stop};
use crate::args::{Configured, DownArgs};

/// Guests may take their time, and each part a grace period.
const ENDED_WITHIN: Duration = Duration::from_mins(7);
const LOOK: Duration = Duration::from_millis(100);

/// Performs it.
pub(crate) async fn run(_: &Configured, args: &DownArgs) -> Result<()> {
    if !args.data.is_dir() {
        println!("there is no stack in {}", args.data.display());
        return Ok(());
    }
    let layout = Layout::of(&args.data)?;
    if args.keep_guests {
        std::fs::create_dir_all(layout.run())?;
        std::fs::write(layout.keep_guests(), "").context("saying that guests are to stay")?;
    } else {
        super::layout::remove(&layout.keep_guests())?;
    }
    match begin::lock(&layout) {
        Ok(_lock) => behind(&layout, args).await,
        Err(_) => ask(&layout).await,
    }
}

/// The stack's process was killed, or ended: what it left over is ended here.
async fn behind(layout: &Layout, args: &DownArgs) -> Result<()> {
    let record = stop::left_over(layout).await?;
    if !args.keep_guests {
        stop::guests(layout).await?;
    }
    Record {
        supervisor: None,
        parts: std::collections::BTreeMap::new(),
        ..record
    }
    .write(layout.root())?;
    println!("no stack runs in {}", layout.root().display());
    Ok(())
}

async fn ask(layout: &Layout) -> Result<()> {
    let supervisor = Record::read(layout.root())?
        .supervisor
        .filter(|known| known.runs())
        .context("a stack holds the data folder's lock, and doesn't say which process it is: it begins or ends; try again")?;
    let mut log = Follow::from_end(&layout.log("up"));
    supervisor.signal(Signal::SIGTERM)?;
    let deadline = tokio::time::Instant::now() + ENDED_WITHIN;
    while supervisor.runs() {
        log.print_new()?;
        if tokio::time::Instant::now() >= deadline {
            bail!(
                "the stack (process {}) didn't end within {} s",
                supervisor.pid,
                ENDED_WITHIN.as_secs()
            );
        }
        tokio::time::sleep(LOOK).await;
    }
    log.print_new()?;
    if Record::read(layout.root())?.supervisor.is_some() {
        bail!(
            "the stack did not end in good order; its logs are in {}",
            layout.logs().display()
        );
    }
    println!("the stack in {} is down", layout.root().display());
    Ok(())
}

/// Prints what is added to a log.
pub(crate) struct Follow {
    file: Option<std::fs::File>,
}

impl Follow {
    /// What is added from now on; nothing where there is no such file.
    pub(crate) fn from_end(path: &Path) -> Self {
        let opened = std::fs::File::open(path).and_then(|mut file| file.seek(SeekFrom::End(0)).map(|_| file));
        Self { file: opened.ok() }
    }

    /// Prints what came since.
    pub(crate) fn print_new(&mut self) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut out = std::io::stdout().lock();
        out.write_all(&bytes)?;
        out.flush()?;
        Ok(())
    }
}
