//! The kind `instance`: what it refuses, its demand, its plans.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{expect, id, resolved, same_names};
use rhyzome_model::ids::{HostName, TenantId};
use rhyzome_model::job::Action;
use rhyzome_model::kinds::{AssignedLease, Demand, Kind, PlanError, Resolved, ResolvedRef, Venue};
use rhyzome_model::step::{self, HostLease, ImageFacts, Step};
use serde_json::{Value, json};

const KIND: Kind = Kind::Instance;
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGq7oLd1Wf0m5n0xPzU8wO4rKq1Tn7w0b5uG6s1dXy2Z me@here";

fn vm() -> Value {
    json!({"vcpus": 2, "memory_mib": 256, "image": id(20).to_string(), "root_disk_gib": 3,
           "interfaces": [{"network": id(10).to_string(), "ip": "10.20.0.7"},
                          {"network": id(11).to_string(), "mac": "02:00:00:00:00:08"},
                          {"network": id(10).to_string()}],
           "user_data": "#cloud-config", "ssh_keys": [KEY], "power": "on", "restart": "always",
           "placement": {"host_labels": {"zone": "a"}, "apart_from": ["web-2"]}})
}

fn with(pointer: &str, value: Value) -> Value {
    common::with(&vm(), pointer, value)
}

fn lease(network: u128, position: i32) -> AssignedLease {
    let lease = HostLease {
        mac: format!("02:00:00:00:00:0{position}"),
        ip: format!("10.20.0.{}", position + 7).parse().unwrap(),
        hostname: Some("web-1".to_owned()),
    };
    AssignedLease {
        network: id(network),
        position,
        lease,
    }
}

/// The instance with all that it refers to.
fn input(spec: &Value, applied: Option<&Value>) -> Resolved {
    let mut input = resolved(spec, applied);
    input.generation = 5;
    input.leases = vec![lease(10, 0), lease(11, 1), lease(10, 2)];
    for network in [10, 11] {
        let spec = json!({"cidr": "10.20.0.0/24", "dns": [],
                          "leases": [{"mac": "02:00:00:00:01:00", "ip": "10.20.0.100"}]});
        let of = ResolvedRef {
            kind: Kind::Network,
            tenant: TenantId::from("demo"),
            generation: 3,
            spec,
            image: None,
        };
        input.references.insert(id(network), of);
    }
    let facts = ImageFacts {
        sha256: "cd".repeat(32),
        size_bytes: 1,
        virtual_size_bytes: 2 << 30,
    };
    let spec = json!({"source": {"url": "https://example.org/a"}, "format": "qcow2", "visibility": "public"});
    let of = ResolvedRef {
        kind: Kind::Image,
        tenant: TenantId::from("system"),
        generation: 1,
        spec,
        image: Some(facts),
    };
    input.references.insert(id(20), of);
    if applied.is_some() {
        input.host = Some(HostName::from("host-1"));
    }
    input
}

fn plan(action: Action, input: &Resolved) -> Vec<Step> {
    same_names(KIND, action, input);
    KIND.ops().plan(action, input).unwrap()
}

fn names(plan: &[Step]) -> Vec<String> {
    let undo = |s: &Step| {
        s.undo
            .as_ref()
            .map_or(String::new(), |u| format!(" / {}", u.name()))
    };
    plan.iter().map(|s| format!("{}{}", s.name(), undo(s))).collect()
}

