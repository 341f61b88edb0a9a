//! Networks of a host: a namespace each with a bridge, dnsmasq and a way out; made by the first claim, gone with the last.
//!
//! The record on disk says what a network shall be and who claims it; it is written before anything is made and removed after
//! everything is gone, so that whatever ends in between is found and finished by the next try. Content of a lower generation
//! never overwrites. Without the rights for namespaces the record is all there is, and guests use QEMU's own user network.

mod lost;

use super::dnsmasq::{self, Service};
use super::files::{self, Layout};
use super::names::{Names, Wanted};
use super::netns;
use crate::driver::{Effect, Held, Seen, StepError};
use ipnet::Ipv4Net;
use rhyzome_model::ids::{ResourceId, TenantId};
use rhyzome_model::step::{DropShared, EnsureNetwork, HostLease, NetworkClaim, ObjectKind};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// How guests of this host reach their network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Networking {
    /// Bridges in namespaces.
    Bridge,
    /// QEMU's user network: each guest alone.
    User,
}

impl Networking {
    /// As in a host's facts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::User => "user",
        }
    }
}

/// The word for users where there are no bridges.
pub(crate) const USER_NETWORK: &str = "the host gives no rights for bridges: QEMU's user network, in which a guest gets its address \
     but neither reaches other guests nor can be reached";

/// What a network shall be here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Network {
    network: ResourceId,
    tenant: TenantId,
    generation: i64,
    pub(crate) cidr: Ipv4Net,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) dns: Vec<Ipv4Addr>,
    leases: Vec<HostLease>,
    /// The little net between the namespace and the machine; kept while it stays free.
    transfer: Option<Ipv4Net>,
    /// By claiming resource.
    claims: BTreeMap<ResourceId, Vec<HostLease>>,
}

impl Network {
    fn new(action: &EnsureNetwork) -> Self {
        Self {
            network: action.network,
            tenant: action.tenant.clone(),
            generation: action.generation,
            cidr: action.cidr,
            gateway: action.gateway,
            dns: action.dns.clone(),
            leases: action.leases.clone(),
            transfer: None,
            claims: BTreeMap::new(),
        }
    }

    /// Content, unless a higher generation is there, and the claim.
    fn take(&mut self, action: &EnsureNetwork) {
        if action.generation >= self.generation {
            let content = Self::new(action);
            *self = Self {
                transfer: self.transfer,
                claims: std::mem::take(&mut self.claims),
                ..content
            };
        }
        if let Some(NetworkClaim { holder, leases }) = &action.claim {
            // Who claims last has its addresses: another that still claims them here is gone elsewhere, or from before a put back.
            for others in self.claims.values_mut() {
                others.retain(|o| !leases.iter().any(|l| l.ip == o.ip || l.mac == o.mac));
            }
            self.claims.insert(*holder, leases.clone());
        }
    }

    /// The user's own and the claims', a machine or an address never twice: the user's word comes first.
    fn service(&self) -> Service<'_> {
        let mut leases: Vec<&HostLease> = Vec::new();
        for lease in self.leases.iter().chain(self.claims.values().flatten()) {
            if !leases.iter().any(|l| l.mac == lease.mac || l.ip == lease.ip) {
                leases.push(lease);
            }
        }
        Service {
            cidr: self.cidr,
            gateway: self.gateway,
            dns: &self.dns,
            leases,
        }
    }
}

/// All networks of a host.
pub(crate) struct Networks {
    layout: Layout,
    owner: String,
    networking: Networking,
}

impl Networks {
    pub(crate) fn new(layout: Layout, owner: String, networking: Networking) -> Self {
        Self {
            layout,
            owner,
            networking,
        }
    }

    /// The names of a network's things on this machine.
    pub(crate) fn names(&self, id: ResourceId) -> Names {
        Names::new(&self.owner, id)
    }

    fn record(&self, id: ResourceId) -> PathBuf {
        self.layout.network(id).join("network.json")
    }

