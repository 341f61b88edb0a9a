//! The invariants of job-protocol.md at rest: Postgres' books among themselves, and against what the agents hold.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use rhyzome_testkit::Stack;
use rhyzome_testkit::stack::Inventory;
use serde_json::Value;
use sqlx::{PgPool, Row};

use crate::effects::{self, Made, Resources};
use crate::journal::Journal;

/// Statements that find nothing while the books agree: the invariant, what it means, the statement.
const BOOKS: [(u8, &str, &str); 13] = [
    (
        1,
        "two creates of one name",
        "SELECT tenant || ' ' || kind || ' ' || resource_name FROM jobs WHERE action = 'create' AND retry_of IS NULL
         GROUP BY tenant, kind, resource_name HAVING count(*) > 1",
    ),
    (
        4,
        "a job in line that has ended",
        "SELECT o.job_id::text FROM job_resources o JOIN jobs j ON j.id = o.job_id WHERE j.ended_at IS NOT NULL",
    ),
    (4, "a tenant with running jobs", "SELECT id || ' ' || running FROM tenants WHERE running <> 0"),
    (4, "a host with orders out", "SELECT name || ' ' || orders_out FROM hosts WHERE orders_out <> 0"),
    (
        4,
        "usage that is metered of nothing",
        "SELECT u.resource_id::text FROM usage_intervals u LEFT JOIN resources r ON r.id = u.resource_id
         WHERE u.closed_at IS NULL AND (r.id IS NULL OR r.applied IS NULL)",
    ),
    (
        4,
        "an instance that isn't metered",
        "SELECT r.id::text FROM resources r WHERE r.kind = 'instance' AND r.applied IS NOT NULL
         AND NOT EXISTS (SELECT FROM usage_intervals u WHERE u.resource_id = r.id AND u.closed_at IS NULL)",
    ),
    (
        4,
        "a host or a reservation of what was never made",
        "SELECT r.id::text FROM resources r WHERE r.applied IS NULL
         AND (r.host IS NOT NULL OR EXISTS (SELECT FROM reservations v WHERE v.resource_id = r.id))",
    ),
    (
        8,
        "a host whose sums aren't those of its reservations",
        "SELECT h.name FROM hosts h LEFT JOIN (SELECT host, sum(vcpus) v, sum(memory_mib) m, sum(disk_gib) d FROM reservations GROUP BY host) s
         ON s.host = h.name WHERE (h.used_vcpus, h.used_memory_mib, h.used_disk_gib) IS DISTINCT FROM
            (coalesce(s.v, 0), coalesce(s.m, 0), coalesce(s.d, 0))",
    ),
    (
        8,
        "a host with more reserved than it offers",
        "SELECT name FROM hosts WHERE used_vcpus > vcpus OR used_memory_mib > memory_mib OR used_disk_gib > disk_gib",
    ),
    (
        8,
        "an instance without its own reservation on its host",
        "SELECT r.id::text FROM resources r WHERE r.kind = 'instance' AND r.host IS NOT NULL
         AND (SELECT count(*) FROM reservations v WHERE v.resource_id = r.id AND v.host = r.host) <> 1",
    ),
    (
        8,
        "a reservation of nothing",
        "SELECT v.resource_id::text FROM reservations v LEFT JOIN resources r ON r.id = v.resource_id WHERE r.id IS NULL",
    ),
    (
        8,
        "an instance without an address on each of its networks",
        "SELECT r.id::text FROM resources r WHERE r.kind = 'instance' AND jsonb_array_length(r.spec->'interfaces') <>
            (SELECT count(*) FROM leases l WHERE l.instance_id = r.id)",
    ),
    (
        7,
        "a network that lives elsewhere than an instance on it",
        "SELECT r.id::text FROM resources r JOIN resource_refs f ON f.from_id = r.id JOIN resources n ON n.id = f.to_id AND n.kind = 'network'
         LEFT JOIN network_homes h ON h.network_id = n.id WHERE r.host IS NOT NULL AND h.host IS DISTINCT FROM r.host",
    ),
];

/// Judges everything; what is broken goes to the journal.
pub(crate) async fn all(stack: &Stack, db: &PgPool, journal: &Journal, made: &[Vec<Made>]) -> Result<()> {
    for (invariant, what, statement) in BOOKS {
        let rows = sqlx::query(statement)
            .fetch_all(db)
            .await
            .with_context(|| format!("looking for {what}"))?;
        for row in rows {
            journal.broken(invariant, &format!("{what}: {}", row.try_get::<String, _>(0)?));
        }
    }
    accepted(db, journal).await?;
    let resources = resources(db).await?;
    for (invariant, what) in made.iter().flat_map(|made| effects::faults(made, &resources)) {
        journal.broken(invariant, &what);
    }
    agreement(stack, db, journal).await?;
    admin_check(stack, journal)
}

