//! Schemas are self-contained, and the check finds every fault at once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;
use rhyzome_model::kinds::Kind;
use serde_json::{Value, json};

fn faults(kind: Kind, spec: &Value) -> Vec<(String, String)> {
    match kind.ops().parse(spec) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.into_iter().map(|f| (f.pointer, f.code)).collect(),
    }
}

fn expect(kind: Kind, spec: &Value, wanted: &[(&str, &str)]) {
    let mut found = faults(kind, spec);
    let mut wanted: Vec<_> = wanted
        .iter()
        .map(|(p, c)| ((*p).to_owned(), (*c).to_owned()))
        .collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted, "{spec}");
}

fn network() -> Value {
    json!({"cidr": "10.20.0.0/24", "gateway": "10.20.0.1", "dns": ["1.1.1.1"],
           "leases": [{"mac": "02:00:00:00:00:07", "ip": "10.20.0.7", "hostname": "web"}]})
}

fn image() -> Value {
    json!({"source": {"url": "https://example.org/a.qcow2"}, "format": "qcow2", "sha256": "ab".repeat(32),
           "visibility": "public", "min_disk_gib": 2, "min_memory_mib": 64})
}

fn instance() -> Value {
    json!({"vcpus": 1, "memory_mib": 128, "image": "alpine", "root_disk_gib": 1,
           "interfaces": [{"network": "net", "ip": "10.20.0.7", "mac": "02:00:00:00:00:07"}],
           "user_data": "#cloud-config", "ssh_keys": [], "power": "on", "restart": "never",
           "placement": {"host_labels": {"zone": "a"}, "apart_from": ["web-2"]}})
}

fn whole(kind: Kind) -> Value {
    match kind {
        Kind::Network => network(),
        Kind::Image => image(),
        Kind::Instance => instance(),
    }
}

#[test]
fn schemas_are_self_contained_and_closed() {
    for kind in Kind::ALL {
        let schema = kind.ops().schema();
        assert_eq!(
            schema["$schema"], "https://json-schema.org/draft/2020-12/schema",
            "{kind}"
        );
        assert_eq!(schema["additionalProperties"], false, "{kind}");
        assert!(!schema.to_string().contains("$ref"), "{kind}");
        assert!(std::ptr::eq(schema, kind.ops().schema()), "{kind}: made once");
    }
    let choices = Kind::Image.ops().schema()["properties"]["source"]["oneOf"]
        .as_array()
        .unwrap();
    assert!(choices.iter().all(|c| c["additionalProperties"] == false));
}

#[test]
fn whole_documents_have_no_fault() {
    for kind in Kind::ALL {
        expect(*kind, &whole(*kind), &[]);
    }
}

#[test]
fn defaults_are_filled_in() {
    let spec = json!({"vcpus": 1, "memory_mib": 128, "image": "alpine", "interfaces": [{"network": "n", "ip": null}]});
    let parsed = Kind::Instance.ops().parse(&spec).unwrap();
    assert_eq!(parsed["power"], "on");
    assert_eq!(parsed["restart"], "always");
    let image = Kind::Image
        .ops()
        .parse(&json!({"source": {"file": "a.raw"}, "format": "raw"}))
        .unwrap();
    assert_eq!(image["visibility"], "private");
    let network = Kind::Network.ops().parse(&json!({"cidr": "10.0.0.0/8"})).unwrap();
    assert_eq!((&network["dns"], &network["leases"]), (&json!([]), &json!([])));
}

#[test]
fn texts_with_several_spellings_are_stored_in_one() {
    let mut spec = network();
    spec["leases"][0]["mac"] = "02-AB-00-00-00-07".into();
    assert_eq!(
        Kind::Network.ops().parse(&spec).unwrap()["leases"][0]["mac"],
        "02:ab:00:00:00:07"
    );
    let mut spec = image();
    spec["sha256"] = "AB".repeat(32).into();
    assert_eq!(Kind::Image.ops().parse(&spec).unwrap()["sha256"], "ab".repeat(32));
}

#[test]
fn every_fault_at_once() {
    expect(
        Kind::Network,
        &json!({"cdir": "10.20.0.0/24", "gateway": 7, "dns": ["1.1.1.1", "one"], "leases": [{"mac": "x"}]}),
        &[
            ("/spec/cdir", "UNKNOWN_FIELD"),
            ("/spec/cidr", "MISSING_FIELD"),
            ("/spec/gateway", "WRONG_TYPE"),
            ("/spec/dns/1", "INVALID_VALUE"),
            ("/spec/leases/0/mac", "INVALID_VALUE"),
            ("/spec/leases/0/ip", "MISSING_FIELD"),
        ],
    );
    expect(
        Kind::Instance,
        &json!({"vcpus": "1", "memory_mib": -1, "image": null, "interfaces": {}, "power": "onn", "placement": {"zone": 1}}),
        &[
            ("/spec/vcpus", "WRONG_TYPE"),
            ("/spec/memory_mib", "INVALID_VALUE"),
            ("/spec/image", "WRONG_TYPE"),
            ("/spec/interfaces", "WRONG_TYPE"),
            ("/spec/power", "INVALID_VALUE"),
            ("/spec/placement/zone", "UNKNOWN_FIELD"),
        ],
    );
}

