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

/// `rhyzome.changes.<tenant>.<kind>.<id>`.
pub fn change(tenant: &str, kind: &str, id: Uuid) -> String {
    format!("rhyzome.changes.{tenant}.{kind}.{id}")
}

/// `rhyzome.changes.<tenant>.>`: what one tenant's watchers hear.
pub fn changes_of(tenant: &str) -> String {
    format!("rhyzome.changes.{tenant}.>")
}

/// `rhyzome.dead.<reason>.<id>`.
pub fn dead(reason: &str, id: &str) -> String {
    format!("rhyzome.dead.{reason}.{id}")
}

/// Tenant, kind and id of a change's subject.
pub fn read_change(subject: &str) -> Option<(&str, &str, Uuid)> {
    let mut tokens = subject.strip_prefix("rhyzome.changes.")?.split('.');
    let (tenant, kind, id) = (tokens.next()?, tokens.next()?, tokens.next()?);
    if tokens.next().is_some() {
        return None;
    }
    Some((tenant, kind, Uuid::parse_str(id).ok()?))
}

#[cfg(test)]
mod tests {
    use super::{change, read_change};
    use uuid::Uuid;

    #[test]
    fn a_change_reads_back() {
        let id = Uuid::from_u128(7);
        assert_eq!(read_change(&change("demo", "job", id)), Some(("demo", "job", id)));
        for bad in [
            "rhyzome.changes.demo.job",
            "rhyzome.jobs.demo.job.x",
            "rhyzome.changes.demo.job.x",
        ] {
            assert_eq!(read_change(bad), None, "{bad}");
        }
        assert_eq!(read_change(&format!("{}.more", change("demo", "job", id))), None);
    }
}
