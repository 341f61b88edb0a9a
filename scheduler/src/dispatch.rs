//! Dispatch: woken by notices, and every second regardless, it takes due jobs, decides, commits, publishes.
//!
//! What is published was committed before; what was committed and not published, the sweep finds.

use crate::backoff::Pause;
use crate::decide::{Around, Next, ToPlace, decide, held_back, unplannable, wait_for_room, wait_to_grow};
use crate::place::{View, grow};
use crate::{Context, order, stats};
use chrono::TimeDelta;
use rhyzome_model::ids::HostName;
use rhyzome_model::job::{Mode, Verdict};
use rhyzome_model::place;
use rhyzome_nats::notices::{Change as Notice, JobWakeups, publish_changes, publish_control};
use rhyzome_nats::orders::{Publication, publish_all};
use rhyzome_proto::job::Control;
use rhyzome_runtime::fault::{self, Point, Side};
use rhyzome_store::StoreError;
use rhyzome_store::changes::Change;
use rhyzome_store::dispatch::{Decision, DispatchLimits, DispatchOutcome, DispatchTx, DueJob, NewOrder};
use std::time::Duration;

/// The scan that counts.
const SCAN: Duration = Duration::from_secs(1);

/// Hears job notices and wakes dispatch.
pub async fn listen(context: Context) {
    let mut pause = Pause::new();
    while !context.shutdown.is_triggered() {
        let mut wakeups = match JobWakeups::new(&context.nats).await {
            Ok(wakeups) => wakeups,
            Err(error) => {
                tracing::warn!(%error, "no wake-ups; the scan goes on");
                tokio::time::sleep(pause.longer()).await;
                continue;
            }
        };
        pause.reset();
        loop {
            tokio::select! {
                () = context.shutdown.triggered() => return,
                heard = wakeups.next() => match heard {
                    Some(_) => context.due.notify_one(),
                    None => break,
                },
            }
        }
    }
}

/// The loop.
pub async fn run(context: Context) {
    let mut view = View::new(rand::random());
    let mut pause = Pause::new();
    loop {
        tokio::select! {
            () = context.shutdown.triggered() => return,
            () = context.due.notified() => {}
            () = tokio::time::sleep(SCAN) => {}
        }
        loop {
            match round(&context, &mut view).await {
                Ok(Round::Progress) => pause.reset(),
                Ok(Round::Nothing) => {
                    pause.reset();
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, "dispatch failed; again");
                    view.forget();
                    tokio::time::sleep(pause.longer()).await;
                    break;
                }
            }
            if context.shutdown.is_triggered() {
                return;
            }
        }
    }
}

enum Round {
    Progress,
    Nothing,
}

async fn round(context: &Context, view: &mut View) -> Result<Round, StoreError> {
    view.refresh(&context.store).await?;
    let limits = DispatchLimits {
        batch: context.config.dispatch_batch,
        tenant_cap: context.config.tenant_running_cap,
        host_cap: context.config.host_orders_cap,
    };
    let Some(batch) = context.store.dispatch_begin(limits).await? else {
        return Ok(Round::Nothing);
    };
    let decisions = decide_all(context, view, &batch).await?;
    let decided = decisions.len();
    fault::point(Point::DispatchCommit, Side::Before);
    let outcome = batch.commit(decisions).await?;
    fault::point(Point::DispatchCommit, Side::After);
    let left = outcome.left.len();
    if left > 0 {
        view.forget();
    }
    publish(context, outcome).await;
    // What was left waits for another's commit or for a slot: the next wake-up or scan takes it up.
    Ok(if left == decided {
        Round::Nothing
    } else {
        Round::Progress
    })
}

async fn decide_all(
    context: &Context,
    view: &mut View,
    batch: &DispatchTx,
) -> Result<Vec<Decision>, StoreError> {
    metrics::histogram!("rhyzome_dispatch_batch_size").record(batch.jobs.len() as f64);
    let mut decisions = Vec::with_capacity(batch.jobs.len());
    let mut refused = Vec::new();
    let mut cramped = Vec::new();
    for job in &batch.jobs {
        let around = Around {
            refs: batch.refs.get(&job.resource).map_or(&[], Vec::as_slice),
            leases: batch.leases.get(&job.resource).map_or(&[], Vec::as_slice),
            up: &view.up,
            stop_timeout_s: context.stop_timeout_s,
            now: batch.now,
        };
        match decide(job, &around) {
            Ok(Next::Decided(decision)) => match *decision {
                Decision::Order(order) if grow(&mut view.cluster, job, &order).is_some() => {
                    cramped.push((job, order));
                }
                decision => decisions.push(decision),
            },
            Ok(Next::Place(mut to_place)) => {
                keep_apart(context, job, batch, &decisions, &mut to_place).await?;
                if let Some(order) = placed(view, &to_place) {
                    decisions.push(Decision::Order(order));
                } else {
                    refused.push((job, *to_place));
                }
            }
            Err(error) => {
                tracing::error!(job = %job.id, %error, "no plan; it ends");
                decisions.push(unplannable(job));
            }
        }
    }
    if !refused.is_empty() || !cramped.is_empty() {
        // Nobody waits because of a view that is older than what was freed since.
        view.read(&context.store).await?;
        for (job, order) in cramped {
            decisions.push(match grow(&mut view.cluster, job, &order) {
                None => Decision::Order(order),
                Some(refusal) => wait_to_grow(job, &refusal, batch.now + recheck(context), batch.now),
            });
        }
        for (job, to_place) in refused {
            decisions.push(place_or_wait(context, view, job, &to_place, batch));
        }
    }
    Ok(decisions)
}

