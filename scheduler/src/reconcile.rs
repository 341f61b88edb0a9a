//! Reconcile: what a check found amiss on hosts is mended, each by an ordinary job. It follows the check, so that one scheduler at a
//! time does it; where two should, each resource's lock lets one job in.

use crate::Context;
use crate::amends::{Amends, amends};
use crate::dispatch::notify;
use rhyzome_model::check::{Amiss, HostInventory};
use rhyzome_runtime::trace::TraceParent;
use rhyzome_store::StoreError;
use rhyzome_store::accept::Origin;
use rhyzome_store::amiss::Noted;
use rhyzome_store::change::Mended;

/// Who asks for it, as the audit and the jobs show.
const ACTOR: &str = "reconcile";
/// Jobs that follow one check: a host that lost everything is made whole in parts.
const AT_ONCE: usize = 200;

/// Mends what is amiss on the hosts that were looked at, where it was so for long enough.
pub(crate) async fn reconcile(
    context: &Context,
    looked: &[HostInventory],
    found: &[Amiss],
) -> Result<(), StoreError> {
    let noted = context.store.amiss_note(looked, found).await?;
    let mut made = 0;
    for amiss in found {
        if made == AT_ONCE {
            break;
        }
        match mend(context, amiss, &noted).await {
            Ok(Some(mended)) => {
                made += 1;
                tell(context, amiss, &mended).await;
            }
            Ok(None) => {}
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                tracing::error!(host = %amiss.host, resource = %amiss.resource, %error, "it can't be mended");
            }
        }
    }
    let gone = context.store.stand_ins_gone().await?;
    notify(context, &gone).await;
    Ok(())
}

async fn mend(context: &Context, amiss: &Amiss, noted: &Noted) -> Result<Option<Mended>, StoreError> {
    let store = &context.store;
    let Some(standing) = noted.standing.get(&(amiss.host.clone(), amiss.resource)) else {
        return Ok(None);
    };
    let origin = origin(context);
    match amends(amiss, standing, noted.now, &context.config) {
        Amends::Wait => Ok(None),
        Amends::Repair => store.accept_repair(amiss, &origin).await,
        Amends::Quarantine(until) => store.accept_quarantine(amiss, until, &origin).await,
        Amends::TurnOff => store.accept_clearing(amiss, amiss.quarantine(), &origin).await,
        Amends::Clear => store.accept_clearing(amiss, amiss.removal(), &origin).await,
        Amends::RemoveStandIn => {
            // One that was never in quarantine, because no scheduler ran, or that runs again, comes into it first.
            match store.accept_quarantine(amiss, noted.now, &origin).await? {
                Some(quarantined) => Ok(Some(quarantined)),
                None => store.accept_removal(amiss, &origin).await,
            }
        }
    }
}

fn origin(context: &Context) -> Origin {
    let trace = TraceParent::new();
    let deadline = context.config.job_deadline.duration().as_secs();
    Origin {
        actor: ACTOR.to_owned(),
        trace_id: trace.trace_id(),
        traceparent: trace.to_string(),
        deadline_s: i64::try_from(deadline).unwrap_or(i64::MAX),
    }
}

async fn tell(context: &Context, amiss: &Amiss, mended: &Mended) {
    let (action, job) = match &mended.job {
        Some(job) => (job.action.as_str(), job.id.to_string()),
        None => ("quarantine", String::new()),
    };
    tracing::info!(
        host = %amiss.host, kind = %amiss.kind, resource = %amiss.resource, wrong = amiss.wrong.as_str(), action, job,
        "what is amiss on a host is mended"
    );
    context.due.notify_one();
    notify(context, &mended.changes).await;
}
