//! The plans of an instance: build it, change it, take it down.

use super::super::{AssignedLease, ImageSpec, Kind, PlanError, Resolved, ResolvedRef, image, network};
use super::{InstanceSpec, Interface, Power};
use crate::ids::ResourceId;
use crate::step::{
    Action, DropShared, EnsureDisk, EnsureInstance, ImageFacts, Nic, RemoveDisk, RemoveInstance, SetPower,
    Step,
};

/// What changes in the definition on the host.
pub(super) fn redefines(new: &InstanceSpec, applied: &InstanceSpec) -> bool {
    new.vcpus != applied.vcpus || new.memory_mib != applied.memory_mib || new.restart != applied.restart
}

/// How many networks a spec names.
pub(super) fn distinct_names(spec: &InstanceSpec) -> usize {
    let mut names: Vec<&str> = spec.interfaces.iter().map(|nic| nic.network.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.len()
}

/// The root disk's size with all that is known of the image, GiB.
pub(super) fn root_disk_gib(spec: &InstanceSpec, resolved: &Resolved) -> Result<u32, PlanError> {
    Used::image(spec, resolved).map(|image| image.root_disk_gib(spec))
}

/// The memory that the image's guests need, MiB.
pub(super) fn least_memory_mib(spec: &InstanceSpec, resolved: &Resolved) -> Result<u32, PlanError> {
    Used::image(spec, resolved).map(|image| image.spec.min_memory_mib.unwrap_or(0))
}

/// An image or network that the instance uses, with what is known of it.
struct Used<'a> {
    id: ResourceId,
    of: &'a ResolvedRef,
}

struct UsedImage {
    id: ResourceId,
    spec: ImageSpec,
    facts: ImageFacts,
}

impl UsedImage {
    fn root_disk_gib(&self, spec: &InstanceSpec) -> u32 {
        spec.root_disk_gib(&self.spec, &self.facts)
    }
}

impl<'a> Used<'a> {
    fn find(id: ResourceId, kind: Kind, resolved: &'a Resolved) -> Result<Self, PlanError> {
        match resolved.references.get(&id) {
            Some(of) if of.kind == kind => Ok(Self { id, of }),
            Some(_) | None => Err(PlanError::Unresolved(id.to_string())),
        }
    }

    fn image(spec: &InstanceSpec, resolved: &'a Resolved) -> Result<UsedImage, PlanError> {
        let used = Self::find(image_id(spec, resolved)?, Kind::Image, resolved)?;
        let facts = used
            .of
            .image
            .clone()
            .ok_or_else(|| PlanError::Unresolved(used.id.to_string()))?;
        Ok(UsedImage {
            id: used.id,
            spec: image::read(&used.of.spec)?,
            facts,
        })
    }
}

/// The image: by the id in the spec, or the only image among what was resolved.
fn image_id(spec: &InstanceSpec, resolved: &Resolved) -> Result<ResourceId, PlanError> {
    if let Ok(id) = spec.image.parse() {
        return Ok(id);
    }
    let mut images = resolved
        .references
        .iter()
        .filter(|(_, r)| r.kind == Kind::Image)
        .map(|(id, _)| *id);
    match (images.next(), images.next()) {
        (Some(id), None) => Ok(id),
        (None | Some(_), _) => Err(PlanError::Unresolved(spec.image.clone())),
    }
}

/// The network of each interface: by its lease, or by the id in the spec.
fn network_ids(spec: &InstanceSpec, resolved: &Resolved) -> Result<Vec<ResourceId>, PlanError> {
    let id = |(i, nic): (usize, &Interface)| {
        let lease = lease_at(resolved, i).map(|l| l.network);
        lease
            .or_else(|| nic.network.parse().ok())
            .ok_or_else(|| PlanError::Unresolved(nic.network.clone()))
    };
    spec.interfaces.iter().enumerate().map(id).collect()
}

fn lease_at(resolved: &Resolved, position: usize) -> Option<&AssignedLease> {
    resolved
        .leases
        .iter()
        .find(|l| usize::try_from(l.position).is_ok_and(|p| p == position))
}

/// In order of first appearance.
fn distinct(ids: &[ResourceId]) -> Vec<ResourceId> {
    let mut seen = Vec::new();
    for id in ids {
        if !seen.contains(id) {
            seen.push(*id);
        }
    }
    seen
}

pub(super) fn set_power(instance: ResourceId, power: Power) -> Action {
    Action::SetPower(SetPower { instance, power })
}

