//! The log of the stack's own Postgres: slow statements are in it, what was bound to them is not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::Stack;
use rhyzome_testkit::patience::eventually;
use rhyzome_testkit::rest::unique;
use sqlx::{Connection, PgConnection};

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_statement_is_logged_without_what_was_bound_to_it() {
    let (stack, mark, secret) = (Stack::shared(), unique("slow"), unique("users-own"));
    let file = stack.file();
    let mut connection = PgConnection::connect(&file.postgres.url).await.unwrap();
    // Longer than the two seconds from which on statements are logged.
    let slow = format!("SELECT /* {mark} */ length($1::text), pg_sleep(2.1)");
    sqlx::query(sqlx::AssertSqlSafe(slow))
        .bind(&secret)
        .execute(&mut connection)
        .await
        .unwrap();
    let fails = format!("SELECT /* {mark} */ 1 / length($1::text), $2::text");
    sqlx::query(sqlx::AssertSqlSafe(fails))
        .bind("")
        .bind(&secret)
        .execute(&mut connection)
        .await
        .unwrap_err();
    let log = file.log_dir.join("postgres.log");
    let text = eventually("both statements are in the log", async || {
        let text = std::fs::read_to_string(&log).unwrap();
        let says = |what: &str| {
            text.lines()
                .any(|line| line.contains(&mark) && line.contains(what))
        };
        (says("duration:") && says("STATEMENT:")).then_some(text)
    })
    .await;
    assert!(!text.contains(&secret), "{text}");
}
