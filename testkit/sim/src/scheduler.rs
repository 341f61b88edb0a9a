//! A scheduler's dispatch and settle. What is decided is the product's; here is only what stands between its
//! decisions and the books, and where it may die.

use crate::bus::Delivery;
use crate::lock;
use crate::mutant::Mutant;
use crate::rig::short;
use crate::sim::{Busy, Died, Hand, Sim};
use crate::worker::hint;
use chrono::TimeDelta;
use prost::Message;
use rhyzome_model::ids::{HostName, JobId, TenantId};
use rhyzome_model::job::{Action, Mode, Verdict};
use rhyzome_model::kinds::Kind;
use rhyzome_proto::convert::bytes;
use rhyzome_proto::event::Report;
use rhyzome_proto::job::Control;
use rhyzome_runtime::Span;
use rhyzome_runtime::fault::{Point, Side};
use rhyzome_scheduler::batch::{Due, Reads, decide_all};
use rhyzome_scheduler::judge::{Moment, judge};
use rhyzome_scheduler::place::View;
use rhyzome_scheduler::settle::keep_newest;
use rhyzome_scheduler::{SchedulerConfig, order};
use rhyzome_store::StoreError;
use rhyzome_store::dispatch::{DispatchLimits, DispatchOutcome, OrderRow};
use rhyzome_store::hosts::ClusterView;
use rhyzome_store::settle::{Effect, OpenJob, Settled, Settlement};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How old a view of the hosts may be, milliseconds.
const FRESH_MS: i64 = 500;
/// Rounds of dispatch without a pause.
const ROUNDS: u32 = 20;

/// As shipped, but for what would only make schedules longer.
pub(crate) fn config() -> SchedulerConfig {
    SchedulerConfig {
        tenant_running_cap: 3,
        host_orders_cap: 3,
        dispatch_batch: 8,
        retry_first: Span::millis(200),
        retry_most: Span::seconds(4),
        exclusion: Span::seconds(2),
        quiet: Span::seconds(3),
        capacity_recheck: Span::seconds(5),
        check_interval: Span::seconds(2),
        repair_after: Span::seconds(3),
        quarantine_grace: Span::seconds(9),
        ..SchedulerConfig::default()
    }
}

struct Reading<'a>(&'a Sim);

impl Reads for Reading<'_> {
    async fn cluster_view(&self) -> Result<ClusterView, StoreError> {
        Ok(lock(&self.0.books).cluster_view())
    }

    async fn hosts_of(
        &self,
        tenant: &TenantId,
        kind: Kind,
        targets: &[String],
    ) -> Result<Vec<HostName>, StoreError> {
        Ok(lock(&self.0.books).hosts_of(tenant.as_str(), kind, targets))
    }
}

/// The dispatch loop of one scheduler.
pub(crate) async fn dispatch(sim: Arc<Sim>, name: &'static str) {
    let config = config();
    loop {
        let mut view = View::new(sim.between(0, u64::MAX));
        let mut read_at = None;
        loop {
            // A wake-up may not come: the scan counts.
            tokio::select! {
                biased;
                () = sim.due.notified() => {
                    if sim.wrong(|o| o.deaf) {
                        sim.clock.sleep(1_000).await;
                    }
                }
                () = sim.clock.sleep(1_000) => {}
            }
            sim.doze(0, 60).await;
            let mut died = false;
            for _ in 0..ROUNDS {
                match round(&sim, name, &config, &mut view, &mut read_at).await {
                    Ok(Round::Progress) => {}
                    Ok(Round::Nothing) => break,
                    Err(Died) => {
                        died = true;
                        break;
                    }
                }
            }
            if died {
                break;
            }
        }
        sim.doze(100, 4_000).await;
    }
}

enum Round {
    Progress,
    Nothing,
}