#[test]
fn what_is_refused() {
    expect(KIND, &vm(), None, &[]);
    for (pointer, value, code) in [
        ("/vcpus", json!(0), "OUT_OF_RANGE"),
        ("/vcpus", json!(256), "OUT_OF_RANGE"),
        ("/memory_mib", json!(63), "OUT_OF_RANGE"),
        ("/memory_mib", json!(16_777_217), "OUT_OF_RANGE"),
        ("/root_disk_gib", json!(0), "OUT_OF_RANGE"),
        ("/root_disk_gib", json!(65_537), "OUT_OF_RANGE"),
        ("/image", json!(""), "EMPTY"),
        ("/interfaces", json!([]), "TOO_FEW"),
        (
            "/interfaces",
            json!(vec![json!({"network": "n"}); 17]),
            "TOO_MANY",
        ),
        ("/interfaces/0/network", json!(""), "EMPTY"),
        ("/interfaces/0/mac", json!("01:00:5e:00:00:01"), "INVALID_MAC"),
        ("/interfaces/2/mac", json!("02-00-00-00-00-08"), "DUPLICATE"),
        ("/interfaces/2/ip", json!("10.20.0.7"), "DUPLICATE"),
        ("/disks", json!(["data"]), "NOT_SUPPORTED"),
        ("/user_data", json!("a".repeat(65_537)), "TOO_LONG"),
        ("/ssh_keys", json!(vec![KEY; 65]), "TOO_MANY"),
        ("/placement/apart_from", json!(vec!["a"; 65]), "TOO_MANY"),
        ("/placement/apart_from/0", json!(""), "EMPTY"),
    ] {
        expect(KIND, &with(pointer, value), None, &[(pointer, code)]);
    }
    expect(KIND, &with("/user_data", json!("a".repeat(65_536))), None, &[]);
    expect(KIND, &with("/interfaces/1/ip", json!("10.20.0.7")), None, &[]);
}

#[test]
fn ssh_keys() {
    let rsa = format!("ssh-rsa AAAAB3NzaC1yc2E{}=", "A".repeat(368));
    for good in [KEY, KEY.trim_end_matches(" me@here"), &rsa] {
        expect(KIND, &with("/ssh_keys", json!([good])), None, &[]);
    }
    let two = format!("{KEY}\n{KEY}");
    for bad in [
        "",
        "ssh-ed25519",
        "ssh-ed25519 me@here",
        "ssh-dss AAAAB3NzaC1kc3MAAACBAAAAAAAAAAAAAAAA",
        &two,
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "command=\"x\" ssh-ed25519 AAAA",
    ] {
        expect(
            KIND,
            &with("/ssh_keys/0", json!(bad)),
            None,
            &[("/ssh_keys/0", "INVALID_SSH_KEY")],
        );
    }
}

#[test]
fn what_can_be_changed() {
    let off = with("/power", json!("off"));
    expect(KIND, &off, Some(&vm()), &[]);
    expect(KIND, &with("/restart", json!("never")), Some(&vm()), &[]);
    for (pointer, value) in [
        ("/image", json!("other")),
        ("/root_disk_gib", json!(4)),
        ("/interfaces", json!([{"network": "n"}])),
        ("/user_data", json!("x")),
        ("/ssh_keys", json!([])),
        ("/placement", Value::Null),
    ] {
        expect(
            KIND,
            &with(pointer, value),
            Some(&vm()),
            &[(pointer, "IMMUTABLE")],
        );
    }
    for (pointer, value) in [("/vcpus", json!(4)), ("/memory_mib", json!(512))] {
        let refused = [(pointer, "NOT_WHILE_RUNNING")];
        expect(KIND, &with(pointer, value.clone()), Some(&vm()), &refused);
        expect(
            KIND,
            &common::with(&off, pointer, value.clone()),
            Some(&vm()),
            &refused,
        );
        expect(KIND, &with(pointer, value.clone()), Some(&off), &refused);
        expect(KIND, &common::with(&off, pointer, value), Some(&off), &[]);
    }
    let bare = with("/placement", Value::Null);
    expect(
        KIND,
        &common::with(&bare, "/placement", json!({})),
        Some(&bare),
        &[],
    );
}

