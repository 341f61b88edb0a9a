//! The kind `network`: what it refuses, its addresses, its plan.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{expect, resolved, same_names};
use rhyzome_model::ids::HostName;
use rhyzome_model::job::Action;
use rhyzome_model::kinds::{Kind, NetworkSpec, PlanError, Venue, address_fault, free_candidates};
use rhyzome_model::step;
use serde_json::{Value, json};
use std::net::Ipv4Addr;

const KIND: Kind = Kind::Network;

fn net() -> Value {
    json!({"cidr": "10.20.0.0/29", "dns": ["1.1.1.1"],
           "leases": [{"mac": "02:00:00:00:00:05", "ip": "10.20.0.5", "hostname": "db"}]})
}

fn typed(spec: &Value) -> NetworkSpec {
    serde_json::from_value(spec.clone()).unwrap()
}

fn with(pointer: &str, value: Value) -> Value {
    common::with(&net(), pointer, value)
}

#[test]
fn what_is_refused() {
    expect(KIND, &net(), None, &[]);
    for (spec, wanted) in [
        (
            with("/cidr", json!("10.20.0.5/29")),
            vec![("/cidr", "HOST_BITS_SET")],
        ),
        (
            with("/cidr", json!("10.0.0.0/7")),
            vec![("/cidr", "UNUSABLE_RANGE")],
        ),
        (
            with("/cidr", json!("10.20.0.4/31")),
            vec![("/cidr", "UNUSABLE_RANGE")],
        ),
        (
            with("/cidr", json!("10.20.0.5/32")),
            vec![("/cidr", "UNUSABLE_RANGE")],
        ),
        (
            with("/cidr", json!("0.0.0.0/8")),
            vec![("/cidr", "UNUSABLE_RANGE")],
        ),
        (
            with("/cidr", json!("127.0.0.0/8")),
            vec![("/cidr", "UNUSABLE_RANGE")],
        ),
        (
            with("/cidr", json!("224.0.0.0/24")),
            vec![("/cidr", "UNUSABLE_RANGE")],
        ),
        (
            with("/gateway", json!("10.20.1.1")),
            vec![("/gateway", "ADDRESS_OUTSIDE_NETWORK")],
        ),
        (
            with("/gateway", json!("10.20.0.0")),
            vec![("/gateway", "ADDRESS_RESERVED")],
        ),
        (
            with("/gateway", json!("10.20.0.7")),
            vec![("/gateway", "ADDRESS_RESERVED")],
        ),
        (
            with("/gateway", json!("10.20.0.5")),
            vec![("/leases/0/ip", "ADDRESS_IS_GATEWAY")],
        ),
        (
            with("/dns", json!(["1.1.1.1", "0.0.0.0"])),
            vec![("/dns/1", "INVALID_ADDRESS")],
        ),
        (
            with("/dns", json!(vec!["1.1.1.1"; 9])),
            vec![("/dns", "TOO_MANY")],
        ),
        (
            with("/leases/0/ip", json!("10.20.0.1")),
            vec![("/leases/0/ip", "ADDRESS_IS_GATEWAY")],
        ),
        (
            with("/leases/0/ip", json!("10.20.0.8")),
            vec![("/leases/0/ip", "ADDRESS_OUTSIDE_NETWORK")],
        ),
        (
            with("/leases/0/ip", json!("10.20.0.7")),
            vec![("/leases/0/ip", "ADDRESS_RESERVED")],
        ),
        (
            with("/leases/0/ip", json!("10.20.0.0")),
            vec![("/leases/0/ip", "ADDRESS_RESERVED")],
        ),
        (
            with("/leases/0/mac", json!("03:00:00:00:00:05")),
            vec![("/leases/0/mac", "INVALID_MAC")],
        ),
        (
            with("/leases/0/mac", json!("00:00:00:00:00:00")),
            vec![("/leases/0/mac", "INVALID_MAC")],
        ),
        (
            with("/leases/0/hostname", json!("Db.x")),
            vec![("/leases/0/hostname", "INVALID_HOSTNAME")],
        ),
    ] {
        expect(KIND, &spec, None, &wanted);
    }
    let twice = json!({"mac": "02:00:00:00:00:05", "ip": "10.20.0.5", "hostname": "db"});
    expect(
        KIND,
        &with("/leases", json!([twice, twice])),
        None,
        &[
            ("/leases/1/ip", "DUPLICATE"),
            ("/leases/1/mac", "DUPLICATE"),
            ("/leases/1/hostname", "DUPLICATE"),
        ],
    );
}

