//! Inventories against Postgres, as tables: what moves is left out, and what stands still and differs is seen.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use chrono::{DateTime, TimeDelta, Utc};
use rhyzome_model::check::{
    Amiss, Answered, Check, HeldObject, HostInventory, InventoryError, Known, KnownJob, KnownResource, Moved,
    Older, Owner, Part, RawInventory, RawObject, RowOf, Stray, Unfinished, Wrong, amiss, compare, older,
};
use rhyzome_model::ids::{Epoch, Fence, HostName, JobId, ResourceId};
use rhyzome_model::kinds::Kind;
use rhyzome_model::step::ObjectKind;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

const NETWORK: u128 = 1;
const IMAGE: u128 = 2;
const ONE: u128 = 3;
const STRANGER: u128 = 9;

fn id(n: u128) -> ResourceId {
    ResourceId(Uuid::from_u128(n))
}

fn asked_at() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

fn object(kind: ObjectKind, n: u128, claims: &[u128]) -> HeldObject {
    HeldObject {
        kind,
        id: id(n),
        claims: claims.iter().map(|c| id(*c)).collect(),
        runs: kind == ObjectKind::Instance,
        part: Part::Whole,
    }
}

fn resource(kind: Kind, host: Option<&str>, refs: &[(u128, Kind)]) -> KnownResource {
    KnownResource {
        kind,
        host: host.map(HostName::from),
        applied: true,
        off: false,
        fence: Fence(5),
        refs: refs.iter().map(|(to, kind)| (id(*to), *kind)).collect(),
        row: RowOf::Resource,
    }
}

/// An instance on h1, with its network; its image lives there too. Nothing is on h2.
struct Case {
    hosts: [HostInventory; 2],
    known: Known,
}

impl Case {
    fn new() -> Self {
        let host = |name: &str, objects| HostInventory {
            host: name.into(),
            asked_at: asked_at(),
            objects,
            epoch: Epoch(1),
            fences: BTreeMap::new(),
            unfinished: Vec::new(),
        };
        let held = vec![
            object(ObjectKind::Network, NETWORK, &[ONE]),
            object(ObjectKind::Image, IMAGE, &[IMAGE, ONE]),
            object(ObjectKind::Disk, ONE, &[]),
            object(ObjectKind::Instance, ONE, &[]),
        ];
        let resources = [
            (NETWORK, resource(Kind::Network, None, &[])),
            (IMAGE, resource(Kind::Image, Some("h1"), &[])),
            (
                ONE,
                resource(
                    Kind::Instance,
                    Some("h1"),
                    &[(NETWORK, Kind::Network), (IMAGE, Kind::Image)],
                ),
            ),
        ];
        Self {
            hosts: [host("h1", held), host("h2", Vec::new())],
            known: Known {
                last_fence: Fence(10),
                resources: resources.into_iter().map(|(n, r)| (id(n), r)).collect(),
                ..Known::default()
            },
        }
    }

    fn one(&mut self) -> &mut KnownResource {
        self.known.resources.get_mut(&id(ONE)).unwrap()
    }

    fn objects(&mut self) -> &mut Vec<HeldObject> {
        &mut self.hosts[0].objects
    }

    fn found(&self) -> BTreeSet<Check> {
        compare(&self.hosts, &self.known)
            .iter()
            .map(|v| v.check)
            .collect()
    }
}

type Change = fn(&mut Case);

