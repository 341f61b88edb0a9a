//! Sweep: takes no input, scans. Quiet orders are looked for in the stream and published again with the same fence, those that the server
//! gave up are settled as poisoned (`poison`); deadlines pass; streams and consumers that are missing or altered are made anew; who waits for capacity is woken when some came.

use crate::backoff::Pause;
use crate::{Context, order, poison, stats};
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
pub(crate) enum SweepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Nats(#[from] NatsError),
}

/// Orders that were missing from the stream when last looked: fence, and the place of the last event then.
type Missing = HashMap<JobId, (i64, u64)>;

/// What one sweep remembers for the next.
#[derive(Default)]
struct Seen {
    missing: Missing,
    /// Orders that nobody will get, and of which no advisory had come: their place in the stream.
    given_up: HashMap<JobId, u64>,
    /// The place in the dead letters' stream up to which the server's advisories were dealt with.
    advisories: u64,
}

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
    let mut seen = Seen::default();
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
        if let Err(error) = tick(&context, &mut seen, ticks).await {
            tracing::warn!(%error, "sweep failed; again");
        }
    }
}

async fn ensure_streams(context: &Context) {
    if let Err(error) = streams::ensure(&context.nats, &context.nats_config).await {
        tracing::warn!(%error, "streams can't be made now");
    }
}

async fn tick(context: &Context, seen: &mut Seen, ticks: u64) -> Result<(), SweepError> {
    if context.store.deadlines_pass(LIMIT).await? > 0 {
        context.due.notify_one();
    }
    give_up(context, &mut seen.advisories).await?;
    republish(context, seen).await?;
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
    let set_backs = context.store.set_backs().await?;
    metrics::gauge!("rhyzome_invariant_violations", "invariant" => stats::SET_BACK)
        .set(set_backs.len() as f64);
    for host in set_backs {
        tracing::error!(host = %host.host, seen = host.seen, last = host.last,
            "the database was set back: nothing is dispatched until an operator has looked (`rhyzome admin postgres-set-back`)");
    }
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
async fn republish(context: &Context, seen: &mut Seen) -> Result<(), SweepError> {
    let quiet = TimeDelta::from_std(context.config.quiet.duration()).unwrap_or(TimeDelta::seconds(5));
    let rows = context.store.orders_quiet(Utc::now() - quiet, LIMIT).await?;
    if rows.is_empty() {
        seen.missing.clear();
        seen.given_up.clear();
        return Ok(());
    }
    let state = orders::consumer_state(&context.nats).await?;
    let mut lost: Vec<OrderRow> = Vec::new();
    let mut still = Missing::new();
    let mut given_up = HashMap::new();
    for row in rows {
        match orders::presence(&context.nats, row.kind.as_str(), row.job, state).await? {
            OrderPresence::Live { .. } => {}
            // The server's advisory says that its workers died of it. Where none has come in all of a sweep, nothing is proved.
            OrderPresence::Exhausted { sequence } if seen.given_up.get(&row.job) == Some(&sequence) => {
                tracing::warn!(job = %row.job, fence = row.fence, "an order that nobody will get; published again");
                orders::remove(&context.nats, sequence).await?;
                lost.push(row);
            }
            OrderPresence::Exhausted { sequence } => {
                given_up.insert(row.job, sequence);
            }
            OrderPresence::Absent => match seen.missing.get(&row.job) {
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
    seen.missing = still;
    seen.given_up = given_up;
    publish_again(context, &lost).await?;
    Ok(())
}

/// The orders that the server says it gave up: sooner than a look at the stream tells, while much is under way.
async fn give_up(context: &Context, from: &mut u64) -> Result<(), SweepError> {
    let (exhausted, next) = orders::exhausted(&context.nats, *from).await?;
    for order in &exhausted {
        poison::settle(context, order).await?;
    }
    *from = next;
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
