//! The table of `decide`: what is done with a due job, one row each; what a row comes to is told in one line.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use chrono::{DateTime, TimeDelta, Utc};
use rhyzome_model::ids::{HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState, Mode, Verdict};
use rhyzome_model::kinds::{Demand, Kind};
use rhyzome_model::place::{Cluster, Cordon, FitsWith, HostView, Reach, Reason, Refusal};
use rhyzome_scheduler::decide::{
    Around, Next, ToPlace, decide, held_back, unplannable, wait_for_room, wait_to_grow,
};
use rhyzome_scheduler::place::grow;
use rhyzome_store::dispatch::{Decision, DueJob, Exclusion, NewOrder, RefRow, Wanted};
use rhyzome_store::leases::LeaseView;
use rhyzome_store::rows::Waiting;
use rhyzome_store::settle::Effect;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};

fn id(n: u128) -> ResourceId {
    ResourceId(uuid::Uuid::from_u128(n))
}

fn now() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn spec(memory_mib: u32) -> Value {
    json!({ "vcpus": 1, "memory_mib": memory_mib, "image": id(20).to_string(),
            "interfaces": [{ "network": id(10).to_string() }], "power": "on", "restart": "always" })
}

/// An instance's job that was never dispatched.
fn job(action: Action) -> DueJob {
    let made = action != Action::Create;
    DueJob {
        pinned_host: None,
        wanted: Wanted::Kept,
        id: JobId::new(),
        tenant: TenantId::from("demo"),
        kind: Kind::Instance,
        action,
        resource: id(1),
        name: "web".to_owned(),
        generation: 3,
        spec: spec(256),
        applied: made.then(|| spec(128)),
        observed: None,
        facts: None,
        state: JobState::Queued,
        host: None,
        resource_host: made.then(|| HostName::from("host-1")),
        reserved: Demand::default(),
        home: None,
        frozen: None,
        mode: Mode::Forward,
        verdict: None,
        cause: None,
        attempt: 0,
        failures: 0,
        excluded: BTreeMap::new(),
        deadline_at: Some(now() + TimeDelta::hours(1)),
        cancel_requested_at: None,
        holds_slot: false,
        order_out: false,
        waiting: None,
        traceparent: String::new(),
        created_at: now(),
        earlier_open: false,
        referrers: 0,
    }
}

fn with(mut job: DueJob, change: impl FnOnce(&mut DueJob)) -> DueJob {
    change(&mut job);
    job
}

/// Of an instance that is off.
fn stopped(action: Action) -> DueJob {
    with(job(action), |j| {
        let mut off = spec(128);
        off["power"] = json!("off");
        j.applied = Some(off);
    })
}

/// One that was out before and has its host.
fn hosted(action: Action, host: &str) -> DueJob {
    with(job(action), |j| {
        j.host = Some(HostName::from(host));
        j.frozen = Some(vec!["frozen".to_owned()]);
        j.attempt = 1;
    })
}

fn late(job: DueJob) -> DueJob {
    with(job, |j| j.deadline_at = Some(now()))
}

fn cancelled(job: DueJob) -> DueJob {
    with(job, |j| j.cancel_requested_at = Some(now()))
}

fn refs() -> Vec<RefRow> {
    let row = |id, kind, name: &str, spec, facts| RefRow {
        id,
        kind,
        tenant: TenantId::from("demo"),
        name: name.to_owned(),
        generation: 1,
        spec,
        applied: true,
        facts,
        open: false,
    };
    vec![
        row(
            id(10),
            Kind::Network,
            "lan",
            json!({ "cidr": "10.20.0.0/24" }),
            None,
        ),
        row(
            id(20),
            Kind::Image,
            "tiny",
            json!({ "source": { "file": "tiny.qcow2" }, "format": "qcow2", "visibility": "public" }),
            Some(json!({ "sha256": "ab".repeat(32), "size_bytes": 1, "virtual_size_bytes": 1 })),
        ),
    ]
}

fn leases() -> Vec<LeaseView> {
    vec![LeaseView {
        network: id(10),
        ip: "10.20.0.7".parse().unwrap(),
        mac: "02:00:00:00:00:07".to_owned(),
        hostname: Some("web".to_owned()),
        instance: Some(id(1)),
        position: 0,
        automatic: true,
    }]
}

