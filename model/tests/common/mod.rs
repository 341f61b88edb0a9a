//! What the tests of the kinds share.
#![allow(dead_code, reason = "each test file uses a part of it")]

use rhyzome_model::ids::{ResourceId, TenantId};
use rhyzome_model::job::Action;
use rhyzome_model::kinds::{Kind, Resolved};
use serde_json::Value;
use std::collections::BTreeMap;
use uuid::Uuid;

pub(crate) fn id(n: u128) -> ResourceId {
    ResourceId(Uuid::from_u128(n))
}

/// The document with one value set.
pub(crate) fn with(doc: &Value, pointer: &str, value: Value) -> Value {
    let mut doc = doc.clone();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match doc.pointer_mut(parent).unwrap() {
        Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
        Value::Object(fields) => {
            fields.insert(name.to_owned(), value);
        }
        other => panic!("{pointer}: {other} holds nothing"),
    }
    doc
}

/// The faults of meaning, pointers without `/spec`, in any order.
pub(crate) fn expect(kind: Kind, spec: &Value, before: Option<&Value>, wanted: &[(&str, &str)]) {
    let parsed = kind
        .ops()
        .parse(spec)
        .unwrap_or_else(|faults| panic!("{spec} isn't understood: {faults:?}"));
    let before = before.map(|b| kind.ops().parse(b).unwrap());
    let faults = kind.ops().validate(&parsed, before.as_ref()).unwrap();
    let mut found: Vec<(&str, &str)> = faults
        .iter()
        .map(|f| (f.pointer.strip_prefix("/spec").unwrap(), f.code.as_str()))
        .collect();
    let mut wanted = wanted.to_vec();
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted, "{spec}");
}

pub(crate) fn resolved(spec: &Value, applied: Option<&Value>) -> Resolved {
    Resolved {
        id: id(1),
        tenant: TenantId::from("demo"),
        name: "web-1".to_owned(),
        generation: 1,
        spec: spec.clone(),
        applied: applied.cloned(),
        leases: Vec::new(),
        references: BTreeMap::new(),
        host: None,
        stop_timeout_s: 30,
    }
}

/// The names shown at the acceptance are those of the plan.
pub(crate) fn same_names(kind: Kind, action: Action, input: &Resolved) {
    let plan = kind.ops().plan(action, input).unwrap();
    let planned: Vec<&str> = plan.iter().map(rhyzome_model::step::Step::name).collect();
    let shown = kind
        .ops()
        .step_names(action, &input.spec, input.applied.as_ref())
        .unwrap();
    if input.host.is_some() || kind != Kind::Network {
        assert_eq!(shown, planned, "{kind}.{action}");
    }
}
