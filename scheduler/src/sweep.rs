//! Sweep: takes no input, scans. Quiet orders are looked for in the stream and published again with the same fence, those that the
//! server gave up are settled as poisoned (`poison`); deadlines pass; who watches guests is told whose host isn't heard any more; streams and consumers that are missing or altered are made anew; who waits for capacity is woken when some came.
//!
//! Every scan takes a page at a time and goes on where it ended, so that each row is looked at again after a bounded number of ticks.

use crate::backoff::Pause;
use crate::lookout::{Found, Lookout};
use crate::{Context, order, poison, stats};
use chrono::{TimeDelta, Utc};
use rhyzome_nats::orders::{self, ConsumerState, OrderPresence, Publication};
use rhyzome_nats::{NatsError, events, streams};
use rhyzome_runtime::fault::{self, Mutant};
use rhyzome_store::StoreError;
use rhyzome_store::dispatch::OrderRow;
use rhyzome_store::sweep::{More, Place};
use rhyzome_store::unheard::{LEASES, Turned};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_secs(1);
/// Rows that one tick takes.
const LIMIT: i64 = 500;
/// Hosts whose guests one tick tells of.
const HOSTS: i64 = 50;
/// Ticks between two looks for what is older than it is kept.
const FORGET: u64 = 600;

#[derive(Debug, thiserror::Error)]
pub(crate) enum SweepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Nats(#[from] NatsError),
}

/// Where the scans are.
struct Scans {
    quiet: Place,
    deadlines: Place,
    blocked: Place,
    capacity: Place,
    forget: More,
    lookout: Lookout,
    /// The place in the dead letters' stream up to which the server's advisories were dealt with.
    advisories: u64,
    began_at: Instant,
}

impl Scans {
    fn new() -> Self {
        Self {
            quiet: Place::START,
            deadlines: Place::START,
            blocked: Place::START,
            capacity: Place::START,
            forget: More::No,
            lookout: Lookout::default(),
            advisories: 0,
            began_at: Instant::now(),
        }
    }
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
    let mut scans = Scans::new();
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
                match context.store.capacity_wake("capacity", scans.capacity, LIMIT).await {
                    Ok(woken) => scans.capacity = woken.next,
                    Err(error) => tracing::warn!(%error, "who waits for capacity was not woken; they look again by themselves"),
                }
                context.due.notify_one();
            }
        }
        ticks += 1;
        tick(&context, &mut scans, ticks).await;
    }
}

async fn ensure_streams(context: &Context) {
    if let Err(error) = streams::ensure(&context.nats, &context.nats_config).await {
        tracing::warn!(%error, "streams can't be made now");
    }
}

/// Each scan by itself: what stops one of them stops no other. Streams come first, since most of the others need them.
async fn tick(context: &Context, scans: &mut Scans, ticks: u64) {
    let often = ticks.is_multiple_of(5);
    if often {
        ensure_streams(context).await;
    }
    said("deadlines", deadlines(context, scans).await);
    said("advisories", give_up(context, &mut scans.advisories).await);
    said("quiet orders", republish(context, scans).await);
    said("hosts that aren't heard", unheard(context, scans.began_at).await);
    if often {
        said("what is blocked", blocked(context, scans).await);
        said("what is measured", measure(context).await);
    }
    if scans.forget == More::Maybe || ticks.is_multiple_of(FORGET) {
        said("what is old", forget(context, scans).await);
    }
}

fn said(scan: &'static str, done: Result<(), SweepError>) {
    if let Err(error) = done {
        tracing::warn!(%error, scan, "sweep failed; again");
    }
}

async fn deadlines(context: &Context, scans: &mut Scans) -> Result<(), SweepError> {
    let late = context.store.deadlines_pass(scans.deadlines, LIMIT).await?;
    scans.deadlines = late.next;
    if late.jobs > 0 {
        context.due.notify_one();
    }
    Ok(())
}

async fn blocked(context: &Context, scans: &mut Scans) -> Result<(), SweepError> {
    let blocked = context.store.blocked_recheck(scans.blocked, LIMIT).await?;
    scans.blocked = blocked.next;
    if blocked.jobs > 0 {
        context.due.notify_one();
    }
    Ok(())
}

