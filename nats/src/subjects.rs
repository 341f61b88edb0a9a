//! Every subject, made and read. Tokens are ids of ours, which hold neither a dot, a space nor a wildcard.

use uuid::Uuid;

/// All orders.
pub const ORDERS: &str = "rhyzome.orders.>";
/// All reports.
pub const EVENTS: &str = "rhyzome.events.>";
/// All dead letters.
pub const DEAD: &str = "rhyzome.dead.>";
/// All job notices.
pub const JOBS: &str = "rhyzome.jobs.>";
/// All change notices.
pub const CHANGES: &str = "rhyzome.changes.>";
/// What running workers listen to.
pub const CONTROL: &str = "rhyzome.control";
/// What the server says about orders whose deliveries are used up.
pub const ADVISORY_MAX_DELIVERIES: &str = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.ORDERS.>";
/// What the server says about orders that a worker terminated.
pub const ADVISORY_TERMINATED: &str = "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.ORDERS.>";

/// `rhyzome.orders.<kind>.<job>`.
pub fn order(kind: &str, job: Uuid) -> String {
    format!("rhyzome.orders.{kind}.{job}")
}

/// `rhyzome.events.<tenant>.<job>`.
pub fn event(tenant: &str, job: Uuid) -> String {
    format!("rhyzome.events.{tenant}.{job}")
}

/// `rhyzome.jobs.<tenant>.<job>`.
pub fn job(tenant: &str, job: Uuid) -> String {
    format!("rhyzome.jobs.{tenant}.{job}")
}

/// `rhyzome.changes.<tenant>`: what one tenant's watchers hear.
pub fn changes_of(tenant: &str) -> String {
    format!("rhyzome.changes.{tenant}")
}

/// `rhyzome.dead.<reason>.<id>`.
pub fn dead(reason: &str, id: &str) -> String {
    format!("rhyzome.dead.{reason}.{id}")
}

/// The tenant of a subject of changes.
pub fn read_changes_of(subject: &str) -> Option<&str> {
    subject
        .strip_prefix("rhyzome.changes.")
        .filter(|tenant| !tenant.contains('.'))
}

#[cfg(test)]
mod tests {
    use super::{changes_of, read_changes_of};

    #[test]
    fn the_subject_of_changes_reads_back() {
        assert_eq!(read_changes_of(&changes_of("demo")), Some("demo"));
        for bad in ["rhyzome.changes.demo.job", "rhyzome.jobs.demo", "rhyzome.changes"] {
            assert_eq!(read_changes_of(bad), None, "{bad}");
        }
    }
}
