//! An order that the server gave up, because its deliveries are used up: its workers died of it. It is kept as a dead letter, its job is
//! undone or tried again, and it is taken out of the stream; in this order, each by itself, so that a crash between two of them
//! leaves something that the next sweep finds.

use crate::judge::{Moment, poisoned};
use crate::sweep::SweepError;
use crate::{Context, settle};
use rhyzome_model::ids::Fence;
use rhyzome_model::job::Mode;
use rhyzome_nats::dead::{self, Reason};
use rhyzome_nats::orders::{self, Exhausted};
use rhyzome_store::StoreError;
use rhyzome_store::settle::{SettleTx, Settlement};

/// Settles one such order. One that is not its job's newest any more is only taken out.
pub(crate) async fn settle(context: &Context, order: &Exhausted) -> Result<(), SweepError> {
    let job = order.order.job_id().map_err(rhyzome_nats::NatsError::from)?;
    let fence = Fence(order.order.fence);
    let (_, settlement) = judged(context, order, fence).await?;
    let Some(settlement) = settlement else {
        tracing::info!(%job, fence = fence.0, "an order that was given up is not its job's newest: taken out");
        orders::remove(&context.nats, order.sequence).await?;
        return Ok(());
    };
    let mode = match order.order.model_mode() {
        Ok(mode) => mode,
        Err(_) => Mode::Forward,
    };
    let next = match &settlement {
        Settlement::Poisoned { .. } => "it is undone",
        Settlement::Again { .. }
        | Settlement::Progress { .. }
        | Settlement::Released { .. }
        | Settlement::End(_) => "it is tried again",
    };
    tracing::error!(%job, fence = fence.0, %mode, host = order.order.host, "the workers of an order died of it, {next}");
    metrics::counter!("rhyzome_orders_poisoned_total", "mode" => mode.as_str()).increment(1);
    let why = format!(
        "its workers died of it {} times, without a word: {next}",
        context.nats_config.max_deliver
    );
    dead::publish(
        &context.nats,
        Reason::Poisoned,
        &order.subject,
        order.sequence,
        order.payload.clone(),
        &why,
    )
    .await?;
    // Judged again: the letter may have taken its time.
    if let (tx, Some(settlement)) = judged(context, order, fence).await? {
        let settled = tx.commit(vec![settlement]).await?;
        settle::after(context, settled).await;
    }
    orders::remove(&context.nats, order.sequence).await?;
    Ok(())
}

/// The job, locked, and what the end of its order comes to.
async fn judged(
    context: &Context,
    order: &Exhausted,
    fence: Fence,
) -> Result<(SettleTx, Option<Settlement>), SweepError> {
    let job = order.order.job_id().map_err(rhyzome_nats::NatsError::from)?;
    let tx = context.store.settle_begin(&[job]).await?;
    let moment = Moment {
        now: tx.now,
        roll: rand::random(),
        config: &context.config,
    };
    let settlement = tx.jobs.first().and_then(|job| poisoned(job, fence, moment));
    Ok::<_, StoreError>((tx, settlement)).map_err(SweepError::from)
}