fn hosts(names: &[&str]) -> BTreeSet<HostName> {
    names.iter().map(|name| HostName::from(*name)).collect()
}

fn next(job: &DueJob, refs: &[RefRow]) -> Next {
    let (leases, up) = (leases(), hosts(&["host-1", "host-2"]));
    let around = Around {
        refs,
        leases: &leases,
        up: &up,
        stop_timeout_s: 60,
        now: now(),
    };
    decide(job, &around).unwrap()
}

fn joined<'a>(hosts: impl IntoIterator<Item = &'a HostName>) -> String {
    let names: Vec<&str> = hosts.into_iter().map(HostName::as_str).collect();
    names.join("+")
}

/// In one line.
fn told(next: Next) -> String {
    match next {
        Next::Place(to_place) => format!(
            "place {} MiB, no room at [{}], no image at [{}], {}",
            to_place.request.demand.memory_mib,
            joined(&to_place.request.refused),
            joined(&to_place.request.image_refused),
            match to_place.refused_until {
                Some(until) => format!("not before {} s", (until - now()).num_seconds()),
                None => "now".to_owned(),
            }
        ),
        Next::Decided(decision) => match *decision {
            Decision::Order(order) => format!(
                "order {} {} at {}, {} steps, {}",
                order.mode,
                order.verdict.map_or("-", |v| v.as_str()),
                order.host,
                order.frozen.len(),
                order
                    .reserve
                    .map_or("-".to_owned(), |d| format!("{} MiB", d.memory_mib))
            ),
            Decision::End(end) => {
                let effect = match end.effect {
                    Effect::Applied { generation, .. } => format!("applied at {generation}"),
                    Effect::Removed => "removed".to_owned(),
                    Effect::NotMade { .. } => "not made".to_owned(),
                    Effect::LeftBehind { .. } => "left behind".to_owned(),
                    Effect::NotChanged { reason, .. } => {
                        format!(
                            "not changed, {}",
                            if reason.is_some() { "told" } else { "silent" }
                        )
                    }
                };
                format!(
                    "{} {}, {effect}",
                    end.state,
                    end.error.map_or("-".to_owned(), |e| e.code)
                )
            }
            Decision::Wait {
                state, waiting, due, ..
            } => format!(
                "waits {state} for {}, {}",
                waiting.reason,
                due.map_or("until woken".to_owned(), |due| format!(
                    "{} s",
                    (due - now()).num_seconds()
                ))
            ),
        },
    }
}

fn check(rows: Vec<(&str, DueJob, &str)>) {
    for (what, job, want) in rows {
        assert_eq!(told(next(&job, &refs())), want, "{what}");
    }
}

