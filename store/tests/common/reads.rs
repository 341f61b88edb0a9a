//! What a session read, by the server's own counters.

use rhyzome_store::Store;

/// A session as ours are; one, so that its counters tell what it read.
pub async fn ours(store: &Store) -> Store {
    let options = store.pool().connect_options();
    Store::connect((*options).clone(), 1).await.unwrap()
}

/// Waits until nobody in the database looks at it as it was before: what was changed until now is dead for all, and an index may forget
/// it. The server's own ANALYZE is such a one.
pub async fn nobody_looks_back(store: &Store) {
    loop {
        let looking: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xmin IS NOT NULL",
        )
        .fetch_one(store.pool())
        .await
        .unwrap();
        if looking == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Rows of a table that this session read so far: by its indexes, and by scans.
pub async fn read_of(store: &Store, table: &str) -> (i64, i64) {
    sqlx::query("SELECT pg_stat_force_next_flush()")
        .execute(store.pool())
        .await
        .unwrap();
    sqlx::query_as(
        "SELECT coalesce((SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = $1), 0)::bigint,
                (SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = $1)",
    )
    .bind(table)
    .fetch_one(store.pool())
    .await
    .unwrap()
}