/// Each of these differs; that is seen while all stands still, and not while what it is about moves.
const DIFFERENCES: &[(&str, Check, u128, Change)] = &[
    ("an object of nobody", Check::ObjectOrphan, STRANGER, |c| {
        c.objects().push(object(ObjectKind::Disk, STRANGER, &[]));
    }),
    (
        "applied, and nowhere by Postgres",
        Check::ObjectOrphan,
        STRANGER,
        |c| {
            c.known
                .resources
                .insert(id(STRANGER), resource(Kind::Instance, None, &[]));
            c.objects().push(object(ObjectKind::Instance, STRANGER, &[]));
        },
    ),
    ("on two hosts", Check::ObjectElsewhere, ONE, |c| {
        c.hosts[1].objects.push(object(ObjectKind::Instance, ONE, &[]));
    }),
    ("its disk is missing", Check::ObjectMissing, ONE, |c| {
        c.objects().retain(|o| o.kind != ObjectKind::Disk);
        c.objects()[2].runs = false;
    }),
    ("its disk has no file", Check::ObjectMissing, ONE, |c| {
        c.objects()[2].part = Part::Rest;
        c.objects()[3].runs = false;
    }),
    ("its disk has no record", Check::ObjectMissing, ONE, |c| {
        c.objects()[2].part = Part::Content;
    }),
    ("its image has no file", Check::ObjectMissing, ONE, |c| {
        c.known.moved.insert(id(IMAGE), Moved::Open);
        c.objects()[1].part = Part::Rest;
    }),
    ("the guest is missing", Check::ObjectMissing, ONE, |c| {
        c.objects().retain(|o| o.kind != ObjectKind::Instance);
    }),
    ("it runs, though it was turned off", Check::GuestRuns, ONE, |c| {
        c.one().off = true;
    }),
    ("its network is missing", Check::ObjectMissing, ONE, |c| {
        c.objects().retain(|o| o.kind != ObjectKind::Network);
    }),
    ("its claim is missing", Check::ObjectMissing, ONE, |c| {
        c.objects()[1].claims.remove(&id(ONE));
    }),
    (
        "an image's own claim is missing",
        Check::ObjectMissing,
        IMAGE,
        |c| {
            c.objects()[1].claims.remove(&id(IMAGE));
        },
    ),
    ("a claim of nobody", Check::ClaimStray, STRANGER, |c| {
        c.objects()[0].claims.insert(id(STRANGER));
    }),
    (
        "a claim of one who lives elsewhere",
        Check::ClaimStray,
        ONE,
        |c| {
            c.hosts[1]
                .objects
                .push(object(ObjectKind::Network, NETWORK, &[ONE]));
        },
    ),
    (
        "a claim of one who doesn't need it",
        Check::ClaimStray,
        ONE,
        |c| {
            c.objects().push(object(ObjectKind::Network, STRANGER, &[ONE]));
        },
    ),
    ("what a failed create left", Check::LeftAfterEnd, STRANGER, |c| {
        let failed = KnownResource {
            applied: false,
            ..resource(Kind::Instance, None, &[])
        };
        c.known.resources.insert(id(STRANGER), failed);
        c.objects().push(object(ObjectKind::Disk, STRANGER, &[]));
    }),
    (
        "a claim that a failed create left",
        Check::LeftAfterEnd,
        STRANGER,
        |c| {
            let failed = KnownResource {
                applied: false,
                ..resource(Kind::Instance, None, &[])
            };
            c.known.resources.insert(id(STRANGER), failed);
            c.objects()[0].claims.insert(id(STRANGER));
        },
    ),
];

#[test]
fn what_agrees_is_not_reported() {
    assert!(Case::new().found().is_empty());
}

#[test]
fn what_differs_is_reported_while_it_stands_still() {
    for (what, check, about, change) in DIFFERENCES {
        let mut case = Case::new();
        change(&mut case);
        assert_eq!(case.found(), BTreeSet::from([*check]), "{what}");
        let just = |ms| Moved::Ended(asked_at() + TimeDelta::milliseconds(ms));
        case.known.moved.insert(id(*about), just(-1));
        assert_eq!(case.found(), BTreeSet::from([*check]), "{what}: it ended before");
        for moved in [just(0), just(1), Moved::Open] {
            case.known.moved.insert(id(*about), moved);
            assert!(case.found().is_empty(), "{what}: {moved:?}");
        }
    }
}

fn stray(owner: Owner, objects: &[ObjectKind], claims: &[(ObjectKind, u128)], runs: bool) -> Wrong {
    Wrong::Stray(Stray {
        owner,
        objects: objects.to_vec(),
        claims: claims.iter().map(|(kind, n)| (*kind, id(*n))).collect(),
        runs,
    })
}

