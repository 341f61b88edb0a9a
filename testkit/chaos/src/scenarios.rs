//! What is broken, by name. Some break things at random while the load runs; some bring about one exact moment, alone.

mod exact;
mod outside;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;
use nix::sys::signal::Signal;
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rhyzome_runtime::fault::{Point, Side};
use rhyzome_testkit::faults::{Fault, FaultError};
use rhyzome_testkit::processes::send;

use crate::control::{self, Hit, of_role};
use crate::run::{ACK_WAIT, Run};

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Every fault point, before and after, one by one, while the load runs
    Points,
    /// SIGKILL of processes of every role
    Kills,
    /// SIGSTOP of each role for twice the ack wait
    Pauses,
    /// Postgres ends as after `-m immediate`
    Postgres,
    /// nats-server is killed
    Nats,
    /// nats-server is killed and its storage removed
    NatsWiped,
    /// The agent is killed, unreachable, back
    Agent,
    /// Steps fail in every way on simulated hosts, and crash their agent
    Steps,
    /// A worker is stopped with an order in its hands, across the undo of its job and until the agent has forgotten the job
    LateWorker,
    /// A scheduler aborts between an event's delivery and its commit
    SettleCrash,
    /// A create whose last step can't succeed is undone
    Permanent,
    /// A create whose last step is unavailable is tried again on its host
    Suspended,
    /// A create is refused twice by the one host that it can go to, and cancelled
    RefusedTwice,
    /// A scheduler aborts between its commit and the publishing of its orders
    Unpublished,
    /// A scheduler stands still in the middle of a transaction until others have done what there is to do
    Frozen,
    /// An agent is killed and its ledger removed
    LedgerLost,
    /// Simulated hosts, with their agent's ledger, are put back to an older copy of themselves
    PutBack,
    /// The clocks of an agent, a scheduler and a worker jump an hour ahead and back
    Clock,
    /// Real guests are created, cancelled and deleted while their agent is killed
    RealGuests,
    /// A real host restarts: its agent, its guests and its networks are gone at once
    HostRestart,
}

impl Scenario {
    /// All, those that take no load first.
    pub(crate) const ALL: [Self; 20] = [
        Self::Permanent,
        Self::Suspended,
        Self::RefusedTwice,
        Self::SettleCrash,
        Self::Unpublished,
        Self::LateWorker,
        Self::Frozen,
        Self::Points,
        Self::Kills,
        Self::Pauses,
        Self::Postgres,
        Self::Nats,
        Self::NatsWiped,
        Self::Agent,
        Self::Steps,
        Self::LedgerLost,
        Self::PutBack,
        Self::Clock,
        Self::RealGuests,
        Self::HostRestart,
    ];

    /// Its name on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Points => "points",
            Self::Kills => "kills",
            Self::Pauses => "pauses",
            Self::Postgres => "postgres",
            Self::Nats => "nats",
            Self::NatsWiped => "nats-wiped",
            Self::Agent => "agent",
            Self::Steps => "steps",
            Self::LateWorker => "late-worker",
            Self::SettleCrash => "settle-crash",
            Self::Permanent => "permanent",
            Self::Suspended => "suspended",
            Self::RefusedTwice => "refused-twice",
            Self::Unpublished => "unpublished",
            Self::Frozen => "frozen",
            Self::LedgerLost => "ledger-lost",
            Self::PutBack => "put-back",
            Self::Clock => "clock",
            Self::RealGuests => "real-guests",
            Self::HostRestart => "host-restart",
        }
    }

    /// Whether actors ask for things meanwhile.
    pub(crate) fn wants_load(self) -> bool {
        match self {
            Self::Points
            | Self::Kills
            | Self::Pauses
            | Self::Postgres
            | Self::Nats
            | Self::NatsWiped
            | Self::Agent
            | Self::Steps
            | Self::LedgerLost
            | Self::PutBack
            | Self::Clock
            | Self::RealGuests => true,
            Self::LateWorker
            | Self::SettleCrash
            | Self::Permanent
            | Self::Suspended
            | Self::RefusedTwice
            | Self::Unpublished
            | Self::Frozen
            | Self::HostRestart => false,
        }
    }

    /// Breaks things, until about then.
    pub(crate) async fn play(self, run: &mut Run, until: Instant) -> Result<()> {
        match self {
            Self::Points => points(run).await,
            Self::Kills => kills(run, until).await,
            Self::Pauses => pauses(run).await,
            Self::Postgres => postgres(run, until).await,
            Self::Nats => nats(run, until).await,
            Self::NatsWiped => nats_wiped(run, until).await,
            Self::Agent => agent(run, until).await,
            Self::Steps => steps(run, until).await,
            Self::LateWorker => exact::late_worker(run).await,
            Self::SettleCrash => exact::settle_crash(run).await,
            Self::Permanent => exact::permanent(run).await,
            Self::Suspended => exact::suspended(run).await,
            Self::RefusedTwice => exact::refused_twice(run).await,
            Self::Unpublished => exact::unpublished(run).await,
            Self::Frozen => exact::frozen(run).await,
            Self::LedgerLost => outside::ledger_lost(run, until).await,
            Self::PutBack => outside::put_back(run, until).await,
            Self::Clock => outside::clock(run).await,
            Self::RealGuests => outside::real_guests(run, until).await,
            Self::HostRestart => outside::host_restart(run).await,
        }
    }
}

