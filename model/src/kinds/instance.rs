//! An instance: a virtual machine with a root disk over an image and one or more interfaces. Its plan is the longest: networks,
//! image, disk, definition, power; a create is undone in reverse, a delete only goes forward.

mod faults;
mod plan;

use super::network::optional_mac_text;
use super::{Demand, ImageSpec, Kind, KindDef, LeaseRequest, PlanError, Reference, Resolved, Venue, When};
use crate::ids::HostName;
use crate::job;
use crate::problem::FieldError;
use crate::schema::Ipv4Text;
use crate::step::{Action, ImageFacts, Reboot, Step};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Where a spec says what the instance is kept apart from (RFC 6901).
pub const APART_FROM: &str = "/placement/apart_from";

/// What a user asks for in an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceSpec {
    /// Virtual processors.
    pub vcpus: u32,
    /// MiB.
    pub memory_mib: u32,
    /// What the root disk begins as: id or name of an image.
    pub image: String,
    /// GiB; as large as the image needs where it isn't given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_disk_gib: Option<u32>,
    /// At least one.
    pub interfaces: Vec<Interface>,
    /// Further disks, by id or name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
    /// Text for cloud-init, 64 KiB at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// Public keys in the form of `authorized_keys`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// Whether it shall run.
    #[serde(default)]
    pub power: Power,
    /// What happens when the guest ends by itself.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Where it may be placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Id or name of the network.
    pub network: String,
    /// Given from the network where it isn't named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "ipv4", example = "10.20.0.7")]
    pub ip: Option<Ipv4Addr>,
    /// Made where it isn't named.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_mac_text"
    )]
    #[schema(format = "mac")]
    pub mac: Option<String>,
}

/// Whether a guest runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// It runs.
    #[default]
    On,
    /// It doesn't.
    Off,
}

impl Power {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// What the agent does when a guest ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Starts it again.
    #[default]
    Always,
    /// Starts it again unless it shut itself down.
    OnFailure,
    /// Leaves it.
    Never,
}

/// Where an instance may be placed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// Labels that its host must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub host_labels: BTreeMap<String, String>,
    /// Instances, by id or name, on whose hosts it must not be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apart_from: Vec<String>,
}

/// What is seen of an instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InstanceStatus {
    /// Where it is; shown to operators only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// Its addresses, by interface.
    #[serde(default)]
    #[schema(value_type = Vec<Ipv4Text>)]
    pub addresses: Vec<Ipv4Addr>,
    /// As last observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<crate::shown::ObservedPower>,
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<DateTime<Utc>>,
    /// Gauges by name, as the agent last reported them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
}

impl InstanceSpec {
    /// The root disk's size, GiB: as asked for, and never below what its image needs.
    pub fn root_disk_gib(&self, image: &ImageSpec, facts: &ImageFacts) -> u32 {
        self.root_disk_gib
            .unwrap_or(0)
            .max(image.smallest_disk_gib(facts))
    }

    /// Why the instance can't be made of this image, if so: pointers into the spec.
    pub fn image_faults(&self, image: &ImageSpec, facts: &ImageFacts) -> Vec<FieldError> {
        let mut faults = Vec::new();
        let disk = image.smallest_disk_gib(facts);
        if let Some(asked) = self.root_disk_gib.filter(|asked| *asked < disk) {
            let detail = format!("{asked} GiB is less than the {disk} GiB that the image needs");
            faults.push(FieldError::new("/root_disk_gib", "BELOW_IMAGE_MINIMUM", detail));
        }
        if let Some(memory) = image.min_memory_mib.filter(|m| self.memory_mib < *m) {
            let detail = format!(
                "{} MiB is less than the {memory} MiB that the image needs",
                self.memory_mib
            );
            faults.push(FieldError::new("/memory_mib", "BELOW_IMAGE_MINIMUM", detail));
        }
        faults
    }
}

/// The kind `instance`.
#[derive(Debug)]
pub struct Instance;