/// In the order of [`DIFFERENCES`]: on which host, of what, and what is wrong.
fn to_mend() -> Vec<(&'static str, Kind, Wrong)> {
    use ObjectKind::{Disk, Instance, Network};
    let incomplete = |disk_lost| Wrong::Incomplete { disk_lost };
    vec![
        ("h1", Kind::Instance, stray(Owner::Nobody, &[Disk], &[], false)),
        (
            "h1",
            Kind::Instance,
            stray(Owner::Resource, &[Instance], &[], true),
        ),
        (
            "h2",
            Kind::Instance,
            stray(Owner::Resource, &[Instance], &[], true),
        ),
        ("h1", Kind::Instance, incomplete(true)),
        ("h1", Kind::Instance, incomplete(true)),
        ("h1", Kind::Instance, incomplete(false)),
        ("h1", Kind::Instance, incomplete(false)),
        ("h1", Kind::Instance, incomplete(false)),
        ("h1", Kind::Instance, incomplete(false)),
        ("h1", Kind::Instance, incomplete(false)),
        ("h1", Kind::Instance, incomplete(false)),
        ("h1", Kind::Image, incomplete(false)),
        (
            "h1",
            Kind::Instance,
            stray(Owner::Nobody, &[], &[(Network, NETWORK)], false),
        ),
        (
            "h2",
            Kind::Instance,
            stray(Owner::Resource, &[], &[(Network, NETWORK)], false),
        ),
        (
            "h1",
            Kind::Instance,
            stray(Owner::Resource, &[], &[(Network, STRANGER)], false),
        ),
        ("h1", Kind::Instance, stray(Owner::Resource, &[Disk], &[], false)),
        (
            "h1",
            Kind::Instance,
            stray(Owner::Resource, &[], &[(Network, NETWORK)], false),
        ),
    ]
}

#[test]
fn what_differs_is_to_be_mended_while_it_stands_still() {
    let wanted = to_mend();
    assert_eq!(DIFFERENCES.len(), wanted.len());
    for ((what, _, about, change), (host, kind, wrong)) in DIFFERENCES.iter().zip(wanted) {
        let mut case = Case::new();
        assert!(amiss(&case.hosts, &case.known).is_empty());
        change(&mut case);
        let found = amiss(&case.hosts, &case.known);
        let wanted = Amiss {
            host: host.into(),
            resource: id(*about),
            kind,
            wrong,
            asked_at: found[0].asked_at,
        };
        assert_eq!(found, [wanted], "{what}");
        case.known.moved.insert(id(*about), Moved::Open);
        assert!(amiss(&case.hosts, &case.known).is_empty(), "{what}");
    }
}

#[test]
fn what_is_nobodys_is_turned_off_and_removed_with_all_that_it_claims() {
    let mut case = Case::new();
    case.objects().push(object(ObjectKind::Disk, STRANGER, &[]));
    case.objects().push(object(ObjectKind::Instance, STRANGER, &[]));
    case.objects()[0].claims.insert(id(STRANGER));
    case.objects()[1].claims.insert(id(STRANGER));
    let found = amiss(&case.hosts, &case.known);
    let [stranger] = found.as_slice() else {
        panic!("{found:?}");
    };
    let names = |steps: Vec<rhyzome_model::step::Step>| -> Vec<&'static str> {
        assert!(steps.iter().all(|s| s.undo.is_none()), "{steps:?}");
        steps.iter().map(rhyzome_model::step::Step::name).collect()
    };
    assert_eq!(names(stranger.quarantine()), ["set_power"]);
    let removed = ["remove_instance", "remove_disk", "drop_network", "drop_image"];
    assert_eq!(names(stranger.removal()), removed);
    // While a row stands in for it, it is nobody's still.
    let stand_in = KnownResource {
        applied: false,
        row: RowOf::StandIn,
        ..resource(Kind::Instance, None, &[])
    };
    case.known.resources.insert(id(STRANGER), stand_in);
    assert_eq!(amiss(&case.hosts, &case.known), found);
    assert_eq!(
        case.found(),
        BTreeSet::from([Check::ObjectOrphan, Check::ClaimStray])
    );
    // Fences of what it stands in for are not its own.
    case.hosts[0].fences.insert(id(STRANGER), Fence(7));
    assert!(!case.found().contains(&Check::JobFence));
}

#[test]
fn what_nobody_claims_is_removed_by_its_own_id() {
    for (kind, of, name) in [
        (ObjectKind::Image, Kind::Image, "drop_image"),
        (ObjectKind::Network, Kind::Network, "drop_network"),
    ] {
        let mut case = Case::new();
        case.objects().push(object(kind, STRANGER, &[]));
        let found = amiss(&case.hosts, &case.known);
        assert_eq!((found.len(), found[0].kind), (1, of));
        assert!(found[0].quarantine().is_empty());
        let steps = found[0].removal();
        assert_eq!((steps.len(), steps[0].name()), (1, name));
    }
}