#[test]
fn one_fault_each() {
    for (kind, pointer, value, code) in [
        (Kind::Network, "/cidr", json!("10.20.0.0/99"), "INVALID_VALUE"),
        (Kind::Network, "/cidr", json!("fd00::/64"), "INVALID_VALUE"),
        (Kind::Network, "/cidr", json!("10.20.0.0"), "INVALID_VALUE"),
        (Kind::Network, "/gateway", json!("10.20.0.256"), "INVALID_VALUE"),
        (Kind::Network, "/leases", Value::Null, "WRONG_TYPE"),
        (
            Kind::Network,
            "/leases/0/mac",
            json!("02:00:00:00:00"),
            "INVALID_VALUE",
        ),
        (Kind::Image, "/sha256", json!("abc"), "INVALID_VALUE"),
        (Kind::Image, "/format", json!("iso"), "INVALID_VALUE"),
        (Kind::Image, "/source", json!("https://example.org"), "WRONG_TYPE"),
        (Kind::Image, "/source", json!({}), "MISSING_FIELD"),
        (
            Kind::Image,
            "/source",
            json!({"url": "a", "file": "b"}),
            "INVALID_VALUE",
        ),
        (
            Kind::Image,
            "/min_disk_gib",
            json!(4_294_967_296_u64),
            "INVALID_VALUE",
        ),
        (Kind::Instance, "/vcpus", json!(1.5), "WRONG_TYPE"),
        (Kind::Instance, "/vcpus", json!(1.0), "WRONG_TYPE"),
        (Kind::Instance, "/memory_mib", json!(u64::MAX), "INVALID_VALUE"),
        (Kind::Instance, "/user_data", json!("a\0b"), "INVALID_VALUE"),
        (
            Kind::Instance,
            "/placement/host_labels/zone",
            json!(3),
            "WRONG_TYPE",
        ),
    ] {
        let mut spec = whole(kind);
        *spec.pointer_mut(pointer).unwrap() = value;
        expect(kind, &spec, &[(&format!("/spec{pointer}"), code)]);
    }
    expect(Kind::Network, &json!([]), &[("/spec", "WRONG_TYPE")]);
}

#[test]
fn a_typo_is_told_the_nearest_name() {
    let mut spec = instance();
    spec["memmory_mib"] = 1.into();
    spec["a/b~c"] = 1.into();
    let faults = Kind::Instance.ops().parse(&spec).unwrap_err();
    let typo = faults.iter().find(|f| f.pointer == "/spec/memmory_mib").unwrap();
    assert!(
        typo.detail.contains("did you mean \"memory_mib\"?"),
        "{}",
        typo.detail
    );
    let other = faults.iter().find(|f| f.pointer == "/spec/a~1b~0c").unwrap();
    assert!(other.detail.contains("known are"), "{}", other.detail);
    let source = Kind::Image
        .ops()
        .parse(&json!({"source": {"uri": "x"}, "format": "raw"}))
        .unwrap_err();
    assert_eq!(
        (source[0].pointer.as_str(), source[0].code.as_str()),
        ("/spec/source/uri", "UNKNOWN_FIELD")
    );
    assert!(source[0].detail.contains("\"url\""), "{}", source[0].detail);
}

/// Where a document may be changed, and into what.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-4.0..4.0).prop_map(Value::from),
        prop_oneof![
            "[a-z0-9.:/-]{0,12}",
            "10\\.[0-9]{1,3}\\.0\\.[0-9]{1,3}(/[0-9]{1,2})?",
            "on|off|raw|url|never"
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("url|file|mac|ip|network|host_labels|x", inner, 0..3)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn pointers(value: &Value, at: &str, into: &mut Vec<String>) {
    into.push(at.to_owned());
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(k, v)| pointers(v, &format!("{at}/{k}"), into)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(i, v)| pointers(v, &format!("{at}/{i}"), into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

proptest! {
    /// What the check lets through deserialises, and parsing again changes nothing.
    #[test]
    fn a_document_without_faults_is_a_spec(
        kind in prop::sample::select(Kind::ALL),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..3),
    ) {
        let mut spec = whole(kind);
        for (at, value) in changes {
            let mut all = Vec::new();
            pointers(&spec, "", &mut all);
            *spec.pointer_mut(at.get(&all).as_str()).unwrap() = value;
        }
        match kind.ops().parse(&spec) {
            Ok(parsed) => prop_assert_eq!(kind.ops().parse(&parsed).unwrap(), parsed),
            Err(faults) => {
                prop_assert!(!faults.is_empty());
                for fault in faults {
                    prop_assert_ne!(&fault.code, "INVALID", "{} {}", spec, fault.detail);
                    prop_assert!(fault.pointer.starts_with("/spec"));
                }
            }
        }
    }
}

#[test]
fn a_patch_takes_away_only_what_can_be_there() {
    let found = |kind: Kind, patch: Value| -> Vec<String> {
        let faults = kind.ops().unknown_nulls(&patch).into_iter();
        faults
            .map(|fault| {
                assert_eq!(fault.code, "UNKNOWN_FIELD");
                fault.pointer
            })
            .collect()
    };
    for (kind, patch, wanted) in [
        (Kind::Instance, json!({"placment": null}), &["/spec/placment"][..]),
        (
            Kind::Instance,
            json!({"placement": {"host_labls": null, "apart_from": null}}),
            &["/spec/placement/host_labls"],
        ),
        (
            Kind::Instance,
            json!({"placement": {"host_labels": {"zone": null}}}),
            &[],
        ),
        (
            Kind::Instance,
            json!({"placement": null, "user_data": null, "power": null}),
            &[],
        ),
        (
            Kind::Instance,
            json!({"interfaces": [{"network": "a", "mc": null}]}),
            &[],
        ),
        (Kind::Image, json!({"source": {"url": null, "file": "a"}}), &[]),
        (
            Kind::Image,
            json!({"source": {"ulr": null, "file": "a"}}),
            &["/spec/source/ulr"],
        ),
        (
            Kind::Network,
            json!({"a/b": null, "x": {"y": null}}),
            &["/spec/a~1b"],
        ),
        (Kind::Network, json!(null), &[]),
    ] {
        assert_eq!(found(kind, patch.clone()), wanted, "{patch}");
    }
}