    /// What it shall be, if it is here.
    pub(crate) fn get(&self, id: ResourceId) -> Result<Option<Network>, StepError> {
        files::read_or_lost(&self.record(id))
    }

    pub(crate) fn ids(&self) -> Result<Vec<ResourceId>, StepError> {
        files::ids_in(&self.layout.networks(), "")
    }

    pub(crate) async fn ensure(&self, action: &EnsureNetwork) -> Result<Effect, StepError> {
        let id = action.network;
        let network = match (self.get(id)?, &action.claim) {
            (Some(mut network), _) => {
                network.take(action);
                network
            }
            (None, Some(_)) => {
                let mut network = Network::new(action);
                network.take(action);
                network
            }
            (None, None) => return Ok(said("the network is not on this host")),
        };
        files::make_folder(&self.layout.network(id))?;
        files::write_record(&self.record(id), &network)?;
        self.make(network).await?;
        Ok(match self.networking {
            Networking::Bridge => {
                let facts =
                    json!({ "network": id, "namespace": self.names(id).namespace, "networking": "bridge" });
                Effect {
                    output: facts,
                    ..said("the network is on the host")
                }
            }
            Networking::User => {
                let facts = json!({ "network": id, "networking": "user", "detail": USER_NETWORK });
                Effect {
                    output: facts,
                    ..said(USER_NETWORK)
                }
            }
        })
    }

    /// Makes what the record says, after a restart of the machine too.
    async fn make(&self, mut network: Network) -> Result<(), StepError> {
        if self.networking == Networking::User {
            return Ok(());
        }
        let names = self.names(network.network);
        self.find_again(&names, &network).await?;
        let wanted = self.wanted(&names, &mut network).await?;
        if !netns::is_so(&names, &wanted).await? {
            if !netns::has_bridge(&names).await? {
                // What listens on a bridge that is gone hears nothing of another.
                dnsmasq::stop(&names, &self.layout.network(network.network)).await?;
            }
            netns::ensure(&names, &wanted).await?;
        }
        dnsmasq::ensure(&names, &self.layout.network(network.network), &network.service()).await
    }

    /// With a transfer net, chosen under a lock that all agents of the machine share, and kept where it is in use already.
    async fn wanted(&self, names: &Names, network: &mut Network) -> Result<Wanted, StepError> {
        let as_wanted = |transfer, network: &Network| Wanted {
            cidr: network.cidr,
            gateway: network.gateway,
            transfer,
        };
        if let Some(transfer) = network.transfer {
            let wanted = as_wanted(transfer, network);
            let overlaps = network.cidr.contains(&transfer) || transfer.contains(&network.cidr);
            if !overlaps && netns::is_there(names) {
                return Ok(wanted);
            }
        }
        let _alone = machine_lock().await?;
        let transfer = netns::free_transfer(names, network.cidr).await?;
        network.transfer = Some(transfer);
        files::write_record(&self.record(network.network), network)?;
        let wanted = as_wanted(transfer, network);
        netns::ensure(names, &wanted).await?;
        Ok(wanted)
    }

    pub(crate) async fn observe(&self, action: &EnsureNetwork) -> Result<Seen, StepError> {
        let Some(network) = self.get(action.network)? else {
            return Ok(if action.claim.is_some() {
                Seen::NotSo
            } else {
                Seen::StillSo
            });
        };
        let mut after = network.clone();
        after.take(action);
        if after != network {
            return Ok(Seen::NotSo);
        }
        Ok(if self.is_live(&network).await? {
            Seen::StillSo
        } else {
            Seen::NotSo
        })
    }

    async fn is_live(&self, network: &Network) -> Result<bool, StepError> {
        if self.networking == Networking::User {
            return Ok(true);
        }
        let Some(transfer) = network.transfer else {
            return Ok(false);
        };
        let wanted = Wanted {
            cidr: network.cidr,
            gateway: network.gateway,
            transfer,
        };
        let folder = self.layout.network(network.network);
        Ok(netns::is_so(&self.names(network.network), &wanted).await?
            && dnsmasq::is_so(&folder, &network.service())?)
    }

