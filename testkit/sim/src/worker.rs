//! A worker's slot: takes an order, drives it by the product's own course, reports, acks. It may die or stand still at any point.

use crate::bus::Delivery;
use crate::lock;
use crate::rig::short;
use crate::sim::{Busy, Died, Hand, Sim};
use prost::Message;
use rhyzome_model::ids::{HostName, JobId};
use rhyzome_proto::event::{Outcome, OutcomeKind};
use rhyzome_proto::job::{Control, Order};
use rhyzome_runtime::fault::{Point, Side};
use rhyzome_worker::WorkerConfig;
use rhyzome_worker::course::{Course, Turn};
use rhyzome_worker::decide::{Hint, phase};
use rhyzome_worker::report::Live;
use std::sync::Arc;

/// Runs for ever: dies, and begins again.
pub(crate) async fn slot(sim: Arc<Sim>, name: &'static str) {
    let config = WorkerConfig::default();
    loop {
        let delivery = {
            let now_ms = sim.clock.now_ms();
            let mut dice = sim.dice();
            let reorder = if sim.is_healed() { 0.0 } else { sim.odds().reorder };
            lock(&sim.bus).orders.pull(now_ms, reorder, &mut dice)
        };
        let Some(delivery) = delivery else {
            sim.orders.notified().await;
            sim.doze(0, 150).await;
            continue;
        };
        let _busy = Busy::new(&sim);
        let key = sim.between(0, u64::MAX);
        let done = work(&sim, name, &config, &delivery, key).await;
        lock(&sim.lives).remove(&key);
        if done == Err(Died) {
            sim.doze(100, 3_000).await;
        }
    }
}

async fn work(
    sim: &Arc<Sim>,
    name: &str,
    config: &WorkerConfig,
    delivery: &Delivery,
    key: u64,
) -> Result<(), Died> {
    let hand = Hand::Order(delivery);
    sim.point(name, Point::OrderReceived, Side::Before, hand).await?;
    let read = Order::decode(delivery.payload.as_slice()).ok();
    let Some((order, job)) = read.and_then(|o| Some((o.job_id().ok()?, o)).map(|(j, o)| (o, j))) else {
        sim.broken("3: an order that can't be read".into());
        lock(&sim.bus).orders.ack(delivery);
        return Ok(());
    };
    sim.say(format_args!(
        "{name} has {} of fence {}, {:?}",
        short(job),
        order.fence,
        order.mode()
    ));
    let live = Arc::new(Live::new(name, job, order, delivery.sequence, sim.clock.now_ms()));
    lock(&sim.lives).insert(key, live.clone());
    sim.point(name, Point::OrderReceived, Side::After, hand).await?;
    let outcome = drive(sim, name, config, &live, hand).await?;
    // No hint comes after the outcome.
    lock(&sim.lives).remove(&key);
    sim.say(format_args!(
        "{name} reports {} of fence {}: {:?}",
        short(job),
        live.order().fence,
        outcome.kind()
    ));
    sim.point(name, Point::OutcomePublish, Side::Before, hand).await?;
    report(sim, &live, job, Some(outcome), Until::Stored).await;
    sim.point(name, Point::OutcomePublish, Side::After, hand).await?;
    sim.point(name, Point::OrderAck, Side::Before, hand).await?;
    if sim.wrong(|o| o.lose) {
        // The ack was lost with a connection.
        hand.silent(sim);
    } else {
        lock(&sim.bus).orders.ack(delivery);
    }
    sim.point(name, Point::OrderAck, Side::After, Hand::Empty).await
}

async fn drive(
    sim: &Arc<Sim>,
    name: &str,
    config: &WorkerConfig,
    live: &Live,
    hand: Hand<'_>,
) -> Result<Outcome, Died> {
    let mut course = match Course::new(live.order().clone(), config, sim.clock.now_ms()) {
        Ok(course) => course,
        Err(error) => {
            sim.broken(format!("3: an order without a mode: {error}"));
            return Ok(Outcome::default());
        }
    };
    if let Some(outcome) = course.over() {
        return Ok(outcome);
    }
    let job = live.order().job_id().unwrap_or_default();
    let mut pause_ms = 200;
    loop {
        sim.point(name, Point::StepCall, Side::Before, hand).await?;
        let order = course.order().clone();
        let Some(host) = sim.hosts.get(&HostName(order.host.clone())) else {
            sim.broken(format!("3: an order to {}, which is no host", order.host));
            return Ok(Outcome::default());
        };
        let (answer, steps) = host.call(sim, &order).await;
        sim.point(name, Point::StepCall, Side::After, hand).await?;
        live.learn(steps);
        if let Some(phase) = phase(course.mode(), &answer) {
            live.in_phase(phase);
        }
        if sim.wrong(|o| o.crash / 4.0) {
            sim.say(format_args!("{name} is told to end"));
            return Ok(course.stopped());
        }
        if sim.chance(0.1) {
            report(sim, live, job, None, Until::Tried).await;
        }
        let hint = if live.hint().is_cancelled() {
            Hint::Undo
        } else {
            Hint::None
        };
        match course.after(answer, sim.clock.now_ms(), hint) {
            Turn::Report(outcome) => return Ok(outcome),
            Turn::ToUndo(verdict) => {
                sim.say(format_args!("{name} turns {} to undo: {verdict}", short(job)));
                pause_ms = 200;
            }
            Turn::Pause => {
                sim.doze(pause_ms / 2, pause_ms * 3 / 2).await;
                pause_ms = (pause_ms * 2).min(5_000);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    Stored,
    Tried,
}

/// Publishes a report. A refused one is tried again: it may have been stored all the same.
async fn report(sim: &Arc<Sim>, live: &Live, job: JobId, outcome: Option<Outcome>, until: Until) {
    let ends = outcome.as_ref().is_some_and(|o| {
        matches!(
            o.kind(),
            OutcomeKind::Succeeded | OutcomeKind::Failed | OutcomeKind::Cancelled | OutcomeKind::Released
        )
    });
    let report = live.report(outcome, sim.clock.now_ms());
    let id = format!("{job}:{}:{}:{}", report.fence, sim.between(0, u64::MAX), ends);
    loop {
        sim.doze(0, 10).await;
        let refused = sim.wrong(|o| o.refuse);
        let stored = {
            let mut bus = lock(&sim.bus);
            let stored = bus.is_there && (!refused || sim.chance(0.5));
            if stored {
                let new = bus.events.store(job.0.as_u128(), &id, report.encode_to_vec());
                if ends && new {
                    lock(&sim.told).insert((job, report.fence));
                }
                if sim.wrong(|o| o.twice) {
                    bus.events.store_anyway(job.0.as_u128(), report.encode_to_vec());
                }
            }
            sim.events.notify_waiters();
            stored && !refused
        };
        if stored || until == Until::Tried {
            return;
        }
        sim.doze(100, 1_500).await;
    }
}

/// Somebody wants a job undone: told to who runs it, if they hear it.
pub(crate) fn hint(sim: &Sim, control: &Control) {
    for live in lock(&sim.lives).values() {
        let order = live.order();
        if order.job == control.job && order.fence <= control.fence && !sim.wrong(|o| o.deaf) {
            live.hint().cancel();
        }
    }
}
