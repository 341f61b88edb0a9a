//! A process that stands still in the middle of a transaction, and a row that somebody holds: the others go on (`store/src/session.rs`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::make;
use rhyzome_store::session::{LOCK_WAIT, SILENCE_IN_TRANSACTION};
use rhyzome_store::{Store, StoreError};
use std::time::{Duration, Instant};

const HOLD: &str = "SELECT running FROM tenants WHERE id = 'demo' FOR UPDATE";
const NEED: &str = "UPDATE tenants SET running = running WHERE id = 'demo'";

/// Sessions as ours are, on the database of a store.
async fn ours(store: &Store, connections: u32) -> Store {
    let options = store.pool().connect_options().as_ref().clone();
    Store::connect(options, connections).await.unwrap()
}

async fn need(store: &Store) -> Result<(), StoreError> {
    sqlx::query(NEED).execute(store.pool()).await?;
    Ok(())
}

#[tokio::test]
async fn who_stands_still_in_a_transaction_gives_back_what_it_locked() {
    let store = common::store().await;
    make::tenant(&store, "demo").await;
    let (frozen, other) = (ours(&store, 1).await, ours(&store, 1).await);
    let mut transaction = frozen.pool().begin().await.unwrap();
    sqlx::query(HOLD).execute(&mut *transaction).await.unwrap();
    let since = Instant::now();
    need(&other).await.unwrap();
    assert!(
        since.elapsed() + Duration::from_secs(1) >= SILENCE_IN_TRANSACTION,
        "it was locked: {:?}",
        since.elapsed()
    );
    // Whoever goes on later finds that nothing of it counts.
    let late = sqlx::query(NEED).execute(&mut *transaction).await.unwrap_err();
    let late = StoreError::from(late);
    assert!(matches!(late, StoreError::Unreachable(_)), "{late:?}");
    drop(transaction);
    frozen.ready().await.unwrap();
}

#[tokio::test]
async fn a_row_that_somebody_holds_takes_away_what_needs_it_and_no_more() {
    let store = common::store().await;
    make::tenant(&store, "demo").await;
    // A person's session knows nothing of our limits.
    let mut person = store.pool().begin().await.unwrap();
    sqlx::query(HOLD).execute(&mut *person).await.unwrap();
    let one = ours(&store, 1).await;
    let error = need(&one).await.unwrap_err();
    assert!(matches!(error, StoreError::Held(_)), "{error:?}");
    assert!(error.is_transient());
    // A request whose user went away in the meantime gives its connection back, too.
    let gone = tokio::time::timeout(Duration::from_millis(300), need(&one)).await;
    assert!(gone.is_err(), "it waits for the row");
    let since = Instant::now();
    one.ready().await.unwrap();
    assert!(since.elapsed() < LOCK_WAIT + Duration::from_secs(2));
    drop(person);
    need(&one).await.unwrap();
}
