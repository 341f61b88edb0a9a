//! Reconcile: what a check found amiss on hosts is mended (`mend`), each by an ordinary job. It follows the check, so that one scheduler at a
//! time does it; where two should, each resource's lock lets one job in.

use crate::Context;
use crate::dispatch::notify;
use crate::mend::{Accepts, mend_all};
use chrono::{DateTime, Utc};
use rhyzome_model::check::{Amiss, HostInventory, Older};
use rhyzome_model::ids::HostName;
use rhyzome_model::step::Step;
use rhyzome_runtime::trace::TraceParent;
use rhyzome_store::StoreError;
use rhyzome_store::accept::Origin;
use rhyzome_store::change::Mended;

/// Who asks for it, as the audit and the jobs show.
const ACTOR: &str = "reconcile";

/// Hosts whose ledgers have forgotten what their agents answered are put under a new epoch, and all that lives there is in doubt.
pub(crate) async fn put_back(context: &Context, older: &[Older]) -> Result<(), StoreError> {
    for Older { host, epoch } in older {
        if context.store.host_older(host, *epoch).await? {
            tell_put_back(host, epoch.0 + 1, ShownBy::Inventory);
        }
    }
    Ok(())
}

/// What showed that a host was put back.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ShownBy {
    /// The highest fence that its agent knows is below the highest that it has answered.
    Hello {
        /// The one.
        knows: i64,
        /// The other.
        answered: i64,
    },
    /// Its ledger lacks an end.
    Inventory,
}

/// For operators: a host's ledger is older than what its agent has answered, so that a new epoch begins there.
pub(crate) fn tell_put_back(host: &HostName, epoch: i64, shown_by: ShownBy) {
    let (knows, answered) = match shown_by {
        ShownBy::Hello { knows, answered } => (Some(knows), Some(answered)),
        ShownBy::Inventory => (None, None),
    };
    tracing::error!(
        %host, epoch, knows, answered,
        "the agent's ledger was set back, to before what the agent has answered: it counts as a new one. See what the check finds"
    );
}

/// Mends what is amiss on the hosts that were looked at, where it was so for long enough.
pub(crate) async fn reconcile(
    context: &Context,
    looked: &[HostInventory],
    found: &[Amiss],
) -> Result<(), StoreError> {
    let noted = context.store.amiss_note(looked, found).await?;
    mend_all(context, found, &noted, &context.config).await?;
    let gone = context.store.stand_ins_gone().await?;
    notify(context, &gone).await;
    Ok(())
}

impl Accepts for Context {
    type Mended = Mended;

    async fn repair(&self, amiss: &Amiss) -> Result<Option<Mended>, StoreError> {
        self.store.accept_repair(amiss, &origin(self)).await
    }

    async fn quarantine(&self, amiss: &Amiss, until: DateTime<Utc>) -> Result<Option<Mended>, StoreError> {
        self.store.accept_quarantine(amiss, until, &origin(self)).await
    }

    async fn clearing(&self, amiss: &Amiss, steps: Vec<Step>) -> Result<Option<Mended>, StoreError> {
        self.store.accept_clearing(amiss, steps, &origin(self)).await
    }

    async fn removal(&self, amiss: &Amiss) -> Result<Option<Mended>, StoreError> {
        self.store.accept_removal(amiss, &origin(self)).await
    }

    async fn tell(&self, amiss: &Amiss, mended: Mended) {
        let (action, job) = match &mended.job {
            Some(job) => (job.action.as_str(), job.id.to_string()),
            None => ("quarantine", String::new()),
        };
        tracing::info!(
            host = %amiss.host, kind = %amiss.kind, resource = %amiss.resource, wrong = amiss.wrong.as_str(), action, job,
            "what is amiss on a host is mended"
        );
        self.due.notify_one();
        notify(self, &mended.changes).await;
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
