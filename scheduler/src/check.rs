//! The check of the books, now and then: by whichever scheduler takes it when it is time, on Postgres and on the inventories that the
//! watches of hosts have kept. What it finds is logged when it is found first, and shown by every scheduler as
//! `rhyzome_invariant_violations`, so that it makes no difference which of them checked. What hosts lack or hold too much is mended after
//! it (`reconcile`).

use crate::Context;
use crate::reconcile::{put_back, reconcile};
use rhyzome_model::check::{HostInventory, Invariant, Violation};
use rhyzome_model::ids::HostName;
use rhyzome_store::StoreError;
use rhyzome_store::check::{Checked, LastCheck};
use std::collections::BTreeSet;
use std::time::Duration;

/// How often it is looked whether it is time, at most.
const LOOK: Duration = Duration::from_secs(5);
/// And no more often than this, whatever is configured.
pub(crate) const SHORTEST: Duration = Duration::from_millis(200);
/// Who checks says so this often; who hasn't for so long is taken for dead.
const RENEW: Duration = Duration::from_secs(5);
const LEASE: Duration = Duration::from_secs(20);

/// The loop.
pub async fn run(context: Context) {
    let interval = context.config.check_interval.duration().max(SHORTEST);
    loop {
        tokio::select! {
            () = context.shutdown.triggered() => return,
            () = tokio::time::sleep(LOOK.min(interval)) => {}
        }
        if let Err(error) = look(&context, interval).await {
            tracing::warn!(%error, "the books can't be checked now; again");
        }
    }
}

async fn look(context: &Context, interval: Duration) -> Result<(), StoreError> {
    let store = &context.store;
    if let Some(last) = store
        .check_take(interval.as_secs_f64(), LEASE.as_secs_f64())
        .await?
    {
        let looked = look_at_hosts(context).await?;
        let checked = renewed(context, store.check_all(&looked.inventories)).await?;
        let Checked {
            mut violations,
            amiss,
            older,
        } = checked;
        violations.extend(carried(&last, &looked.not_looked, &violations));
        tell(&last, &violations);
        store.check_done(&violations).await?;
        put_back(context, &older).await?;
        reconcile(context, &looked.inventories, &amiss).await?;
    }
    show(&store.check_last().await?);
    Ok(())
}

/// Keeps the check for as long as it takes.
async fn renewed<T>(
    context: &Context,
    check: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let mut check = std::pin::pin!(check);
    loop {
        tokio::select! {
            checked = &mut check => return checked,
            () = tokio::time::sleep(RENEW) => context.store.check_renew(LEASE.as_secs_f64()).await?,
        }
    }
}

/// What the watches have stored.
#[derive(Default)]
struct Looked {
    inventories: Vec<HostInventory>,
    not_looked: BTreeSet<HostName>,
}

async fn look_at_hosts(context: &Context) -> Result<Looked, StoreError> {
    let mut looked = Looked::default();
    for stored in context.store.inventories_stored().await? {
        match stored.inventory {
            Ok(inventory) => looked.inventories.push(inventory),
            Err(why) => {
                tracing::debug!(host = %stored.host, %why, "not compared with the books");
                looked.not_looked.insert(stored.host);
            }
        }
    }
    Ok(looked)
}

/// What was broken on a host that can't be looked at now is taken to be so still.
fn carried(last: &LastCheck, not_looked: &BTreeSet<HostName>, found: &[Violation]) -> Vec<Violation> {
    let of_host = |v: &&Violation| v.host().is_some_and(|host| not_looked.contains(&host));
    last.violations
        .iter()
        .filter(of_host)
        .filter(|v| !found.iter().any(|f| f.is_same(v)))
        .cloned()
        .collect()
}

/// Says what was not there before; what stays broken is said once.
fn tell(last: &LastCheck, found: &[Violation]) {
    for violation in new(last, found) {
        tracing::error!(
            invariant = violation.check.invariant().number(),
            check = violation.check.as_str(),
            ids = violation.ids.join(" "),
            remedy = violation.check.remedy(),
            "invariant broken: {}",
            violation.found
        );
    }
    let mended = last
        .violations
        .iter()
        .filter(|v| !found.iter().any(|f| f.is_same(v)));
    for violation in mended {
        tracing::info!(
            check = violation.check.as_str(),
            ids = violation.ids.join(" "),
            "no longer broken"
        );
    }
}

fn new<'a>(last: &LastCheck, found: &'a [Violation]) -> Vec<&'a Violation> {
    found
        .iter()
        .filter(|v| !last.violations.iter().any(|l| l.is_same(v)))
        .collect()
}

fn show(last: &LastCheck) {
    for (invariant, count) in counts(&last.violations) {
        metrics::gauge!("rhyzome_invariant_violations", "invariant" => invariant.number().to_string())
            .set(f64::from(count));
    }
}

/// Of every invariant, those that have no violations too.
fn counts(violations: &[Violation]) -> impl Iterator<Item = (Invariant, u32)> + '_ {
    Invariant::all().map(|invariant| {
        let of = violations.iter().filter(|v| v.check.invariant() == invariant);
        (invariant, u32::try_from(of.count()).unwrap_or(u32::MAX))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhyzome_model::check::Check;

    #[test]
    fn what_stays_broken_is_new_once() {
        let of = |id: &str, found: &str| Violation::of(Check::ReservedSum, id, found);
        let last = LastCheck {
            violations: vec![of("a", "1"), of("gone", "1")],
            ..LastCheck::default()
        };
        let found = [of("a", "another figure"), of("b", "1")];
        assert_eq!(new(&last, &found), [&found[1]]);
        assert_eq!(new(&LastCheck::default(), &found).len(), 2);
    }

    #[test]
    fn what_is_on_a_host_that_is_not_looked_at_stays_broken() {
        let on = |host: &str| {
            Violation::of_all(
                Check::ObjectOrphan,
                [host.to_owned(), "x".to_owned()],
                "it holds x",
            )
        };
        let last = LastCheck {
            violations: vec![
                on("h1"),
                on("h2"),
                Violation::of(Check::FenceAhead, "h1", "by Postgres alone"),
            ],
            ..LastCheck::default()
        };
        let down = BTreeSet::from([HostName::from("h1")]);
        assert_eq!(carried(&last, &down, &[]), [on("h1")]);
        assert!(carried(&last, &down, &[on("h1")]).is_empty());
        assert!(carried(&last, &BTreeSet::new(), &[]).is_empty());
    }

    #[test]
    fn every_invariant_is_counted() {
        let found = [
            Violation::of(Check::ReservedSum, "a", ""),
            Violation::of(Check::OrdersOut, "a", ""),
            Violation::of(Check::JobStuck, "b", ""),
        ];
        let counts: Vec<u32> = counts(&found).map(|(_, n)| n).collect();
        assert_eq!(counts, [1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0]);
    }
}