fn read(spec: &serde_json::Value) -> Result<InstanceSpec, PlanError> {
    InstanceSpec::deserialize(spec).map_err(|source| PlanError::Spec {
        kind: Kind::Instance,
        source,
    })
}

impl KindDef for Instance {
    type Spec = InstanceSpec;
    const KIND: Kind = Kind::Instance;
    const ACTIONS: &'static [job::Action] = &[job::Action::Start, job::Action::Stop, job::Action::Reboot];

    fn validate(spec: &InstanceSpec, when: When<'_, InstanceSpec>) -> Vec<FieldError> {
        let mut faults = faults::size(spec);
        faults.extend(faults::interface(spec));
        faults.extend(faults::guest(spec));
        faults.extend(faults::placement(spec));
        if let When::Updating(before) = when {
            faults.extend(faults::update(spec, before));
        }
        faults
    }

    fn references(spec: &InstanceSpec) -> Vec<Reference> {
        let image = Reference {
            pointer: "/image".to_owned(),
            kind: Kind::Image,
            target: spec.image.clone(),
        };
        let networks = spec.interfaces.iter().enumerate().map(|(i, nic)| Reference {
            pointer: format!("/interfaces/{i}/network"),
            kind: Kind::Network,
            target: nic.network.clone(),
        });
        std::iter::once(image).chain(networks).collect()
    }

    fn lease_requests(spec: &InstanceSpec) -> Vec<LeaseRequest> {
        let request = |(i, nic): (usize, &Interface)| LeaseRequest {
            pointer: format!("/interfaces/{i}"),
            network: nic.network.clone(),
            ip: nic.ip,
            mac: nic.mac.clone(),
        };
        spec.interfaces.iter().enumerate().map(request).collect()
    }

    /// Without a size of the root disk one GiB is counted; [`Instance::demand_resolved`] knows the image's.
    fn demand(spec: &InstanceSpec) -> Demand {
        Demand {
            vcpus: i64::from(spec.vcpus),
            memory_mib: i64::from(spec.memory_mib),
            disk_gib: i64::from(spec.root_disk_gib.unwrap_or(1)),
        }
    }

    fn demand_resolved(resolved: &Resolved) -> Result<Demand, PlanError> {
        let spec = read(&resolved.spec)?;
        let disk_gib = i64::from(plan::root_disk_gib(&spec, resolved)?);
        Ok(Demand {
            disk_gib,
            ..Self::demand(&spec)
        })
    }

    /// A guest can't begin with less memory than it or its image needs, and its disk holds the image's.
    fn least_resolved(resolved: &Resolved) -> Result<Demand, PlanError> {
        let spec = read(&resolved.spec)?;
        let smallest = InstanceSpec {
            root_disk_gib: None,
            ..spec.clone()
        };
        Ok(Demand {
            vcpus: 1,
            memory_mib: i64::from(plan::least_memory_mib(&spec, resolved)?.max(faults::MEMORY_MIN_MIB)),
            disk_gib: i64::from(plan::root_disk_gib(&smallest, resolved)?),
        })
    }

    fn host_labels(spec: &InstanceSpec) -> BTreeMap<String, String> {
        spec.placement
            .as_ref()
            .map(|p| p.host_labels.clone())
            .unwrap_or_default()
    }

    fn apart_from(spec: &InstanceSpec) -> Vec<Reference> {
        let others = spec
            .placement
            .as_ref()
            .map(|p| p.apart_from.as_slice())
            .unwrap_or_default();
        let reference = |(i, target): (usize, &String)| Reference {
            pointer: format!("{APART_FROM}/{i}"),
            kind: Kind::Instance,
            target: target.clone(),
        };
        others.iter().enumerate().map(reference).collect()
    }

    fn venue(action: job::Action) -> Venue {
        match action {
            job::Action::Create => Venue::Placed,
            job::Action::Update
            | job::Action::Delete
            | job::Action::Start
            | job::Action::Stop
            | job::Action::Reboot
            | job::Action::Repair => Venue::WhereItIs,
        }
    }

