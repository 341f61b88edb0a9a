//! What a network's things are called on the machine and what addresses they have: pure functions of ids and ranges.

use super::spawn::Surroundings;
use ipnet::Ipv4Net;
use rhyzome_model::ids::ResourceId;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Where `ip netns` keeps its names.
pub(crate) const NAMES: &str = "/run/netns";
/// Where transfer nets are taken from: the first is shared address space (RFC 6598), the second for benchmarks (RFC 2544); a tenant's
/// range may lie in one of them.
const TRANSFER_POOLS: [&str; 2] = ["100.127.0.0/16", "198.19.0.0/16"];
/// Transfer nets are this small: two addresses.
pub(crate) const TRANSFER_PREFIX: u8 = 30;

/// The names of a network's things on the machine, from its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// Of the namespace.
    pub(crate) namespace: String,
    /// Of the veth's end on the machine; 15 characters, the most that Linux takes.
    pub(crate) veth: String,
    /// Of the table in the machine's namespace.
    pub(crate) table: String,
    pub(crate) hash: u64,
}

/// The first 12 hex digits of SHA-256 over an owner and an id: short, and two agents on one machine don't collide.
pub(crate) fn short_hash(owner: &str, id: ResourceId) -> String {
    let digest = Sha256::digest(format!("{owner}/{id}"));
    let mut hex = String::with_capacity(12);
    for byte in &digest[..6] {
        write!(hex, "{byte:02x}").unwrap_or_default();
    }
    hex
}

impl Names {
    /// `owner` tells this state folder and host from every other.
    pub(crate) fn new(owner: &str, network: ResourceId) -> Self {
        let hex = short_hash(owner, network);
        Self {
            namespace: format!("rz-{hex}"),
            veth: format!("rzv{hex}"),
            table: format!("rz_{hex}"),
            hash: u64::from_str_radix(&hex, 16).unwrap_or_default(),
        }
    }

    /// The file that stands for the namespace.
    pub(crate) fn file(&self) -> PathBuf {
        Path::new(NAMES).join(&self.namespace)
    }

    /// Surroundings inside it.
    pub(crate) fn inside(&self) -> Surroundings {
        Surroundings {
            netns: Some(self.file()),
            ..Surroundings::default()
        }
    }
}

/// What a network's namespace shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) cidr: Ipv4Net,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) transfer: Ipv4Net,
}

impl Wanted {
    pub(crate) fn gateway_net(&self) -> String {
        format!("{}/{}", self.gateway, self.cidr.prefix_len())
    }

    /// The machine's end and the namespace's end.
    pub(crate) fn transfer_ends(&self) -> (Ipv4Addr, Ipv4Addr) {
        let base = u32::from(self.transfer.network());
        (Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 2))
    }
}

/// Pure: the first free one, beginning at a place that depends on the network, so that neighbours seldom want the same.
pub(crate) fn choose_transfer(hash: u64, taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    TRANSFER_POOLS
        .iter()
        .filter_map(|p| p.parse::<Ipv4Net>().ok())
        .find_map(|pool| {
            let count = 1u32 << (TRANSFER_PREFIX - pool.prefix_len());
            (0..count)
                .map(|i| (i + (hash % u64::from(count)) as u32) % count)
                .find_map(|i| {
                    let net =
                        Ipv4Net::new(Ipv4Addr::from(u32::from(pool.network()) + i * 4), TRANSFER_PREFIX)
                            .ok()?;
                    taken
                        .iter()
                        .all(|t| !t.contains(&net) && !net.contains(t))
                        .then_some(net)
                })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ_by_owner() {
        let id = ResourceId::new();
        let (a, b) = (Names::new("one", id), Names::new("two", id));
        assert_ne!(a, b);
        assert!(a.veth.len() <= 15 && a.namespace.len() == 15);
        assert_eq!(a, Names::new("one", id));
    }

    #[test]
    fn the_transfer_net_overlaps_nothing() {
        let pool: Ipv4Net = TRANSFER_POOLS[0].parse().unwrap();
        let first = choose_transfer(5, &[]).unwrap();
        assert!(pool.contains(&first));
        let second = choose_transfer(5, &[first]).unwrap();
        assert_ne!(first, second);
        let beside = choose_transfer(5, &[pool]).unwrap();
        assert!(!pool.contains(&beside));
        assert_eq!(choose_transfer(5, &["0.0.0.0/0".parse().unwrap()]), None);
    }
}