#[test]
fn its_host_has_the_word() {
    let undoing = |verdict| {
        with(hosted(Action::Create, "host-1"), |j| {
            j.mode = Mode::Undo;
            j.verdict = verdict;
            j.state = JobState::Undoing;
        })
    };
    let in_vain = |action| {
        with(cancelled(hosted(action, "host-1")), |j| {
            j.mode = Mode::Undo;
            j.verdict = Some(Verdict::Cancelled);
            j.state = JobState::Undoing;
            j.wanted = Wanted::Gone;
            j.failures = 1;
        })
    };
    let again = "order forward - at host-1, 1 steps, -";
    check(vec![
        ("a re-attempt", hosted(Action::Create, "host-1"), again),
        (
            "cancel",
            cancelled(hosted(Action::Create, "host-1")),
            "order undo cancelled at host-1, 1 steps, -",
        ),
        (
            "deadline",
            late(hosted(Action::Update, "host-1")),
            "order undo deadline at host-1, 1 steps, -",
        ),
        (
            "the cancel comes before the deadline",
            late(cancelled(hosted(Action::Create, "host-1"))),
            "order undo cancelled at host-1, 1 steps, -",
        ),
        (
            "an undo goes on, with its verdict",
            cancelled(undoing(Some(Verdict::Released))),
            "order undo released at host-1, 1 steps, -",
        ),
        (
            "an undo goes on past every deadline",
            late(undoing(Some(Verdict::Failed))),
            "order undo failed at host-1, 1 steps, -",
        ),
        (
            "an undo without a verdict",
            undoing(None),
            "order undo - at host-1, 1 steps, -",
        ),
        (
            "a delete only goes forward",
            late(cancelled(hosted(Action::Delete, "host-1"))),
            again,
        ),
        (
            "a repair is taken back: a delete may wait behind it",
            cancelled(hosted(Action::Repair, "host-1")),
            "order undo cancelled at host-1, 1 steps, -",
        ),
        (
            "what is being deleted is not taken back for ever",
            in_vain(Action::Stop),
            "cancelled -, left behind",
        ),
        (
            "but for the first time it is",
            with(in_vain(Action::Stop), |j| j.failures = 0),
            "order undo cancelled at host-1, 1 steps, -",
        ),
        (
            "and while an order of it is out",
            with(in_vain(Action::Update), |j| j.order_out = true),
            "order undo cancelled at host-1, 1 steps, -",
        ),
        (
            "and what its create left is",
            in_vain(Action::Create),
            "order undo cancelled at host-1, 1 steps, -",
        ),
        (
            "a change that failed and isn't deleted is taken back for as long as it takes",
            with(in_vain(Action::Update), |j| j.wanted = Wanted::Kept),
            "order undo cancelled at host-1, 1 steps, -",
        ),
        (
            "nobody hears its host",
            hosted(Action::Create, "host-9"),
            "waits queued for host_unreachable, 1 s",
        ),
        (
            "nor is it cancelled without its word",
            cancelled(hosted(Action::Create, "host-9")),
            "waits queued for host_unreachable, 1 s",
        ),
        (
            "an undo waits as one",
            with(undoing(Some(Verdict::Failed)), |j| {
                j.host = Some(HostName::from("host-9"));
            }),
            "waits undoing for host_unreachable, 1 s",
        ),
    ]);
}

#[test]
fn what_no_host_has_ends_at_once() {
    check(vec![
        (
            "cancelled create",
            cancelled(job(Action::Create)),
            "cancelled -, not changed, told",
        ),
        (
            "cancelled update leaves no reason",
            cancelled(job(Action::Update)),
            "cancelled -, not changed, silent",
        ),
        (
            "late create",
            late(job(Action::Create)),
            "failed DEADLINE_EXCEEDED, not changed, told",
        ),
        (
            "late start",
            late(job(Action::Start)),
            "failed DEADLINE_EXCEEDED, not changed, told",
        ),
        (
            "released, then marked as failed",
            with(job(Action::Create), |j| {
                j.mode = Mode::Undo;
                j.verdict = Some(Verdict::Failed);
            }),
            "failed DEADLINE_EXCEEDED, not changed, told",
        ),
        (
            "an update of what was never made",
            with(job(Action::Update), |j| j.applied = None),
            // The resource's own reason is that of its create.
            "failed PREDECESSOR_FAILED, not changed, silent",
        ),
        (
            "a power action on what is on no host",
            with(stopped(Action::Start), |j| j.resource_host = None),
            "failed NOWHERE, not changed, told",
        ),
        (
            "a start of what runs already",
            job(Action::Start),
            "succeeded -, applied at 0",
        ),
        (
            "a delete of what is on no host",
            with(job(Action::Delete), |j| {
                j.applied = None;
                j.resource_host = None;
            }),
            "succeeded -, removed",
        ),
        (
            "a network that no host needs yet",
            with(job(Action::Create), |j| {
                j.kind = Kind::Network;
                j.spec = json!({ "cidr": "10.20.0.0/24" });
            }),
            "succeeded -, applied at 3",
        ),
    ]);
    assert_eq!(
        told(Next::Decided(Box::new(unplannable(&job(Action::Create))))),
        "failed INTERNAL, not changed, told"
    );
}

