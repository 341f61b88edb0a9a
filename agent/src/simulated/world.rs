//! A simulated host's objects, and what an action makes of them. Pure: the same live as in replay.

use crate::claims::{Dropped, SharedImage, SharedNetwork};
use crate::driver::{Effect, Held, Load, SeenPower, StepError};
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::job::ErrorClass;
use rhyzome_model::kinds::Power;
use rhyzome_model::step::{Action, EnsureDisk, EnsureImage, EnsureInstance, ImageFacts, ObjectKind};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

/// What a simulated host offers, overcommit included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Virtual processors.
    pub vcpus: u64,
    /// MiB.
    pub memory_mib: u64,
    /// GiB.
    pub disk_gib: u64,
}

/// What is on a simulated host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct World {
    networks: HashMap<ResourceId, SharedNetwork>,
    images: HashMap<ResourceId, SharedImage>,
    disks: HashMap<ResourceId, SimulatedDisk>,
    instances: HashMap<ResourceId, SimulatedInstance>,
    used: Used,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Used {
    vcpus: u64,
    memory_mib: u64,
    disk_gib: u64,
    running: u32,
    running_memory_mib: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SimulatedDisk {
    image: ResourceId,
    size_gib: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SimulatedInstance {
    is: EnsureInstance,
    power: Power,
    /// The job that restarted it last.
    rebooted_by: Option<JobId>,
}

fn no_room(what: &str) -> StepError {
    StepError::new(
        ErrorClass::NoRoom,
        "NO_ROOM",
        format!("The host has no room for the {what}."),
    )
}

/// What a simulated fetch finds: as declared, or what the source's name gives.
fn facts(action: &EnsureImage) -> ImageFacts {
    let digest = || {
        let mut hex = String::with_capacity(64);
        for byte in Sha256::digest(format!("{:?}", action.source)) {
            // Writing to a string can't fail.
            let _ = write!(hex, "{byte:02x}");
        }
        hex
    };
    let sha256 = action.sha256.clone().unwrap_or_else(digest);
    ImageFacts {
        sha256,
        size_bytes: 16 << 20,
        virtual_size_bytes: 32 << 20,
    }
}

impl World {
    /// Whether the action could be made so now.
    pub(super) fn check(&self, action: &Action, size: Size) -> Result<(), StepError> {
        match action {
            Action::EnsureImage(a) => self.check_image(a),
            Action::EnsureDisk(a) => self.check_disk(a, size),
            Action::EnsureInstance(a) => self.check_instance(a, size),
            Action::SetPower(a) if a.power == Power::On => {
                if !self.instances.contains_key(&a.instance) {
                    Err(StepError::not_defined())
                } else if self.disks.contains_key(&a.instance) {
                    Ok(())
                } else {
                    Err(StepError::disk_missing())
                }
            }
            Action::Reboot(a) => match self.instances.get(&a.instance).map(|i| i.power) {
                None => Err(StepError::not_defined()),
                Some(Power::Off) => Err(StepError::new(
                    ErrorClass::Permanent,
                    "NOT_RUNNING",
                    "the instance is off: start it instead",
                )),
                Some(Power::On) => Ok(()),
            },
            Action::SetPower(_)
            | Action::EnsureNetwork(_)
            | Action::DropNetwork(_)
            | Action::DropImage(_)
            | Action::RemoveDisk(_)
            | Action::RemoveInstance(_) => Ok(()),
        }
    }

    fn check_image(&self, action: &EnsureImage) -> Result<(), StepError> {
        let held = self.images.get(&action.image).map(|image| &image.facts.sha256);
        match (held, &action.sha256) {
            (Some(held), Some(wanted)) if held != wanted => Err(StepError::new(
                ErrorClass::Permanent,
                "IMAGE_DIGEST_MISMATCH",
                "The image's bytes have another SHA-256 than was declared.",
            )),
            (Some(_) | None, Some(_) | None) => Ok(()),
        }
    }

    /// Whether this is an image to be had that another host has for itself: the one that its create fetched it on.
    pub(super) fn is_elsewhere(&self, action: &Action) -> bool {
        match action {
            Action::EnsureImage(a) => {
                let here = self.images.get(&a.image);
                a.holder != a.image && here.is_none_or(|image| !image.claims.contains(&a.image))
            }
            Action::DropImage(_)
            | Action::EnsureNetwork(_)
            | Action::DropNetwork(_)
            | Action::EnsureDisk(_)
            | Action::RemoveDisk(_)
            | Action::EnsureInstance(_)
            | Action::RemoveInstance(_)
            | Action::SetPower(_)
            | Action::Reboot(_) => false,
        }
    }

    fn check_disk(&self, action: &EnsureDisk, size: Size) -> Result<(), StepError> {
        if !self.images.contains_key(&action.image) {
            return Err(StepError::missing("image"));
        }
        let before = self
            .disks
            .get(&action.disk)
            .map_or(0, |disk| u64::from(disk.size_gib));
        if u64::from(action.size_gib) < before {
            let detail = "A disk can't be made smaller.";
            return Err(StepError::new(ErrorClass::Permanent, "DISK_TOO_SMALL", detail));
        }
        let after = self.used.disk_gib - before + u64::from(action.size_gib);
        if after > size.disk_gib && after > self.used.disk_gib {
            Err(no_room("disk"))
        } else {
            Ok(())
        }
    }

    fn check_instance(&self, action: &EnsureInstance, size: Size) -> Result<(), StepError> {
        if action
            .interfaces
            .iter()
            .any(|nic| !self.networks.contains_key(&nic.network))
        {
            return Err(StepError::missing("network"));
        }
        let before = self.instances.get(&action.instance);
        let (vcpus, memory) = before.map_or((0, 0), |i| (u64::from(i.is.vcpus), u64::from(i.is.memory_mib)));
        let vcpus = self.used.vcpus - vcpus + u64::from(action.vcpus);
        let memory = self.used.memory_mib - memory + u64::from(action.memory_mib);
        let over = |after: u64, used: u64, size: u64| after > size && after > used;
        if over(vcpus, self.used.vcpus, size.vcpus) || over(memory, self.used.memory_mib, size.memory_mib) {
            return Err(no_room("instance"));
        }
        Ok(())
    }

    /// Whether the action is so.
    pub(super) fn is_so(&self, job: JobId, action: &Action) -> bool {
        match action {
            Action::EnsureNetwork(a) => SharedNetwork::is_so(self.networks.get(&a.network), a),
            Action::DropNetwork(a) => self
                .networks
                .get(&a.object)
                .is_none_or(|network| !network.claims.contains_key(&a.holder)),
            Action::EnsureImage(a) => SharedImage::is_so(self.images.get(&a.image), a),
            Action::DropImage(a) => self
                .images
                .get(&a.object)
                .is_none_or(|image| !image.claims.contains(&a.holder)),
            Action::EnsureDisk(a) => self
                .disks
                .get(&a.disk)
                .is_some_and(|disk| disk.image == a.image && disk.size_gib == a.size_gib),
            Action::RemoveDisk(a) => !self.disks.contains_key(&a.disk),
            Action::EnsureInstance(a) => self.instances.get(&a.instance).is_some_and(|i| i.is == **a),
            Action::RemoveInstance(a) => !self.instances.contains_key(&a.instance),
            Action::SetPower(a) => self.power(a.instance) == a.power,
            Action::Reboot(a) => self
                .instances
                .get(&a.instance)
                .is_some_and(|i| i.rebooted_by == Some(job)),
        }
    }

    fn power(&self, instance: ResourceId) -> Power {
        self.instances.get(&instance).map_or(Power::Off, |i| i.power)
    }

    /// Makes it so. Total, and the same each time for the same world: replay calls it too.
    pub(super) fn apply(&mut self, job: JobId, action: &Action) {
        match action {
            Action::EnsureNetwork(a) => {
                let mut network = self.networks.remove(&a.network);
                SharedNetwork::ensure(&mut network, a);
                self.networks.extend(network.map(|network| (a.network, network)));
            }
            Action::DropNetwork(a) => {
                if self.networks.get_mut(&a.object).map(|n| n.drop_claim(a)) == Some(Dropped::Last) {
                    self.networks.remove(&a.object);
                }
            }
            Action::EnsureImage(a) => {
                let fetched = || SharedImage {
                    facts: facts(a),
                    claims: [a.holder].into(),
                };
                self.images.entry(a.image).or_insert_with(fetched).claim(a.holder);
            }
            Action::DropImage(a) => {
                if self.images.get_mut(&a.object).map(|i| i.drop_claim(a)) == Some(Dropped::Last) {
                    self.images.remove(&a.object);
                }
            }
            Action::EnsureDisk(a) => {
                let disk = SimulatedDisk {
                    image: a.image,
                    size_gib: a.size_gib,
                };
                let before = self.disks.insert(a.disk, disk);
                self.used.disk_gib += u64::from(a.size_gib);
                self.used.disk_gib -= before.map_or(0, |disk| u64::from(disk.size_gib));
            }
            Action::RemoveDisk(a) => {
                let before = self.disks.remove(&a.disk);
                self.used.disk_gib -= before.map_or(0, |disk| u64::from(disk.size_gib));
            }
            Action::EnsureInstance(a) => {
                let before = self.instances.remove(&a.instance);
                self.count(before.as_ref(), Counted::Out);
                let (power, rebooted_by) = before.map_or((Power::Off, None), |i| (i.power, i.rebooted_by));
                self.put(
                    a.instance,
                    SimulatedInstance {
                        is: (**a).clone(),
                        power,
                        rebooted_by,
                    },
                );
            }
            Action::RemoveInstance(a) => {
                let before = self.instances.remove(&a.instance);
                self.count(before.as_ref(), Counted::Out);
            }
            Action::SetPower(a) => self.change(a.instance, |i| i.power = a.power),
            Action::Reboot(a) => self.change(a.instance, |i| {
                i.power = Power::On;
                i.rebooted_by = Some(job);
            }),
        }
    }

    fn change(&mut self, id: ResourceId, change: impl FnOnce(&mut SimulatedInstance)) {
        if let Some(mut instance) = self.instances.remove(&id) {
            self.count(Some(&instance), Counted::Out);
            change(&mut instance);
            self.put(id, instance);
        }
    }

    fn put(&mut self, id: ResourceId, instance: SimulatedInstance) {
        self.count(Some(&instance), Counted::In);
        self.instances.insert(id, instance);
    }

    fn count(&mut self, instance: Option<&SimulatedInstance>, counted: Counted) {
        let Some(instance) = instance else { return };
        let add = |sum: &mut u64, value: u32| match counted {
            Counted::In => *sum += u64::from(value),
            Counted::Out => *sum -= u64::from(value),
        };
        add(&mut self.used.vcpus, instance.is.vcpus);
        add(&mut self.used.memory_mib, instance.is.memory_mib);
        if instance.power == Power::On {
            add(&mut self.used.running_memory_mib, instance.is.memory_mib);
            match counted {
                Counted::In => self.used.running += 1,
                Counted::Out => self.used.running -= 1,
            }
        }
    }

    /// What an action that is so found out.
    pub(super) fn found(&self, action: &Action) -> Effect {
        match action {
            Action::EnsureImage(a) => {
                let facts = self.images.get(&a.image).map(|image| &image.facts);
                let output = facts
                    .and_then(|facts| serde_json::to_value(facts).ok())
                    .unwrap_or_default();
                Effect {
                    detail: String::new(),
                    output,
                }
            }
            Action::EnsureNetwork(a) => {
                let namespace = format!("simulated-{}", a.network.0.simple());
                let output = serde_json::json!({
                    "network": a.network, "namespace": namespace, "networking": "simulated"
                });
                Effect {
                    detail: String::new(),
                    output,
                }
            }
            Action::DropNetwork(_)
            | Action::DropImage(_)
            | Action::EnsureDisk(_)
            | Action::RemoveDisk(_)
            | Action::EnsureInstance(_)
            | Action::RemoveInstance(_)
            | Action::SetPower(_)
            | Action::Reboot(_) => Effect::default(),
        }
    }

    /// All that is held.
    pub(super) fn held(&self) -> Vec<Held> {
        let object = |kind, id: &ResourceId, state: &str| Held {
            kind,
            id: *id,
            state: state.to_owned(),
            claims: Vec::new(),
            generation: 0,
            facts: BTreeMap::new(),
        };
        let networks = self.networks.iter().map(|(id, network)| Held {
            claims: network.claims.keys().copied().collect(),
            generation: network.generation,
            facts: BTreeMap::from([("cidr".to_owned(), network.cidr.to_string())]),
            ..object(ObjectKind::Network, id, "ready")
        });
        let images = self.images.iter().map(|(id, image)| Held {
            claims: image.claims.iter().copied().collect(),
            facts: BTreeMap::from([("sha256".to_owned(), image.facts.sha256.clone())]),
            ..object(ObjectKind::Image, id, "ready")
        });
        let disks = self.disks.iter().map(|(id, disk)| Held {
            facts: BTreeMap::from([("size_gib".to_owned(), disk.size_gib.to_string())]),
            ..object(ObjectKind::Disk, id, "ready")
        });
        let instances = self.instances.iter().map(|(id, instance)| Held {
            generation: instance.is.generation,
            ..object(
                ObjectKind::Instance,
                id,
                match instance.power {
                    Power::On => "running",
                    Power::Off => "stopped",
                },
            )
        });
        networks.chain(images).chain(disks).chain(instances).collect()
    }

    /// Every guest's power.
    pub(super) fn guests(&self) -> impl Iterator<Item = (ResourceId, SeenPower)> + '_ {
        self.instances
            .iter()
            .map(|(id, instance)| (*id, seen(instance.power)))
    }

    /// A guest's power; off for one that isn't there.
    pub(super) fn guest(&self, instance: ResourceId) -> SeenPower {
        seen(self.power(instance))
    }

    /// A guest's name.
    pub(super) fn name(&self, instance: ResourceId) -> Option<&str> {
        self.instances.get(&instance).map(|i| i.is.name.as_str())
    }

    /// Guests that run, and all.
    pub(super) fn counts(&self) -> (u64, u64) {
        (u64::from(self.used.running), self.instances.len() as u64)
    }

    /// How busy it is: each running guest is a tenth of a processor's load.
    pub(super) fn load(&self) -> Load {
        Load {
            load1: f64::from(self.used.running) / 10.0,
            memory_used_mib: self.used.running_memory_mib,
            disk_used_gib: self.used.disk_gib,
            guests_running: self.used.running,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Counted {
    In,
    Out,
}

fn seen(power: Power) -> SeenPower {
    match power {
        Power::On => SeenPower::On,
        Power::Off => SeenPower::Off,
    }
}

#[cfg(test)]
mod tests;
