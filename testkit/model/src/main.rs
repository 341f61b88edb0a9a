//! Explores every configuration of the protocol model, the wide ones too, and prints what was seen as a table.
//!
//! Guarantees a failing exit when any invariant has a counterexample, which is printed. An argument restricts the run to
//! configurations whose name contains it.

use std::process::ExitCode;
use std::time::Instant;

use rhyzome_protocol_model::livelock::{self, Verdict};
use rhyzome_protocol_model::scenarios::{self, Scenario};
use stateright::{Checker, HasDiscoveries, Model};

/// A bound on time: some minutes for each configuration, unoptimised.
const MOST: usize = 10_000_000;

/// Explores one; whether everything held.
fn explore(scenario: &Scenario) -> bool {
    let begun = Instant::now();
    let config = scenario.config;
    let checker = config
        .checker()
        .threads(std::thread::available_parallelism().map_or(1, usize::from))
        .finish_when(HasDiscoveries::AnyFailures)
        .target_state_count(MOST)
        .spawn_bfs()
        .join();
    let found = checker.discoveries();
    let properties = config.properties();
    let failed: Vec<_> = properties
        .iter()
        .filter(|property| property.expectation.discovery_is_failure())
        .filter_map(|property| found.get(property.name).map(|path| (property.name, path)))
        .collect();
    let bounded = if checker.state_count() >= MOST {
        "bounded"
    } else {
        "whole"
    };
    println!(
        "{:<36} {:>10} {:>10} {:>5} {:>8.1} {:<8} {}",
        config.name,
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64(),
        bounded,
        if failed.is_empty() { "holds" } else { "FAILS" },
    );
    for (name, path) in &failed {
        println!("  {name}");
        for step in (*path).clone().into_actions() {
            println!("    {step:?}");
        }
    }
    let unreached = scenario
        .reaches
        .iter()
        .filter(|reached| !found.contains_key(*reached))
        .inspect(|reached| {
            println!("  never {reached}");
        });
    unreached.count() == 0 && failed.is_empty()
}

/// Looks for a livelock in one; whether there is none.
fn rests(scenario: &Scenario) -> bool {
    match livelock::search(&scenario.config) {
        Verdict::Rests(states) => {
            println!(
                "{:<36} comes to rest from each of {states} states",
                scenario.config.name
            );
            true
        }
        Verdict::Circles(steps) => {
            println!("{:<36} goes round in {steps:?}", scenario.config.name);
            false
        }
    }
}

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let chosen = |scenario: &&Scenario| scenario.config.name.contains(&wanted);
    println!(
        "{:<36} {:>10} {:>10} {:>5} {:>8} {:<8} invariants",
        "configuration", "states", "unique", "depth", "seconds", "space"
    );
    let explored = scenarios::ALL
        .iter()
        .chain(scenarios::WIDE)
        .chain(scenarios::WIDE_RECONCILE)
        .filter(chosen)
        .map(explore)
        .filter(|held| !held);
    let failures = explored.count()
        + scenarios::ALL
            .iter()
            .filter(chosen)
            .map(rests)
            .filter(|held| !held)
            .count();
    if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
