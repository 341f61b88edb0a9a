//! The table of `judge`: outcome × action × mode × verdict, one row each; what a row comes to is told in one line.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use chrono::{DateTime, TimeDelta, Utc};
use rhyzome_model::ids::{Fence, HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState, Mode, Verdict};
use rhyzome_model::kinds::Kind;
use rhyzome_model::problem::JobError;
use rhyzome_proto::convert::error_bytes;
use rhyzome_proto::event::{Outcome, OutcomeKind, Report, StepResult, StepState};
use rhyzome_scheduler::SchedulerConfig;
use rhyzome_scheduler::judge::{Moment, judge, not_understood};
use rhyzome_store::dispatch::Exclusion;
use rhyzome_store::rows::StepRow;
use rhyzome_store::settle::{Effect, OpenJob, Settlement};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const FENCE: i64 = 7;
const STEPS: [&str; 2] = ["ensure_image", "ensure_disk"];

fn now() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn spec(memory_mib: u32) -> Value {
    json!({ "vcpus": 1, "memory_mib": memory_mib, "image": "tiny", "interfaces": [{ "network": "lan" }], "power": "on",
            "restart": "always" })
}

/// An instance's job that is out, going forward.
fn job(action: Action) -> OpenJob {
    let made = !matches!(action, Action::Create);
    OpenJob {
        pinned: false,
        id: JobId::new(),
        tenant: TenantId::from("demo"),
        kind: Kind::Instance,
        action,
        resource: ResourceId::new(),
        generation: 3,
        spec: spec(256),
        applied: made.then(|| spec(128)),
        state: JobState::Running,
        fence: Some(Fence(FENCE)),
        epoch: Some(1),
        host: Some(HostName::from("host-1")),
        mode: Mode::Forward,
        verdict: None,
        cause: None,
        failures: 0,
        excluded: BTreeMap::new(),
        holds_slot: true,
        order_out: true,
        steps: STEPS.iter().map(|name| StepRow::pending(name)).collect(),
        waiting: None,
        cancel_requested_at: None,
        created_at: now(),
    }
}

fn with(mut job: OpenJob, change: impl FnOnce(&mut OpenJob)) -> OpenJob {
    change(&mut job);
    job
}

/// Dispatched in mode undo, ending in this.
fn undo(action: Action, verdict: Verdict) -> OpenJob {
    with(job(action), |j| {
        j.mode = Mode::Undo;
        j.verdict = Some(verdict);
        j.state = JobState::Undoing;
    })
}

fn cancelling(action: Action) -> OpenJob {
    with(job(action), |j| j.cancel_requested_at = Some(now()))
}

fn report(outcome: Option<(OutcomeKind, Option<(&str, &str)>)>) -> Report {
    let outcome = outcome.map(|(kind, error)| {
        let error = error.map(|(code, step)| JobError {
            step: Some(step.to_owned()).filter(|step| !step.is_empty()),
            ..JobError::new(code, "It is so")
        });
        Outcome {
            kind: kind.into(),
            error: error_bytes(error.as_ref()),
            class: 0,
        }
    });
    Report {
        fence: FENCE,
        outcome,
        ..Report::default()
    }
}

fn ends(kind: OutcomeKind) -> Report {
    report(Some((kind, None)))
}

fn ends_by(kind: OutcomeKind, code: &str, step: &str) -> Report {
    report(Some((kind, Some((code, step)))))
}

fn undoing(report: Report) -> Report {
    Report {
        undoing: true,
        ..report
    }
}

fn code(error: Option<&JobError>) -> &str {
    error.map_or("-", |e| e.code.as_str())
}

fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Applied { spec, generation, .. } => {
            format!("applied {} MiB at {generation}", spec["memory_mib"])
        }
        Effect::Removed => "removed".to_owned(),
        Effect::NotMade { reason } => format!("not made: {}", reason["code"].as_str().unwrap()),
        Effect::LeftBehind { reason } => format!("left behind: {}", reason["code"].as_str().unwrap()),
        Effect::NotChanged { reason, .. } => {
            let code = reason.as_ref().map_or("-", |r| r["code"].as_str().unwrap());
            format!("not changed: {code}")
        }
    }
}

/// In one line.
fn told(job: &OpenJob, report: &Report) -> String {
    let config = SchedulerConfig::default();
    let moment = Moment {
        now: now(),
        roll: 1.0,
        config: &config,
    };
    match judge(job, report, moment) {
        Err(_) => "refused".to_owned(),
        Ok(None) => "stale".to_owned(),
        Ok(Some(Settlement::Progress { state, .. })) => format!("goes on {state}"),
        Ok(Some(Settlement::Again {
            state,
            due,
            failures,
            waiting,
            error,
            ..
        })) => format!(
            "again {state} for {} in {} ms, {failures} failures, {}",
            waiting.unwrap().reason,
            (due - now()).num_milliseconds(),
            code(error.as_ref())
        ),
        Ok(Some(Settlement::Released { excluded, due, .. })) => {
            assert_eq!(due, now());
            let hosts: Vec<String> = excluded
                .iter()
                .map(|(host, e)| format!("{host} {} {} s", e.reason, (e.until - now()).num_seconds()))
                .collect();
            format!("released, without {}", hosts.join(", "))
        }
        Ok(Some(Settlement::Poisoned { error, .. })) => format!("poisoned, {}", error.code),
        Ok(Some(Settlement::End(end))) => {
            format!(
                "{} {}, {}",
                end.state,
                code(end.error.as_ref()),
                effect(&end.effect)
            )
        }
    }
}

fn check(rows: Vec<(&str, OpenJob, Report, &str)>) {
    for (what, job, report, want) in rows {
        assert_eq!(told(&job, &report), want, "{what}");
    }
}

#[test]
fn what_counts_at_all() {
    let done = || ends(OutcomeKind::Succeeded);
    let other = |fence| Report { fence, ..done() };
    check(vec![
        ("a lower fence", job(Action::Create), other(FENCE - 1), "stale"),
        ("a higher fence", job(Action::Create), other(FENCE + 1), "stale"),
        (
            "never dispatched",
            with(job(Action::Create), |j| j.fence = None),
            done(),
            "stale",
        ),
        (
            "its order is over",
            with(job(Action::Create), |j| j.order_out = false),
            done(),
            "stale",
        ),
        (
            "only for the worker",
            job(Action::Create),
            ends(OutcomeKind::StepFailed),
            "refused",
        ),
        (
            "only for the worker",
            job(Action::Create),
            ends(OutcomeKind::TurnToUndo),
            "refused",
        ),
        (
            "an error that is none",
            job(Action::Create),
            Report {
                outcome: Some(Outcome {
                    kind: OutcomeKind::Failed.into(),
                    error: b"{".to_vec(),
                    class: 0,
                }),
                ..done()
            },
            "refused",
        ),
    ]);
}

#[test]
fn still_going() {
    check(vec![
        ("forward", job(Action::Create), report(None), "goes on running"),
        (
            "the agent turned it",
            job(Action::Create),
            undoing(report(None)),
            "goes on undoing",
        ),
        (
            "an order in mode undo",
            undo(Action::Create, Verdict::Cancelled),
            report(None),
            "goes on undoing",
        ),
        (
            "an outcome that says nothing",
            job(Action::Create),
            ends(OutcomeKind::Unspecified),
            "goes on running",
        ),
    ]);
}

