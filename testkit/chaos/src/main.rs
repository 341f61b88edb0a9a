//! `rhyzome-chaos`: the proof of the job protocol on a whole stack of real processes.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `args` | the command line |
//! | `run` | a stack, and scenario after scenario: break, heal, come to rest, check |
//! | `scenarios` | what is broken, by name |
//! | `mutants` | which scenario finds out which rule that was taken away |
//! | `load` | actors that ask for what users ask for |
//! | `client` | REST, asked until there is an answer |
//! | `control` | fault points, signals |
//! | `clock` | clocks that jump |
//! | `real` | real guests beside the simulated hosts |
//! | `watcher` | what must hold at every instant |
//! | `check` | what must hold at rest |
//! | `effects` | every effect that simulated hosts ever saw |
//! | `logs` | ERROR and WARN lines |
//! | `journal`, `summary` | what was seen, and how it is told and kept |

mod args;
mod check;
mod client;
mod clock;
mod control;
mod effects;
mod followers;
mod journal;
mod load;
mod logs;
mod mutants;
mod real;
mod run;
mod scenarios;
mod summary;
mod watcher;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use rhyzome_runtime::fault::Mutant;

use crate::args::Args;
use crate::run::{Keep, Run};
use crate::scenarios::Scenario;

/// Jobs of one tenant that may run at once: few, so that the cap is reached.
pub(crate) const CAP: i32 = 8;
/// How long one scenario breaks things, at most.
const TURN: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    println!("seed {seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime");
    let outcome = runtime.and_then(|runtime| {
        runtime.block_on(async {
            if args.mutants {
                mutants::each(&Mutant::ALL, seed).await
            } else if !args.mutant.is_empty() {
                mutants::each(&args.mutant, seed).await
            } else {
                chaos(&args, seed).await
            }
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn chaos(args: &Args, seed: u64) -> Result<()> {
    let chosen = if args.scenario.is_empty() {
        Scenario::ALL.to_vec()
    } else {
        args.scenario.clone()
    };
    let whole = Duration::from_secs_f64(args.minutes * 60.0);
    let turn = TURN.min(whole / u32::try_from(chosen.len())?);
    let mut run = Run::start(seed, None).await?;
    let played = rounds(&mut run, &chosen, turn, Instant::now() + whole).await;
    if played.is_ok() && args.scenario.is_empty() {
        run.every_point_was_hit();
    }
    run.end(played, Keep::WhereBroken, args.json.as_deref()).await
}

/// Each scenario once, and again while there is time.
async fn rounds(run: &mut Run, chosen: &[Scenario], turn: Duration, until: Instant) -> Result<()> {
    loop {
        for scenario in chosen {
            run.scenario(*scenario, turn)
                .await
                .with_context(|| format!("scenario {}", scenario.as_str()))?;
        }
        if Instant::now() >= until {
            return Ok(());
        }
    }
}