/// The load goes on for a part of a second or for seconds.
async fn meanwhile(run: &mut Run, from_ms: u64, to_ms: u64) {
    let time = run.dice.random_range(from_ms..to_ms);
    tokio::time::sleep(Duration::from_millis(time)).await;
}

/// Each side of each act, in an order of the dice; the next once this one was hit.
async fn points(run: &mut Run) -> Result<()> {
    let mut all: Vec<(Point, Side)> = Point::ALL
        .into_iter()
        .flat_map(|point| Side::ALL.map(|side| (point, side)))
        .collect();
    all.shuffle(&mut run.dice);
    meanwhile(run, 1500, 2500).await;
    for (point, side) in all {
        let before = run.points.hits().len();
        // Now and then two processes in a row.
        let times = run.dice.random_range(1..3);
        run.points.arm(&[(point, side, times, 1.0, Hit::Abort)])?;
        // A part that dies often is started again only after a pause of up to ten seconds.
        let patience = Instant::now() + Duration::from_secs(20);
        while run.points.hits().len() == before && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if run.points.hits().len() == before {
            let what = format!("{} {} wasn't met in time", point.as_str(), side.as_str());
            run.journal.did(&what);
        }
        meanwhile(run, 200, 900).await;
    }
    Ok(())
}

const ROLES: [&str; 5] = ["api", "scheduler", "worker", "agent", "nats"];

async fn kills(run: &mut Run, until: Instant) -> Result<()> {
    while Instant::now() < until {
        meanwhile(run, 400, 2500).await;
        let Some(role) = ROLES.choose(&mut run.dice).copied() else {
            continue;
        };
        let processes = of_role(&run.stack, role);
        if let Some(process) = processes.choose(&mut run.dice) {
            send(process.pid, Signal::SIGKILL);
            run.journal.did(&format!("killed {role}"));
        }
    }
    Ok(())
}

/// Each role once; of those with several processes one.
async fn pauses(run: &mut Run) -> Result<()> {
    let mut roles = [&ROLES[..], &["postgres"]].concat();
    roles.shuffle(&mut run.dice);
    for role in roles {
        meanwhile(run, 300, 1500).await;
        let processes = of_role(&run.stack, role);
        if let Some(process) = processes.choose(&mut run.dice) {
            run.journal.did(&format!("paused {role}"));
            control::pause(process.pid, ACK_WAIT * 2).await;
        }
    }
    Ok(())
}

async fn postgres(run: &mut Run, until: Instant) -> Result<()> {
    while Instant::now() < until {
        meanwhile(run, 2000, 6000).await;
        control::crash_postgres(&run.stack);
        run.journal.did("crashed postgres");
    }
    Ok(())
}

async fn nats(run: &mut Run, until: Instant) -> Result<()> {
    while Instant::now() < until {
        meanwhile(run, 1500, 5000).await;
        for process in of_role(&run.stack, "nats") {
            send(process.pid, Signal::SIGKILL);
            run.journal.did("killed nats");
        }
    }
    Ok(())
}

async fn nats_wiped(run: &mut Run, until: Instant) -> Result<()> {
    while Instant::now() < until {
        meanwhile(run, 3000, 7000).await;
        control::wipe_nats(&run.stack)?;
        run.journal.did("wiped nats");
    }
    Ok(())
}

async fn agent(run: &mut Run, until: Instant) -> Result<()> {
    while Instant::now() < until {
        meanwhile(run, 500, 3000).await;
        let agents = of_role(&run.stack, "agent");
        let Some(process) = agents.choose(&mut run.dice) else {
            continue;
        };
        if run.dice.random_bool(0.5) {
            send(process.pid, Signal::SIGKILL);
            run.journal.did("killed agent");
        } else {
            // Longer than the silence after which it counts as unreachable.
            run.journal.did("agent unreachable");
            control::pause(process.pid, Duration::from_secs(10)).await;
        }
    }
    Ok(())
}

async fn steps(run: &mut Run, until: Instant) -> Result<()> {
    let kinds = [
        FaultError::Unavailable,
        FaultError::Busy,
        FaultError::Timeout,
        FaultError::Permanent,
        FaultError::NoRoom,
    ];
    let mut faults: Vec<Fault> = kinds.map(|kind| Fault::at("*").error(kind).rate(0.04)).into();
    faults.push(Fault::at("*").crash().rate(0.01));
    faults.push(Fault::at("*").crash().after().rate(0.01));
    faults.push(Fault::at("*").delay_ms(300).rate(0.2));
    faults.extend(kinds.map(|kind| Fault::at("undo_ensure_disk").error(kind).rate(0.05)));
    run.stack.faults().set(&faults);
    run.journal.did("steps fail at random");
    if until < Instant::now() {
        bail!("no time");
    }
    tokio::time::sleep_until(until.into()).await;
    Ok(())
}
