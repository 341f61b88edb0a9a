//! What must hold after every committed transaction: each query gives the rows that break a rule.

use rhyzome_store::Store;
use sqlx::Row;

const RULES: &[(&str, &str)] = &[
    (
        "hosts.used_* is the sum of the reservations",
        "SELECT h.name, to_jsonb(h) FROM hosts h LEFT JOIN (
             SELECT host, sum(vcpus) v, sum(memory_mib) m, sum(disk_gib) d FROM reservations GROUP BY host) s ON s.host = h.name
         WHERE (h.used_vcpus, h.used_memory_mib, h.used_disk_gib) <> (coalesce(s.v, 0), coalesce(s.m, 0), coalesce(s.d, 0))",
    ),
    (
        "capacity is never exceeded",
        "SELECT name, to_jsonb(h) FROM hosts h WHERE used_vcpus > vcpus OR used_memory_mib > memory_mib OR used_disk_gib > disk_gib",
    ),
    (
        "tenants.running counts the slots, within the cap",
        "SELECT t.id, to_jsonb(t) FROM tenants t
         WHERE running <> (SELECT count(*) FROM jobs WHERE tenant = t.id AND holds_slot) OR running > 4 AND id <> 'system'",
    ),
    (
        "hosts.orders_out counts the orders",
        "SELECT h.name, to_jsonb(h) FROM hosts h WHERE orders_out <> (SELECT count(*) FROM jobs WHERE host = h.name AND dispatched_at IS NOT NULL)",
    ),
    (
        "an order that goes forward holds a slot, and what is not out holds none",
        "SELECT id::text, to_jsonb(j) FROM jobs j
         WHERE (holds_slot AND dispatched_at IS NULL)
            OR (dispatched_at IS NOT NULL AND mode = 'forward' AND NOT holds_slot)",
    ),
    (
        "a network lives where an instance of it is, and nowhere else",
        "SELECT n.network_id::text, to_jsonb(n) FROM network_homes n
         WHERE NOT EXISTS (SELECT FROM resource_refs f JOIN resources r ON r.id = f.from_id WHERE f.to_id = n.network_id AND r.host = n.host)
         UNION ALL
         SELECT r.id::text, to_jsonb(r) FROM resources r JOIN resource_refs f ON f.from_id = r.id
                JOIN resources t ON t.id = f.to_id AND t.kind = 'network' LEFT JOIN network_homes n ON n.network_id = t.id
         WHERE r.host IS NOT NULL AND n.host IS DISTINCT FROM r.host",
    ),
    (
        "what is on a host has its reservation there, what is nowhere has none",
        "SELECT r.id::text, to_jsonb(r) FROM resources r WHERE host IS NOT NULL
             AND NOT EXISTS (SELECT FROM reservations v WHERE v.resource_id = r.id AND v.host = r.host)
         UNION ALL
         SELECT v.resource_id::text, to_jsonb(v) FROM reservations v LEFT JOIN resources r ON r.id = v.resource_id
         WHERE r.id IS NULL OR (r.kind = 'instance' AND r.host IS DISTINCT FROM v.host)
            OR (r.kind = 'image' AND r.host IS DISTINCT FROM v.host AND NOT EXISTS (
                SELECT FROM resource_refs f JOIN resources i ON i.id = f.from_id WHERE f.to_id = r.id AND i.host = v.host))",
    ),
    (
        "the image of an instance is kept where the instance is",
        "SELECT i.id::text, to_jsonb(i) FROM resources i JOIN resource_refs f ON f.from_id = i.id JOIN resources m ON m.id = f.to_id AND m.kind = 'image'
         WHERE i.host IS NOT NULL AND NOT EXISTS (SELECT FROM reservations v WHERE v.resource_id = m.id AND v.host = i.host)",
    ),
    (
        "an instance has its leases, all its life",
        "SELECT r.id::text, to_jsonb(r) FROM resources r WHERE kind = 'instance'
             AND (SELECT count(*) FROM leases l WHERE l.instance_id = r.id) <> jsonb_array_length(r.spec -> 'interfaces')",
    ),
    (
        "one usage interval is open for what is there, none for what isn't",
        "SELECT r.id::text, to_jsonb(r) FROM resources r
         WHERE (applied IS NOT NULL) <> EXISTS (SELECT FROM usage_intervals u WHERE u.resource_id = r.id AND closed_at IS NULL)
         UNION ALL
         SELECT u.resource_id::text, to_jsonb(u) FROM usage_intervals u
         WHERE closed_at IS NULL AND NOT EXISTS (SELECT FROM resources r WHERE r.id = u.resource_id)",
    ),
    (
        "a job stands in line while it is open",
        "SELECT j.id::text, to_jsonb(j) FROM jobs j
         WHERE (ended_at IS NULL) <> EXISTS (SELECT FROM job_resources o WHERE o.job_id = j.id)",
    ),
    (
        "a job's host is its resource's",
        "SELECT j.id::text, to_jsonb(j) FROM jobs j JOIN resources r ON r.id = j.resource_id
         WHERE j.ended_at IS NULL AND j.host IS NOT NULL AND r.kind <> 'network' AND r.host IS DISTINCT FROM j.host",
    ),
    (
        "an open job has somebody to wake it",
        "SELECT j.id::text, to_jsonb(j) FROM jobs j
         WHERE ended_at IS NULL AND due IS NULL AND dispatched_at IS NULL AND NOT (state = 'blocked' AND (
             EXISTS (SELECT FROM job_resources q JOIN job_resources own ON own.job_id = j.id
                     WHERE q.resource_id = own.resource_id AND q.seq < own.seq)
             OR EXISTS (SELECT FROM resource_refs f JOIN resources r ON r.id = f.to_id JOIN job_resources q ON q.resource_id = r.id
                        WHERE f.from_id = j.resource_id AND r.applied IS NULL AND j.action <> 'delete')
             OR (j.action = 'delete' AND EXISTS (SELECT FROM resource_refs f WHERE f.to_id = j.resource_id))))",
    ),
    (
        "the resource's fence is that of its newest order",
        "SELECT r.id::text, to_jsonb(r) FROM resources r WHERE fence < (SELECT max(fence) FROM jobs WHERE resource_id = r.id)",
    ),
    (
        "what may be left of an abandoned job keeps its host, and what it reserved there",
        "SELECT a.job_id::text, to_jsonb(a) FROM abandoned a LEFT JOIN resources r ON r.id = a.resource_id
         WHERE r.id IS NULL OR (r.kind <> 'network' AND r.host IS DISTINCT FROM a.host)
            OR (r.kind <> 'network' AND NOT EXISTS (
                SELECT FROM reservations v WHERE v.resource_id = a.resource_id AND v.host = a.host))",
    ),
    (
        "what is being deleted has a delete that is open",
        "SELECT r.id::text, to_jsonb(r) FROM resources r WHERE deleting
             AND NOT EXISTS (SELECT FROM jobs j WHERE j.resource_id = r.id AND j.action = 'delete' AND j.ended_at IS NULL)",
    ),
];

/// Fails with the first rule that is broken.
pub async fn check(store: &Store, what: &str) {
    for (rule, query) in RULES {
        let rows = sqlx::query(*query)
            .fetch_all(store.pool())
            .await
            .unwrap_or_else(|e| panic!("{rule}: {e}"));
        if let Some(row) = rows.first() {
            let (name, detail): (String, serde_json::Value) = (row.get(0), row.get(1));
            panic!("{what}: {rule}: {} rows, first {name}: {detail:#}", rows.len());
        }
    }
}