    /// Whether a claim is held.
    pub(crate) fn holds(&self, claim: &DropShared) -> Result<bool, StepError> {
        Ok(self
            .get(claim.object)?
            .is_some_and(|n| n.claims.contains_key(&claim.holder)))
    }

    pub(crate) async fn release(&self, claim: &DropShared) -> Result<Effect, StepError> {
        let id = claim.object;
        let network = self.get(id)?.map(|mut network| {
            network.claims.remove(&claim.holder);
            network
        });
        let claimed = network.as_ref().is_some_and(|n| !n.claims.is_empty());
        let inside = if claimed {
            BTreeMap::new()
        } else {
            self.standing_in(id, claim.holder)?
        };
        if !inside.is_empty() {
            tracing::error!(network = %id, instances = ?inside.keys(), "instances without a claim are in a network: it stays");
        }
        match network {
            Some(mut network) if claimed || !inside.is_empty() => {
                network.claims.extend(inside);
                files::write_record(&self.record(id), &network)?;
                if self.networking == Networking::Bridge && netns::is_there(&self.names(id)) {
                    dnsmasq::ensure(&self.names(id), &self.layout.network(id), &network.service()).await?;
                }
                return Ok(said("the network stays: others use it"));
            }
            None if !inside.is_empty() => return Ok(said("the network stays: instances are in it")),
            Some(_) | None => {}
        }
        self.remove(id).await?;
        Ok(said("the network is gone from the host"))
    }

    async fn remove(&self, id: ResourceId) -> Result<(), StepError> {
        self.take_down(id).await?;
        files::remove_folder(&self.layout.network(id))
    }

    /// Removes all that it is made of, and leaves what it shall be.
    pub(crate) async fn take_down(&self, id: ResourceId) -> Result<(), StepError> {
        if self.networking == Networking::User {
            return Ok(());
        }
        let names = self.names(id);
        dnsmasq::stop(&names, &self.layout.network(id)).await?;
        netns::remove(&names).await
    }

    pub(crate) fn inventory(&self) -> Result<Vec<Held>, StepError> {
        let mut all = Vec::new();
        for id in self.ids()? {
            let Some(network) = self.get(id)? else { continue };
            let mut facts = BTreeMap::from([("networking".to_owned(), self.networking.as_str().to_owned())]);
            let state = match self.networking {
                Networking::User => {
                    facts.insert("detail".to_owned(), USER_NETWORK.to_owned());
                    "ready"
                }
                Networking::Bridge => {
                    let names = self.names(id);
                    let lives = netns::is_there(&names) && dnsmasq::is_alive(&self.layout.network(id));
                    facts.insert("namespace".to_owned(), names.namespace);
                    if lives { "ready" } else { "unknown" }
                }
            };
            all.push(Held {
                kind: ObjectKind::Network,
                id,
                state: state.to_owned(),
                claims: network.claims.keys().copied().collect(),
                generation: network.generation,
                facts,
            });
        }
        Ok(all)
    }
}

fn said(detail: &str) -> Effect {
    Effect {
        detail: detail.to_owned(),
        output: Value::Null,
    }
}

/// Held while a transfer net is chosen and taken: agents of other stacks choose on the same machine.
async fn machine_lock() -> Result<nix::fcntl::Flock<File>, StepError> {
    let path = Path::new("/run");
    let lock = tokio::task::spawn_blocking(move || {
        let folder = File::open(path)?;
        nix::fcntl::Flock::lock(folder, nix::fcntl::FlockArg::LockExclusive)
            .map_err(|(_, e)| std::io::Error::from(e))
    });
    let done = lock
        .await
        .map_err(|e| files::storage("locking", path, &std::io::Error::other(e)))?;
    done.map_err(|e| files::storage("locking", path, &e))
}

#[cfg(test)]
mod tests;