#[test]
fn succeeded_whatever_was_asked_meanwhile() {
    let done = || ends(OutcomeKind::Succeeded);
    let all = "succeeded -, applied 256 MiB at 3";
    check(vec![
        ("create", job(Action::Create), done(), all),
        ("update", job(Action::Update), done(), all),
        // What was applied, and no more of the intent.
        (
            "repair",
            job(Action::Repair),
            done(),
            "succeeded -, applied 256 MiB at 0",
        ),
        ("delete", job(Action::Delete), done(), "succeeded -, removed"),
        // What a power action made so is the power: the rest of the intent is still to be made.
        (
            "start after an update that failed",
            job(Action::Start),
            done(),
            "succeeded -, applied 128 MiB at 0",
        ),
        (
            "start",
            with(job(Action::Start), |j| j.spec = spec(128)),
            done(),
            "succeeded -, applied 128 MiB at 3",
        ),
        (
            "reboot",
            with(job(Action::Reboot), |j| j.spec = spec(128)),
            done(),
            "succeeded -, applied 128 MiB at 3",
        ),
        // The agent decides between the two.
        ("cancel came too late", cancelling(Action::Create), done(), all),
        (
            "so did the order in mode undo",
            undo(Action::Create, Verdict::Cancelled),
            done(),
            all,
        ),
        (
            "and that of a deadline",
            undo(Action::Create, Verdict::Deadline),
            done(),
            all,
        ),
    ]);
}

#[test]
fn failed_and_cancelled() {
    let failed = |code, step| ends_by(OutcomeKind::Failed, code, step);
    let cancelled = || ends(OutcomeKind::Cancelled);
    check(vec![
        (
            "create",
            job(Action::Create),
            failed("X", "ensure_disk"),
            "failed X, not made: X",
        ),
        (
            "create, with no word why",
            job(Action::Create),
            ends(OutcomeKind::Failed),
            "failed FAILED, not made: FAILED",
        ),
        (
            "update",
            job(Action::Update),
            failed("X", "ensure_instance"),
            "failed X, not changed: X",
        ),
        (
            "stop",
            job(Action::Stop),
            failed("X", "set_power"),
            "failed X, not changed: X",
        ),
        (
            "deadline",
            undo(Action::Create, Verdict::Deadline),
            failed("DEADLINE_EXCEEDED", ""),
            "failed DEADLINE_EXCEEDED, not made: DEADLINE_EXCEEDED",
        ),
        (
            "create",
            cancelling(Action::Create),
            cancelled(),
            "cancelled -, not made: CANCELLED",
        ),
        (
            "a cancelled update leaves no reason",
            cancelling(Action::Update),
            cancelled(),
            "cancelled -, not changed: -",
        ),
        (
            "the cause came first, the cancel found it undone",
            cancelling(Action::Create),
            failed("X", "ensure_disk"),
            "failed X, not made: X",
        ),
    ]);
}

#[test]
fn released_is_placed_anew_where_it_can_be() {
    let released = |code, step| ends_by(OutcomeKind::Released, code, step);
    let undone = || undo(Action::Create, Verdict::Released);
    check(vec![
        (
            "no room for the disk",
            job(Action::Create),
            released("NO_ROOM", "ensure_disk"),
            "released, without host-1 no_room 5 s",
        ),
        (
            "in mode undo",
            undone(),
            released("NO_ROOM", "ensure_disk"),
            "released, without host-1 no_room 5 s",
        ),
        (
            "with no word why",
            undone(),
            ends(OutcomeKind::Released),
            "released, without host-1 no_room 5 s",
        ),
        (
            "the host can't have the image",
            undone(),
            released("FILE_NOT_FOUND", "ensure_image"),
            "released, without host-1 image 5 s",
        ),
        (
            "nor reach it",
            undone(),
            released("FETCH_FAILED", "ensure_image"),
            "released, without host-1 image 5 s",
        ),
        (
            "no room for the image is no room",
            undone(),
            released("NO_ROOM", "ensure_image"),
            "released, without host-1 no_room 5 s",
        ),
        (
            "marked to be cancelled",
            cancelling(Action::Create),
            released("NO_ROOM", "ensure_disk"),
            "cancelled -, not made: CANCELLED",
        ),
        (
            "marked by its deadline",
            undo(Action::Create, Verdict::Deadline),
            released("NO_ROOM", "ensure_disk"),
            "failed DEADLINE_EXCEEDED, not made: DEADLINE_EXCEEDED",
        ),
        (
            "marked as failed",
            undo(Action::Create, Verdict::Failed),
            released("X", "ensure_disk"),
            "failed X, not made: X",
        ),
        (
            "marked as failed, with no word why",
            undo(Action::Create, Verdict::Failed),
            ends(OutcomeKind::Released),
            "failed FAILED, not made: FAILED",
        ),
        // What they change lives on that host.
        (
            "update",
            undo(Action::Update, Verdict::Released),
            released("NO_ROOM", "ensure_instance"),
            "failed NO_ROOM, not changed: NO_ROOM",
        ),
        (
            "start, with no word why",
            job(Action::Start),
            ends(OutcomeKind::Released),
            "failed NO_ROOM, not changed: NO_ROOM",
        ),
        (
            "a cancelled update",
            cancelling(Action::Update),
            released("NO_ROOM", "ensure_instance"),
            "cancelled -, not changed: -",
        ),
    ]);
}