    fn apply_action(spec: &mut InstanceSpec, action: job::Action) {
        match action {
            job::Action::Start => spec.power = Power::On,
            job::Action::Stop => spec.power = Power::Off,
            job::Action::Create
            | job::Action::Update
            | job::Action::Delete
            | job::Action::Reboot
            | job::Action::Repair => {}
        }
    }

    fn stand_in() -> InstanceSpec {
        InstanceSpec {
            vcpus: 1,
            memory_mib: faults::MEMORY_MIN_MIB,
            image: "unknown".to_owned(),
            root_disk_gib: None,
            interfaces: Vec::new(),
            disks: Vec::new(),
            user_data: None,
            ssh_keys: Vec::new(),
            power: Power::Off,
            restart: RestartPolicy::default(),
            placement: None,
        }
    }

    fn plan(action: job::Action, resolved: &Resolved) -> Result<Vec<Step>, PlanError> {
        let spec = read(&resolved.spec)?;
        let applied = resolved.applied.as_ref().map(read).transpose()?;
        let never_applied = PlanError::NoSuchAction {
            kind: Kind::Instance,
            action,
        };
        match action {
            job::Action::Create => plan::build(&spec, resolved),
            job::Action::Repair => plan::build_again(&spec, resolved),
            job::Action::Delete if resolved.host.is_some() => plan::take_down(&spec, resolved),
            job::Action::Delete => Ok(Vec::new()),
            job::Action::Update => plan::change(&spec, &applied.ok_or(never_applied)?, resolved),
            job::Action::Start | job::Action::Stop => {
                let applied = applied.ok_or(never_applied)?;
                let set = plan::set_power(resolved.id, spec.power);
                // Cancelled after its effect, it must not leave the guest otherwise than as applied: the opposite action, planned
                // against that, would find nothing to do.
                let back = plan::set_power(resolved.id, applied.power);
                Ok((spec.power != applied.power)
                    .then(|| Step::undoable(set, back))
                    .into_iter()
                    .collect())
            }
            job::Action::Reboot => {
                applied.ok_or(never_applied)?;
                Ok(vec![Step::forward_only(Action::Reboot(Reboot {
                    instance: resolved.id,
                }))])
            }
        }
    }

    fn as_seen(action: job::Action, applied: InstanceSpec, observed: &Value) -> InstanceSpec {
        let seen = observed.get("power").and_then(Value::as_str);
        let power = match (action, seen) {
            (job::Action::Start, Some("off" | "crashed")) => Power::Off,
            (job::Action::Stop, Some("on")) => Power::On,
            (_, Some(_) | None) => applied.power,
        };
        InstanceSpec { power, ..applied }
    }

    fn step_names(
        action: job::Action,
        spec: &InstanceSpec,
        applied: Option<&InstanceSpec>,
    ) -> Vec<&'static str> {
        let networks = plan::distinct_names(spec);
        match action {
            job::Action::Create | job::Action::Repair => {
                let mut names = vec!["ensure_network"; networks];
                names.extend(["ensure_image", "ensure_disk", "ensure_instance"]);
                let sets = spec.power == Power::On || action == job::Action::Repair;
                names.extend(sets.then_some("set_power"));
                names
            }
            job::Action::Delete => {
                let mut names = vec!["remove_instance", "remove_disk", "drop_image"];
                names.extend(vec!["drop_network"; networks]);
                names
            }
            job::Action::Update => {
                let mut names = Vec::new();
                names.extend(
                    applied
                        .is_none_or(|old| plan::redefines(spec, old))
                        .then_some("ensure_instance"),
                );
                names.extend(
                    applied
                        .is_none_or(|old| spec.power != old.power)
                        .then_some("set_power"),
                );
                names
            }
            job::Action::Start | job::Action::Stop => applied
                .is_none_or(|old| spec.power != old.power)
                .then_some("set_power")
                .into_iter()
                .collect(),
            job::Action::Reboot => vec!["reboot"],
        }
    }
}
