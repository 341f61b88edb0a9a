//! Dispatch: woken by notices, and every second regardless, it takes due jobs, decides, commits, publishes.
//!
//! What is published was committed before; what was committed and not published, the sweep finds.

use crate::backoff::Pause;
use crate::batch::{Due, decide_all};
use crate::place::View;
use crate::{Context, order, stats};
use chrono::TimeDelta;
use rhyzome_model::job::{Mode, Verdict};
use rhyzome_nats::notices::{Change as Notice, JobWakeups, publish_changes, publish_control};
use rhyzome_nats::orders::{Publication, publish_all};
use rhyzome_proto::job::Control;
use rhyzome_runtime::fault::{self, Point, Side};
use rhyzome_store::StoreError;
use rhyzome_store::changes::Change;
use rhyzome_store::dispatch::{Decision, DispatchLimits, DispatchOutcome};
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
                Ok(Round::More) => pause.reset(),
                Ok(Round::Last) => {
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

/// Whether another round at once may find more to do.
enum Round {
    More,
    Last,
}

async fn round(context: &Context, view: &mut View) -> Result<Round, StoreError> {
    view.refresh(&context.store).await?;
    let limits = DispatchLimits {
        batch: context.config.dispatch_batch,
        tenant_cap: context.config.tenant_running_cap,
        host_cap: context.config.host_orders_cap,
    };
    let Some(batch) = context.store.dispatch_begin(limits).await? else {
        return Ok(Round::Last);
    };
    let due = Due {
        jobs: &batch.jobs,
        refs: &batch.refs,
        leases: &batch.leases,
        now: batch.now,
        stop_timeout_s: context.stop_timeout_s,
        recheck: recheck(context),
    };
    for unread in &batch.unread {
        tracing::error!(job = %unread.job, error = %unread.why, "a due job can't be read by this version: left to another");
    }
    metrics::histogram!("rhyzome_dispatch_batch_size").record(batch.jobs.len() as f64);
    let decisions = decide_all(&context.store, view, &due).await?;
    let decided = decisions.len();
    // Who waits takes no turn, and must not keep those behind it from theirs until the next scan.
    let more = batch.more || (batch.crowded && !decisions.iter().all(|d| matches!(d, Decision::Order(_))));
    fault::point(Point::DispatchCommit, Side::Before);
    let outcome = batch.commit(decisions).await?;
    fault::point(Point::DispatchCommit, Side::After);
    let left = outcome.left.len();
    if left > 0 {
        view.forget();
    }
    publish(context, outcome).await;
    // Where all was left, it waits for another's commit or for a slot: the next wake-up or scan takes it up. What became due meanwhile
    // has a wake-up of its own.
    Ok(if (decided > 0 && left == decided) || (left == 0 && !more) {
        Round::Last
    } else {
        Round::More
    })
}

/// How long who waits for room waits at most until it is judged anew.
fn recheck(context: &Context) -> TimeDelta {
    TimeDelta::from_std(context.config.capacity_recheck.duration()).unwrap_or(TimeDelta::seconds(15))
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
