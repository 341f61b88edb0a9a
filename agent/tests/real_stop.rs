//! Stops and reboots of guests that hear nothing, or that are cancelled half way.

#![allow(clippy::unwrap_used)]

mod real_support;

use nix::sys::signal::Signal;
use real_support::waiting::{signal, told, until};
use real_support::{Host, Plan, can_be_real, context};
use rhyzome_agent::driver::{Driver, SeenPower};
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::job::ErrorClass;
use rhyzome_model::kinds::Power;
use rhyzome_model::step::Action;
use std::path::Path;

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_a_guest_can_be_cancelled_and_a_deaf_one_is_cut_off() {
    if !can_be_real() {
        return;
    }
    let host = Host::new().await;
    // A guest that has not booted yet doesn't hear the power button.
    let deaf = Plan {
        stop_timeout_s: 3600,
        ..Plan::new(ResourceId::new(), ResourceId::new(), 15)
    };
    deaf.create(&host).await;
    let pid = nix::unistd::Pid::from_raw(host.pid(deaf.instance).await);
    let job = context(JobId::new());
    job.cancel.cancel();
    let error = host
        .driver()
        .make_so(&job, &deaf.power(Power::Off))
        .await
        .unwrap_err();
    assert_eq!(error.class, ErrorClass::Busy);
    assert!(nix::sys::signal::kill(pid, None).is_ok(), "the guest goes on");
    let impatient = Plan {
        stop_timeout_s: 0,
        ..deaf.clone()
    };
    host.must(Action::EnsureInstance(Box::new(impatient.definition())))
        .await;
    host.must(impatient.power(Power::Off)).await;
    assert_eq!(host.seen(deaf.instance).await.power, SeenPower::Off);

    // Nor does one whose QEMU answers nothing.
    host.must(impatient.power(Power::On)).await;
    let hung = host.pid(deaf.instance).await;
    signal(hung, Signal::SIGSTOP);
    let patient = Plan {
        stop_timeout_s: 15,
        ..deaf.clone()
    };
    host.must(Action::EnsureInstance(Box::new(patient.definition())))
        .await;
    host.must(patient.power(Power::Off)).await;
    assert_eq!(host.seen(deaf.instance).await.power, SeenPower::Off);
    assert!(!Path::new(&format!("/proc/{hung}/ns/net")).exists());
    deaf.delete(&host).await;
}

/// Until a job has pressed the power button of a guest that runs.
async fn pressed(folder: &Path) {
    let record = folder.join("run.json");
    let is = || {
        let run: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
        run["pressed"] == true
    };
    until("the power button to be pressed", is).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_stop_or_reboot_is_cancelled_runs_whatever_its_policy() {
    if !can_be_real() {
        return;
    }
    let host = Host::new().await;
    let plan = Plan::new(ResourceId::new(), ResourceId::new(), 20);
    plan.create(&host).await;
    let folder = host
        .dir
        .path()
        .join(format!("objects/instances/{}", plan.instance));
    for (times, action) in [(1, plan.power(Power::Off)), (2, plan.reboot())] {
        host.says_times(plan.instance, &plan.greeting(), times).await;
        let before = host.pid(plan.instance).await;
        let mut changes = host.driver().watch_guests();
        let job = context(JobId::new());
        let asked = async {
            let cancelled = host.driver().make_so(&job, &action).await.unwrap_err();
            assert_eq!(cancelled.class, ErrorClass::Busy);
        };
        let cancelled = async {
            pressed(&folder).await;
            job.cancel.cancel();
        };
        tokio::join!(asked, cancelled);
        if matches!(action, Action::SetPower(_)) {
            // The undo of a stop.
            host.must(plan.power(Power::On)).await;
        }
        told(&mut changes, SeenPower::On).await;
        assert_ne!(host.pid(plan.instance).await, before);
    }
    plan.delete(&host).await;
}