#[test]
fn what_stands_in_its_way() {
    check(vec![
        (
            "an earlier job",
            with(job(Action::Update), |j| j.earlier_open = true),
            "waits blocked for earlier_job, until woken",
        ),
        (
            "a delete waits for those that need it",
            with(job(Action::Delete), |j| j.referrers = 2),
            "waits blocked for reference, until woken",
        ),
        (
            "the deadline counts while it is blocked",
            late(with(job(Action::Create), |j| j.earlier_open = true)),
            "failed DEADLINE_EXCEEDED, not changed, told",
        ),
        (
            "a delete has none",
            late(with(job(Action::Delete), |j| j.earlier_open = true)),
            "waits blocked for earlier_job, until woken",
        ),
    ]);
    let coming = |open: bool| {
        let mut refs = refs();
        refs[1].applied = false;
        refs[1].open = open;
        refs
    };
    let rows = [
        (Action::Create, true, "waits blocked for reference, until woken"),
        (
            Action::Create,
            false,
            "failed REFERENCE_FAILED, not changed, told",
        ),
        (
            Action::Update,
            false,
            "failed REFERENCE_FAILED, not changed, told",
        ),
    ];
    for (action, open, want) in rows {
        assert_eq!(told(next(&job(action), &coming(open))), want, "{action} {open}");
    }
    let delete = told(next(&job(Action::Delete), &coming(false)));
    assert!(
        delete.starts_with("order forward - at host-1"),
        "a delete needs none of them: {delete}"
    );
}

#[test]
fn where_it_goes() {
    let excluded = |list: &[(&str, &str, i64)]| {
        with(job(Action::Create), |j| {
            for (host, reason, seconds) in list {
                let exclusion = Exclusion {
                    reason: (*reason).to_owned(),
                    until: now() + TimeDelta::seconds(*seconds),
                };
                j.excluded.insert(HostName::from(*host), exclusion);
            }
        })
    };
    check(vec![
        (
            "a create is placed",
            job(Action::Create),
            "place 256 MiB, no room at [], no image at [], now",
        ),
        (
            "without those that refused it",
            excluded(&[("host-1", "no_room", 5), ("host-2", "image", 9)]),
            "place 256 MiB, no room at [host-1], no image at [host-2], now",
        ),
        (
            "with those that may be asked again",
            excluded(&[("host-1", "no_room", 0), ("host-2", "image", -3)]),
            "place 256 MiB, no room at [], no image at [], now",
        ),
        (
            "after three hosts it waits for the first of them",
            excluded(&[
                ("host-1", "image", 9),
                ("host-2", "image", 4),
                ("host-3", "no_room", 7),
            ]),
            "place 256 MiB, no room at [host-3], no image at [host-1+host-2], not before 4 s",
        ),
        (
            "three of which one lapsed",
            excluded(&[
                ("host-1", "image", 9),
                ("host-2", "image", 0),
                ("host-3", "image", 7),
            ]),
            "place 256 MiB, no room at [], no image at [host-1+host-3], now",
        ),
        (
            "a change goes where it is, and reserves the larger of before and after",
            with(job(Action::Update), |j| {
                j.spec = spec(128);
                j.applied = Some(spec(512));
            }),
            "order forward - at host-1, 1 steps, 512 MiB",
        ),
        (
            "nobody hears the host that has it",
            with(stopped(Action::Start), |j| {
                j.resource_host = Some(HostName::from("host-9"));
            }),
            "waits queued for host_unreachable, 1 s",
        ),
    ]);
    let delete = told(next(&job(Action::Delete), &refs()));
    assert!(
        delete.starts_with("order forward - at host-1") && delete.ends_with(", -"),
        "a delete keeps its reservation until it is gone: {delete}"
    );
}

#[test]
fn held_back_each_host_is_refused_beside_its_own_cause() {
    let held = with(job(Action::Create), |j| {
        for (host, seconds) in [("host-1", 9), ("host-2", 4), ("host-3", 7)] {
            let exclusion = Exclusion {
                reason: "image".to_owned(),
                until: now() + TimeDelta::seconds(seconds),
            };
            j.excluded.insert(HostName::from(host), exclusion);
        }
    });
    let to_place: ToPlace = match next(&held, &refs()) {
        Next::Place(to_place) => *to_place,
        Next::Decided(decision) => panic!("{decision:?}"),
    };
    assert_eq!(to_place.lapses, to_place.refused_until);
    let request = held_back(&to_place, &hosts(&["host-1", "host-2", "host-3", "host-4"]));
    assert_eq!(joined(&request.refused), "host-1+host-2+host-3+host-4");
    assert_eq!(joined(&request.image_refused), "host-1+host-2+host-3");
}

