//! The engine over a simulated host: do twice, undo twice, undo while running, do after undo, late fences, crashes at each point.
//! Numbers in names are those of the invariants in the job protocol.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Agent, Gate, Job, Script, host, kind};
use rhyzome_agent::apply::{Answer, Refusal};
use rhyzome_agent::driver::StepError;
use rhyzome_model::ids::{Epoch, Fence};
use rhyzome_model::job::{ErrorClass, Verdict};
use rhyzome_model::problem::JobError;
use rhyzome_proto::event::{self, OutcomeKind, StepState};
use std::sync::Arc;

const STEPS: [&str; 5] = [
    "ensure_network",
    "ensure_image",
    "ensure_disk",
    "ensure_instance",
    "set_power",
];

fn fails(class: ErrorClass) -> Script {
    Script::Fail(StepError::new(class, "TEST", "The test's own."))
}

fn undo_calls() -> Vec<String> {
    STEPS.iter().rev().map(|step| format!("undo_{step}")).collect()
}

#[tokio::test]
async fn doing_twice_is_doing_once() {
    let (agent, job) = (Agent::new().await, Job::new());
    let first = agent.apply(&job.order(1)).await;
    assert_eq!(kind(&first), OutcomeKind::Succeeded);
    assert_eq!(
        first.steps.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
        STEPS
    );
    assert!(first.steps.iter().all(|s| s.state() == StepState::Succeeded));
    assert!(!first.steps[1].output.is_empty(), "the image's facts");
    assert_eq!(agent.driver.called(), STEPS);
    agent.driver.clear();
    assert_eq!(agent.apply(&job.order(1)).await, first);
    assert!(agent.driver.called().is_empty(), "a finished job was done again");
    assert_eq!(
        agent.crashed().await.apply(&job.order(1)).await,
        first,
        "after a restart"
    );
}

#[tokio::test]
async fn calls_at_once_are_one_operation() {
    let (agent, job, gate) = (Agent::new().await, Job::new(), Gate::new());
    agent.driver.script("ensure_disk", Script::Hold(gate.clone()));
    let mut calls = Vec::new();
    for fence in [1, 1, 2, 1] {
        // A lower fence after a higher one is stale even while the operation runs.
        match agent.start(&job.order(fence)).await.unwrap() {
            Answer::Follow(op) => calls.push(op),
            Answer::Now(outcome) => assert_eq!(kind(&outcome), OutcomeKind::Stale),
        }
    }
    assert_eq!(calls.len(), 3);
    gate.reached().await;
    gate.let_go();
    for op in &calls {
        assert_eq!(kind(&op.outcome().await), OutcomeKind::Succeeded);
    }
    assert_eq!(agent.driver.called(), STEPS);
}

#[tokio::test]
async fn a_step_that_is_still_so_is_not_made_again() {
    let (agent, job) = (Agent::new().await, Job::new());
    agent.driver.script("ensure_instance", fails(ErrorClass::Busy));
    let failed = agent.apply(&job.order(1)).await;
    assert_eq!(kind(&failed), OutcomeKind::StepFailed);
    assert_eq!(failed.outcome.as_ref().unwrap().class(), event::ErrorClass::Busy);
    let error: JobError = failed.outcome.as_ref().unwrap().model_error().unwrap().unwrap();
    assert_eq!(
        (error.code.as_str(), error.step.as_deref(), error.retryable),
        ("TEST", Some("ensure_instance"), true)
    );
    assert_eq!(
        failed.steps.last().map(event::StepResult::state),
        Some(StepState::Failed)
    );
    agent.driver.clear();
    assert_eq!(agent.kind(&job.order(1)).await, OutcomeKind::Succeeded);
    let again = [
        "observe_ensure_network",
        "observe_ensure_image",
        "observe_ensure_disk",
        "ensure_instance",
        "set_power",
    ];
    assert_eq!(agent.driver.called(), again);
}

#[tokio::test]
async fn a_step_that_is_gone_is_made_again() {
    let (agent, job, other) = (Agent::new().await, Job::new(), Job::new());
    agent
        .driver
        .script("ensure_instance", fails(ErrorClass::Unavailable));
    agent.kind(&job.order(1)).await;
    // Another job takes the disk away behind its back.
    let mut thief = other;
    thief.steps = vec![rhyzome_model::step::Step::forward_only(
        job.steps[2].undo.clone().unwrap(),
    )];
    assert_eq!(agent.kind(&thief.order(2)).await, OutcomeKind::Succeeded);
    agent.driver.clear();
    assert_eq!(agent.kind(&job.order(1)).await, OutcomeKind::Succeeded);
    assert!(agent.driver.called().contains(&"ensure_disk".to_owned()));
}