#[test]
fn exclusions_add_up_back_off_and_lapse() {
    let excluded = |seconds: i64| Exclusion {
        reason: "image".to_owned(),
        until: now() + TimeDelta::seconds(seconds),
    };
    let after = |failures: i32, others: Vec<(&str, i64)>| {
        with(job(Action::Create), |j| {
            j.failures = failures;
            j.excluded = others
                .into_iter()
                .map(|(host, seconds)| (HostName::from(host), excluded(seconds)))
                .collect();
        })
    };
    let report = || ends_by(OutcomeKind::Released, "X", "ensure_image");
    check(vec![
        (
            "the second time",
            after(1, vec![]),
            report(),
            "released, without host-1 image 10 s",
        ),
        (
            "at most",
            after(9, vec![]),
            report(),
            "released, without host-1 image 20 s",
        ),
        (
            "beside others",
            after(0, vec![("host-2", 3)]),
            report(),
            "released, without host-1 image 5 s, host-2 image 3 s",
        ),
        (
            "one lapsed",
            after(0, vec![("host-2", 0), ("host-3", -1)]),
            report(),
            "released, without host-1 image 5 s",
        ),
        (
            "the same host anew",
            after(2, vec![("host-1", 1)]),
            report(),
            "released, without host-1 image 20 s",
        ),
    ]);
}

#[test]
fn again_on_the_same_host() {
    let suspended = || ends_by(OutcomeKind::Suspended, "HOST_BUSY", "");
    check(vec![
        (
            "forward",
            job(Action::Create),
            suspended(),
            "again queued for retry in 500 ms, 1 failures, HOST_BUSY",
        ),
        (
            "the fourth time in a row",
            with(job(Action::Create), |j| j.failures = 3),
            suspended(),
            "again queued for retry in 4000 ms, 4 failures, HOST_BUSY",
        ),
        (
            "at most a minute",
            with(job(Action::Update), |j| j.failures = 40),
            suspended(),
            "again queued for retry in 60000 ms, 41 failures, HOST_BUSY",
        ),
        (
            "its time was over by the worker's clock, which may be wrong",
            job(Action::Create),
            ends_by(OutcomeKind::Suspended, "EXPIRED", ""),
            "again queued for retry in 500 ms, 1 failures, -",
        ),
        (
            "a cancel waits for it",
            cancelling(Action::Create),
            suspended(),
            "again queued for retry in 0 ms, 1 failures, HOST_BUSY",
        ),
        (
            "a cancel is under way",
            with(undo(Action::Create, Verdict::Cancelled), |j| {
                j.cancel_requested_at = Some(now());
            }),
            suspended(),
            "again undoing for undo in 500 ms, 1 failures, -",
        ),
        (
            "an undo that fails goes on",
            undo(Action::Update, Verdict::Failed),
            suspended(),
            "again undoing for undo in 500 ms, 1 failures, -",
        ),
        (
            "the agent had turned it",
            job(Action::Create),
            undoing(suspended()),
            "again undoing for undo in 500 ms, 1 failures, -",
        ),
        (
            "the agent knew better",
            job(Action::Create),
            ends(OutcomeKind::Stale),
            "again queued for retry in 500 ms, 1 failures, -",
        ),
        (
            "so it did in mode undo",
            undo(Action::Create, Verdict::Cancelled),
            ends(OutcomeKind::Stale),
            "again undoing for undo in 500 ms, 1 failures, -",
        ),
    ]);
}

