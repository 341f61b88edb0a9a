//! The simulation on fixed seeds; that a seed gives the same schedule each time; and that it notices a rule that was taken away.

#![allow(clippy::unwrap_used, reason = "a test")]

use rhyzome_sim::{Mutant, Schedule, schedule};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs these seeds on every core, until one breaks something.
fn first_broken(seeds: Range<u64>, mutant: Option<Mutant>) -> Option<Schedule> {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return None;
            }
            let ran = schedule(seed, mutant).unwrap();
            if !ran.faults.is_empty() {
                next.store(seeds.end, Ordering::Relaxed);
                return Some(ran);
            }
        }
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        all.into_iter().find_map(|t| t.join().unwrap())
    })
}

#[test]
fn nothing_breaks() {
    if let Some(broken) = first_broken(0..150, None) {
        panic!(
            "seed {}: {:#?}\n{}",
            broken.seed,
            broken.faults,
            broken.trace.join("\n")
        );
    }
}

#[test]
fn a_seed_gives_the_same_schedule_each_time() {
    for seed in 0..6 {
        let (one, two) = (schedule(seed, None).unwrap(), schedule(seed, None).unwrap());
        assert_eq!(one.hash, two.hash, "seed {seed}");
        assert_eq!(one.trace, two.trace, "seed {seed}");
    }
    let (one, other) = (schedule(0, None).unwrap(), schedule(1, None).unwrap());
    assert_ne!(one.hash, other.hash);
}

/// That it is noticed within so many seeds, and by which invariant.
fn is_noticed(mutant: Mutant, within: u64, invariants: &[&str]) {
    let broken = first_broken(0..within, Some(mutant));
    let broken = broken.unwrap_or_else(|| panic!("{}: not noticed in {within} schedules", mutant.as_str()));
    let first = &broken.faults[0];
    assert!(
        invariants.iter().any(|number| first.starts_with(number)),
        "{}: noticed by another than {invariants:?}: {first}",
        mutant.as_str()
    );
}

#[test]
fn orders_below_the_fence_are_noticed() {
    is_noticed(Mutant::NoFenceCheck, 500, &["3", "5", "6", "7"]);
}

#[test]
fn a_missing_undo_is_noticed() {
    is_noticed(Mutant::NoUndo, 200, &["6", "7"]);
}

#[test]
fn a_reservation_freed_early_is_noticed() {
    is_noticed(Mutant::ReservationFreedEarly, 500, &["5", "6", "7", "8"]);
}

#[test]
fn results_kept_after_their_undo_are_noticed() {
    is_noticed(Mutant::ResultsKept, 2_000, &["6", "7"]);
}

#[test]
fn an_event_acked_before_its_commit_is_noticed() {
    is_noticed(Mutant::EventAckedFirst, 500, &["9"]);
}

#[test]
fn a_sweep_that_sleeps_is_noticed() {
    is_noticed(Mutant::SweepSleeps, 500, &["1"]);
}

#[test]
fn what_is_mended_by_nobody_is_noticed() {
    is_noticed(Mutant::NothingMended, 200, &["7"]);
}

#[test]
fn a_host_put_back_unnoticed_is_noticed() {
    is_noticed(Mutant::PutBackUnnoticed, 500, &["5", "6", "7"]);
}
