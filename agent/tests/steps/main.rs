//! Every step of every plan of every kind, under every law that the job protocol has for steps: fail it with each error class, before
//! and after its effect, do it twice, undo it twice, do it after its undo, do it under a late lower fence, with the agent crashed in
//! between; on simulated hosts all of it, and on a real one what each step's effect is there.
//!
//! A kind is tested by being registered: [`samples::sample`] names every kind, and what is done here goes by [`Kind::ALL`],
//! [`Action::ALL`] and the plans alone.
//!
//! [`Kind::ALL`]: rhyzome_model::kinds::Kind::ALL
//! [`Action::ALL`]: rhyzome_model::job::Action::ALL

#![allow(unreachable_pub, clippy::unwrap_used)]

mod bench;
mod breaking;
mod laws;
#[path = "../real_support/mod.rs"]
mod real_support;
mod samples;

use bench::{Bench, simulated};
use breaking::Ground;
use rhyzome_agent::driver::Direction;
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::job::ErrorClass;
use rhyzome_model::step::ImageFacts;
use samples::{Case, cases};

/// A law, for each step of each case.
async fn for_each_step(law: impl AsyncFn(&Case, usize)) {
    let all = cases(&image(&simulated()).await, 60);
    assert!(all.len() >= 12, "{} plans", all.len());
    for case in &all {
        for step in 0..case.job.steps.len() {
            law(case, step).await;
        }
    }
}

#[tokio::test]
async fn a_step_that_fails_in_any_way_is_made_so_by_doing_it_again() {
    for_each_step(async |case, step| {
        for &class in ErrorClass::ALL {
            Bench::simulated(case).await.again_after(step, class).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_step_that_fails_in_any_way_is_taken_back_with_all_before_it() {
    for_each_step(async |case, step| {
        for &class in ErrorClass::ALL {
            Bench::simulated(case).await.undone_after(step, class).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_undo_that_fails_in_any_way_is_done_again_until_it_works() {
    for_each_step(async |case, step| {
        for &class in ErrorClass::ALL {
            Bench::simulated(case).await.undo_fails(step, class).await;
        }
    })
    .await;
}

#[tokio::test]
async fn each_step_done_twice_is_done_once_and_undone_twice_is_undone() {
    for_each_step(async |case, step| Bench::simulated(case).await.twice(step).await).await;
}

#[tokio::test]
async fn after_its_undo_a_job_does_nothing_unless_it_was_released() {
    for_each_step(async |case, step| {
        Bench::simulated(case).await.do_after_undo(step).await;
        Bench::simulated(case).await.reopened(step).await;
    })
    .await;
}

#[tokio::test]
async fn a_late_lower_fence_does_nothing() {
    for_each_step(async |case, step| Bench::simulated(case).await.late(step).await).await;
}

/// The laws notice a driver that makes nothing so.
#[tokio::test]
#[should_panic(expected = "done: ensure_")]
async fn a_driver_that_does_nothing_is_noticed() {
    let all = cases(&image(&simulated()).await, 60);
    let create = all.iter().find(|c| c.name == "instance.create 0").unwrap();
    Bench::simulated(create)
        .await
        .do_nothing(Direction::Forward)
        .done()
        .await;
}

/// The laws notice a driver that takes nothing back.
#[tokio::test]
#[should_panic(expected = "released: drop_")]
async fn a_driver_that_undoes_nothing_is_noticed() {
    let all = cases(&image(&simulated()).await, 60);
    let create = all.iter().find(|c| c.name == "instance.create 0").unwrap();
    Bench::simulated(create)
        .await
        .do_nothing(Direction::Undo)
        .reopened(3)
        .await;
}

/// On a real host: half of each step's effects happen unheard, an agent crashes over it, all is done again, taken back, done anew.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_real_host_each_step_holds_the_same_laws() {
    if !real_support::can_be_real() {
        return;
    }
    let facts = image(&Ground::Real(real_support::Host::new().await)).await;
    for case in &cases(&facts, 1) {
        for step in 0..case.job.steps.len() {
            let bench = Bench::over(case, Ground::Real(real_support::Host::new().await)).await;
            bench.whole_life(step).await;
        }
    }
}

/// What a host finds out of the image.
async fn image(ground: &Ground) -> ImageFacts {
    let plan = real_support::Plan::new(ResourceId::new(), ResourceId::new(), 9);
    let context = real_support::context(JobId::new());
    let made = ground
        .driver()
        .make_so(&context, &plan.ensure_image())
        .await
        .unwrap();
    serde_json::from_value(made.output).unwrap()
}
