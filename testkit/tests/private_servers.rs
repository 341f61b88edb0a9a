//! The private servers that crates' own tests use.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_nats::{Role, streams};
use rhyzome_testkit::database::Database;
use rhyzome_testkit::nats::NatsServer;

#[tokio::test]
async fn each_test_has_a_database_of_its_own_with_the_migrations_applied() {
    let (one, other) = (Database::fresh().await, Database::fresh().await);
    assert_ne!(one.url(), other.url());
    one.store(1).await.ready().await.unwrap();
    let store = other.store(1).await;
    sqlx::query("CREATE TABLE only_here (id int)")
        .execute(store.pool())
        .await
        .unwrap();
    let elsewhere: Option<String> = sqlx::query_scalar("SELECT to_regclass('only_here')::text")
        .fetch_one(one.store(1).await.pool())
        .await
        .unwrap();
    assert_eq!(elsewhere, None);
}

#[tokio::test]
async fn nats_serves_the_roles_and_loses_its_streams_when_it_is_emptied() {
    let mut server = NatsServer::start();
    let config = server.config();
    let scheduler = server.connect(Role::Scheduler).await;
    let first = streams::ensure(&scheduler, &config).await.unwrap();
    assert!(!first.made.is_empty());
    let again = streams::ensure(&scheduler, &config).await.unwrap();
    assert!(again.made.is_empty(), "{again:?}");
    server.kill();
    server.wipe();
    server.restart();
    let scheduler = server.connect(Role::Scheduler).await;
    let after = streams::ensure(&scheduler, &config).await.unwrap();
    assert_eq!(after.made, first.made);
}
