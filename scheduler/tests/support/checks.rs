//! What must hold after every committed transaction: the check that operators run, what is stricter here than everywhere, and the lists of
//! jobs.

use super::lists;
use rhyzome_store::Store;
use sqlx::Row;

/// Hosts of a walk never come to offer less, and no image turns out larger than was reserved for it.
const STRICT: &[(&str, &str)] = &[
    (
        "capacity is never exceeded",
        "SELECT name, to_jsonb(h) FROM hosts h WHERE used_vcpus > vcpus OR used_memory_mib > memory_mib OR used_disk_gib > disk_gib",
    ),
    (
        "an instance has its leases, all its life",
        "SELECT r.id::text, to_jsonb(r) FROM resources r WHERE kind = 'instance'
             AND (SELECT count(*) FROM leases l WHERE l.instance_id = r.id) <> jsonb_array_length(r.spec -> 'interfaces')",
    ),
    (
        "what may be left of an abandoned job keeps its host, and what it reserved there",
        "SELECT a.job_id::text, to_jsonb(a) FROM abandoned a LEFT JOIN resources r ON r.id = a.resource_id
         WHERE r.id IS NULL OR (r.kind <> 'network' AND r.host IS DISTINCT FROM a.host)
            OR (r.kind <> 'network' AND NOT EXISTS (
                SELECT FROM reservations v WHERE v.resource_id = a.resource_id AND v.host = a.host))",
    ),
];

/// Fails with what is broken, where tenants may have so many orders out going forward.
pub async fn check_within(store: &Store, cap: i64, what: &str) {
    let found = store.check(&[]).await.unwrap();
    assert!(found.is_empty(), "{what}: {found:#?}");
    let over: Vec<(String, i32)> =
        sqlx::query_as("SELECT id, running FROM tenants WHERE running > $1 AND id <> 'system'")
            .bind(cap)
            .fetch_all(store.pool())
            .await
            .unwrap();
    assert!(over.is_empty(), "{what}: more than {cap} running: {over:?}");
    for (rule, query) in STRICT {
        let rows = sqlx::query(*query)
            .fetch_all(store.pool())
            .await
            .unwrap_or_else(|e| panic!("{rule}: {e}"));
        if let Some(row) = rows.first() {
            let (name, detail): (String, serde_json::Value) = (row.get(0), row.get(1));
            panic!("{what}: {rule}: {} rows, first {name}: {detail:#}", rows.len());
        }
    }
    lists::check(store, what).await;
}
