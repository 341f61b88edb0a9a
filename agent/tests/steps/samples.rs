//! A sample of each kind, and from it every plan that the kind has.

use crate::real_support::IMAGE;
use rhyzome_model::ids::{HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::Action;
use rhyzome_model::kinds::{AssignedLease, Kind, PlanError, Resolved, ResolvedRef};
use rhyzome_model::step::{HostLease, ImageFacts, Step};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A job: the steps that it does to a resource.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: JobId,
    pub kind: Kind,
    pub action: Action,
    pub resource: ResourceId,
    pub steps: Vec<Step>,
}

/// A job, and those that come before it.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub before: Vec<Job>,
    pub job: Job,
}

/// A resource of a kind.
pub struct Sample {
    id: ResourceId,
    spec: Value,
    /// What it can be changed to.
    updates: Vec<Value>,
    leases: Vec<AssignedLease>,
    references: BTreeMap<ResourceId, ResolvedRef>,
    /// What must be on a host for the resource to be there, beside its own create.
    beside: Vec<Job>,
}

/// Things that samples share, so that one may refer to another.
struct Shared<'a> {
    network: ResourceId,
    image: ResourceId,
    facts: &'a ImageFacts,
}

fn tenant() -> TenantId {
    TenantId::from("demo")
}

fn network_spec() -> Value {
    json!({ "cidr": "10.20.0.0/24", "gateway": "10.20.0.1" })
}

fn image_spec() -> Value {
    json!({ "source": { "file": IMAGE }, "format": "qcow2" })
}

fn parsed(kind: Kind, spec: &Value) -> Value {
    kind.ops()
        .parse(spec)
        .unwrap_or_else(|faults| panic!("{kind}: {faults:?}"))
}

/// A sample of a kind. A new kind's belongs here.
fn sample(kind: Kind, shared: &Shared<'_>) -> Sample {
    let plain = |id, spec: Value, updates: Vec<Value>| Sample {
        id,
        spec: parsed(kind, &spec),
        updates: updates.iter().map(|u| parsed(kind, u)).collect(),
        leases: Vec::new(),
        references: BTreeMap::new(),
        beside: Vec::new(),
    };
    match kind {
        Kind::Network => {
            // A network is on a host with its first instance.
            let holder = sample(Kind::Instance, shared);
            let leases = json!([{ "mac": "02:00:00:00:00:99", "ip": "10.20.0.99", "hostname": "static" }]);
            let changed = json!({ "cidr": "10.20.0.0/24", "gateway": "10.20.0.1", "leases": leases });
            Sample {
                beside: vec![job(Kind::Instance, &holder, Action::Create, &holder.spec, None, 60).unwrap()],
                ..plain(shared.network, network_spec(), vec![changed])
            }
        }
        Kind::Image => Sample {
            references: BTreeMap::from([(
                shared.image,
                reference(Kind::Image, &image_spec(), Some(shared.facts)),
            )]),
            ..plain(shared.image, image_spec(), Vec::new())
        },
        Kind::Instance => {
            let spec = |vcpus: u32, memory: u32, power: &str| {
                json!({
                    "vcpus": vcpus, "memory_mib": memory, "image": shared.image, "power": power, "restart": "always",
                    "interfaces": [{ "network": shared.network }],
                })
            };
            let lease = HostLease {
                mac: "02:00:00:00:00:07".to_owned(),
                ip: "10.20.0.7".parse().unwrap(),
                hostname: Some("web".to_owned()),
            };
            Sample {
                leases: vec![AssignedLease {
                    network: shared.network,
                    position: 0,
                    lease,
                }],
                references: BTreeMap::from([
                    (shared.network, reference(Kind::Network, &network_spec(), None)),
                    (
                        shared.image,
                        reference(Kind::Image, &image_spec(), Some(shared.facts)),
                    ),
                ]),
                ..plain(
                    ResourceId::new(),
                    spec(1, 128, "on"),
                    vec![spec(2, 160, "on"), spec(1, 128, "off"), spec(2, 160, "off")],
                )
            }
        }
    }
}

fn reference(kind: Kind, spec: &Value, image: Option<&ImageFacts>) -> ResolvedRef {
    ResolvedRef {
        kind,
        tenant: tenant(),
        generation: 1,
        spec: parsed(kind, spec),
        image: image.cloned(),
    }
}

/// A job on a sample; none where the kind has no such action.
fn job(
    kind: Kind,
    sample: &Sample,
    action: Action,
    spec: &Value,
    applied: Option<&Value>,
    stop_timeout_s: u32,
) -> Option<Job> {
    let resolved = Resolved {
        id: sample.id,
        tenant: tenant(),
        name: "web".to_owned(),
        generation: if applied.is_some() { 2 } else { 1 },
        spec: spec.clone(),
        applied: applied.cloned(),
        leases: sample.leases.clone(),
        references: sample.references.clone(),
        host: applied.map(|_| HostName::from("host-1")),
        stop_timeout_s,
    };
    let steps = match kind.ops().plan(action, &resolved) {
        Ok(steps) => steps,
        Err(PlanError::NoSuchAction { .. }) => return None,
        Err(error) => panic!("{kind} {action}: {error}"),
    };
    Some(Job {
        id: JobId::new(),
        kind,
        action,
        resource: sample.id,
        steps,
    })
}

/// Every plan with steps, of every kind.
pub fn cases(facts: &ImageFacts, stop_timeout_s: u32) -> Vec<Case> {
    let mut cases = Vec::new();
    for &kind in Kind::ALL {
        for &action in Action::ALL {
            let shared = Shared {
                network: ResourceId::new(),
                image: ResourceId::new(),
                facts,
            };
            let sample = sample(kind, &shared);
            cases.extend(of_action(kind, &sample, action, stop_timeout_s));
        }
    }
    cases
}

fn of_action(kind: Kind, sample: &Sample, action: Action, stop_timeout_s: u32) -> Vec<Case> {
    let ops = kind.ops();
    let make = |action, spec: &Value, applied: Option<&Value>| {
        job(kind, sample, action, spec, applied, stop_timeout_s)
    };
    let created = || {
        let mut before = sample.beside.clone();
        before.extend(make(Action::Create, &sample.spec, None));
        before
    };
    // What it is when the action comes, and what it becomes.
    let changes: Vec<(Vec<Job>, Option<Value>, Value)> = match action {
        Action::Create => vec![(Vec::new(), None, sample.spec.clone())],
        Action::Update => sample
            .updates
            .iter()
            .map(|to| (created(), Some(sample.spec.clone()), to.clone()))
            .collect(),
        Action::Delete | Action::Reboot | Action::Repair => {
            vec![(created(), Some(sample.spec.clone()), sample.spec.clone())]
        }
        Action::Start | Action::Stop if !ops.actions().contains(&action) => Vec::new(),
        Action::Stop => {
            let off = ops.apply_action(&sample.spec, Action::Stop).unwrap();
            vec![(created(), Some(sample.spec.clone()), off)]
        }
        Action::Start => {
            let off = ops.apply_action(&sample.spec, Action::Stop).unwrap();
            let mut before = created();
            before.extend(make(Action::Stop, &off, Some(&sample.spec)));
            vec![(before, Some(off), sample.spec.clone())]
        }
    };
    changes
        .into_iter()
        .enumerate()
        .filter_map(|(n, (before, applied, spec))| {
            let job = make(action, &spec, applied.as_ref())?;
            (!job.steps.is_empty()).then(|| Case {
                name: format!("{kind}.{action} {n}"),
                before,
                job,
            })
        })
        .collect()
}