/// Where those are from which it is kept apart: as committed, and as decided just now in the same batch.
async fn keep_apart(
    context: &Context,
    job: &DueJob,
    batch: &DispatchTx,
    decisions: &[Decision],
    to_place: &mut ToPlace,
) -> Result<(), StoreError> {
    if to_place.apart_from.is_empty() {
        return Ok(());
    }
    to_place.request.apart_from = context
        .store
        .hosts_of(&job.tenant, job.kind, &to_place.apart_from)
        .await?;
    for decision in decisions {
        let Decision::Order(order) = decision else {
            continue;
        };
        let Some(other) = batch
            .jobs
            .iter()
            .find(|j| j.id == order.job && j.tenant == job.tenant && j.kind == job.kind)
        else {
            continue;
        };
        if to_place
            .apart_from
            .iter()
            .any(|t| *t == other.name || *t == other.resource.to_string())
        {
            to_place.request.apart_from.push(order.host.clone());
        }
    }
    Ok(())
}

fn placed(view: &mut View, to_place: &ToPlace) -> Option<NewOrder> {
    if to_place.refused_until.is_some() {
        return None;
    }
    match view.cluster.place(&to_place.request) {
        place::Verdict::Placed(host) => Some(at(&to_place.order, host)),
        place::Verdict::NoRoom(_) => None,
    }
}

fn at(order: &NewOrder, host: HostName) -> NewOrder {
    NewOrder {
        host,
        ..order.clone()
    }
}

/// How long who waits for room waits at most until it is judged anew.
fn recheck(context: &Context) -> TimeDelta {
    TimeDelta::from_std(context.config.capacity_recheck.duration()).unwrap_or(TimeDelta::seconds(15))
}

fn place_or_wait(
    context: &Context,
    view: &mut View,
    job: &DueJob,
    to_place: &ToPlace,
    batch: &DispatchTx,
) -> Decision {
    let recheck = recheck(context);
    let verdict = match to_place.refused_until {
        Some(_) => view.cluster.judge(&held_back(to_place, &view.up)),
        None => view.cluster.place(&to_place.request),
    };
    match verdict {
        place::Verdict::Placed(host) => Decision::Order(at(&to_place.order, host)),
        place::Verdict::NoRoom(refusal) => {
            for (reason, hosts) in &refusal.excluded {
                metrics::counter!("rhyzome_placement_refusals_total", "reason" => reason.as_str())
                    .increment(u64::from(*hosts));
            }
            let due = match (to_place.refused_until, to_place.lapses) {
                (Some(until), _) => until,
                (None, Some(lapses)) => lapses.min(batch.now + recheck),
                (None, None) => batch.now + recheck,
            };
            wait_for_room(job, &refusal, due, batch.now)
        }
    }
}

/// After the commit: orders to the workers, hints to those that run what is undone now, notices to who watches.
async fn publish(context: &Context, outcome: DispatchOutcome) {
    let orders: Vec<_> = outcome.orders.iter().map(order::message).collect();
    let mut lost = 0;
    if !orders.is_empty() {
        fault::point(Point::OrderPublish, Side::Before);
    }
    for (row, answer) in outcome
        .orders
        .iter()
        .zip(publish_all(&context.nats, &orders, Publication::First).await)
    {
        if let Err(error) = answer {
            lost += 1;
            tracing::debug!(job = %row.job, fence = row.fence, %error, "order not published");
        }
    }
    if !orders.is_empty() {
        fault::point(Point::OrderPublish, Side::After);
    }
    if lost > 0 {
        tracing::warn!(lost, "orders were not published; the sweep will publish them");
        context.suspicion.notify_one();
    }
    for row in outcome
        .orders
        .iter()
        .filter(|o| o.mode == Mode::Undo && o.verdict != Some(Verdict::Released))
    {
        let control = Control {
            version: rhyzome_proto::VERSION,
            job: rhyzome_proto::convert::bytes(row.job.0),
            fence: row.fence,
        };
        if let Err(error) = publish_control(&context.nats, &control).await {
            tracing::warn!(job = %row.job, %error, "no hint to the worker; the agent decides all the same");
        }
    }
    notify(context, &outcome.changes).await;
    if !outcome.ended.is_empty() {
        stats::ended(&outcome.ended);
        context.due.notify_one();
    }
}

/// Tells of what was written for those who watch; a notice that is lost costs them a poll.
pub async fn notify(context: &Context, changes: &[Change]) {
    let changes: Vec<Notice> = changes
        .iter()
        .map(|c| Notice {
            tenant: c.tenant.clone(),
            kind: c.thing.kind().to_owned(),
            id: c.thing.id(),
        })
        .collect();
    if changes.is_empty() {
        return;
    }
    fault::point(Point::Notify, Side::Before);
    if let Err(error) = publish_changes(&context.nats, &changes).await {
        tracing::debug!(%error, "change notices not sent");
    }
    fault::point(Point::Notify, Side::After);
}
