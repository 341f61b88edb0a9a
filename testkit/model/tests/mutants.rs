//! Without any one rule a counterexample is found, to the invariant that rests on it.

use std::collections::BTreeSet;

use rhyzome_protocol_model::livelock::{self, Verdict};
use rhyzome_protocol_model::{Rule, Rules, properties as p, scenarios};
use stateright::{Checker, HasDiscoveries, Model};

use scenarios::Scenario;

/// A rule, the configuration in which it is missed, and the invariant that fails.
const MUTANTS: &[(Rule, &Scenario, &str)] = &[
    (Rule::Fence, &scenarios::PAUSED_WORKER, p::FENCES),
    (Rule::Fence, &scenarios::DELETED, p::NOTHING_LEFT),
    (Rule::Phase, &scenarios::DELETED, p::NOTHING_LEFT),
    (Rule::ReleasedFirst, &scenarios::PAUSED_WORKER, p::NO_OVERLAP),
    (Rule::ReleasedFirst, &scenarios::PAUSED_WORKER, p::ONE_HOST),
    (Rule::ResultsDeleted, &scenarios::SHARED_NETWORK, p::NETWORK_THERE),
    (Rule::ClaimsAreASet, &scenarios::SHARED_CRASH, p::NETWORK_THERE),
    (Rule::ClaimsAreASet, &scenarios::CRASHES, p::NETWORK_GONE),
    (Rule::ObjectLocked, &scenarios::SHARED_NETWORK, p::NETWORK_THERE),
    (Rule::ClaimsHold, &scenarios::SHARED_NETWORK, p::NETWORK_THERE),
    (Rule::ReservationKept, &scenarios::CAPACITY, p::CAPACITY),
    (Rule::OrderAckedLast, &scenarios::WIPED_BUS, p::ORDER_ACK),
    (Rule::EventAckedLast, &scenarios::WIPED_BUS, p::EVENT_ACK),
    (Rule::SettleGuard, &scenarios::PAUSED_WORKER, p::SETTLED_ONCE),
    (Rule::ProbeFirst, &scenarios::CRASHES, p::NOTHING_LEFT),
    (Rule::UndoWaits, &scenarios::CAPACITY, p::NO_OVERLAP),
    (Rule::NetworkHome, &scenarios::SPLIT, p::NETWORK_WHOLE),
    (Rule::SweepRepublishes, &scenarios::WIPED_BUS, p::ENDS),
    (
        Rule::FloorByFirstFence,
        &scenarios::PAUSED_WORKER,
        p::DECIDED_ONCE,
    ),
    (Rule::FloorLocked, &scenarios::FLOORS, p::DECIDED_ONCE),
    (Rule::CancelByOrder, &scenarios::CAPACITY, p::NOTHING_LEFT),
    (Rule::Epoch, &scenarios::LOST_LEDGER, p::NOTHING_LEFT),
    (Rule::PoisonByOrder, &scenarios::POISONED, p::NOTHING_LEFT),
    (Rule::AbandonedKept, &scenarios::ABANDONED, p::RESERVED),
    (Rule::ForgottenByFence, &scenarios::ABANDONED, p::NOTHING_LEFT),
    (Rule::StartBeginsEpoch, &scenarios::STRAY, p::FENCES),
    (Rule::StartBeginsEpoch, &scenarios::STRAY, p::NOTHING_LEFT),
    (Rule::PutBackNoticed, &scenarios::PUT_BACK_UPDATED, p::AGREEMENT),
    (Rule::LateEndNoticed, &scenarios::PUT_BACK_UPDATED, p::AGREEMENT),
    (Rule::DoubtRepaired, &scenarios::PUT_BACK_UPDATED, p::AGREEMENT),
    (Rule::Still, &scenarios::BLIND, p::FOR_CAUSE),
    (Rule::NothingOpen, &scenarios::RETRIED, p::STRAYS_ONLY),
    (Rule::NothingSince, &scenarios::RETRIED, p::STRAYS_ONLY),
    (Rule::FoundTwice, &scenarios::BLIND, p::FOR_CAUSE),
    (Rule::RepairAtHome, &scenarios::BLIND, p::RESERVED),
    (Rule::Pinned, &scenarios::RETRIED, p::STRAYS_ONLY),
    (Rule::ClearChangesNothing, &scenarios::RETRIED, p::RESERVED),
    (Rule::DeleteAbandonsUndo, &scenarios::STUCK, p::ENDS),
    (Rule::AbandonedForDelete, &scenarios::STUCK, p::AGREEMENT),
];

