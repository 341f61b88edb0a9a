//! Shared objects on a host: held by (object, claiming resource), never by a count. Pure; what holds it is the caller's.
//!
//! Ensuring takes the claim, dropping gives it back, and with the last claim the object goes. Doing either twice is doing it once. A lower
//! generation never overwrites content; an equal one does (an undo has the generation of what it undoes).

use ipnet::Ipv4Net;
use rhyzome_model::ids::{ResourceId, TenantId};
use rhyzome_model::step::{DropShared, EnsureImage, EnsureNetwork, HostLease, ImageFacts};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// What dropping a claim left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The object wasn't there, or not claimed by that resource.
    Nothing,
    /// Others hold it.
    StillHeld,
    /// That was the last claim: the object goes.
    Last,
}

/// A network's content and claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedNetwork {
    /// Whose.
    pub tenant: TenantId,
    /// Of the content.
    pub generation: i64,
    /// Its range.
    pub cidr: Ipv4Net,
    /// The gateway's address.
    pub gateway: Ipv4Addr,
    /// Given out by DHCP.
    pub dns: Vec<Ipv4Addr>,
    /// The user's static leases.
    pub leases: Vec<HostLease>,
    /// By claiming resource, the leases that live as long as the claim.
    pub claims: BTreeMap<ResourceId, Vec<HostLease>>,
}

impl SharedNetwork {
    fn of(action: &EnsureNetwork) -> Self {
        Self {
            tenant: action.tenant.clone(),
            generation: action.generation,
            cidr: action.cidr,
            gateway: action.gateway,
            dns: action.dns.clone(),
            leases: action.leases.clone(),
            claims: BTreeMap::new(),
        }
    }

    fn has_content(&self, action: &EnsureNetwork) -> bool {
        self.generation > action.generation
            || (self.generation == action.generation
                && self.tenant == action.tenant
                && self.cidr == action.cidr
                && self.gateway == action.gateway
                && self.dns == action.dns
                && self.leases == action.leases)
    }

    /// Whether ensuring would change nothing. A network that isn't here is as an action without a claim wants it.
    pub fn is_so(network: Option<&Self>, action: &EnsureNetwork) -> bool {
        match (network, &action.claim) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some(network), claim) => {
                network.has_content(action)
                    && claim
                        .as_ref()
                        .is_none_or(|claim| network.claims.get(&claim.holder) == Some(&claim.leases))
            }
        }
    }

    /// Makes or changes it. Without a claim, what isn't there isn't made.
    pub fn ensure(network: &mut Option<Self>, action: &EnsureNetwork) {
        if network.is_none() && action.claim.is_none() {
            return;
        }
        let network = network.get_or_insert_with(|| Self::of(action));
        if !network.has_content(action) {
            let claims = std::mem::take(&mut network.claims);
            *network = Self {
                claims,
                ..Self::of(action)
            };
        }
        if let Some(claim) = &action.claim {
            network.claims.insert(claim.holder, claim.leases.clone());
        }
    }

    /// Gives a claim back.
    pub fn drop_claim(&mut self, action: &DropShared) -> Dropped {
        let held = self.claims.remove(&action.holder).is_some();
        left(held, self.claims.is_empty())
    }
}

/// An image's file and claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedImage {
    /// What fetching found out.
    pub facts: ImageFacts,
    /// Claiming resources.
    pub claims: BTreeSet<ResourceId>,
}

impl SharedImage {
    /// Whether ensuring would change nothing.
    pub fn is_so(image: Option<&Self>, action: &EnsureImage) -> bool {
        image.is_some_and(|image| {
            image.claims.contains(&action.holder)
                && action
                    .sha256
                    .as_ref()
                    .is_none_or(|wanted| *wanted == image.facts.sha256)
        })
    }

    /// Takes a claim.
    pub fn claim(&mut self, holder: ResourceId) {
        self.claims.insert(holder);
    }

    /// Gives a claim back.
    pub fn drop_claim(&mut self, action: &DropShared) -> Dropped {
        let held = self.claims.remove(&action.holder);
        left(held, self.claims.is_empty())
    }
}

fn left(held: bool, empty: bool) -> Dropped {
    match (held, empty) {
        (_, true) => Dropped::Last,
        (true, false) => Dropped::StillHeld,
        (false, false) => Dropped::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhyzome_model::step::NetworkClaim;

    fn ensure(generation: i64, dns: &str, holder: Option<ResourceId>) -> EnsureNetwork {
        EnsureNetwork {
            network: ResourceId::new(),
            tenant: "demo".into(),
            generation,
            cidr: "10.0.0.0/24".parse().unwrap(),
            gateway: "10.0.0.1".parse().unwrap(),
            dns: vec![dns.parse().unwrap()],
            leases: Vec::new(),
            claim: holder.map(|holder| NetworkClaim {
                holder,
                leases: Vec::new(),
            }),
        }
    }

    #[test]
    fn the_object_goes_with_the_last_claim() {
        let (a, b) = (ResourceId::new(), ResourceId::new());
        let mut network = None;
        for holder in [a, a, b] {
            SharedNetwork::ensure(&mut network, &ensure(1, "1.1.1.1", Some(holder)));
        }
        let mut network = network.unwrap();
        let drop = |holder| DropShared {
            object: ResourceId::new(),
            holder,
        };
        assert_eq!(network.drop_claim(&drop(ResourceId::new())), Dropped::Nothing);
        assert_eq!(network.drop_claim(&drop(a)), Dropped::StillHeld);
        assert_eq!(network.drop_claim(&drop(a)), Dropped::Nothing);
        assert_eq!(network.drop_claim(&drop(b)), Dropped::Last);
    }

    #[test]
    fn a_lower_generation_never_overwrites() {
        let holder = ResourceId::new();
        let mut network = None;
        SharedNetwork::ensure(&mut network, &ensure(2, "2.2.2.2", Some(holder)));
        let older = ensure(1, "1.1.1.1", Some(ResourceId::new()));
        SharedNetwork::ensure(&mut network, &older);
        let is = network.clone().unwrap();
        assert_eq!(
            (is.generation, is.dns.clone()),
            (2, vec!["2.2.2.2".parse().unwrap()])
        );
        assert_eq!(is.claims.len(), 2, "an older content still takes its claim");
        assert!(SharedNetwork::is_so(network.as_ref(), &older));
        let undo = ensure(2, "9.9.9.9", None);
        assert!(!SharedNetwork::is_so(network.as_ref(), &undo));
        SharedNetwork::ensure(&mut network, &undo);
        assert_eq!(network.unwrap().dns, undo.dns, "an equal generation overwrites");
    }

    #[test]
    fn without_a_claim_nothing_is_made() {
        let mut network = None;
        let update = ensure(1, "1.1.1.1", None);
        SharedNetwork::ensure(&mut network, &update);
        assert_eq!(network, None);
        assert!(SharedNetwork::is_so(None, &update));
    }
}