#[test]
fn a_wait_says_since_when_it_has_that_reason() {
    let before = now() - TimeDelta::minutes(5);
    let waited = |reason: &str| {
        let waiting = Waiting {
            reason: reason.to_owned(),
            detail: String::new(),
            since: before,
            until: None,
            hosts: None,
            fits_with: None,
        };
        with(job(Action::Create), |j| j.waiting = Some(waiting))
    };
    let refusal = Refusal {
        total: 3,
        excluded: BTreeMap::new(),
        fits_with: None,
    };
    let due = now() + TimeDelta::seconds(15);
    for (reason, since) in [("capacity", before), ("reference", now())] {
        match wait_for_room(&waited(reason), &refusal, due, now()) {
            Decision::Wait {
                state,
                waiting,
                due: at,
                ..
            } => {
                assert_eq!(
                    (state, waiting.since, waiting.until, at),
                    (JobState::Queued, since, Some(due), Some(due)),
                    "{reason}"
                );
                assert_eq!(waiting.hosts.unwrap()["total"], 3);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_update_grows_into_what_its_host_has_free_or_says_what_is_short() {
    let demand = |vcpus, memory_mib, disk_gib| Demand {
        vcpus,
        memory_mib,
        disk_gib,
    };
    let host = HostView {
        name: HostName::from("host-1"),
        capacity: demand(8, 4096, 100),
        free: demand(2, 512, 0),
        labels: BTreeMap::new(),
        reach: Reach::Reachable,
        cordon: Cordon::Open,
        images: BTreeSet::new(),
    };
    let held = with(job(Action::Update), |j| j.reserved = demand(1, 256, 10));
    let order = |reserve| NewOrder {
        job: held.id,
        host: HostName::from("host-1"),
        mode: Mode::Forward,
        verdict: None,
        frozen: Vec::new(),
        names: None,
        reserve,
        image: None,
        networks: Vec::new(),
    };
    // What is reserved for it afterwards; the first cause that keeps it from that, and what would fit.
    let rows = [
        (None, None),
        (Some(demand(1, 256, 10)), None),
        (Some(demand(1, 128, 10)), None),
        (Some(demand(3, 768, 10)), None),
        (
            Some(demand(4, 256, 10)),
            Some((Reason::Vcpus, [Some(3), None, None])),
        ),
        (
            Some(demand(4, 900, 10)),
            Some((Reason::Vcpus, [Some(3), Some(768), None])),
        ),
        (
            Some(demand(1, 900, 10)),
            Some((Reason::Memory, [None, Some(768), None])),
        ),
        (
            Some(demand(1, 256, 11)),
            Some((Reason::Disk, [None, None, Some(10)])),
        ),
    ];
    for (reserve, short) in rows {
        let mut cluster = Cluster::new(vec![host.clone()], &HashMap::new(), 1);
        let refusal = grow(&mut cluster, &held, &order(reserve));
        let expected = short.map(|(reason, [vcpus, memory_mib, disk_gib])| Refusal {
            total: 1,
            excluded: [(reason, 1)].into(),
            fits_with: Some(FitsWith {
                vcpus,
                memory_mib,
                disk_gib,
            }),
        });
        assert_eq!(refusal, expected, "{reserve:?}");
        let taken = reserve.filter(|_| expected.is_none()).unwrap_or(held.reserved);
        assert_eq!(
            cluster.free(&host.name),
            Some(demand(
                2 - (taken.vcpus - 1),
                512 - (taken.memory_mib - 256),
                10 - taken.disk_gib
            )),
            "{reserve:?}"
        );
        if let Some(refusal) = refusal {
            match wait_to_grow(&held, &refusal, now(), now()) {
                Decision::Wait { waiting, .. } => assert_eq!(waiting.reason, "capacity"),
                other => panic!("{other:?}"),
            }
        }
    }
    let back = NewOrder {
        mode: Mode::Undo,
        ..order(Some(demand(4, 900, 10)))
    };
    let mut cluster = Cluster::new(vec![host], &HashMap::new(), 1);
    assert_eq!(
        grow(&mut cluster, &held, &back),
        None,
        "an undo waits for no room"
    );
}
