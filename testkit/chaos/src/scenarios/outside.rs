//! Faults from outside that need more than a signal: a ledger that is lost, hosts that are put back, a clock that jumps, real guests, a host that restarts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use rand::Rng;
use rand::seq::IndexedRandom;
use rhyzome_testkit::processes::send;
use sqlx::Row;

use super::meanwhile;
use crate::control::of_role;
use crate::run::Run;

/// An hour, as long as jobs have, ahead and behind; and less than certificates are made valid beforehand.
const JUMPS: [i64; 5] = [0, 3600, -240, -3600, 0];
/// How long a host may take to be greeted with its new epoch.
const GREETED: Duration = Duration::from_mins(1);

/// An agent stands still, its ledger is removed, and it is killed: it starts with a new one, under a higher epoch.
pub(super) async fn ledger_lost(run: &mut Run, until: Instant) -> Result<()> {
    loop {
        meanwhile(run, 1500, 4000).await;
        let agents = of_role(&run.stack, "agent");
        let Some(agent) = agents.choose(&mut run.dice) else {
            continue;
        };
        let before = epochs(run, &agent.name).await?;
        send(agent.pid, Signal::SIGSTOP);
        let removed = std::fs::remove_file(run.stack.data().join("agents").join(&agent.name).join("ledger"));
        send(agent.pid, Signal::SIGKILL);
        removed.context("removing a ledger")?;
        run.journal.did(&format!("{} lost its ledger", agent.name));
        let patience = Instant::now() + GREETED;
        while epochs(run, &agent.name).await? <= before {
            if Instant::now() > patience {
                run.journal.broken(
                    5,
                    &format!("{} lost its ledger, and its epoch is still {before}", agent.name),
                );
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if Instant::now() >= until {
            return Ok(());
        }
    }
}

/// The simulated hosts are put back to what they were seconds ago, with their agent's ledger: what was made since is gone, what was removed
/// is there again, and the agent knows of neither. They are to come right by themselves.
pub(super) async fn put_back(run: &mut Run, until: Instant) -> Result<()> {
    const FILES: [&str; 2] = ["ledger", "effects"];
    let folder = run.stack.data().join("agents").join("sim");
    loop {
        meanwhile(run, 1500, 4000).await;
        let agents = of_role(&run.stack, "agent");
        let Some(agent) = agents.iter().find(|agent| agent.name == "sim") else {
            continue;
        };
        let copy = |name: &str| folder.join(format!("{name}.copy"));
        send(agent.pid, Signal::SIGSTOP);
        let copied = FILES.map(|name| std::fs::copy(folder.join(name), copy(name)));
        send(agent.pid, Signal::SIGCONT);
        for copied in copied {
            copied.context("copying an agent's files")?;
        }
        meanwhile(run, 1500, 5000).await;
        let agents = of_role(&run.stack, "agent");
        let Some(agent) = agents.iter().find(|agent| agent.name == "sim") else {
            bail!("the agent of simulated hosts is gone");
        };
        run.history.leave_out(&copy("effects"))?;
        send(agent.pid, Signal::SIGSTOP);
        let renamed = FILES.map(|name| std::fs::rename(copy(name), folder.join(name)));
        send(agent.pid, Signal::SIGKILL);
        for renamed in renamed {
            renamed.context("putting an agent's files back")?;
        }
        run.journal.did("simulated hosts were put back");
        if Instant::now() >= until {
            return Ok(());
        }
    }
}

/// The lowest epoch of an agent's hosts.
async fn epochs(run: &Run, agent: &str) -> Result<i64> {
    let row = sqlx::query("SELECT min(epoch) FROM hosts WHERE name = $1 OR name LIKE $1 || '-_'")
        .bind(agent)
        .fetch_one(&run.db)
        .await?;
    Ok(row.try_get(0)?)
}

/// The agent's clock jumps, with that of a scheduler and a worker that are there beside the others.
pub(super) async fn clock(run: &mut Run) -> Result<()> {
    if run.clock.is_none() {
        println!("without clocks that jump: there is no libfaketime");
        return Ok(());
    }
    for role in ["scheduler", "worker"] {
        let other = clock_of(run)?.another(&run.stack, role)?;
        for off in JUMPS {
            clock_of(run)?.is_off_by(off)?;
            if off != 0 {
                run.journal
                    .did(&format!("a clock jumped to {off:+} s: agent and {role}"));
            }
            meanwhile(run, 2000, 4000).await;
        }
        other.end().await?;
    }
    Ok(())
}

fn clock_of(run: &Run) -> Result<&crate::clock::Clock> {
    run.clock.as_ref().context("there is no libfaketime")
}

/// Guests that come and go, while their agent is killed now and then.
pub(super) async fn real_guests(run: &mut Run, until: Instant) -> Result<()> {
    let Some(mut real) = run.real.take() else {
        return Ok(());
    };
    let mut played = Ok(());
    while played.is_ok() && Instant::now() < until {
        if run.dice.random_bool(0.5) {
            let agents = of_role(&run.stack, "agent");
            if let Some(agent) = agents.iter().find(|agent| agent.name == crate::real::HOST) {
                send(agent.pid, Signal::SIGKILL);
                run.journal.did("killed the agent of real guests");
            }
        }
        played = real.churn(&run.clients[0], &run.journal, &mut run.dice).await;
    }
    run.real = Some(real);
    played
}

/// All that runs on a real host is gone, its agent too: what should run runs again.
pub(super) async fn host_restart(run: &mut Run) -> Result<()> {
    let Some(real) = &mut run.real else {
        return Ok(());
    };
    real.restart_host(&run.stack)?;
    run.journal.did("a real host restarted");
    let back = real.back(&run.stack).await;
    if let Err(error) = &back {
        run.journal.broken(7, &format!("{error:#}"));
        bail!("a host didn't come back");
    }
    back
}