#[tokio::test]
async fn every_step_fails_and_every_undo_is_repeated() {
    for (index, step) in STEPS.iter().enumerate() {
        let (mut agent, job) = (Agent::new().await, Job::new());
        agent.driver.script(step, fails(ErrorClass::Permanent));
        assert_eq!(agent.kind(&job.order(1)).await, OutcomeKind::StepFailed);
        for undone in STEPS.iter().take(index + 1).rev() {
            agent
                .driver
                .script(&format!("undo_{undone}"), fails(ErrorClass::Unavailable));
            let undo = agent.apply(&job.undo(1, Verdict::Failed)).await;
            assert_eq!(kind(&undo), OutcomeKind::StepFailed, "{step}, undo of {undone}");
            if undone.len() % 2 == 0 {
                agent = agent.crashed().await;
            }
        }
        let ended = agent.apply(&job.undo(1, Verdict::Failed)).await;
        assert_eq!(kind(&ended), OutcomeKind::Failed);
        assert!(agent.driver.held().await.is_empty(), "{step}: something was left");
        assert_eq!(
            agent.kind(&job.undo(1, Verdict::Cancelled)).await,
            OutcomeKind::Failed,
            "an end absorbs"
        );
        assert_eq!(
            agent.kind(&job.order(2)).await,
            OutcomeKind::Failed,
            "do after undo"
        );
    }
}

#[tokio::test]
async fn the_undo_goes_in_reverse_and_ends_with_its_cause() {
    let (agent, job) = (Agent::new().await, Job::new());
    agent.driver.script("set_power", fails(ErrorClass::Permanent));
    agent.apply(&job.order(1)).await;
    agent.driver.clear();
    let mut undo = job.undo(1, Verdict::Failed);
    undo.cause = serde_json::to_vec(&JobError::new("BAD_IMAGE", "It can't boot.")).unwrap();
    let ended = agent.apply(&undo).await;
    assert_eq!(agent.driver.called(), undo_calls());
    assert_eq!(
        ended
            .outcome
            .as_ref()
            .unwrap()
            .model_error()
            .unwrap()
            .unwrap()
            .code,
        "BAD_IMAGE"
    );
    let undone: Vec<_> = ended
        .steps
        .iter()
        .filter(|s| s.state() == StepState::Undone)
        .collect();
    assert_eq!(
        undone.iter().map(|s| s.name.clone()).collect::<Vec<_>>(),
        undo_calls()
    );
}

#[tokio::test]
async fn an_undo_stops_what_runs_and_waits_until_it_is_gone() {
    let (agent, job, gate) = (Agent::new().await, Job::new(), Gate::new());
    agent.driver.script("ensure_disk", Script::Stubborn(gate.clone()));
    let forward = agent.begin(&job.order(1)).await;
    gate.reached().await;
    let undo = agent.begin(&job.undo(2, Verdict::Cancelled)).await;
    // While the effect doesn't let go, nothing is undone, and a forward call is told to turn.
    assert_eq!(agent.kind(&job.order(2)).await, OutcomeKind::TurnToUndo);
    assert!(!agent.driver.called().iter().any(|call| call.starts_with("undo_")));
    gate.let_go();
    assert_eq!(kind(&forward.await.unwrap()), OutcomeKind::TurnToUndo);
    assert_eq!(kind(&undo.await.unwrap()), OutcomeKind::Cancelled);
    assert!(agent.driver.held().await.is_empty());
    assert_eq!(agent.kind(&job.order(1)).await, OutcomeKind::Stale);
    assert_eq!(agent.kind(&job.order(3)).await, OutcomeKind::Cancelled);
}

#[tokio::test]
async fn an_undo_cancels_an_effect_that_listens() {
    let (agent, job, gate) = (Agent::new().await, Job::new(), Gate::new());
    agent.driver.script("ensure_image", Script::Hold(gate.clone()));
    let forward = agent.begin(&job.order(1)).await;
    gate.reached().await;
    assert_eq!(
        agent.kind(&job.undo(1, Verdict::Deadline)).await,
        OutcomeKind::Failed
    );
    assert_eq!(kind(&forward.await.unwrap()), OutcomeKind::TurnToUndo);
    assert!(agent.driver.held().await.is_empty());
}

