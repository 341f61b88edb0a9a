//! Everything in order until nothing is left: who takes requests first, then who works on them, the agents, their guests, and what all
//! stood on.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use super::keep::{Kept, say};
use super::layout::{LOCAL_HOST, Layout};
use super::parts::{Kind, stop_guests};
use super::record::Record;

/// Guests get their time to go off (`instance.stop_timeout`), and some more.
const GUESTS_WITHIN: Duration = Duration::from_mins(5);
/// What an earlier stack left over gets before it is killed.
const LEFT_OVER_WITHIN: Duration = Duration::from_secs(8);

/// Stops all parts, and guests unless they are to stay.
pub(crate) async fn all(layout: &Layout, mut kept: Vec<Kept>) -> Result<()> {
    for stage in [
        &[Kind::Api][..],
        &[Kind::Worker],
        &[Kind::Scheduler],
        &[Kind::LocalAgent, Kind::SimulatedAgent],
    ] {
        stage_of(&mut kept, stage).await;
    }
    let guests = if layout.keep_guests().exists() {
        Ok(())
    } else {
        guests(layout).await
    };
    for stage in [&[Kind::DevIssuer][..], &[Kind::Nats], &[Kind::Postgres]] {
        stage_of(&mut kept, stage).await;
    }
    guests
}

async fn stage_of(kept: &mut Vec<Kept>, kinds: &[Kind]) {
    let (now, later): (Vec<Kept>, Vec<Kept>) =
        kept.drain(..).partition(|kept| kinds.contains(&kept.part.kind));
    *kept = later;
    let mut stopping: JoinSet<()> = now.into_iter().map(Kept::stop).collect();
    while stopping.join_next().await.is_some() {}
}

/// Stops the guests of this machine's host, whose agent must be gone: ACPI, then off; their networks go too.
pub(crate) async fn guests(layout: &Layout) -> Result<()> {
    if !layout.agent(LOCAL_HOST).is_dir() || !layout.config().is_file() {
        return Ok(());
    }
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(layout.log(LOCAL_HOST))?;
    let mut child = stop_guests(layout)?
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("starting to stop the guests")?;
    let status = tokio::time::timeout(GUESTS_WITHIN, child.wait())
        .await
        .with_context(|| format!("the guests didn't stop within {} s", GUESTS_WITHIN.as_secs()))??;
    if !status.success() {
        bail!(
            "stopping the guests ended with {status}; the log: {}",
            layout.log(LOCAL_HOST).display()
        );
    }
    Ok(())
}

/// Ends the processes that a killed stack left over; answers what it wrote down.
pub(crate) async fn left_over(layout: &Layout) -> Result<Record> {
    let record = Record::read(layout.root())?;
    let alive: Vec<_> = record.parts.iter().filter(|(_, known)| known.runs()).collect();
    for (name, known) in &alive {
        say(&format!(
            "{name} (process {}) is left over from an earlier stack: it is ended",
            known.pid
        ));
        let signal = if name.as_str() == Kind::Postgres.role() {
            Signal::SIGINT
        } else {
            Signal::SIGTERM
        };
        known.signal(signal)?;
    }
    for (name, known) in &alive {
        if !known.gone_within(LEFT_OVER_WITHIN).await {
            known.signal(Signal::SIGKILL)?;
            if !known.gone_within(LEFT_OVER_WITHIN).await {
                bail!(
                    "{name} (process {}) of an earlier stack can't be ended",
                    known.pid
                );
            }
        }
    }
    Ok(record)
}
