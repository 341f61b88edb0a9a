//! Taps of guests: made in the namespace that QEMU runs in, owned by its user, and put on the bridges of their networks.
//!
//! QEMU opens taps in its own namespace, the first card's network's; a tap of another network is moved there once QEMU holds it.

use super::guests::Guests;
use super::instance::{tap_name, tap_prefix};
use super::names::Names;
use super::netns;
use super::network::Networking;
use crate::driver::StepError;
use rhyzome_model::ids::ResourceId;
use rhyzome_model::job::ErrorClass;
use rhyzome_model::step::{EnsureInstance, ObjectKind};

impl Guests {
    /// The namespace that QEMU runs in: the first card's. Taps are opened there, and those of other networks moved to theirs.
    pub(crate) fn home(&self, definition: &EnsureInstance) -> Option<Names> {
        match self.networking {
            Networking::Bridge => definition
                .interfaces
                .first()
                .map(|nic| self.networks.names(nic.network)),
            Networking::User => None,
        }
    }

    pub(crate) async fn make_taps(&self, definition: &EnsureInstance) -> Result<(), StepError> {
        let id = definition.instance;
        let Some(home) = self.home(definition) else {
            return Ok(());
        };
        let owner = self.users.of(id)?.map_or(0, |i| i.uid);
        for nic in &definition.interfaces {
            let _network = self.locks.take(ObjectKind::Network, nic.network).await;
            self.networks.revive(nic.network).await?;
            if !netns::is_there(&self.networks.names(nic.network)) {
                return Err(StepError::new(
                    ErrorClass::Unavailable,
                    "NETWORK_NOT_HERE",
                    "the instance's network is not on the host",
                ));
            }
        }
        for (i, nic) in definition.interfaces.iter().enumerate() {
            let tap = tap_name(&self.owner, id, i);
            let names = self.networks.names(nic.network);
            if names != home {
                netns::remove_tap(&names, &tap).await?;
            }
            netns::make_tap(&home, &tap, owner).await?;
        }
        Ok(())
    }

    pub(crate) async fn attach_taps(&self, definition: &EnsureInstance) -> Result<(), StepError> {
        let Some(home) = self.home(definition) else {
            return Ok(());
        };
        for (i, nic) in definition.interfaces.iter().enumerate() {
            let tap = tap_name(&self.owner, definition.instance, i);
            netns::attach_tap(&home, &self.networks.names(nic.network), &tap).await?;
        }
        Ok(())
    }

    /// Removes the taps of a definition, wherever they are.
    pub(crate) async fn remove_taps(&self, definition: &EnsureInstance) -> Result<(), StepError> {
        let Some(home) = self.home(definition) else {
            return Ok(());
        };
        for (i, nic) in definition.interfaces.iter().enumerate() {
            let tap = tap_name(&self.owner, definition.instance, i);
            let names = self.networks.names(nic.network);
            netns::remove_tap(&names, &tap).await?;
            if names != home {
                netns::remove_tap(&home, &tap).await?;
            }
        }
        Ok(())
    }

    /// The same for one whose definition is lost: they are looked for in all networks of the host.
    pub(crate) async fn remove_any_taps(&self, id: ResourceId) -> Result<(), StepError> {
        if self.networking == Networking::User {
            return Ok(());
        }
        for network in self.networks.ids()? {
            netns::remove_taps(&self.networks.names(network), &tap_prefix(&self.owner, id)).await?;
        }
        Ok(())
    }
}
