//! What a network lost though it is needed, and how it gets that again.

use super::{Network, Networking, Networks};
use crate::driver::StepError;
use crate::objects::names::Names;
use crate::objects::process::ProcessId;
use crate::objects::{dnsmasq, files, instance, netns, strays};
use rhyzome_model::ids::ResourceId;
use rhyzome_model::step::HostLease;
use std::collections::BTreeMap;

impl Networks {
    /// Gives its namespace a lost name again: another one would be a second network beside the one that guests are in.
    pub(super) async fn find_again(&self, names: &Names, network: &Network) -> Result<(), StepError> {
        if netns::is_there(names) {
            return Ok(());
        }
        let server = dnsmasq::process(&self.layout.network(network.network));
        let inside = match server {
            Some(server) => Some(server),
            None => self.guest_inside(network)?,
        };
        match inside {
            Some(inside) => netns::name_again(names, &inside).await,
            None => Ok(()),
        }
    }

    /// A guest in its namespace: QEMU runs in that of a guest's first card.
    fn guest_inside(&self, network: &Network) -> Result<Option<ProcessId>, StepError> {
        let mut running = strays::running(&self.layout.instances())?;
        Ok(network.claims.keys().find_map(|holder| {
            let guest = instance::definition(&self.layout, *holder).ok().flatten()?;
            let is_home = guest.interfaces.first()?.network == network.network;
            running.remove(holder).filter(|_| is_home)?.into_iter().next()
        }))
    }

    /// The instances that are in a network by their definitions, but for one, with what they would claim: claims are a record, and records
    /// get lost.
    pub(super) fn standing_in(
        &self,
        id: ResourceId,
        but_for: ResourceId,
    ) -> Result<BTreeMap<ResourceId, Vec<HostLease>>, StepError> {
        let mut inside = BTreeMap::new();
        for holder in files::ids_in(&self.layout.instances(), "")? {
            let Some(definition) = instance::definition(&self.layout, holder)?.filter(|_| holder != but_for)
            else {
                continue;
            };
            let cards = definition.interfaces.iter().filter(|nic| nic.network == id);
            let leases: Vec<HostLease> = cards
                .map(|nic| HostLease {
                    mac: nic.mac.clone(),
                    ip: nic.ip,
                    hostname: Some(definition.name.clone()),
                })
                .collect();
            if !leases.is_empty() {
                inside.insert(holder, leases);
            }
        }
        Ok(inside)
    }

    /// Whether its dnsmasq has ended, or its namespace has lost its name, though neither should have.
    pub(crate) fn lost_half(&self, id: ResourceId) -> Result<bool, StepError> {
        if self.networking == Networking::User {
            return Ok(false);
        }
        let there = netns::is_there(&self.names(id));
        if there != dnsmasq::is_alive(&self.layout.network(id)) {
            return Ok(true);
        }
        match self.get(id)?.filter(|_| !there) {
            Some(network) => Ok(self.guest_inside(&network)?.is_some()),
            None => Ok(false),
        }
    }

    /// Makes a network that guests need be there again (the machine restarted); nothing where it lives.
    pub(crate) async fn revive(&self, id: ResourceId) -> Result<(), StepError> {
        let Some(network) = self.get(id)? else {
            return Ok(());
        };
        if network.claims.is_empty() {
            return self.remove(id).await;
        }
        if self.is_live(&network).await? {
            Ok(())
        } else {
            self.make(network).await
        }
    }
}
