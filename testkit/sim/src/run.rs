//! A schedule, from its seed to its end: users ask, things go wrong, all is well again, rest, checks.

use crate::books::Books;
use crate::clock::at;
use crate::host::Host;
use crate::mutant::Mutant;
use crate::odds::Odds;
use crate::sim::Sim;
use crate::{check, lock, past, rest, scheduler, sweep, users, watch, worker};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use rhyzome_model::ids::{HostName, TenantId};
use rhyzome_model::kinds::Demand;
use std::sync::Arc;
use uuid::Uuid;

/// How long a schedule may take to come to rest once all is well, milliseconds. Deadlines are up to 90 s, and a process may stand
/// still for as long.
const REST_MS: i64 = 400_000;

/// What a schedule came to.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Its seed.
    pub seed: u64,
    /// What is broken; the invariants' numbers come first.
    pub faults: Vec<String>,
    /// What happened.
    pub trace: Vec<String>,
    /// Of the trace.
    pub hash: u64,
    /// How many jobs there were.
    pub jobs: usize,
    /// Virtual milliseconds.
    pub took_ms: i64,
}

/// Runs the schedule of a seed.
///
/// # Errors
/// There is no runtime to be had.
pub fn schedule(seed: u64, mutant: Option<Mutant>) -> std::io::Result<Schedule> {
    // One thread, and the main task's turn only when nobody else has one: the order of everything follows from the seed.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .event_interval(1_000_000)
        .build()?;
    let mut dice = StdRng::seed_from_u64(seed);
    let odds = Odds::draw(&mut dice);
    let sim = runtime.block_on(run(odds, dice, mutant));
    // Who is in the middle of something is dropped, and with them their hold of the simulation.
    drop(runtime);
    let (faults, trace, hash) = sim.results();
    Ok(Schedule {
        seed,
        faults,
        trace,
        hash,
        jobs: lock(&sim.books).jobs.len(),
        took_ms: sim.clock.now_ms() - crate::clock::BEGIN_MS,
    })
}

async fn run(odds: Odds, mut dice: StdRng, mutant: Option<Mutant>) -> Arc<Sim> {
    let tenants = vec![TenantId::from("a"), TenantId::from("b")];
    let offered = |vcpus: i64| Demand {
        vcpus,
        memory_mib: vcpus * 1024,
        disk_gib: vcpus * 10,
    };
    let rows = [("h1", 6), ("h2", 6), ("h3", 4)].map(|(name, vcpus)| (HostName::from(name), offered(vcpus)));
    let hosts = rows
        .iter()
        .map(|(name, offered)| {
            let mut id = [0; 16];
            dice.fill_bytes(&mut id);
            (
                name.clone(),
                Arc::new(Host::new(name.clone(), *offered, Uuid::from_bytes(id))),
            )
        })
        .collect();
    let busy_ms = odds.busy_s as i64 * 1_000;
    let mut books = Books::new(scheduler::config().tenant_running_cap, &rows, &tenants);
    books.mutant = mutant;
    let sim = Arc::new(Sim::new(odds, dice, mutant, books, hosts));
    sim.say(format_args!("{:?}", sim.odds()));
    begin(&sim, tenants);
    let heal_at = sim.clock.now_ms() + busy_ms;
    let mut rest_at = None;
    loop {
        turn(&sim).await;
        let now_ms = sim.clock.now_ms();
        if sim.is_broken() {
            return sim;
        }
        if now_ms >= heal_at && !sim.is_healed() {
            sim.heal();
        }
        if sim.is_healed() {
            if rest::is_at_rest(&sim, at(heal_at)) {
                // A little longer: what comes late comes now.
                if now_ms >= *rest_at.get_or_insert(now_ms + 2_000) {
                    break;
                }
            } else {
                rest_at = None;
                if now_ms > heal_at + REST_MS {
                    rest::unrest(&sim);
                    return sim;
                }
            }
        }
        if !sim.clock.advance() {
            sim.broken("1: nobody has anything left to do".into());
            return sim;
        }
    }
    let looking = sim.clone();
    let last_look = tokio::spawn(async move { rest::check(&looking).await });
    while !last_look.is_finished() && sim.clock.advance() {
        turn(&sim).await;
    }
    if !last_look.is_finished() || last_look.await.is_err() {
        sim.broken("the last look didn't come to its end".into());
    }
    sim
}

/// All who can go on do.
async fn turn(sim: &Sim) {
    tokio::task::yield_now().await;
    for host in sim.hosts.values() {
        host.look_at_ledger();
    }
}

fn begin(sim: &Arc<Sim>, tenants: Vec<TenantId>) {
    for host in sim.hosts.values() {
        host.begin(sim);
        spawn(sim, host.clone().disk(sim.clone()));
        spawn(sim, watch::watch(sim.clone(), host.clone()));
        spawn(sim, watch::inventories(sim.clone(), host.clone()));
    }
    for name in ["worker-1", "worker-2", "worker-3", "worker-4", "worker-5"] {
        spawn(sim, worker::slot(sim.clone(), name));
    }
    for name in ["scheduler-1", "scheduler-2"] {
        spawn(sim, scheduler::dispatch(sim.clone(), name));
        spawn(sim, scheduler::settle(sim.clone(), name));
        spawn(sim, sweep::sweep(sim.clone(), name));
        spawn(sim, check::check(sim.clone(), name));
    }
    spawn(sim, users::ask(sim.clone(), tenants));
    spawn(sim, users::partitions(sim.clone()));
    spawn(sim, users::losses(sim.clone()));
    spawn(sim, past::put_back(sim.clone()));
    spawn(sim, past::lose(sim.clone()));
}

/// A part of the simulation; that it panics is a fault too.
fn spawn(sim: &Arc<Sim>, part: impl Future<Output = ()> + Send + 'static) {
    let (sim, task) = (sim.clone(), tokio::spawn(part));
    tokio::spawn(async move {
        if let Err(error) = task.await
            && error.is_panic()
        {
            sim.broken(format!("a part panicked: {error}"));
        }
    });
}