#[test]
fn what_it_says_of_itself() {
    let ops = KIND.ops();
    let pointers: Vec<String> = ops
        .references(&vm())
        .unwrap()
        .into_iter()
        .map(|r| r.pointer)
        .collect();
    assert_eq!(
        pointers,
        [
            "/image",
            "/interfaces/0/network",
            "/interfaces/1/network",
            "/interfaces/2/network"
        ]
    );
    let asked = ops.lease_requests(&vm()).unwrap();
    assert_eq!(asked.len(), 3);
    assert_eq!(
        (asked[0].ip, asked[1].mac.as_deref()),
        ("10.20.0.7".parse().ok(), Some("02:00:00:00:00:08"))
    );
    assert_eq!(ops.host_labels(&vm()).unwrap()["zone"], "a");
    let apart = ops.apart_from(&vm()).unwrap();
    assert_eq!(
        (apart[0].pointer.as_str(), apart[0].kind),
        ("/placement/apart_from/0", KIND)
    );
    assert_eq!(
        ops.apply_action(&vm(), Action::Stop).unwrap(),
        with("/power", json!("off"))
    );
    assert_eq!(
        ops.apply_action(&with("/power", json!("off")), Action::Start)
            .unwrap(),
        vm()
    );
    assert_eq!(ops.apply_action(&vm(), Action::Reboot).unwrap(), vm());
    assert_eq!(
        (ops.venue(Action::Create), ops.venue(Action::Start)),
        (Venue::Placed, Venue::WhereItIs)
    );
}

#[test]
fn the_root_disk_is_as_large_as_the_image_needs() {
    let demand = |spec: &Value| KIND.ops().demand_resolved(&input(spec, None)).unwrap();
    assert_eq!(
        demand(&vm()),
        Demand {
            vcpus: 2,
            memory_mib: 256,
            disk_gib: 3
        }
    );
    for spec in [
        with("/root_disk_gib", Value::Null),
        with("/root_disk_gib", json!(1)),
    ] {
        assert_eq!(demand(&spec).disk_gib, 2);
        let plan = plan(Action::Create, &input(&spec, None));
        let step::Action::EnsureDisk(disk) = &plan[3].forward else {
            panic!("{plan:?}")
        };
        assert_eq!(disk.size_gib, 2);
    }
    assert_eq!(
        KIND.ops()
            .demand(&with("/root_disk_gib", Value::Null))
            .unwrap()
            .disk_gib,
        1
    );
}

#[test]
fn a_create_takes_everything_back() {
    let plan = plan(Action::Create, &input(&vm(), None));
    assert_eq!(
        names(&plan),
        [
            "ensure_network / drop_network",
            "ensure_network / drop_network",
            "ensure_image / drop_image",
            "ensure_disk / remove_disk",
            "ensure_instance / remove_instance",
            "set_power",
        ]
    );
    // What a step makes is what its undo takes away; that of the definition ends the guest.
    for step in plan.iter().filter(|step| step.name() != "set_power") {
        assert_eq!(
            step.forward.object(),
            step.undo.as_ref().unwrap().object(),
            "{}",
            step.name()
        );
    }
    let step::Action::EnsureNetwork(first) = &plan[0].forward else {
        panic!("{plan:?}")
    };
    let claim = first.claim.as_ref().unwrap();
    assert_eq!(
        (first.network, first.generation, first.leases.len()),
        (id(10), 3, 1)
    );
    assert_eq!(
        (claim.holder, &claim.leases),
        (id(1), &vec![lease(10, 0).lease, lease(10, 2).lease])
    );
    let step::Action::EnsureImage(image) = &plan[2].forward else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (image.sha256.as_deref(), image.holder),
        (Some("cd".repeat(32).as_str()), id(1))
    );
    let step::Action::EnsureInstance(vm) = &plan[4].forward else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (vm.generation, vm.name.as_str(), vm.stop_timeout_s),
        (5, "web-1", 30)
    );
    let nics: Vec<_> = vm
        .interfaces
        .iter()
        .map(|n| (n.network, n.mac.as_str(), n.prefix_len))
        .collect();
    assert_eq!(
        nics,
        [
            (id(10), "02:00:00:00:00:00", 24),
            (id(11), "02:00:00:00:00:01", 24),
            (id(10), "02:00:00:00:00:02", 24)
        ]
    );
    assert_eq!(
        vm.interfaces[0].gateway,
        "10.20.0.1".parse::<std::net::Ipv4Addr>().unwrap()
    );
    assert_eq!((&plan[5].forward, &plan[5].undo), (&power("on"), &None));
}

