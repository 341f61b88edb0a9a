//! A scheduler's sweep: lost orders by the product's look-out, orders that were given up, deadlines.

use crate::bus::Presence;
use crate::lock;
use crate::mutant::Mutant;
use crate::rig::short;
use crate::scheduler::{after, config, publish_order};
use crate::sim::{Died, Hand, Sim};
use chrono::TimeDelta;
use prost::Message;
use rhyzome_model::ids::Fence;
use rhyzome_proto::job::Order;
use rhyzome_runtime::fault::{Point, Side};
use rhyzome_scheduler::SchedulerConfig;
use rhyzome_scheduler::judge::{Moment, poisoned};
use rhyzome_scheduler::lookout::{Found, Lookout};
use rhyzome_store::dispatch::OrderRow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The sweep of one scheduler.
pub(crate) async fn sweep(sim: Arc<Sim>, name: &'static str) {
    let config = config();
    loop {
        let mut lookout = Lookout::default();
        let mut ticks = 0_u32;
        loop {
            sim.clock.sleep(1_000).await;
            ticks += 1;
            let odds = sim.odds().jump_ms;
            if !sim.is_healed() && odds > 0 && sim.chance(0.1) {
                let ahead = sim.between(0, odds as u64 * 2) as i64 - odds;
                sim.schedulers_ahead.store(ahead, Ordering::Relaxed);
                sim.say(format_args!("the schedulers' clocks are ahead by {ahead} ms"));
            }
            if tick(&sim, name, &config, &mut lookout, ticks).await == Err(Died) {
                break;
            }
        }
        sim.doze(100, 4_000).await;
    }
}

async fn tick(
    sim: &Arc<Sim>,
    name: &str,
    config: &SchedulerConfig,
    lookout: &mut Lookout,
    ticks: u32,
) -> Result<(), Died> {
    let now = sim.now();
    lock(&sim.books).deadlines_pass(now);
    sim.due.notify_waiters();
    if sim.freed.swap(false, Ordering::Relaxed) {
        lock(&sim.books).capacity_wake(now);
    }
    give_up(sim, name, config).await?;
    if !sim.is_mutant(Mutant::SweepSleeps) {
        republish(sim, name, config, lookout).await?;
    }
    if ticks.is_multiple_of(5) {
        lock(&sim.bus).is_there = true;
        // Nothing else woke these: by itself no fault, the belt is part of the product.
        let woken = lock(&sim.books).blocked_recheck(now);
        if woken > 0 {
            sim.say(format_args!("{name} wakes {woken} jobs that nothing woke"));
        }
    }
    sim.audit();
    Ok(())
}

/// Orders that the bus gave up: judged as poisoned, and taken out.
async fn give_up(sim: &Arc<Sim>, name: &str, config: &SchedulerConfig) -> Result<(), Died> {
    let now_ms = sim.clock.now_ms();
    let given_up = lock(&sim.bus).orders.given_up(now_ms);
    for (place, payload) in given_up {
        if sim.wrong(|o| o.deaf / 2.0) {
            continue;
        }
        let Some((job, fence)) = Order::decode(payload.as_slice())
            .ok()
            .and_then(|o| Some((o.job_id().ok()?, o.fence)))
        else {
            continue;
        };
        sim.quiet().await;
        let now = sim.now();
        let settled = {
            let mut books = lock(&sim.books);
            let moment = Moment {
                now,
                roll: sim.roll(),
                config,
            };
            let settlement = books
                .settle_begin(&[job])
                .first()
                .and_then(|job| poisoned(job, Fence(fence), moment));
            if settlement.is_some() {
                sim.say(format_args!("{name}: the workers of {} died of it", short(job)));
            }
            books.settle_commit(settlement.into_iter().collect(), now)
        };
        after(sim, name, &settled);
        sim.point(name, Point::SettleCommit, Side::After, Hand::Empty)
            .await?;
        lock(&sim.bus).orders.remove(place);
    }
    Ok(())
}

async fn republish(
    sim: &Arc<Sim>,
    name: &str,
    config: &SchedulerConfig,
    lookout: &mut Lookout,
) -> Result<(), Died> {
    let quiet = TimeDelta::from_std(config.quiet.duration()).unwrap_or_default();
    let rows = lock(&sim.books).orders_quiet(sim.scheduler_now() - quiet);
    let mut lost = Vec::new();
    for row in rows {
        // As a look at the stream takes.
        if sim.chance(0.2) {
            sim.doze(1, 30).await;
        }
        if look_for(sim, &row, lookout) == Found::Lost {
            lost.push(row);
        }
    }
    lookout.round_ends();
    for row in lost {
        sim.point(name, Point::OrderPublish, Side::Before, Hand::Empty)
            .await?;
        let id = format!("{}:{}:{}", row.job, row.fence, sim.clock.now_ms());
        sim.say(format_args!(
            "{name} sends {} of fence {} again",
            short(row.job),
            row.fence
        ));
        if publish_order(sim, &row, &id) {
            let now = sim.now();
            sim.quiet().await;
            lock(&sim.books).order_published_again(row.job, row.fence, now);
        }
    }
    Ok(())
}

fn look_for(sim: &Sim, row: &OrderRow, lookout: &mut Lookout) -> Found {
    let now_ms = sim.clock.now_ms();
    let mut bus = lock(&sim.bus);
    match bus.orders.presence(row.job.0.as_u128(), now_ms) {
        Presence::Live => {
            lookout.live(row.job);
            Found::Perhaps
        }
        Presence::Exhausted(place) => {
            let found = lookout.exhausted(row.job, place);
            if found == Found::Lost {
                bus.orders.remove(place);
            }
            found
        }
        Presence::Absent => match lookout.missed_since(row.job, row.fence) {
            Some(position) if bus.events.drained_past(position) => {
                lookout.lost(row.job);
                // What is there still is on its way; only what was acked is claimed to be settled.
                if bus.events.has(row.job.0.as_u128()) {
                    lock(&sim.told).remove(&(row.job, row.fence));
                }
                // Between this look and the publishing another scheduler's may get there, and be done: then it is told twice, no more.
                if lock(&sim.told).contains(&(row.job, row.fence)) {
                    sim.broken(format!(
                        "9: the outcome of {} of fence {} was stored and acked, and never settled",
                        row.job, row.fence
                    ));
                }
                Found::Lost
            }
            before => {
                let position = before.unwrap_or_else(|| bus.events.position());
                lookout.absent(row.job, row.fence, position);
                Found::Perhaps
            }
        },
    }
}
