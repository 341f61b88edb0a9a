//! What a network lost though it is needed, and how it gets that again.

use super::{Network, Networking, Networks};
use crate::driver::StepError;
use crate::objects::process::ProcessId;
use crate::objects::{dnsmasq, instance, netns, strays};
use rhyzome_model::ids::ResourceId;

impl Networks {
    /// A process in its namespace: its dnsmasq, or a guest with its first card there, as where QEMU runs.
    pub(super) fn inside(&self, network: &Network) -> Option<ProcessId> {
        let of_guest = || {
            let mut running = strays::running(&self.layout.instances());
            network.claims.keys().find_map(|holder| {
                let guest = instance::definition(&self.layout, *holder).ok().flatten()?;
                let is_home = guest.interfaces.first()?.network == network.network;
                running.remove(holder).filter(|_| is_home)?.into_iter().next()
            })
        };
        dnsmasq::process(&self.layout.network(network.network)).or_else(of_guest)
    }

    /// Whether its dnsmasq has ended, or its namespace has lost its name, though neither should have.
    pub(crate) fn lost_half(&self, id: ResourceId) -> bool {
        if self.networking == Networking::User {
            return false;
        }
        let there = netns::is_there(&self.names(id));
        let lost_both = || {
            let network = self.get(id).ok().flatten();
            network.is_some_and(|n| self.inside(&n).is_some())
        };
        there != dnsmasq::is_alive(&self.layout.network(id)) || (!there && lost_both())
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
