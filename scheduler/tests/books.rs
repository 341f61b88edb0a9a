//! Random walks through accept, dispatch and settle, with the scheduler's own decisions on a real database and agents that do as
//! chance says. After every step the books agree with what they are books of; at the end, with everything healed, every job ends
//! without anybody looking for forgotten ones.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod support;

use support::walk::Walk;

async fn walk(seed: u64, steps: u32) {
    let mut walk = Walk::new(seed).await;
    for step in 0..steps {
        walk.step().await;
        walk.check(&format!("seed {seed}, step {step}")).await;
    }
    walk.heal(&format!("seed {seed}")).await;
}

#[tokio::test]
async fn books_agree_first() {
    for seed in 0..4 {
        walk(seed, 120).await;
    }
}

#[tokio::test]
async fn books_agree_second() {
    for seed in 100..104 {
        walk(seed, 120).await;
    }
}

#[tokio::test]
async fn books_agree_long() {
    walk(7, 500).await;
}
