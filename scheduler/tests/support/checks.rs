//! What must hold after every committed transaction: the check that operators run, and what is stricter here than everywhere.

use rhyzome_store::Store;
use sqlx::Row;

/// Hosts of a walk never come to offer less, and no image turns out larger than was reserved for it; the tenants' cap is 4.
const STRICT: &[(&str, &str)] = &[
    (
        "capacity is never exceeded",
        "SELECT name, to_jsonb(h) FROM hosts h WHERE used_vcpus > vcpus OR used_memory_mib > memory_mib OR used_disk_gib > disk_gib",
    ),
    (
        "running jobs are within the cap",
        "SELECT id, to_jsonb(t) FROM tenants t WHERE running > 4 AND id <> 'system'",
    ),
    (
        "an instance has its leases, all its life",
        "SELECT r.id::text, to_jsonb(r) FROM resources r WHERE kind = 'instance'
             AND (SELECT count(*) FROM leases l WHERE l.instance_id = r.id) <> jsonb_array_length(r.spec -> 'interfaces')",
    ),
];

/// Fails with what is broken.
pub async fn check(store: &Store, what: &str) {
    let found = store.check(&[]).await.unwrap();
    assert!(found.is_empty(), "{what}: {found:#?}");
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
}