#[test]
fn what_lives_on_a_host_that_was_put_back_is_made_so_again() {
    let mut case = Case::new();
    case.one().row = RowOf::InDoubt;
    assert!(case.found().is_empty(), "nothing shows");
    let found = amiss(&case.hosts, &case.known);
    let wrongs: Vec<(&HostName, ResourceId, &Wrong)> =
        found.iter().map(|a| (&a.host, a.resource, &a.wrong)).collect();
    let host = HostName::from("h1");
    assert_eq!(
        wrongs,
        [(&host, id(ONE), &Wrong::Incomplete { disk_lost: false })]
    );
    case.objects()[2].part = Part::Rest;
    case.objects()[3].runs = false;
    let found = amiss(&case.hosts, &case.known);
    assert_eq!(found[0].wrong, Wrong::Incomplete { disk_lost: true });
    case.known.moved.insert(id(ONE), Moved::Open);
    assert!(amiss(&case.hosts, &case.known).is_empty());
}

/// Its file is open still, with what was written to it: somebody may fetch that.
#[test]
fn a_guest_that_runs_without_its_disks_file_is_named_and_left_alone() {
    let mut case = Case::new();
    case.objects()[2].part = Part::Rest;
    assert_eq!(case.found(), BTreeSet::from([Check::ObjectMissing]));
    assert!(amiss(&case.hosts, &case.known).is_empty());
    case.objects()[3].runs = false;
    let found = amiss(&case.hosts, &case.known);
    assert_eq!(found[0].wrong, Wrong::Incomplete { disk_lost: true });
}

#[test]
fn what_an_agent_calls_unknown_is_not_whole() {
    let part = |kind: &str, state: &str, generation| {
        let raw = RawInventory {
            objects: vec![RawObject {
                kind: kind.to_owned(),
                id: id(ONE).to_string(),
                claims: Vec::new(),
                state: state.to_owned(),
                generation,
            }],
            ..RawInventory::default()
        };
        raw.read("h1".into(), asked_at()).unwrap().objects[0].part
    };
    for (kind, state, generation, is) in [
        ("disk", "ready", 0, Part::Whole),
        ("disk", "unrecorded", 0, Part::Content),
        ("disk", "unknown", 0, Part::Rest),
        ("image", "unknown", 0, Part::Rest),
        ("network", "unknown", 0, Part::Whole),
        ("instance", "stopped", 1, Part::Whole),
        ("instance", "unknown", 1, Part::Whole),
        ("instance", "running", 0, Part::Rest),
    ] {
        assert_eq!(part(kind, state, generation), is, "{kind} {state} {generation}");
    }
}

/// Made complete first: what is too much of it is looked at again then.
#[test]
fn what_lives_there_and_lacks_something_is_made_complete_first() {
    let mut case = Case::new();
    case.objects()
        .retain(|o| o.kind == ObjectKind::Network || o.kind == ObjectKind::Image);
    case.objects().push(object(ObjectKind::Network, STRANGER, &[ONE]));
    let found = amiss(&case.hosts, &case.known);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].wrong, Wrong::Incomplete { disk_lost: true });
}

#[test]
fn a_shared_object_without_a_claim_is_reported_on_a_quiet_host() {
    let mut case = Case::new();
    case.objects().push(object(ObjectKind::Image, STRANGER, &[]));
    assert_eq!(case.found(), BTreeSet::from([Check::ObjectOrphan]));
    case.known.hosts_moved.insert("h1".into(), Moved::Open);
    assert!(case.found().is_empty());
}

#[test]
fn a_host_that_was_not_looked_at_lacks_nothing() {
    let mut case = Case::new();
    case.one().host = Some("h3".into());
    case.known.moved.insert(id(IMAGE), Moved::Open);
    case.hosts[0].objects.clear();
    assert!(case.found().is_empty());
}

#[test]
fn fences_above_what_was_drawn_are_reported_in_motion_too() {
    let mut case = Case::new();
    case.known.moved.insert(id(ONE), Moved::Open);
    for (fence, check) in [
        (5, None),
        (6, Some(Check::JobFence)),
        (10, Some(Check::JobFence)),
        (11, Some(Check::FenceAhead)),
    ] {
        case.hosts[0].fences.insert(id(ONE), Fence(fence));
        assert_eq!(case.found(), check.into_iter().collect(), "{fence}");
    }
    // Of a resource that is gone nothing is left to compare with but the sequence.
    case.hosts[0].fences = BTreeMap::from([(id(STRANGER), Fence(10))]);
    assert!(case.found().is_empty());
}