#[test]
fn what_is_not_understood_is_tried_again_and_not_left_out() {
    let config = SchedulerConfig::default();
    let moment = Moment {
        now: now(),
        roll: 1.0,
        config: &config,
    };
    let job = job(Action::Create);
    // Only between agent and worker.
    let odd = ends(OutcomeKind::StepFailed);
    assert_eq!(told(&job, &odd), "refused");
    let Some(Settlement::Again {
        state, due, waiting, ..
    }) = not_understood(&job, &odd, moment)
    else {
        panic!("it would be out for ever");
    };
    assert_eq!(
        (state, due - now()),
        (JobState::Queued, TimeDelta::milliseconds(500))
    );
    let detail = waiting.unwrap().detail;
    assert!(detail.contains("not understood"), "{detail}");
    let older = Report {
        fence: FENCE - 1,
        ..odd
    };
    assert!(not_understood(&job, &older, moment).is_none());
    assert!(not_understood(&job, &report(None), moment).is_none());
}

#[test]
fn what_only_goes_forward_has_no_other_end() {
    for kind in [OutcomeKind::Failed, OutcomeKind::Cancelled, OutcomeKind::Released] {
        assert_eq!(
            told(&job(Action::Delete), &ends_by(kind, "X", "")),
            "again queued for retry in 500 ms, 1 failures, X",
            "{kind:?}"
        );
    }
}

#[test]
fn an_older_report_takes_no_step_back() {
    let step = |name: &str, state: StepState| StepResult {
        name: name.to_owned(),
        state: state.into(),
        ..StepResult::default()
    };
    let shown = |job: &OpenJob, report: &Report| -> Vec<String> {
        let config = SchedulerConfig::default();
        let moment = Moment {
            now: now(),
            roll: 0.0,
            config: &config,
        };
        match judge(job, report, moment).unwrap().unwrap() {
            Settlement::Progress { steps, .. } => {
                steps.iter().map(|s| format!("{} {}", s.name, s.state)).collect()
            }
            other => panic!("{other:?}"),
        }
    };
    let first = Report {
        steps: vec![step("ensure_image", StepState::Running)],
        ..report(None)
    };
    let job = job(Action::Create);
    assert_eq!(
        shown(&job, &first),
        ["ensure_image running", "ensure_disk pending"]
    );
    let further = with(job, |j| {
        let done = StepRow {
            state: "succeeded".to_owned(),
            ..StepRow::pending("ensure_image")
        };
        j.steps = vec![done, StepRow::pending("ensure_disk")];
    });
    assert_eq!(
        shown(&further, &first),
        ["ensure_image succeeded", "ensure_disk pending"]
    );
    let undo = Report {
        steps: vec![
            step("ensure_image", StepState::Succeeded),
            step("ensure_disk", StepState::Failed),
            step("undo_ensure_disk", StepState::Undone),
        ],
        ..undoing(report(None))
    };
    assert_eq!(
        shown(&further, &undo),
        [
            "ensure_image succeeded",
            "ensure_disk failed",
            "undo_ensure_disk undone"
        ]
    );
}