/// What its host lost has no power to be put back; the same going forward is a failure.
#[tokio::test]
async fn the_power_of_what_is_not_there_is_not_taken_back() {
    for (lost, says) in [
        (
            StepError::not_defined(),
            "the instance is not on the host: nothing is to be taken back",
        ),
        (
            StepError::disk_missing(),
            "the instance's disk is not on the host: nothing is to be taken back",
        ),
        (
            StepError::image_lost(),
            "the file of the instance's image is no longer on its host; it is fetched again by itself, try again after that: \
             nothing is to be taken back",
        ),
    ] {
        let (agent, job) = (Agent::new().await, Job::new());
        for step in ["set_power", "undo_set_power"] {
            agent.driver.script(step, Script::Fail(lost.clone()));
        }
        assert_eq!(agent.kind(&job.order(1)).await, OutcomeKind::StepFailed);
        let undone = agent.apply(&job.undo(2, Verdict::Cancelled)).await;
        assert_eq!(kind(&undone), OutcomeKind::Cancelled);
        let power = undone.steps.iter().find(|s| s.name == "undo_set_power").unwrap();
        assert_eq!((power.state(), power.detail.as_str()), (StepState::Undone, says));
    }
}

#[tokio::test]
async fn an_undo_of_a_job_never_seen_probes_and_ends() {
    let (agent, job) = (Agent::new().await, Job::new());
    assert_eq!(
        agent.kind(&job.undo(4, Verdict::Cancelled)).await,
        OutcomeKind::Cancelled
    );
    assert_eq!(agent.driver.called(), undo_calls());
    assert_eq!(
        agent.kind(&job.order(3)).await,
        OutcomeKind::Stale,
        "late, with a lower fence"
    );
    assert_eq!(
        agent.kind(&job.order(4)).await,
        OutcomeKind::Cancelled,
        "late, with the same fence"
    );
    assert!(agent.driver.held().await.is_empty());
}

#[tokio::test]
async fn released_is_opened_again_by_a_higher_fence_alone() {
    let (agent, job) = (Agent::new().await, Job::new());
    agent.driver.script("ensure_instance", fails(ErrorClass::NoRoom));
    agent.apply(&job.order(1)).await;
    assert_eq!(
        agent.kind(&job.undo(1, Verdict::Released)).await,
        OutcomeKind::Released
    );
    assert_eq!(agent.kind(&job.order(1)).await, OutcomeKind::Released);
    let agent = agent.crashed().await;
    // Placed anew, its steps may be others.
    let mut anew = job.clone();
    anew.steps.pop();
    let ended = agent.apply(&anew.order(5)).await;
    assert_eq!(kind(&ended), OutcomeKind::Succeeded);
    assert_eq!(agent.driver.called(), &STEPS[..4], "results outlived the undo");
    assert_eq!(
        agent.kind(&anew.undo(6, Verdict::Cancelled)).await,
        OutcomeKind::Succeeded
    );
}

#[tokio::test]
async fn the_first_verdict_counts() {
    let (agent, job, gate) = (Agent::new().await, Job::new(), Gate::new());
    agent
        .driver
        .script("undo_ensure_disk", Script::Hold(gate.clone()));
    let released = agent.begin(&job.undo(1, Verdict::Released)).await;
    gate.reached().await;
    let cancelled = agent.begin(&job.undo(2, Verdict::Cancelled)).await;
    gate.let_go();
    assert_eq!(kind(&released.await.unwrap()), OutcomeKind::Released);
    assert_eq!(kind(&cancelled.await.unwrap()), OutcomeKind::Released);
    agent.driver.clear();
    assert_eq!(
        agent.kind(&job.undo(3, Verdict::Cancelled)).await,
        OutcomeKind::Cancelled
    );
}

#[tokio::test]
async fn late_lower_fences_are_stale_5() {
    let (agent, job) = (Agent::new().await, Job::new());
    let later = job.next();
    assert_eq!(agent.kind(&later.order(7)).await, OutcomeKind::Succeeded);
    agent.driver.clear();
    for order in [
        job.order(6),
        job.undo(6, Verdict::Cancelled),
        later.order(6),
        job.order(7),
    ] {
        assert_eq!(agent.kind(&order).await, OutcomeKind::Stale);
    }
    assert!(agent.driver.called().is_empty());
    let agent = agent.crashed().await;
    assert_eq!(
        agent.kind(&job.order(6)).await,
        OutcomeKind::Stale,
        "after a restart"
    );
}

