//! When something that is amiss on a host is mended, and how. Pure: what the check found, since when, and what was tried, in; what is to
//! be asked for, out.
//!
//! ```text
//! incomplete ──repair_after──▶ a repair, again after twice as long each time that it is still found
//! stray      ──repair_after──▶ quarantine: a guest among it is turned off ──quarantine_grace──▶ removed
//! ```

use crate::config::SchedulerConfig;
use chrono::{DateTime, TimeDelta, Utc};
use rhyzome_model::check::{Amiss, Owner, Wrong};
use rhyzome_store::amiss::Standing;
use std::time::Duration;

/// Tries are never further apart.
const MOST: Duration = Duration::from_hours(6);

/// What is to be done about something amiss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amends {
    /// Nothing yet.
    Wait,
    /// What its host lacks is made again.
    Repair,
    /// What nobody owns gets a row that stands in for it, and doesn't run. Until then it is kept.
    Quarantine(DateTime<Utc>),
    /// What a resource left on this host doesn't run.
    TurnOff,
    /// What stands in for it is deleted, and it with that.
    RemoveStandIn,
    /// What a resource left on this host is removed.
    Clear,
}

/// See the module.
pub fn amends(amiss: &Amiss, standing: &Standing, now: DateTime<Utc>, config: &SchedulerConfig) -> Amends {
    let after = config.repair_after.duration();
    if now < standing.since + delta(after) || !may_try(standing, now, after) {
        return Amends::Wait;
    }
    let Wrong::Stray(stray) = &amiss.wrong else {
        return Amends::Repair;
    };
    let until = standing.since + delta(config.quarantine_grace.duration().max(after));
    match (stray.owner, now < until) {
        (Owner::Nobody, true) => Amends::Quarantine(until),
        (Owner::Nobody, false) => Amends::RemoveStandIn,
        (Owner::Resource, true) if stray.runs => Amends::TurnOff,
        (Owner::Resource, true) => Amends::Wait,
        (Owner::Resource, false) => Amends::Clear,
    }
}

fn may_try(standing: &Standing, now: DateTime<Utc>, after: Duration) -> bool {
    let Some(last) = standing.tried_at else {
        return true;
    };
    let doublings = u32::try_from(standing.tries.saturating_sub(1).clamp(0, 16)).unwrap_or(0);
    let wait = after.saturating_mul(1 << doublings).min(MOST.max(after));
    now >= last + delta(wait)
}

fn delta(span: Duration) -> TimeDelta {
    TimeDelta::from_std(span).unwrap_or(TimeDelta::days(365))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhyzome_model::check::Stray;
    use rhyzome_model::ids::{HostName, ResourceId};
    use rhyzome_model::kinds::Kind;
    use rhyzome_model::step::ObjectKind;
    use rhyzome_runtime::Span;

    fn of(wrong: Wrong) -> Amiss {
        Amiss {
            host: HostName::from("h1"),
            resource: ResourceId::new(),
            kind: Kind::Instance,
            wrong,
            asked_at: DateTime::UNIX_EPOCH,
        }
    }

    fn stray(owner: Owner, runs: bool) -> Amiss {
        of(Wrong::Stray(Stray {
            owner,
            objects: vec![ObjectKind::Disk],
            claims: Vec::new(),
            runs,
        }))
    }

    fn after(minutes: i64, amiss: &Amiss, tries: i32, tried: i64) -> Amends {
        let since = DateTime::UNIX_EPOCH;
        let standing = Standing {
            since,
            tries,
            tried_at: (tries > 0).then(|| since + TimeDelta::minutes(tried)),
        };
        let config = SchedulerConfig {
            repair_after: Span::minutes(10),
            quarantine_grace: Span::hours(24),
            ..SchedulerConfig::default()
        };
        amends(amiss, &standing, since + TimeDelta::minutes(minutes), &config)
    }

    #[test]
    fn what_is_lacking_is_made_again_once_it_lacks_for_long() {
        let lacks = of(Wrong::Incomplete { disk_lost: true });
        assert_eq!(after(9, &lacks, 0, 0), Amends::Wait);
        assert_eq!(after(10, &lacks, 0, 0), Amends::Repair);
        // Tries go apart, and never by more than six hours.
        for (tries, wait) in [(1, 10), (2, 20), (3, 40), (6, 320), (7, 360), (40, 360)] {
            assert_eq!(after(100 + wait - 1, &lacks, tries, 100), Amends::Wait, "{tries}");
            assert_eq!(after(100 + wait, &lacks, tries, 100), Amends::Repair, "{tries}");
        }
    }

    #[test]
    fn what_is_nobodys_is_kept_for_the_grace_and_then_removed() {
        let until = DateTime::UNIX_EPOCH + TimeDelta::hours(24);
        for runs in [false, true] {
            let found = stray(Owner::Nobody, runs);
            assert_eq!(after(9, &found, 0, 0), Amends::Wait);
            assert_eq!(after(10, &found, 0, 0), Amends::Quarantine(until));
            assert_eq!(after(24 * 60 - 1, &found, 1, 10), Amends::Quarantine(until));
            assert_eq!(after(24 * 60, &found, 1, 10), Amends::RemoveStandIn);
        }
    }

    #[test]
    fn what_a_resource_left_is_turned_off_first() {
        assert_eq!(after(9, &stray(Owner::Resource, true), 0, 0), Amends::Wait);
        assert_eq!(after(10, &stray(Owner::Resource, true), 0, 0), Amends::TurnOff);
        assert_eq!(after(10, &stray(Owner::Resource, false), 0, 0), Amends::Wait);
        for runs in [false, true] {
            assert_eq!(
                after(24 * 60, &stray(Owner::Resource, runs), 1, 10),
                Amends::Clear
            );
        }
    }
}