/// Never at rest: no state shows it, so no property does.
fn circles(rule: Rule) {
    let found = livelock::search(&scenarios::FLOORS.config.with(Rules::without(rule)));
    let Verdict::Circles(steps) = found else {
        panic!("it comes to rest without {rule:?}: {found:?}")
    };
    println!("without {rule:?} it goes round in {steps:?}");
}

fn fails(rule: Rule) {
    if rule == Rule::StaleDispatchedAnew {
        return circles(rule);
    }
    let mut tried = 0;
    for (_, scenario, invariant) in MUTANTS.iter().filter(|(mutant, ..)| *mutant == rule) {
        tried += 1;
        let checker = scenario
            .config
            .with(Rules::without(rule))
            .checker()
            .finish_when(HasDiscoveries::AllOf(BTreeSet::from([*invariant])))
            .spawn_bfs()
            .join();
        let found = checker.discoveries();
        let path = found.get(invariant);
        println!(
            "without {rule:?}: {} unique states, {invariant}",
            checker.unique_state_count()
        );
        assert!(
            path.is_some(),
            "{}: nothing broke without {rule:?}",
            scenario.config.name
        );
        for step in path.into_iter().flat_map(|path| path.clone().into_actions()) {
            println!("    {step:?}");
        }
    }
    assert!(tried > 0, "{rule:?} has no configuration");
}

macro_rules! mutants {
    ($($name:ident: $rule:ident,)*) => {
        $(#[test]
        fn $name() {
            fails(Rule::$rule);
        })*

        #[test]
        fn every_rule_has_its_mutant() {
            assert_eq!(Rule::ALL, [$(Rule::$rule),*]);
        }
    };
}

mutants! {
    without_fence: Fence,
    without_phase: Phase,
    without_released_first: ReleasedFirst,
    without_results_deleted: ResultsDeleted,
    without_claims_are_a_set: ClaimsAreASet,
    without_claims_hold: ClaimsHold,
    without_object_locked: ObjectLocked,
    without_reservation_kept: ReservationKept,
    without_order_acked_last: OrderAckedLast,
    without_event_acked_last: EventAckedLast,
    without_settle_guard: SettleGuard,
    without_probe_first: ProbeFirst,
    without_undo_waits: UndoWaits,
    without_network_home: NetworkHome,
    without_sweep_republishes: SweepRepublishes,
    without_floor_by_first_fence: FloorByFirstFence,
    without_floor_locked: FloorLocked,
    without_stale_dispatched_anew: StaleDispatchedAnew,
    without_cancel_by_order: CancelByOrder,
    without_epoch: Epoch,
    without_poison_by_order: PoisonByOrder,
    without_abandoned_kept: AbandonedKept,
    without_forgotten_by_fence: ForgottenByFence,
    without_start_begins_epoch: StartBeginsEpoch,
    without_put_back_noticed: PutBackNoticed,
    without_late_end_noticed: LateEndNoticed,
    without_doubt_repaired: DoubtRepaired,
    without_still: Still,
    without_nothing_open: NothingOpen,
    without_nothing_since: NothingSince,
    without_found_twice: FoundTwice,
    without_repair_at_home: RepairAtHome,
    without_pinned: Pinned,
    without_clear_changes_nothing: ClearChangesNothing,
    without_delete_abandons_undo: DeleteAbandonsUndo,
    without_abandoned_for_delete: AbandonedForDelete,
}