#[tokio::test]
async fn a_later_job_waits_until_the_one_before_is_gone_5() {
    let (agent, job, gate) = (Agent::new().await, Job::new(), Gate::new());
    let later = job.next();
    agent
        .driver
        .script("ensure_instance", Script::Stubborn(gate.clone()));
    let forward = agent.begin(&job.order(1)).await;
    gate.reached().await;
    agent.driver.clear();
    let after = agent.begin(&later.order(2)).await;
    assert!(agent.driver.called().is_empty(), "effects of two jobs overlap");
    gate.let_go();
    assert_eq!(kind(&forward.await.unwrap()), OutcomeKind::Stale);
    assert_eq!(kind(&after.await.unwrap()), OutcomeKind::Succeeded);
}

#[tokio::test]
async fn a_crash_between_intent_and_effect() {
    let (agent, job, gate) = (Agent::new().await, Job::new(), Gate::new());
    agent.driver.script("ensure_network", Script::Hold(gate.clone()));
    let ghost = agent.begin(&job.order(1)).await;
    gate.reached().await;
    ghost.abort();
    let again = agent.crashed().await;
    assert!(again.driver.called().is_empty(), "an order went on by itself");
    let books = again.engine.books(&host()).unwrap();
    assert_eq!(books.jobs, [(job.job, "forward")]);
    assert_eq!(again.kind(&job.order(1)).await, OutcomeKind::Succeeded);
    assert_eq!(again.driver.called(), STEPS);
}

#[tokio::test]
async fn a_crash_between_effect_and_result() {
    let (agent, job, gate) = (Agent::new().await, Job::new(), Gate::new());
    agent
        .driver
        .script("ensure_instance", Script::HoldAfter(gate.clone()));
    agent.begin(&job.order(1)).await;
    gate.reached().await;
    let again = agent.crashed().await;
    assert_eq!(again.kind(&job.order(1)).await, OutcomeKind::Succeeded);
    let again = again.crashed().await;
    assert_eq!(
        again.kind(&job.undo(2, Verdict::Cancelled)).await,
        OutcomeKind::Succeeded
    );
}

#[tokio::test]
async fn a_crash_in_the_undo() {
    let (agent, job, gate) = (Agent::new().await, Job::new(), Gate::new());
    agent
        .driver
        .script("ensure_instance", fails(ErrorClass::Unavailable));
    agent.apply(&job.order(1)).await;
    agent
        .driver
        .script("undo_ensure_image", Script::HoldAfter(gate.clone()));
    agent.begin(&job.undo(2, Verdict::Cancelled)).await;
    gate.reached().await;
    let again = agent.crashed().await;
    assert_eq!(again.kind(&job.order(2)).await, OutcomeKind::TurnToUndo);
    assert_eq!(
        again.kind(&job.undo(2, Verdict::Failed)).await,
        OutcomeKind::Cancelled,
        "the recorded verdict counts"
    );
    assert!(again.driver.held().await.is_empty());
}

#[tokio::test]
async fn nothing_is_applied_before_the_epoch_is_told() {
    let (agent, job) = (Agent::untold(), Job::new());
    assert!(matches!(
        agent.start(&job.order(1)).await,
        Err(Refusal::NotTold(_))
    ));
    assert!(!agent.engine.told(&host(), Epoch(0), Fence(0)).await.unwrap());
    assert!(matches!(
        agent.start(&job.order(1)).await,
        Err(Refusal::NotTold(_))
    ));
    assert!(agent.engine.told(&host(), Epoch(1), Fence(0)).await.unwrap());
    assert_eq!(agent.kind(&job.order(1)).await, OutcomeKind::Succeeded);
    // A lower epoch than known isn't believed.
    assert!(agent.engine.told(&host(), Epoch(2), Fence(0)).await.unwrap());
    agent.engine.told(&host(), Epoch(1), Fence(0)).await.unwrap();
    assert_eq!(agent.kind(&job.order(1)).await, OutcomeKind::Stale);
}

#[tokio::test]
async fn a_new_epoch_stops_what_runs_and_voids_what_was() {
    let (agent, job, gate) = (Agent::new().await, Job::new(), Gate::new());
    agent.driver.script("ensure_disk", Script::Stubborn(gate.clone()));
    let old = agent.begin(&job.order(1)).await;
    gate.reached().await;
    assert!(agent.engine.told(&host(), Epoch(2), Fence(0)).await.unwrap());
    let mut anew = job.order(2);
    anew.epoch = 2;
    agent.driver.clear();
    let new = agent.begin(&anew).await;
    assert!(agent.driver.called().is_empty());
    gate.let_go();
    assert_eq!(kind(&old.await.unwrap()), OutcomeKind::Stale);
    assert_eq!(kind(&new.await.unwrap()), OutcomeKind::Succeeded);
    assert_eq!(
        agent.kind(&job.order(3)).await,
        OutcomeKind::Stale,
        "of the old epoch"
    );
}

