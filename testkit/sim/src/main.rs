//! `rhyzome-sim`: runs schedules by seeds, on every core, and prints the seed of each that breaks something.

use anyhow::{Context, Result, bail};
use clap::Parser;
use rhyzome_sim::{Mutant, Schedule, schedule};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Simulates the whole path in one process, by seeds.
#[derive(Debug, Parser)]
#[command(name = "rhyzome-sim", version)]
struct Args {
    /// The first seed; with nothing else, only this one, with its trace.
    #[arg(long)]
    seed: Option<u64>,
    /// So many schedules, from the seed on.
    #[arg(long)]
    schedules: Option<u64>,
    /// For so many minutes, from the seed on.
    #[arg(long)]
    minutes: Option<f64>,
    /// With this rule taken away.
    #[arg(long, value_parser = mutant)]
    mutant: Option<Mutant>,
    /// How many at a time; as many as there are cores where left out.
    #[arg(long)]
    threads: Option<usize>,
    /// Ends after so many schedules that break something.
    #[arg(long, default_value_t = 3)]
    failures: usize,
}

fn mutant(text: &str) -> Result<Mutant, String> {
    Mutant::parse(text).ok_or_else(|| {
        let known: Vec<&str> = Mutant::ALL.iter().map(|m| m.as_str()).collect();
        format!("one of {}", known.join(", "))
    })
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.seed {
        Some(seed) if args.schedules.is_none() && args.minutes.is_none() => one(seed, args.mutant),
        Some(_) | None => many(&args),
    }
}

fn one(seed: u64, mutant: Option<Mutant>) -> Result<()> {
    let ran = schedule(seed, mutant).context("no runtime")?;
    for line in &ran.trace {
        println!("{line}");
    }
    println!(
        "seed {seed}: {} jobs in {} virtual seconds, trace {:016x}",
        ran.jobs,
        ran.took_ms / 1000,
        ran.hash
    );
    if ran.faults.is_empty() {
        return Ok(());
    }
    bail!("seed {seed}: {}", ran.faults.join("\n"))
}

fn many(args: &Args) -> Result<()> {
    let first = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let until = args
        .minutes
        .map(|m| Instant::now() + Duration::from_secs_f64(m * 60.0));
    let most = match (args.schedules, until) {
        (Some(most), _) => most,
        (None, Some(_)) => u64::MAX,
        (None, None) => 1_000,
    };
    let threads = args
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    println!("from seed {first} on, {threads} at a time");
    let begun = Instant::now();
    let (next, done, jobs) = (AtomicU64::new(0), AtomicU64::new(0), AtomicUsize::new(0));
    let failed: Mutex<Vec<Schedule>> = Mutex::default();
    let work = || -> Result<()> {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let over = until.is_some_and(|until| Instant::now() >= until);
            let mut broken = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if n >= most || over || broken.len() >= args.failures {
                return Ok(());
            }
            drop(broken);
            let ran = schedule(first.wrapping_add(n), args.mutant).context("no runtime")?;
            done.fetch_add(1, Ordering::Relaxed);
            jobs.fetch_add(ran.jobs, Ordering::Relaxed);
            if !ran.faults.is_empty() {
                println!("seed {}: {}", ran.seed, ran.faults.join("\n    "));
                broken = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                broken.push(ran);
            }
        }
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in all {
            match thread.join() {
                Ok(ended) => ended?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let done = done.into_inner();
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{done} schedules, {} jobs, {seconds:.1} s: {:.0} schedules a minute",
        jobs.into_inner(),
        done as f64 * 60.0 / seconds
    );
    let failed = failed
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    match failed.first() {
        None => Ok(()),
        Some(first) => {
            println!("the trace of seed {}:", first.seed);
            for line in &first.trace {
                println!("{line}");
            }
            let seeds: Vec<String> = failed.iter().map(|f| f.seed.to_string()).collect();
            bail!("broken: seeds {}; each runs again with --seed", seeds.join(", "))
        }
    }
}