fn power(on: &str) -> step::Action {
    serde_json::from_value(json!({"action": "set_power", "instance": id(1), "power": on})).unwrap()
}

#[test]
fn one_that_shall_be_off_is_not_started() {
    let plan = plan(Action::Create, &input(&with("/power", json!("off")), None));
    assert!(plan.iter().all(|s| s.name() != "set_power"));
}

#[test]
fn names_in_the_spec_are_resolved_by_leases_and_the_one_image() {
    let mut spec = with("/image", json!("alpine"));
    for i in 0..3 {
        spec["interfaces"][i]["network"] = json!(if i == 1 { "back" } else { "front" });
    }
    assert_eq!(
        plan(Action::Create, &input(&spec, None)),
        plan(Action::Create, &input(&vm(), None))
    );
}

#[test]
fn a_delete_only_goes_forward() {
    let held = input(&vm(), Some(&vm()));
    let removed = plan(Action::Delete, &held);
    assert_eq!(
        names(&removed),
        [
            "remove_instance",
            "remove_disk",
            "drop_image",
            "drop_network",
            "drop_network"
        ]
    );
    assert_eq!(removed[4].forward.object().1, id(10), "in reverse");
    // All that a create made, gone: the same objects.
    let made: std::collections::BTreeSet<_> = plan(Action::Create, &input(&vm(), None))
        .iter()
        .map(|s| s.forward.object())
        .collect();
    assert_eq!(
        removed
            .iter()
            .map(|s| s.forward.object())
            .collect::<std::collections::BTreeSet<_>>(),
        made
    );
    let mut bare = held.clone();
    bare.references.clear();
    assert_eq!(plan(Action::Delete, &bare), removed, "it needs only ids");
    let mut nowhere = held;
    nowhere.host = None;
    assert_eq!(KIND.ops().plan(Action::Delete, &nowhere).unwrap(), []);
}

#[test]
fn power_is_set_where_it_differs() {
    let off = with("/power", json!("off"));
    let start = plan(Action::Start, &input(&vm(), Some(&off)));
    assert_eq!(start, [Step::undoable(power("on"), power("off"))]);
    let stop = plan(Action::Stop, &input(&off, Some(&vm())));
    assert_eq!(stop, [Step::undoable(power("off"), power("on"))]);
    assert_eq!(plan(Action::Start, &input(&vm(), Some(&vm()))), []);
    assert_eq!(plan(Action::Stop, &input(&off, Some(&off))), []);
    assert_eq!(
        names(&plan(Action::Reboot, &input(&vm(), Some(&vm())))),
        ["reboot"]
    );
    for action in [Action::Start, Action::Stop, Action::Reboot, Action::Update] {
        let never = KIND.ops().plan(action, &input(&vm(), None));
        assert!(matches!(never, Err(PlanError::NoSuchAction { .. })), "{action}");
    }
}

#[test]
fn an_update_is_undone_to_what_was_applied() {
    let off = with("/power", json!("off"));
    let larger = common::with(&off, "/vcpus", json!(4));
    let update = plan(Action::Update, &input(&larger, Some(&off)));
    assert_eq!(names(&update), ["ensure_instance / ensure_instance"]);
    let step::Action::EnsureInstance(new) = &update[0].forward else {
        panic!("{update:?}")
    };
    let Some(step::Action::EnsureInstance(old)) = &update[0].undo else {
        panic!("{update:?}")
    };
    assert_eq!((new.vcpus, old.vcpus), (4, 2));
    let both = common::with(&off, "/restart", json!("never"));
    let update = plan(Action::Update, &input(&both, Some(&vm())));
    assert_eq!(
        names(&update),
        ["ensure_instance / ensure_instance", "set_power / set_power"]
    );
    assert_eq!(
        (&update[1].forward, &update[1].undo),
        (&power("off"), &Some(power("on")))
    );
    assert_eq!(plan(Action::Update, &input(&vm(), Some(&vm()))), []);
}