/// What operators are told by `rhyzome admin check`, and the status that scripts go by.
fn admin_check(stack: &Stack, journal: &Journal) -> Result<()> {
    let output = stack.try_run(&["admin", "check", "-o", "json"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let Ok(checked) = serde_json::from_str::<Value>(&said) else {
        bail!(
            "rhyzome admin check ended with {} and said: {said}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let rows = |name: &str| checked[name].as_array().cloned().unwrap_or_default();
    let (violations, not_looked) = (rows("violations"), rows("not_looked"));
    for violation in &violations {
        let number = violation["invariant"]
            .as_u64()
            .and_then(|number| u8::try_from(number).ok())
            .unwrap_or_default();
        let what = format!("admin check: {}: {}", violation["check"], violation["found"]);
        journal.broken(number, &what);
    }
    for host in &not_looked {
        journal.broken(0, &format!("admin check could not look at {host}"));
    }
    let wanted = match (violations.is_empty(), not_looked.is_empty()) {
        (false, _) => 1,
        (true, false) => 2,
        (true, true) => 0,
    };
    if output.status.code() != Some(wanted) {
        let what = format!("admin check ended with {}, and said {said}", output.status);
        journal.broken(0, &what);
    }
    Ok(())
}

async fn accepted(db: &PgPool, journal: &Journal) -> Result<()> {
    let rows = sqlx::query("SELECT id::text, ended_at IS NOT NULL FROM jobs")
        .fetch_all(db)
        .await?;
    let mut ended: BTreeMap<String, bool> = BTreeMap::new();
    for row in rows {
        ended.insert(row.try_get(0)?, row.try_get(1)?);
    }
    for accepted in journal.all_accepted() {
        match ended.get(&accepted.job) {
            Some(true) => {}
            Some(false) => journal.broken(
                1,
                &format!("job {} ({}) never ended", accepted.job, accepted.what),
            ),
            None => journal.broken(
                1,
                &format!(
                    "job {} ({}) was accepted and isn't there",
                    accepted.job, accepted.what
                ),
            ),
        }
    }
    Ok(())
}

async fn resources(db: &PgPool) -> Result<Resources> {
    let rows = sqlx::query("SELECT id::text, resource_id::text FROM jobs")
        .fetch_all(db)
        .await?;
    let mut resources = Resources::new();
    for row in rows {
        resources.insert(row.try_get(0)?, row.try_get(1)?);
    }
    Ok(resources)
}

/// What is on a host, one line each.
type Things = BTreeSet<String>;

/// What agents hold is what Postgres says was applied.
async fn agreement(stack: &Stack, db: &PgPool, journal: &Journal) -> Result<()> {
    let said = applied(db).await?;
    let hosts = sqlx::query("SELECT name FROM hosts ORDER BY name")
        .fetch_all(db)
        .await?;
    for host in hosts {
        let host: String = host.try_get(0)?;
        let held = held(&stack.inventory(&host));
        let wanted = said.get(&host).cloned().unwrap_or_default();
        for ghost in wanted.difference(&held) {
            journal.broken(7, &format!("{host} should have {ghost}, and hasn't"));
        }
        for orphan in held.difference(&wanted) {
            journal.broken(7, &format!("{host} has {orphan}, and should not"));
        }
    }
    Ok(())
}

fn held(inventory: &Inventory) -> Things {
    let mut things = Things::new();
    for object in &inventory.objects {
        match object.kind.as_str() {
            "network" | "image" => {
                things.extend(
                    object
                        .claims
                        .iter()
                        .map(|claim| format!("{} {} for {claim}", object.kind, object.id)),
                );
                if object.claims.is_empty() {
                    things.insert(format!("{} {} for nobody", object.kind, object.id));
                }
            }
            "instance" => {
                things.insert(format!("instance {} {}", object.id, object.state));
            }
            kind => {
                things.insert(format!("{kind} {}", object.id));
            }
        }
    }
    things
}

async fn applied(db: &PgPool) -> Result<BTreeMap<String, Things>> {
    let rows = sqlx::query(
        "SELECT r.host, r.kind, r.id::text, r.applied->>'power',
                (SELECT array_agg(n.kind || ' ' || n.id) FROM resource_refs f JOIN resources n ON n.id = f.to_id
                 WHERE f.from_id = r.id AND n.kind IN ('network', 'image'))
         FROM resources r WHERE r.host IS NOT NULL AND r.applied IS NOT NULL",
    )
    .fetch_all(db)
    .await?;
    let mut hosts: BTreeMap<String, Things> = BTreeMap::new();
    for row in rows {
        let (host, kind, id): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let things = hosts.entry(host).or_default();
        if kind == "image" {
            things.insert(format!("image {id} for {id}"));
        }
        if kind == "instance" {
            let state = match row.try_get::<Option<String>, _>(3)?.as_deref() {
                Some("off") => "stopped",
                Some(_) | None => "running",
            };
            things.insert(format!("instance {id} {state}"));
            things.insert(format!("disk {id}"));
            let shared: Option<Vec<String>> = row.try_get(4)?;
            things.extend(
                shared
                    .into_iter()
                    .flatten()
                    .map(|object| format!("{object} for {id}")),
            );
        }
    }
    Ok(hosts)
}