#[test]
fn what_can_be_changed() {
    expect(KIND, &with("/dns", json!([])), Some(&net()), &[]);
    expect(KIND, &with("/leases", json!([])), Some(&net()), &[]);
    expect(KIND, &with("/gateway", json!("10.20.0.1")), Some(&net()), &[]);
    expect(
        KIND,
        &with("/gateway", json!("10.20.0.2")),
        Some(&net()),
        &[("/gateway", "IMMUTABLE")],
    );
    expect(
        KIND,
        &with("/cidr", json!("10.20.0.0/28")),
        Some(&net()),
        &[("/cidr", "IMMUTABLE")],
    );
}

#[test]
fn addresses() {
    let spec = typed(&net());
    let gateway = Ipv4Addr::new(10, 20, 0, 1);
    assert_eq!(spec.gateway(), gateway);
    let code = |last| address_fault(&spec, Ipv4Addr::new(10, 20, 0, last)).map(|(code, _)| code);
    let codes: Vec<_> = (0..9).map(code).collect();
    let (reserved, outside) = (Some("ADDRESS_RESERVED"), Some("ADDRESS_OUTSIDE_NETWORK"));
    assert_eq!(
        codes,
        [
            reserved,
            Some("ADDRESS_IS_GATEWAY"),
            None,
            None,
            None,
            None,
            None,
            reserved,
            outside
        ]
    );
    let free: Vec<u8> = free_candidates(&spec).map(|ip| ip.octets()[3]).collect();
    assert_eq!(free, [2, 3, 4, 6], "without the gateway's and the static lease's");
    let middle = typed(&with("/gateway", json!("10.20.0.6")));
    assert_eq!(
        free_candidates(&middle)
            .map(|ip| ip.octets()[3])
            .collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    for ip in free_candidates(&spec) {
        assert_eq!(address_fault(&spec, ip), None);
    }
    let large = typed(&json!({"cidr": "10.0.0.0/8"}));
    assert_eq!(free_candidates(&large).next(), Some(Ipv4Addr::new(10, 0, 0, 2)));
}

#[test]
fn no_host_needs_it_until_an_instance_does() {
    for action in [Action::Create, Action::Update, Action::Delete, Action::Repair] {
        let mut input = resolved(&net(), Some(&with("/dns", json!([]))));
        input.host = None;
        assert_eq!(KIND.ops().plan(action, &input).unwrap(), [], "{action}");
        assert_eq!(KIND.ops().venue(action), Venue::WhereItIs);
    }
}

#[test]
fn an_update_is_undone_to_what_was_applied() {
    let before = net();
    let mut input = resolved(&with("/dns", json!(["9.9.9.9"])), Some(&before));
    input.host = Some(HostName::from("host-1"));
    input.generation = 4;
    let plan = KIND.ops().plan(Action::Update, &input).unwrap();
    let [step] = plan.as_slice() else {
        panic!("{plan:?}")
    };
    let step::Action::EnsureNetwork(new) = &step.forward else {
        panic!("{step:?}")
    };
    let Some(step::Action::EnsureNetwork(old)) = &step.undo else {
        panic!("{step:?}")
    };
    assert_eq!(new.dns, ["9.9.9.9".parse::<Ipv4Addr>().unwrap()]);
    assert_eq!(old.dns, ["1.1.1.1".parse::<Ipv4Addr>().unwrap()]);
    assert_eq!(
        (new.generation, old.generation),
        (4, 4),
        "a lower generation would not overwrite"
    );
    assert_eq!((&new.claim, &old.claim), (&None, &None));
    assert_eq!(new.leases[0].hostname.as_deref(), Some("db"));
    same_names(KIND, Action::Update, &input);
}

#[test]
fn nothing_to_do_where_nothing_differs() {
    let mut input = resolved(&with("/gateway", json!("10.20.0.1")), Some(&net()));
    input.host = Some(HostName::from("host-1"));
    assert_eq!(KIND.ops().plan(Action::Update, &input).unwrap(), []);
    same_names(KIND, Action::Update, &input);
    for action in [Action::Create, Action::Delete, Action::Repair] {
        same_names(KIND, action, &input);
    }
}

#[test]
fn it_has_no_power() {
    let input = resolved(&net(), Some(&net()));
    for action in [Action::Start, Action::Stop, Action::Reboot] {
        assert!(matches!(
            KIND.ops().plan(action, &input),
            Err(PlanError::NoSuchAction { .. })
        ));
    }
}
