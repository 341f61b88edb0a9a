//! A short run of the suite with the ordinary binary: faults from outside alone, which need no feature (invariants 1 to 8, 11 to 13).

#![allow(clippy::expect_used, reason = "a test")]

use std::process::Command;

/// The same each time, so that a run that fails can be looked at again.
const SEED: &str = "20";

#[test]
fn what_is_killed_wiped_and_refused_leaves_the_books_in_order() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rhyzome-chaos"));
    command.args(["--seed", SEED, "--minutes", "0.7"]);
    for scenario in [
        "permanent",
        "suspended",
        "refused-twice",
        "steps",
        "kills",
        "postgres",
        "nats-wiped",
        "ledger-lost",
        "put-back",
    ] {
        command.args(["--scenario", scenario]);
    }
    let output = command.output().expect("starting rhyzome-chaos");
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
