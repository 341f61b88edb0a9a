//! Settle: takes events as they come, up to 500 at a time, reduces them to the newest of each job, judges, commits, and only then acks.
//!
//! A batch that fails whole is tried again; one bad job doesn't hold up its neighbours: the batch is halved until it stands alone,
//! and that one is logged, counted and left for redelivery.

use crate::backoff::Pause;
use crate::dispatch::notify;
use crate::judge::{Moment, judge, not_understood};
use crate::{Context, border, stats};
use rhyzome_model::ids::JobId;
use rhyzome_nats::events::{EventsPuller, read};
use rhyzome_nats::{Delivery, dead};
use rhyzome_proto::convert::{WireError, uuid};
use rhyzome_proto::event::{OutcomeKind, Report};
use rhyzome_runtime::fault::{self, Mutant, Point, Side};
use rhyzome_store::StoreError;
use rhyzome_store::settle::{Settled, Settlement};
use std::collections::BTreeMap;

/// The loop.
pub async fn run(context: Context) {
    let mut pause = Pause::new();
    let mut puller = loop {
        match EventsPuller::new(&context.nats).await {
            Ok(puller) => break puller,
            Err(error) => tracing::warn!(%error, "events can't be pulled yet"),
        }
        tokio::select! {
            () = context.shutdown.triggered() => return,
            () = tokio::time::sleep(pause.longer()) => {}
        }
    };
    pause.reset();
    loop {
        let batch = tokio::select! {
            () = context.shutdown.triggered() => break,
            batch = puller.next_batch() => batch,
        };
        match batch {
            Ok(deliveries) => {
                pause.reset();
                settle(&context, deliveries).await;
            }
            Err(error) => {
                tracing::warn!(%error, "pulling events failed; again");
                context.suspicion.notify_one();
                tokio::time::sleep(pause.longer()).await;
            }
        }
    }
    for delivery in puller.close().await {
        delivery.nak().await;
    }
}

async fn settle(context: &Context, deliveries: Vec<Delivery>) {
    metrics::histogram!("rhyzome_settle_batch_size").record(deliveries.len() as f64);
    let mut newest: BTreeMap<JobId, Report> = BTreeMap::new();
    let mut readable = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        match read(delivery.payload()) {
            Ok(report) => match uuid(&report.job) {
                Ok(job) => {
                    keep_newest(&mut newest, JobId(job), border::report(report));
                    readable.push((JobId(job), delivery));
                }
                Err(error) => bury(context, &delivery, &error).await,
            },
            // Another scheduler may know it; until then it is delivered again and again.
            Err(error @ WireError::Newer(_)) => {
                tracing::warn!(%error, subject = delivery.subject(), "event of a newer version");
                delivery.nak_after(std::time::Duration::from_secs(5)).await;
            }
            Err(error @ WireError::Broken(_)) => bury(context, &delivery, &error).await,
        }
    }
    let reports: Vec<(JobId, Report)> = newest.into_iter().collect();
    if fault::is_mutant(Mutant::EventAckedFirst) {
        for (_, delivery) in &readable {
            delivery.ack().await;
        }
    }
    let mut failed = Vec::new();
    commit_all(context, &reports, &mut failed).await;
    fault::point(Point::EventAck, Side::Before);
    for (job, delivery) in readable {
        if failed.contains(&job) {
            delivery.nak_after(std::time::Duration::from_secs(5)).await;
        } else {
            delivery.ack().await;
        }
    }
    fault::point(Point::EventAck, Side::After);
}

async fn bury(context: &Context, delivery: &Delivery, error: &WireError) {
    metrics::counter!("rhyzome_nats_errors_total", "kind" => "broken").increment(1);
    dead::bury(&context.nats, delivery, &error.to_string()).await;
}

/// Of one job the report with the highest fence counts; of these an end before a suspension, and that before progress (two workers may
/// hold one order, and the slower one's progress comes after the faster one's outcome); then the one that says more.
pub fn keep_newest(newest: &mut BTreeMap<JobId, Report>, job: JobId, report: Report) {
    let finality = |r: &Report| match r.outcome.as_ref().map(rhyzome_proto::event::Outcome::kind) {
        None | Some(OutcomeKind::Unspecified) => 0,
        Some(
            OutcomeKind::Suspended | OutcomeKind::Stale | OutcomeKind::StepFailed | OutcomeKind::TurnToUndo,
        ) => 1,
        Some(
            OutcomeKind::Succeeded | OutcomeKind::Failed | OutcomeKind::Cancelled | OutcomeKind::Released,
        ) => 2,
    };
    let rank = |r: &Report| (r.fence, finality(r), r.steps.len(), r.at_ms);
    match newest.get(&job) {
        Some(kept) if rank(kept) >= rank(&report) => {}
        Some(_) | None => {
            newest.insert(job, report);
        }
    }
}

/// Commits, in halves where the whole won't go; what can't be settled alone is put into `failed`.
async fn commit_all(context: &Context, reports: &[(JobId, Report)], failed: &mut Vec<JobId>) {
    let mut pause = Pause::new();
    let mut parts = vec![reports];
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        match commit(context, part).await {
            Ok(settled) => {
                pause.reset();
                after(context, settled).await;
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "settle failed; again");
                parts.push(part);
                tokio::time::sleep(pause.longer()).await;
                if context.shutdown.is_triggered() {
                    failed.extend(parts.iter().flat_map(|p| p.iter().map(|r| r.0)));
                    return;
                }
            }
            Err(error) if part.len() > 1 => {
                tracing::warn!(%error, jobs = part.len(), "settle failed; in halves");
                let (left, right) = part.split_at(part.len() / 2);
                parts.push(right);
                parts.push(left);
            }
            Err(error) => {
                tracing::error!(%error, job = %part[0].0, "a report can't be settled");
                failed.push(part[0].0);
            }
        }
    }
}

async fn commit(context: &Context, reports: &[(JobId, Report)]) -> Result<Settled, StoreError> {
    let ids: Vec<JobId> = reports.iter().map(|r| r.0).collect();
    let tx = context.store.settle_begin(&ids).await?;
    let moment = |roll| Moment {
        now: tx.now,
        roll,
        config: &context.config,
    };
    let by_job: BTreeMap<JobId, &Report> = reports.iter().map(|(id, r)| (*id, r)).collect();
    let mut settlements: Vec<Settlement> = Vec::with_capacity(tx.jobs.len());
    for job in &tx.jobs {
        let Some(report) = by_job.get(&job.id) else {
            continue;
        };
        let moment = moment(rand::random());
        match judge(job, report, moment) {
            Ok(Some(settlement)) => settlements.push(settlement),
            Ok(None) => tracing::debug!(job = %job.id, fence = report.fence, "stale report"),
            Err(error) => {
                tracing::error!(job = %job.id, %error, "report not understood");
                settlements.extend(not_understood(job, report, moment));
            }
        }
    }
    fault::point(Point::SettleCommit, Side::Before);
    let settled = tx.commit(settlements).await?;
    fault::point(Point::SettleCommit, Side::After);
    Ok(settled)
}

/// After the commit: who watches hears of it, and who waited is looked at again.
pub(crate) async fn after(context: &Context, settled: Settled) {
    if !settled.ended.is_empty() {
        stats::ended(&settled.ended);
        context.freed.notify_one();
    }
    context.due.notify_one();
    notify(context, &settled.changes).await;
}