async fn round(
    sim: &Arc<Sim>,
    name: &str,
    config: &SchedulerConfig,
    view: &mut View,
    read_at: &mut Option<i64>,
) -> Result<Round, Died> {
    let now_ms = sim.clock.now_ms();
    if read_at.is_none_or(|at| now_ms - at >= FRESH_MS) {
        view.take(lock(&sim.books).cluster_view());
        *read_at = Some(now_ms);
    }
    let limits = DispatchLimits {
        batch: config.dispatch_batch,
        tenant_cap: config.tenant_running_cap,
        host_cap: config.host_orders_cap,
    };
    let now = sim.now();
    let Some(batch) = lock(&sim.books).dispatch_begin(limits, now) else {
        return Ok(Round::Nothing);
    };
    let _busy = Busy::new(sim);
    let due = Due {
        jobs: &batch.jobs,
        refs: &batch.refs,
        leases: &batch.leases,
        now: batch.now,
        stop_timeout_s: 30,
        recheck: TimeDelta::from_std(config.capacity_recheck.duration()).unwrap_or_default(),
    };
    let decisions = match decide_all(&Reading(sim), view, &due).await {
        Ok(decisions) => decisions,
        Err(error) => {
            sim.broken(format!("1: a batch can't be decided: {error}"));
            lock(&sim.books).dispatch_give_up(&batch);
            return Ok(Round::Nothing);
        }
    };
    // Others may commit meanwhile.
    if sim.chance(0.3) {
        sim.doze(1, 40).await;
    }
    if sim.wrong(|o| o.crash) {
        sim.say(format_args!("{name} dies before dispatch_commit"));
        lock(&sim.books).dispatch_give_up(&batch);
        return Err(Died);
    }
    let decided = decisions.len();
    let outcome = {
        let now = sim.now();
        lock(&sim.books).dispatch_commit(&batch, decisions, now)
    };
    sim.audit();
    for end in &outcome.ended {
        sim.say(format_args!("{name} ends {}: {}", short(end.job), end.state));
    }
    let left = outcome.left.len();
    if left > 0 {
        *read_at = None;
    }
    sim.point(name, Point::DispatchCommit, Side::After, Hand::Empty)
        .await?;
    publish(sim, name, &outcome).await?;
    Ok(if left == decided {
        Round::Nothing
    } else {
        Round::Progress
    })
}

async fn publish(sim: &Arc<Sim>, name: &str, outcome: &DispatchOutcome) -> Result<(), Died> {
    for row in &outcome.orders {
        sim.point(name, Point::OrderPublish, Side::Before, Hand::Empty)
            .await?;
        sim.say(format_args!(
            "{name} sends {} ({} {}) to {}, {} {:?}, fence {}",
            short(row.job),
            row.kind,
            row.action,
            row.host,
            row.mode,
            row.verdict,
            row.fence
        ));
        publish_order(sim, row, &format!("{}:{}", row.job, row.fence));
        if row.mode == Mode::Undo && row.verdict != Some(Verdict::Released) {
            let control = Control {
                version: rhyzome_proto::VERSION,
                job: bytes(row.job.0),
                fence: row.fence,
            };
            hint(sim, &control);
        }
    }
    Ok(())
}

/// Whether it is known to be stored.
pub(crate) fn publish_order(sim: &Sim, row: &OrderRow, id: &str) -> bool {
    let payload = order::message(row).encode_to_vec();
    let refused = sim.wrong(|o| o.refuse);
    let mut bus = lock(&sim.bus);
    let stored = bus.is_there && (!refused || sim.chance(0.5));
    if stored {
        let key = row.job.0.as_u128();
        bus.orders.store(key, id, payload.clone());
        if sim.wrong(|o| o.twice) {
            bus.orders.store_anyway(key, payload);
        }
        sim.orders.notify_waiters();
    }
    stored && !refused
}

/// The settle loop of one scheduler.
pub(crate) async fn settle(sim: Arc<Sim>, name: &'static str) {
    let config = config();
    loop {
        let most = sim.between(1, 6);
        let mut deliveries = Vec::new();
        for _ in 0..most {
            let now_ms = sim.clock.now_ms();
            let reorder = if sim.is_healed() { 0.0 } else { sim.odds().reorder };
            let mut dice = sim.dice();
            deliveries.extend(lock(&sim.bus).events.pull(now_ms, reorder, &mut dice));
        }
        if deliveries.is_empty() {
            sim.events.notified().await;
            sim.doze(0, 100).await;
            continue;
        }
        let _busy = Busy::new(&sim);
        if settle_batch(&sim, name, &config, &deliveries).await == Err(Died) {
            sim.doze(100, 4_000).await;
        }
    }
}

