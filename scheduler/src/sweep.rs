//! Sweep: takes no input, scans. Quiet orders are looked for in the stream and published again with the same fence; deadlines pass;
//! streams and consumers that are missing or altered are made anew; who waits for capacity is woken when some came.

use crate::backoff::Pause;
use crate::{Context, order, stats};
use chrono::{TimeDelta, Utc};
use rhyzome_model::ids::JobId;
use rhyzome_nats::orders::{self, OrderPresence, Publication};
use rhyzome_nats::{NatsError, events, streams};
use rhyzome_store::StoreError;
use rhyzome_store::dispatch::OrderRow;
use std::collections::HashMap;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_secs(1);
/// Rows that one tick takes.
const LIMIT: i64 = 500;

#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Nats(#[from] NatsError),
}

/// Orders that were missing from the stream when last looked: fence, and the place of the last event then.
type Missing = HashMap<JobId, (i64, u64)>;

/// Makes streams and consumers, and goes on trying until they are there.
pub async fn ensure_streams_until_done(context: &Context) {
    let mut pause = Pause::new();
    while let Err(error) = streams::ensure(&context.nats, &context.nats_config).await {
        tracing::warn!(%error, "streams can't be made yet");
        tokio::select! {
            () = context.shutdown.triggered() => return,
            () = tokio::time::sleep(pause.longer()) => {}
        }
    }
}

/// The loop.
pub async fn run(context: Context) {
    let mut missing = Missing::new();
    let mut ticks = 0_u64;
    let mut woken_at = Instant::now();
    loop {
        tokio::select! {
            () = context.shutdown.triggered() => return,
            () = tokio::time::sleep(TICK) => {}
            () = context.suspicion.notified() => ensure_streams(&context).await,
            () = context.freed.notified() => {
                // Seldom: with a long line of waiters each wake-up costs a look at all of them.
                tokio::time::sleep(TICK.saturating_sub(woken_at.elapsed())).await;
                woken_at = Instant::now();
                if let Err(error) = context.store.capacity_wake(&["capacity"], LIMIT).await {
                    tracing::warn!(%error, "who waits for capacity was not woken; they look again by themselves");
                }
                context.due.notify_one();
            }
        }
        ticks += 1;
        if let Err(error) = tick(&context, &mut missing, ticks).await {
            tracing::warn!(%error, "sweep failed; again");
        }
    }
}

async fn ensure_streams(context: &Context) {
    if let Err(error) = streams::ensure(&context.nats, &context.nats_config).await {
        tracing::warn!(%error, "streams can't be made now");
    }
}

async fn tick(context: &Context, missing: &mut Missing, ticks: u64) -> Result<(), SweepError> {
    if context.store.deadlines_pass(LIMIT).await? > 0 {
        context.due.notify_one();
    }
    republish(context, missing).await?;
    if ticks.is_multiple_of(5) {
        ensure_streams(context).await;
        if context.store.blocked_recheck(LIMIT).await? > 0 {
            context.due.notify_one();
        }
        measure(context).await?;
    }
    if ticks.is_multiple_of(600) {
        context.store.forget_old(10_000).await?;
    }
    Ok(())
}

async fn measure(context: &Context) -> Result<(), StoreError> {
    let backlog = context.store.backlog().await?;
    for reason in stats::WAITS {
        let count: i64 = backlog
            .waiting
            .iter()
            .filter(|(r, _)| r == reason)
            .map(|(_, n)| n)
            .sum();
        metrics::gauge!("rhyzome_jobs_waiting", "reason" => reason).set(count as f64);
    }
    metrics::gauge!("rhyzome_jobs_oldest_waiting_seconds").set(backlog.oldest_s);
    metrics::gauge!("rhyzome_jobs_undoing").set(backlog.undoing as f64);
    for state in ["ready", "cordoned", "unreachable"] {
        let count: i64 = backlog
            .hosts
            .iter()
            .filter(|(s, _)| s == state)
            .map(|(_, n)| n)
            .sum();
        metrics::gauge!("rhyzome_host_state", "state" => state).set(count as f64);
    }
    Ok(())
}

/// An order without an outcome whose subject is empty, and stayed so until every event of that time was settled, is lost: published again.
async fn republish(context: &Context, missing: &mut Missing) -> Result<(), SweepError> {
    let quiet = TimeDelta::from_std(context.config.quiet.duration()).unwrap_or(TimeDelta::seconds(5));
    let rows = context.store.orders_quiet(Utc::now() - quiet, LIMIT).await?;
    if rows.is_empty() {
        missing.clear();
        return Ok(());
    }
    let state = orders::consumer_state(&context.nats).await?;
    let mut lost: Vec<OrderRow> = Vec::new();
    let mut still = Missing::new();
    for row in rows {
        match orders::presence(&context.nats, row.kind.as_str(), row.job, state).await? {
            OrderPresence::Live { .. } => {}
            OrderPresence::Exhausted { sequence } => {
                tracing::warn!(job = %row.job, fence = row.fence, "an order used up its deliveries; published again");
                orders::remove(&context.nats, sequence).await?;
                lost.push(row);
            }
            OrderPresence::Absent => match missing.get(&row.job) {
                Some((fence, position)) if *fence == row.fence => {
                    if events::drained_past(&context.nats, *position).await? {
                        lost.push(row);
                    } else {
                        still.insert(row.job, (row.fence, *position));
                    }
                }
                Some(_) | None => {
                    let position = events::position(&context.nats).await?;
                    still.insert(row.job, (row.fence, position));
                }
            },
        }
    }
    *missing = still;
    publish_again(context, &lost).await?;
    Ok(())
}

async fn publish_again(context: &Context, lost: &[OrderRow]) -> Result<(), SweepError> {
    if lost.is_empty() {
        return Ok(());
    }
    tracing::warn!(
        orders = lost.len(),
        "orders without an outcome are not in the stream; published again"
    );
    let orders: Vec<_> = lost.iter().map(order::message).collect();
    let nonce = u64::try_from(Utc::now().timestamp_millis()).unwrap_or(0);
    let answers = orders::publish_all(&context.nats, &orders, Publication::Again(nonce)).await;
    let mut published = Vec::new();
    for (row, answer) in lost.iter().zip(answers) {
        match answer {
            Ok(_) => published.push((row.job, row.fence)),
            Err(error) => tracing::warn!(job = %row.job, %error, "order not published"),
        }
    }
    context.store.orders_published_again(&published).await?;
    Ok(())
}
