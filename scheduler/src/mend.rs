//! What is asked for of what a check found amiss: each thing by its own transaction, in the order that `amends` says. No transaction and no
//! clock; who accepts comes by a trait.

use crate::amends::{Amends, amends};
use crate::config::SchedulerConfig;
use chrono::{DateTime, Utc};
use rhyzome_model::check::Amiss;
use rhyzome_model::step::Step;
use rhyzome_store::StoreError;
use rhyzome_store::amiss::Noted;

/// Jobs that follow one check: a host that lost everything is made whole in parts.
const AT_ONCE: usize = 200;

/// Who accepts what reconcile asks for, judging again that it is so still; none where it isn't.
pub trait Accepts: Sync {
    /// What was accepted.
    type Mended: Send;

    /// Makes again what its host lacks of a resource.
    fn repair(&self, amiss: &Amiss) -> impl Future<Output = Result<Option<Self::Mended>, StoreError>> + Send;

    /// Puts what nobody owns in quarantine until then.
    fn quarantine(
        &self,
        amiss: &Amiss,
        until: DateTime<Utc>,
    ) -> impl Future<Output = Result<Option<Self::Mended>, StoreError>> + Send;

    /// Does this on a host with what a resource left there.
    fn clearing(
        &self,
        amiss: &Amiss,
        steps: Vec<Step>,
    ) -> impl Future<Output = Result<Option<Self::Mended>, StoreError>> + Send;

    /// Removes what is in quarantine.
    fn removal(&self, amiss: &Amiss)
    -> impl Future<Output = Result<Option<Self::Mended>, StoreError>> + Send;

    /// It was accepted.
    fn tell(&self, amiss: &Amiss, mended: Self::Mended) -> impl Future<Output = ()> + Send;
}

/// Asks for what is to be done now about all that was found. What can't be done by a fault of its own is no hindrance to the others.
///
/// # Errors
/// Nothing can be accepted now.
pub async fn mend_all<A: Accepts>(
    accepts: &A,
    found: &[Amiss],
    noted: &Noted,
    config: &SchedulerConfig,
) -> Result<(), StoreError> {
    let mut made = 0;
    for amiss in found {
        if made == AT_ONCE {
            break;
        }
        match mend(accepts, amiss, noted, config).await {
            Ok(Some(mended)) => {
                made += 1;
                accepts.tell(amiss, mended).await;
            }
            Ok(None) => {}
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                tracing::error!(host = %amiss.host, resource = %amiss.resource, %error, "it can't be mended");
            }
        }
    }
    Ok(())
}

async fn mend<A: Accepts>(
    accepts: &A,
    amiss: &Amiss,
    noted: &Noted,
    config: &SchedulerConfig,
) -> Result<Option<A::Mended>, StoreError> {
    let Some(standing) = noted.standing.get(&(amiss.host.clone(), amiss.resource)) else {
        return Ok(None);
    };
    match amends(amiss, standing, noted.now, config) {
        Amends::Wait => Ok(None),
        Amends::Repair => accepts.repair(amiss).await,
        Amends::Quarantine(until) => accepts.quarantine(amiss, until).await,
        Amends::TurnOff => accepts.clearing(amiss, amiss.quarantine()).await,
        Amends::Clear => accepts.clearing(amiss, amiss.removal()).await,
        Amends::RemoveStandIn => {
            // One that was never in quarantine, because no scheduler ran, or that runs again, comes into it first.
            match accepts.quarantine(amiss, noted.now).await? {
                Some(quarantined) => Ok(Some(quarantined)),
                None => accepts.removal(amiss).await,
            }
        }
    }
}