#[test]
fn jobs_of_ledgers_are_committed_and_open() {
    let job = JobId::new();
    let at = |ms| Some(asked_at() + TimeDelta::milliseconds(ms));
    for (known, check) in [
        (None, Some(Check::LedgerPhantom)),
        (Some(KnownJob { ended_at: None }), None),
        (Some(KnownJob { ended_at: at(0) }), None),
        (Some(KnownJob { ended_at: at(-1) }), Some(Check::LedgerUnfinished)),
    ] {
        let mut case = Case::new();
        case.hosts[1].unfinished.push(Unfinished { job });
        case.known.jobs.extend(known.map(|k| (job, k)));
        assert_eq!(case.found(), check.into_iter().collect(), "{known:?}");
    }
}

/// A host whose ledger knows less than it answered, which is none of what is on it.
#[test]
fn a_ledger_that_forgot_what_it_answered_is_an_older_one() {
    let at = |ms| asked_at() + TimeDelta::milliseconds(ms);
    let found = |change: &dyn Fn(&mut Case)| {
        let mut case = Case::new();
        let answered = Answered {
            host: "h1".into(),
            epoch: Epoch(1),
            fence: Fence(7),
        };
        case.known.answered.insert(id(ONE), answered);
        change(&mut case);
        older(&case.hosts, &case.known)
    };
    let h1 = [Older {
        host: "h1".into(),
        epoch: Epoch(1),
    }];
    let knows = |case: &mut Case, fence| case.hosts[0].fences = BTreeMap::from([(id(ONE), Fence(fence))]);
    assert_eq!(found(&|c| knows(c, 6)), h1);
    assert_eq!(found(&|c| knows(c, 7)), []);
    assert_eq!(
        found(&|_| {}),
        [],
        "what was forgotten, or is at work, says nothing"
    );
    let of = |moved: Moved| {
        found(&|c| {
            knows(c, 6);
            c.known.moved.insert(id(ONE), moved);
        })
    };
    assert_eq!(of(Moved::Open), []);
    assert_eq!(of(Moved::Ended(at(0))), []);
    assert_eq!(of(Moved::Ended(at(-1))), h1);
    let answered_by = |host: &str, epoch| {
        found(&|c| {
            knows(c, 6);
            let answered = c.known.answered.get_mut(&id(ONE)).unwrap();
            (answered.host, answered.epoch) = (host.into(), Epoch(epoch));
        })
    };
    assert_eq!(answered_by("h2", 1), []);
    assert_eq!(answered_by("h1", 0), [], "that ledger counts as another already");

    let job = JobId::new();
    for (ended_at, is) in [(Some(at(-1)), true), (Some(at(0)), false), (None, false)] {
        let found = found(&|c| {
            c.hosts[0].unfinished.push(Unfinished { job });
            c.known.jobs.insert(job, KnownJob { ended_at });
        });
        assert_eq!(!found.is_empty(), is, "{ended_at:?}");
    }
}

#[test]
fn an_inventory_that_is_not_understood_is_no_inventory() {
    let of = |kind: &str, id: &str| {
        let raw = RawInventory {
            objects: vec![RawObject {
                kind: kind.to_owned(),
                id: id.to_owned(),
                claims: Vec::new(),
                state: String::new(),
                generation: 0,
            }],
            ..RawInventory::default()
        };
        raw.read("h1".into(), asked_at()).map(|i| i.objects.len())
    };
    let uuid = id(ONE).to_string();
    assert_eq!(of("disk", &uuid), Ok(1));
    assert_eq!(of("disk", "x"), Err(InventoryError::Id("x".into())));
    assert_eq!(of("moon", &uuid), Err(InventoryError::Kind("moon".into())));
}

/// Operators look a check up by its name.
#[test]
fn every_check_is_on_the_operators_page() {
    let page = include_str!("../../docs/CHECK.md");
    for check in Check::ALL {
        let row = format!("| `{check}` |");
        assert_eq!(page.matches(&row).count(), 1, "{row}");
        let before = &page[..page.find(&row).unwrap()];
        let heading = before.rsplit("### ").next().unwrap();
        let number = format!("{}. ", check.invariant().number());
        assert!(heading.starts_with(&number), "{check} stands under {heading:.40}");
    }
}

#[test]
fn every_check_says_what_to_do() {
    for check in Check::ALL {
        assert!(check.remedy().ends_with('.'), "{check}");
        assert!((1..=13).contains(&check.invariant().number()), "{check}");
    }
}