async fn settle_batch(
    sim: &Arc<Sim>,
    name: &str,
    config: &SchedulerConfig,
    deliveries: &[Delivery],
) -> Result<(), Died> {
    let mut newest: BTreeMap<JobId, Report> = BTreeMap::new();
    for delivery in deliveries {
        match Report::decode(delivery.payload.as_slice()) {
            Ok(report) => match rhyzome_proto::convert::uuid(&report.job) {
                Ok(job) => keep_newest(&mut newest, JobId(job), report),
                Err(error) => sim.broken(format!("3: a report of no job: {error}")),
            },
            Err(error) => sim.broken(format!("3: a report that can't be read: {error}")),
        }
    }
    if sim.is_mutant(Mutant::EventAckedFirst) {
        ack(sim, deliveries);
    }
    let hand = Hand::Events(deliveries);
    sim.point(name, Point::SettleCommit, Side::Before, hand).await?;
    sim.quiet().await;
    let ids: Vec<JobId> = newest.keys().copied().collect();
    let now = sim.now();
    let settled = {
        let mut books = lock(&sim.books);
        let jobs = books.settle_begin(&ids);
        let mut settlements = Vec::new();
        for job in &jobs {
            let Some(report) = newest.get(&job.id) else {
                continue;
            };
            let moment = Moment {
                now,
                roll: sim.roll(),
                config,
            };
            match judge(job, report, moment) {
                Ok(Some(settlement)) => settlements.push(changed_by_mutant(sim, job, settlement)),
                Ok(None) => {}
                Err(error) => {
                    sim.broken(format!("1: a report of {} can't be judged: {error}", job.id));
                }
            }
        }
        books.settle_commit(settlements, now)
    };
    for (job, report) in &newest {
        lock(&sim.told).remove(&(*job, report.fence));
    }
    after(sim, name, &settled);
    nothing_is_left(sim, &settled).await;
    sim.point(name, Point::SettleCommit, Side::After, hand).await?;
    sim.point(name, Point::EventAck, Side::Before, hand).await?;
    ack(sim, deliveries);
    Ok(())
}

fn ack(sim: &Sim, deliveries: &[Delivery]) {
    let mut bus = lock(&sim.bus);
    for delivery in deliveries {
        bus.events.ack(delivery);
    }
}

/// After the commit.
pub(crate) fn after(sim: &Sim, name: &str, settled: &Settled) {
    sim.due.notify_waiters();
    for end in &settled.ended {
        sim.say(format_args!(
            "{name} settles {}: {} {}",
            short(end.job),
            end.state,
            end.error.as_ref().map_or("", |e| e.code.as_str())
        ));
    }
    if !settled.ended.is_empty() {
        sim.freed.store(true, Ordering::Relaxed);
    }
    sim.audit();
}

/// A create that came to nothing leaves nothing, by its agent's word. Later it would be found, and mended.
async fn nothing_is_left(sim: &Sim, settled: &Settled) {
    for end in &settled.ended {
        let (Effect::NotMade { .. }, Some(host)) = (&end.effect, &end.host) else {
            continue;
        };
        // On one that was put back there may be what the agent did away with.
        let Some(host) = sim.hosts.get(host).filter(|h| !h.is_crowded()) else {
            continue;
        };
        let of = end.resource;
        for held in host.held().await {
            if held.id == of || held.claims.contains(&of) {
                sim.broken(format!(
                    "6: {} {} is on {} for {of}, whose create {} came to nothing",
                    held.kind.as_str(),
                    held.id,
                    host.name,
                    short(end.job)
                ));
            }
        }
    }
}

fn changed_by_mutant(sim: &Sim, job: &OpenJob, settlement: Settlement) -> Settlement {
    match settlement {
        Settlement::Again { job: id, due, .. }
            if sim.is_mutant(Mutant::ReservationFreedEarly) && job.action == Action::Create =>
        {
            Settlement::Released {
                job: id,
                steps: job.steps.clone(),
                excluded: job.excluded.clone(),
                due,
            }
        }
        other => other,
    }
}