/// All that an instance needs on its host, each step with what takes it back.
pub(super) fn build(spec: &InstanceSpec, resolved: &Resolved) -> Result<Vec<Step>, PlanError> {
    let id = resolved.id;
    let networks = network_ids(spec, resolved)?;
    let image = Used::image(spec, resolved)?;
    let mut steps = Vec::with_capacity(networks.len() + 4);
    for network in distinct(&networks) {
        let used = Used::find(network, Kind::Network, resolved)?;
        steps.push(Step::undoable(
            network::ensure(network, used.of, &resolved.leases, id)?,
            Action::DropNetwork(DropShared {
                object: network,
                holder: id,
            }),
        ));
    }
    steps.push(Step::undoable(
        image::ensure(image.id, &image.spec, Some(image.facts.sha256.clone()), id),
        Action::DropImage(DropShared {
            object: image.id,
            holder: id,
        }),
    ));
    steps.push(Step::undoable(
        Action::EnsureDisk(EnsureDisk {
            disk: id,
            image: image.id,
            image_sha256: image.facts.sha256.clone(),
            image_format: image.spec.format,
            size_gib: image.root_disk_gib(spec),
        }),
        Action::RemoveDisk(RemoveDisk { disk: id }),
    ));
    steps.push(Step::undoable(
        define(spec, resolved)?,
        Action::RemoveInstance(RemoveInstance { instance: id }),
    ));
    match spec.power {
        // The undo of the definition ends the guest at once. One that is thrown away isn't asked to go off in order first: while it
        // boots it doesn't hear that, and all waits for nothing.
        Power::On => steps.push(Step::forward_only(set_power(id, Power::On))),
        Power::Off => {}
    }
    Ok(steps)
}

/// The same for one that was made: what is there stays, nothing is taken back, and it is on or off as was applied.
pub(super) fn build_again(spec: &InstanceSpec, resolved: &Resolved) -> Result<Vec<Step>, PlanError> {
    let mut steps: Vec<Step> = build(spec, resolved)?
        .into_iter()
        .map(|step| Step::forward_only(step.forward))
        .collect();
    match spec.power {
        Power::On => {}
        Power::Off => steps.push(Step::forward_only(set_power(resolved.id, Power::Off))),
    }
    Ok(steps)
}

/// The instance's definition, of this spec and the generation that the job makes so.
fn define(spec: &InstanceSpec, resolved: &Resolved) -> Result<Action, PlanError> {
    let mut interfaces = Vec::with_capacity(spec.interfaces.len());
    for (i, network) in network_ids(spec, resolved)?.into_iter().enumerate() {
        let lease = lease_at(resolved, i)
            .map(|l| &l.lease)
            .ok_or_else(|| PlanError::Unresolved(format!("the lease of interface {i}")))?;
        let net = network::read(&Used::find(network, Kind::Network, resolved)?.of.spec)?;
        interfaces.push(Nic {
            network,
            mac: lease.mac.clone(),
            ip: lease.ip,
            prefix_len: net.cidr.prefix_len(),
            gateway: net.gateway(),
        });
    }
    Ok(Action::EnsureInstance(Box::new(EnsureInstance {
        instance: resolved.id,
        tenant: resolved.tenant.clone(),
        name: resolved.name.clone(),
        generation: resolved.generation,
        vcpus: spec.vcpus,
        memory_mib: spec.memory_mib,
        interfaces,
        user_data: spec.user_data.clone(),
        ssh_keys: spec.ssh_keys.clone(),
        restart: spec.restart,
        stop_timeout_s: resolved.stop_timeout_s,
    })))
}

/// What differs between the two, made so. The undo re-applies what was, under the new generation.
pub(super) fn change(
    new: &InstanceSpec,
    applied: &InstanceSpec,
    resolved: &Resolved,
) -> Result<Vec<Step>, PlanError> {
    let mut steps = Vec::new();
    if resolved.host.is_none() {
        return Ok(steps);
    }
    if redefines(new, applied) {
        steps.push(Step::undoable(define(new, resolved)?, define(applied, resolved)?));
    }
    if new.power != applied.power {
        steps.push(Step::undoable(
            set_power(resolved.id, new.power),
            set_power(resolved.id, applied.power),
        ));
    }
    Ok(steps)
}

/// Everything back, in reverse; only forward. Needs nothing resolved but ids.
pub(super) fn take_down(spec: &InstanceSpec, resolved: &Resolved) -> Result<Vec<Step>, PlanError> {
    let id = resolved.id;
    let mut steps = vec![
        Step::forward_only(Action::RemoveInstance(RemoveInstance { instance: id })),
        Step::forward_only(Action::RemoveDisk(RemoveDisk { disk: id })),
        Step::forward_only(Action::DropImage(DropShared {
            object: image_id(spec, resolved)?,
            holder: id,
        })),
    ];
    for network in distinct(&network_ids(spec, resolved)?).into_iter().rev() {
        steps.push(Step::forward_only(Action::DropNetwork(DropShared {
            object: network,
            holder: id,
        })));
    }
    Ok(steps)
}
