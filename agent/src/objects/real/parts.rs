//! What is done with the objects of a host: all of it reads or writes the host's storage.

use super::RealConfig;
use crate::driver::{Capacity, Effect, Held, Load, Seen, SeenPower, StepContext, StepError};
use crate::objects::capacity;
use crate::objects::disk::Disks;
use crate::objects::guests::{self, Guests};
use crate::objects::image::Images;
use crate::objects::instance::Instances;
use crate::objects::network::Networks;
use rhyzome_model::ids::ResourceId;
use rhyzome_model::step::{Action, EnsureDisk, ObjectKind, RemoveDisk};
use std::path::PathBuf;
use std::sync::Arc;

/// What is known after the start.
pub(super) struct Parts {
    pub(super) config: RealConfig,
    pub(super) networks: Arc<Networks>,
    pub(super) images: Images,
    pub(super) disks: Arc<Disks>,
    pub(super) guests: Arc<Guests>,
    pub(super) instances: Instances,
}

impl Parts {
    /// Makes an action so. The lock of its object is held.
    pub(super) async fn make_so(&self, context: &StepContext, action: &Action) -> Result<Effect, StepError> {
        match action {
            Action::EnsureNetwork(a) => self.networks.ensure(a).await,
            Action::DropNetwork(a) => self.networks.release(a).await,
            Action::EnsureImage(a) => self.images.ensure(a, &context.cancel).await,
            Action::DropImage(a) => self.images.release(a).await,
            Action::EnsureDisk(a) => self.ensure_disk(a).await,
            Action::RemoveDisk(a) => self.remove_disk(a),
            Action::EnsureInstance(a) => self.instances.ensure(a).await,
            Action::RemoveInstance(a) => self.instances.remove(a.instance, context).await,
            Action::SetPower(a) => self.instances.set_power(a, context).await,
            Action::Reboot(a) => self.instances.reboot(a, context).await,
        }
    }

    /// A disk that grows does so in the guest that has it open.
    async fn ensure_disk(&self, action: &EnsureDisk) -> Result<Effect, StepError> {
        // A root disk has its instance's id, and so its instance's user.
        let owner = self.guests.users.of(action.disk)?;
        let Some(size_gib) = self.disks.ensure(action, &self.images, owner).await? else {
            return Ok(Effect {
                detail: "the disk is there".to_owned(),
                ..Effect::default()
            });
        };
        let _instance = self.guests.locks.take(ObjectKind::Instance, action.disk).await;
        match self.guests.live(action.disk) {
            Some(live) => guests::grow_running(&live, size_gib).await?,
            None => self.disks.grow_file(action.disk, size_gib, owner).await?,
        }
        self.disks.grown(action.disk, size_gib)?;
        Ok(Effect {
            detail: format!("the disk has grown to {size_gib} GiB"),
            ..Effect::default()
        })
    }

    fn remove_disk(&self, action: &RemoveDisk) -> Result<Effect, StepError> {
        let gone = self.disks.remove(action)?;
        self.guests.users.let_go(action.disk)?;
        Ok(gone)
    }

    /// Looks whether an action is so.
    pub(super) async fn look_at(&self, context: &StepContext, action: &Action) -> Result<Seen, StepError> {
        let gone = |gone: bool| if gone { Seen::StillSo } else { Seen::NotSo };
        match action {
            Action::EnsureNetwork(a) => self.networks.observe(a).await,
            Action::DropNetwork(a) => Ok(gone(!self.networks.holds(a)?)),
            Action::EnsureImage(a) => self.images.observe(a),
            Action::DropImage(a) => Ok(gone(!self.images.holds(a)?)),
            Action::EnsureDisk(a) => self.disks.observe(a),
            Action::RemoveDisk(a) => Ok(gone(self.disks.is_gone(a.disk))),
            Action::EnsureInstance(a) => self.instances.observe(a),
            Action::RemoveInstance(a) => Ok(gone(self.instances.is_gone(a.instance)?)),
            Action::SetPower(a) => self.instances.observe_power(a),
            Action::Reboot(a) => self.instances.observe_reboot(a, context),
        }
    }

    pub(super) fn list(&self) -> Result<Vec<Held>, StepError> {
        let mut all = self.networks.inventory()?;
        all.extend(self.images.inventory()?);
        all.extend(self.disks.inventory()?);
        all.extend(self.instances.inventory()?);
        Ok(all)
    }

    pub(super) fn measure(&self) -> Result<Capacity, StepError> {
        let guests = &self.guests;
        let mut labels = self.config.labels.clone();
        labels
            .entry("limits".to_owned())
            .or_insert_with(|| guests.hierarchy.as_str().to_owned());
        Ok(Capacity {
            vcpus: capacity::processors(),
            memory_mib: capacity::memory_mib()
                .0
                .saturating_sub(self.config.memory_reserve_mib),
            disk_gib: capacity::disk_gib(&guests.layout, self.config.disk_reserve_gib)?,
            labels,
            driver: "qemu".to_owned(),
            accelerator: guests.accelerator.as_str().to_owned(),
            networking: guests.networking.as_str().to_owned(),
        })
    }

    pub(super) fn weigh(&self) -> Result<Load, StepError> {
        let running = self
            .instances
            .look()?
            .iter()
            .filter(|g| g.power == SeenPower::On)
            .count();
        Ok(Load {
            disk_used_gib: capacity::disk_used_gib(&self.guests.layout),
            guests_running: u32::try_from(running).unwrap_or(u32::MAX),
            ..of_memory(Load::default())
        })
    }

    /// The folder of an instance that is here.
    pub(super) fn console_folder(&self, instance: ResourceId) -> Option<PathBuf> {
        Some(self.guests.layout.instance(instance)).filter(|folder| folder.is_dir())
    }
}

/// A load with what the kernel tells at once, whatever the storage does.
pub(super) fn of_memory(load: Load) -> Load {
    let (all, free) = capacity::memory_mib();
    Load {
        load1: capacity::load1(),
        memory_used_mib: all.saturating_sub(free),
        ..load
    }
}
