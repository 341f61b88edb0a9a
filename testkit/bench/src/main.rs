//! `rhyzome-bench`: how fast the whole path is, from the REST request to the end of its job, next to what this machine can do.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `args` | the command line |
//! | `stack` | the stack that is measured, brought down whatever happens |
//! | `rest` | an HTTP client that costs little |
//! | `load` | creates, one at a time and many at once, each seen to its end |
//! | `usage` | CPU time and memory by role |
//! | `scrape` | metrics of the stack's processes |
//! | `limits` | Postgres, JetStream, mTLS calls and fdatasync of this machine |
//! | `placements` | placements a second |
//! | `report` | the table and the JSON |
//!
//! It runs on one thread, to take little of the processors that it shares with the stack. What it uses itself is not counted.

mod args;
mod limits;
mod load;
mod placements;
mod report;
mod rest;
mod scrape;
mod stack;
mod usage;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::{Args, Measurement};
use crate::load::Load;
use crate::report::Figures;
use crate::stack::{Stack, StackFile};

/// What a process does at its start is over by then.
const IDLE_AFTER: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let args = Args::parse();
    rhyzome_runtime::install_crypto();
    match perform(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let figures = runtime.block_on(measured(args))?;
    println!("{}", figures.table());
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&figures.json())? + "\n";
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Measures all that is asked for; the stack is down afterwards, also where this is interrupted.
async fn measured(args: &Args) -> Result<Figures> {
    let mut figures = Figures::default();
    if args.wants(Measurement::Placements) {
        figures.placements = Some(placements::measure()?);
    }
    if !args.wants_stack() {
        return Ok(figures);
    }
    // From here on a signal waits until it is looked at: what `up` began is never left alone.
    let mut interrupts = interrupts()?;
    let mut stack = Stack::of(args)?;
    let outcome = tokio::select! {
        biased;
        () = interrupted(&mut interrupts) => None,
        outcome = on_stack(args, &stack, &mut figures) => Some(outcome),
    };
    if matches!(outcome, Some(Err(_))) {
        stack.keep_logs();
    }
    let ended = stack.end();
    outcome.unwrap_or_else(|| Err(anyhow!("interrupted")))?;
    ended?;
    Ok(figures)
}

async fn on_stack(args: &Args, stack: &Stack, figures: &mut Figures) -> Result<()> {
    let file = stack.file()?;
    tokio::time::sleep(IDLE_AFTER).await;
    figures.idle = Some(usage::sample(&file)?);
    if args.profile {
        tell_processes(&file, stack);
    }
    if args.wants(Measurement::Limits) {
        figures.limits = Some(limits::measure(&file, args.postgres_bin.as_deref()).await?);
    }
    if !args.wants(Measurement::Alone) && !args.wants(Measurement::RestToDone) {
        return Ok(());
    }
    let load = Load::prepare(&file, stack.token()?, args.networks).await?;
    if args.wants(Measurement::Alone) {
        figures.alone = Some(load.alone(args.alone).await?);
    }
    if args.wants(Measurement::RestToDone) {
        figures.burst = Some(load.burst(&file, args).await?);
    }
    Ok(())
}

fn tell_processes(file: &StackFile, stack: &Stack) {
    for process in &file.processes {
        eprintln!("{:>8}  {:<12} {}", process.pid, process.role, process.name);
    }
    let data = stack.data().display();
    eprintln!(
        "the stack stays: `rhyzome-bench --on {data}` measures it again, `rhyzome down --data {data}` ends it; logs in {}",
        file.log_dir.display()
    );
}

fn interrupts() -> Result<[Signal; 3]> {
    let listen = |kind| signal(kind).context("listening for signals");
    Ok([
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
        listen(SignalKind::hangup())?,
    ])
}

async fn interrupted(signals: &mut [Signal; 3]) {
    let [interrupt, terminate, hangup] = signals;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}