#[tokio::test]
async fn the_floor_prunes_and_makes_stale() {
    let (agent, job) = (Agent::new().await, Job::new());
    agent.apply(&job.order(3)).await;
    agent.engine.told(&host(), Epoch(1), Fence(9)).await.unwrap();
    assert!(agent.engine.books(&host()).unwrap().jobs.is_empty());
    assert_eq!(agent.kind(&job.order(3)).await, OutcomeKind::Stale);
    let (books, held) = agent.engine.inventory(&host()).await.unwrap();
    assert_eq!(
        books.fences.get(&job.resource),
        Some(&Fence(3)),
        "the fence of what is held is told"
    );
    assert_eq!(held.len(), 4);
}

#[tokio::test]
async fn a_known_step_with_another_hash_is_refused() {
    let (agent, job) = (Agent::new().await, Job::new());
    agent.driver.script("ensure_disk", fails(ErrorClass::Unavailable));
    agent.apply(&job.order(1)).await;
    let mut other = job.order(2);
    other.steps[4] = other.steps[0].clone();
    assert!(matches!(agent.start(&other).await, Err(Refusal::Mismatch { .. })));
    let mut unread = job.order(2);
    unread.version = 2;
    assert!(matches!(agent.start(&unread).await, Err(Refusal::Wire(_))));
    let mut elsewhere = job.order(2);
    elsewhere.host = "sim-2".into();
    assert!(matches!(
        agent.start(&elsewhere).await,
        Err(Refusal::UnknownHost(_))
    ));
    assert_eq!(agent.kind(&job.order(2)).await, OutcomeKind::Succeeded);
}

#[tokio::test]
async fn an_expired_order_is_not_begun() {
    let (agent, job) = (Agent::new().await, Job::new());
    let mut order = job.order(1);
    order.expires_at_ms = common::now_ms() - 1;
    assert_eq!(agent.kind(&order).await, OutcomeKind::StepFailed);
    assert!(agent.driver.called().is_empty());
    order.expires_at_ms = common::now_ms() + 1;
    assert_eq!(agent.kind(&order).await, OutcomeKind::Succeeded);
}

#[tokio::test]
async fn a_panic_in_the_driver_is_an_unknown_step() {
    let (agent, job) = (Agent::new().await, Job::new());
    agent.driver.script("ensure_image", Script::Panic);
    let failed = agent.apply(&job.order(1)).await;
    assert_eq!(
        failed.outcome.as_ref().unwrap().class(),
        event::ErrorClass::Timeout
    );
    let agent = agent.crashed().await;
    assert_eq!(agent.kind(&job.order(1)).await, OutcomeKind::Succeeded);
}

/// A forward order and a cancel race from every direction; whoever wins, all are told the same, and the host agrees.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_cancelled_and_succeeded_6_7() {
    let agent = Arc::new(Agent::new().await);
    let mut ends = std::collections::HashMap::new();
    for round in 0..300 {
        let job = Job::new();
        let (forward, cancel) = (
            job.order(10 * round + 1),
            job.undo(10 * round + 2, Verdict::Cancelled),
        );
        let (one, two) = (agent.clone(), agent.clone());
        let forward = tokio::spawn(async move { one.kind(&forward).await });
        let cancel = tokio::spawn(async move {
            for _ in 0..round % 7 {
                tokio::task::yield_now().await;
            }
            two.kind(&cancel).await
        });
        let (forward, cancel) = (forward.await.unwrap(), cancel.await.unwrap());
        let there = agent
            .driver
            .held()
            .await
            .iter()
            .filter(|held| held.id == job.resource)
            .count();
        match cancel {
            OutcomeKind::Succeeded => assert!(
                forward == OutcomeKind::Succeeded && there == 2,
                "{forward:?} {there}"
            ),
            OutcomeKind::Cancelled => {
                assert!(
                    matches!(
                        forward,
                        OutcomeKind::TurnToUndo | OutcomeKind::Stale | OutcomeKind::Cancelled
                    ),
                    "{forward:?}"
                );
                assert_eq!(there, 0);
            }
            other => panic!("{other:?}"),
        }
        *ends.entry(cancel).or_insert(0) += 1;
        let again = agent.kind(&job.order(10 * round + 3)).await;
        assert_eq!(again, cancel);
    }
    assert!(ends.contains_key(&OutcomeKind::Cancelled), "{ends:?}");
}