#[test]
fn a_repair_makes_everything_so_again() {
    let create = plan(Action::Create, &input(&vm(), None));
    let repair = plan(Action::Repair, &input(&vm(), Some(&vm())));
    assert!(repair.iter().all(|s| s.undo.is_none()));
    let forwards = |plan: Vec<Step>| plan.into_iter().map(|s| s.forward).collect::<Vec<_>>();
    assert_eq!(forwards(repair), forwards(create));
    // What was turned off and runs is turned off.
    let off = with("/power", json!("off"));
    let repair = plan(Action::Repair, &input(&off, Some(&off)));
    assert_eq!(repair.last().unwrap().forward, power("off"));
}

#[test]
fn what_is_not_resolved_is_said() {
    let mut no_image = input(&vm(), None);
    no_image.references.remove(&id(20));
    let mut not_fetched = input(&vm(), None);
    not_fetched.references.get_mut(&id(20)).unwrap().image = None;
    let mut no_lease = input(&vm(), None);
    no_lease.leases.pop();
    let mut wrong_kind = input(&vm(), None);
    wrong_kind.references.get_mut(&id(11)).unwrap().kind = Kind::Image;
    for input in [no_image, not_fetched, no_lease, wrong_kind] {
        assert!(matches!(
            KIND.ops().plan(Action::Create, &input),
            Err(PlanError::Unresolved(_))
        ));
    }
}

#[test]
fn a_plan_survives_its_order() {
    for step in plan(Action::Create, &input(&vm(), None)) {
        let frozen = serde_json::to_vec(&step).unwrap();
        assert_eq!(serde_json::from_slice::<Step>(&frozen).unwrap(), step);
    }
}

#[test]
fn start_and_stop_do_what_is_seen_to_be_needed_and_never_less_than_what_is_applied() {
    let ops = Kind::Instance.ops();
    for (action, applied, seen, steps) in [
        (Action::Start, "on", None, 0),
        (Action::Start, "on", Some("on"), 0),
        (Action::Start, "on", Some("off"), 1),
        (Action::Start, "on", Some("crashed"), 1),
        (Action::Start, "on", Some("unknown"), 0),
        (Action::Start, "off", Some("on"), 1),
        (Action::Start, "off", Some("off"), 1),
        (Action::Stop, "off", None, 0),
        (Action::Stop, "off", Some("off"), 0),
        (Action::Stop, "off", Some("on"), 1),
        // Its host may be about to start it again.
        (Action::Stop, "on", Some("crashed"), 1),
        (Action::Stop, "on", Some("off"), 1),
    ] {
        let applied = with("/power", json!(applied));
        let spec = ops.apply_action(&applied, action).unwrap();
        let seen = seen.map(|power| json!({ "power": power }));
        let against = ops
            .planned_against(action, Some(&applied), seen.as_ref())
            .unwrap();
        let names = ops.step_names(action, &spec, against.as_ref()).unwrap();
        assert_eq!(names, vec!["set_power"; steps], "{action} {applied} {seen:?}");
        let plan = plan(action, &input(&spec, against.as_ref()));
        assert_eq!(plan.len(), steps, "{action} {applied} {seen:?}");
    }
    // An update goes by what is applied.
    let on = with("/power", json!("on"));
    let against = ops.planned_against(Action::Update, Some(&on), Some(&json!({ "power": "off" })));
    assert_eq!(against.unwrap(), Some(on));
}
