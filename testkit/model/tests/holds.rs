//! With all rules every invariant holds in every configuration, and the configurations reach what they are meant to.

use rhyzome_protocol_model::livelock::{self, Verdict};
use rhyzome_protocol_model::scenarios::{self, Scenario};
use rhyzome_protocol_model::{Rule, Rules, properties};
use stateright::{Checker, HasDiscoveries, Model};

/// States are explored to the end: more than this is a configuration too wide for a test.
const MOST: usize = 1_000_000;

fn holds(scenario: &Scenario) {
    let name = scenario.config.name;
    let checker = scenario
        .config
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .target_state_count(MOST)
        .spawn_bfs()
        .join();
    println!(
        "{name}: {} states, {} unique, depth {}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth()
    );
    let found = checker.discoveries();
    for property in scenario.config.properties() {
        if property.expectation.discovery_is_failure() {
            let path = found.get(property.name).map(|path| path.clone().into_actions());
            assert_eq!(path, None, "{name}: {}", property.name);
        }
    }
    assert!(checker.state_count() < MOST, "{name}: not explored to the end");
    for reached in scenario.reaches {
        assert!(found.contains_key(reached), "{name} never {reached}");
    }
}

fn rests(scenario: &Scenario) {
    match livelock::search(&scenario.config) {
        Verdict::Rests(states) => println!("{}: comes to rest from {states} states", scenario.config.name),
        Verdict::Circles(steps) => panic!("{}: goes round in {steps:?}", scenario.config.name),
    }
}

#[test]
fn paused_worker_holds() {
    holds(&scenarios::PAUSED_WORKER);
}

#[test]
fn deleted_holds() {
    holds(&scenarios::DELETED);
}

#[test]
fn wiped_bus_holds() {
    holds(&scenarios::WIPED_BUS);
}

#[test]
fn lossy_bus_holds() {
    holds(&scenarios::LOSSY_BUS);
}

#[test]
fn crashes_holds() {
    holds(&scenarios::CRASHES);
}

#[test]
fn shared_network_holds() {
    holds(&scenarios::SHARED_NETWORK);
}

#[test]
fn shared_crash_holds() {
    holds(&scenarios::SHARED_CRASH);
}

#[test]
fn split_holds() {
    holds(&scenarios::SPLIT);
}

#[test]
fn capacity_holds() {
    holds(&scenarios::CAPACITY);
}

#[test]
fn floors_holds() {
    holds(&scenarios::FLOORS);
}

#[test]
fn lost_ledger_holds() {
    holds(&scenarios::LOST_LEDGER);
}

#[test]
fn poisoned_holds() {
    holds(&scenarios::POISONED);
}

#[test]
fn abandoned_holds() {
    holds(&scenarios::ABANDONED);
}

#[test]
fn updated_holds() {
    holds(&scenarios::UPDATED);
}

#[test]
fn updated_crash_holds() {
    holds(&scenarios::UPDATED_CRASH);
}

#[test]
fn put_back_holds() {
    holds(&scenarios::PUT_BACK);
}

#[test]
fn put_back_updated_holds() {
    holds(&scenarios::PUT_BACK_UPDATED);
}

#[test]
fn stray_holds() {
    holds(&scenarios::STRAY);
}

#[test]
fn retried_holds() {
    holds(&scenarios::RETRIED);
}

#[test]
fn blind_holds() {
    holds(&scenarios::BLIND);
}

#[test]
fn stuck_holds() {
    holds(&scenarios::STUCK);
}

#[test]
fn put_back_comes_to_rest() {
    rests(&scenarios::PUT_BACK);
}

#[test]
fn put_back_updated_comes_to_rest() {
    rests(&scenarios::PUT_BACK_UPDATED);
}

#[test]
fn stray_comes_to_rest() {
    rests(&scenarios::STRAY);
}

#[test]
fn retried_comes_to_rest() {
    rests(&scenarios::RETRIED);
}

#[test]
fn blind_comes_to_rest() {
    rests(&scenarios::BLIND);
}

#[test]
fn stuck_comes_to_rest() {
    rests(&scenarios::STUCK);
}

#[test]
fn updated_comes_to_rest() {
    rests(&scenarios::UPDATED);
}

#[test]
fn lost_ledger_comes_to_rest() {
    rests(&scenarios::LOST_LEDGER);
}

#[test]
fn abandoned_comes_to_rest() {
    rests(&scenarios::ABANDONED);
}

#[test]
fn wiped_bus_comes_to_rest() {
    rests(&scenarios::WIPED_BUS);
}

#[test]
fn crashes_comes_to_rest() {
    rests(&scenarios::CRASHES);
}

#[test]
fn shared_crash_comes_to_rest() {
    rests(&scenarios::SHARED_CRASH);
}

#[test]
fn capacity_comes_to_rest() {
    rests(&scenarios::CAPACITY);
}

/// A floor that came too early makes an order stale that is Postgres' own: dispatched anew, it still ends. (What the agent
/// had decided is forgotten, which is why floors don't come early.)
#[test]
fn an_early_floor_heals() {
    let early = scenarios::FLOORS.config.with(Rules::without(Rule::FloorLocked));
    let checker = early.checker().target_state_count(MOST).spawn_bfs().join();
    let broken: Vec<&str> = early
        .properties()
        .iter()
        .filter(|property| property.expectation.discovery_is_failure())
        .map(|property| property.name)
        .filter(|name| checker.discoveries().contains_key(name))
        .collect();
    assert_eq!(broken, [properties::DECIDED_ONCE]);
    assert!(checker.state_count() < MOST, "not explored to the end");
    println!(
        "early floors: {} states, {} unique",
        checker.state_count(),
        checker.unique_state_count()
    );
}

#[test]
fn every_scenario_has_its_test() {
    let tested = [
        scenarios::PAUSED_WORKER.config.name,
        scenarios::DELETED.config.name,
        scenarios::WIPED_BUS.config.name,
        scenarios::LOSSY_BUS.config.name,
        scenarios::CRASHES.config.name,
        scenarios::SHARED_NETWORK.config.name,
        scenarios::SHARED_CRASH.config.name,
        scenarios::SPLIT.config.name,
        scenarios::CAPACITY.config.name,
        scenarios::FLOORS.config.name,
        scenarios::LOST_LEDGER.config.name,
        scenarios::POISONED.config.name,
        scenarios::ABANDONED.config.name,
        scenarios::UPDATED.config.name,
        scenarios::UPDATED_CRASH.config.name,
        scenarios::PUT_BACK.config.name,
        scenarios::PUT_BACK_UPDATED.config.name,
        scenarios::STRAY.config.name,
        scenarios::RETRIED.config.name,
        scenarios::BLIND.config.name,
        scenarios::STUCK.config.name,
    ];
    assert_eq!(
        scenarios::ALL.iter().map(|s| s.config.name).collect::<Vec<_>>(),
        tested
    );
}