/// Tells who watches of the guests of hosts that nobody hears any more. Not before this process has run for as long as a host may be
/// silent: if no scheduler ran, it was nobody's fault but ours, and the hosts are about to be heard.
async fn unheard(context: &Context, began_at: Instant) -> Result<(), SweepError> {
    let lease = context.config.watch_lease.duration();
    let turned = if began_at.elapsed() < lease.mul_f64(LEASES) {
        Turned::Heard
    } else {
        Turned::Either
    };
    let told = context.store.unheard_tell(turned, HOSTS).await?;
    crate::dispatch::notify(context, &told).await;
    Ok(())
}

async fn forget(context: &Context, scans: &mut Scans) -> Result<(), SweepError> {
    let kept = TimeDelta::from_std(context.config.changes_kept.duration()).unwrap_or(TimeDelta::days(1));
    let changes = context.store.changes_forget(kept, LIMIT).await?;
    let others = context.store.forget_old(LIMIT).await?;
    scans.forget = if (changes, others) == (More::No, More::No) {
        More::No
    } else {
        More::Maybe
    };
    Ok(())
}

async fn measure(context: &Context) -> Result<(), SweepError> {
    let backlog = context.store.backlog(&stats::WAITS).await?;
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
async fn republish(context: &Context, scans: &mut Scans) -> Result<(), SweepError> {
    if fault::is_mutant(Mutant::SweepSleeps) {
        return Ok(());
    }
    let quiet = TimeDelta::from_std(context.config.quiet.duration()).unwrap_or(TimeDelta::seconds(5));
    // By Postgres' clock, which said when they went out: one's own may be wrong, and orders would be quiet for hours too long.
    let now = context.store.now().await?;
    let page = context
        .store
        .orders_quiet(now - quiet, scans.quiet, LIMIT)
        .await?;
    for unread in &page.unread {
        tracing::warn!(job = %unread.job, error = %unread.why, "an order can't be looked for by this version: left to another");
    }
    let mut lost: Vec<OrderRow> = Vec::new();
    if !page.orders.is_empty() {
        let state = orders::consumer_state(&context.nats).await?;
        for row in page.orders {
            if look_for(context, &row, state, scans).await? == Found::Lost {
                lost.push(row);
            }
        }
    }
    // Not before all of the page was looked at: after an error it is taken again.
    scans.quiet = page.next;
    if scans.quiet == Place::START {
        scans.lookout.round_ends();
    }
    publish_again(context, &lost).await
}

async fn look_for(
    context: &Context,
    row: &OrderRow,
    state: ConsumerState,
    scans: &mut Scans,
) -> Result<Found, SweepError> {
    let lookout = &mut scans.lookout;
    Ok(
        match orders::presence(&context.nats, row.kind.as_str(), row.job, state).await? {
            OrderPresence::Live { .. } => {
                lookout.live(row.job);
                Found::Perhaps
            }
            OrderPresence::Exhausted { sequence } => {
                let found = lookout.exhausted(row.job, sequence);
                if found == Found::Lost {
                    tracing::warn!(job = %row.job, fence = row.fence, "an order that nobody will get; published again");
                    orders::remove(&context.nats, sequence).await?;
                }
                found
            }
            OrderPresence::Absent => match lookout.missed_since(row.job, row.fence) {
                Some(position) if events::drained_past(&context.nats, position).await? => {
                    lookout.lost(row.job);
                    Found::Lost
                }
                before => {
                    let position = match before {
                        Some(position) => position,
                        None => events::position(&context.nats).await?,
                    };
                    lookout.absent(row.job, row.fence, position);
                    Found::Perhaps
                }
            },
        },
    )
}

/// The orders that the server says it gave up: sooner than a look at the stream tells, while much is under way. One that can't be
/// settled now stands in nobody's way, and is told of again; those that were settled are taken out, and aren't.
async fn give_up(context: &Context, from: &mut u64) -> Result<(), SweepError> {
    let (exhausted, next) = orders::exhausted(&context.nats, *from).await?;
    let mut failed = Ok(());
    for order in &exhausted {
        if let Err(error) = poison::settle(context, order).await {
            failed = Err(error);
        }
    }
    failed?;
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
