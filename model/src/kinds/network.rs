//! A virtual network: one IPv4 range, its gateway, DHCP answers and static leases. It lives on at most one host, the one where
//! its first instance was placed; until then it is on none, and its jobs have no steps.

mod faults;

use super::{
    AssignedLease, Demand, Kind, KindDef, LeaseRequest, PlanError, Reference, Resolved, ResolvedRef, Venue,
    When,
};
use crate::ids::{HostName, ResourceId, TenantId};
use crate::job;
use crate::problem::FieldError;
use crate::schema::Ipv4Text;
use crate::step::{Action, EnsureNetwork, HostLease, NetworkClaim, Step};
use ipnet::Ipv4Net;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;

/// What a user asks for in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// The network's IPv4 range. Networks are isolated from each other, so ranges may overlap.
    #[schema(value_type = String, format = "ipv4-cidr", example = "10.20.0.0/24")]
    pub cidr: Ipv4Net,
    /// The gateway's address; the first usable one where it isn't given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "ipv4", example = "10.20.0.1")]
    pub gateway: Option<Ipv4Addr>,
    /// Name servers that DHCP gives to guests; the gateway where there is none.
    #[serde(default)]
    #[schema(value_type = Vec<Ipv4Text>)]
    pub dns: Vec<Ipv4Addr>,
    /// Addresses that always go to the same MAC.
    #[serde(default)]
    pub leases: Vec<StaticLease>,
}

/// An address that always goes to the same MAC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticLease {
    /// Six bytes in hex with colons.
    #[serde(deserialize_with = "mac_text")]
    #[schema(value_type = String, format = "mac", example = "02:00:00:00:00:07")]
    pub mac: String,
    /// Inside the network's range.
    #[schema(value_type = String, format = "ipv4", example = "10.20.0.7")]
    pub ip: Ipv4Addr,
    /// A DNS label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// What is seen of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NetworkStatus {
    /// Where it lives, once an instance uses it; shown to operators only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
}

impl NetworkSpec {
    /// The gateway's address: as given, or the first usable one.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway.unwrap_or_else(|| first_usable(self.cidr))
    }
}

/// The kind `network`.
#[derive(Debug)]
pub struct Network;

/// Why an instance can't have this address on a network (a code and a sentence), whoever has it now.
pub fn address_fault(network: &NetworkSpec, ip: Ipv4Addr) -> Option<(&'static str, String)> {
    let cidr = network.cidr;
    if !cidr.contains(&ip) {
        Some((
            "ADDRESS_OUTSIDE_NETWORK",
            format!("{ip} is outside of the network's range {cidr}"),
        ))
    } else if ip == cidr.network() {
        Some((
            "ADDRESS_RESERVED",
            format!("{ip} is the address of the network {cidr} itself"),
        ))
    } else if ip == cidr.broadcast() {
        Some((
            "ADDRESS_RESERVED",
            format!("{ip} is the broadcast address of {cidr}"),
        ))
    } else if ip == network.gateway() {
        Some((
            "ADDRESS_IS_GATEWAY",
            format!("{ip} is the address of the network's gateway"),
        ))
    } else {
        None
    }
}

/// The addresses that may be given out by themselves, in ascending order: from the first usable to the last, without the
/// gateway's and those of static leases. Those in use by others are the caller's to leave out.
pub fn free_candidates(network: &NetworkSpec) -> impl Iterator<Item = Ipv4Addr> + use<> {
    let first = u32::from(first_usable(network.cidr));
    let last = u32::from(last_usable(network.cidr));
    let taken: HashSet<Ipv4Addr> = network
        .leases
        .iter()
        .map(|l| l.ip)
        .chain([network.gateway()])
        .collect();
    (first..=last)
        .map(Ipv4Addr::from)
        .filter(move |ip| !taken.contains(ip))
}

/// The lowest address that a guest or gateway can have.
pub fn first_usable(cidr: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(cidr.network()).saturating_add(1))
}

/// The highest address that a guest or gateway can have.
pub fn last_usable(cidr: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(cidr.broadcast()).saturating_sub(1))
}

/// A MAC address in lower case with colons, of the forms `02:AB:…` and `02-AB-…`.
pub fn normal_mac(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let byte = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
    (parts.len() == 6 && parts.iter().all(byte)).then(|| parts.join(":").to_ascii_lowercase())
}

/// Why no interface can have this MAC, if so. `mac` is as [`normal_mac`] gives it.
pub(super) fn mac_fault(pointer: String, mac: &str) -> Option<FieldError> {
    let first = u8::from_str_radix(mac.get(..2)?, 16).ok()?;
    if first & 1 == 1 {
        let detail = format!("{mac} is a multicast address; the first byte must be even, as in 02:…");
        Some(FieldError::new(pointer, "INVALID_MAC", detail))
    } else if mac == "00:00:00:00:00:00" {
        Some(FieldError::new(
            pointer,
            "INVALID_MAC",
            format!("{mac} is no interface's address"),
        ))
    } else {
        None
    }
}

fn mac_text<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    let text = String::deserialize(d)?;
    normal_mac(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a MAC address")))
}

pub(super) fn optional_mac_text<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(d)?;
    text.map(|t| {
        normal_mac(&t).ok_or_else(|| serde::de::Error::custom(format!("{t:?} is not a MAC address")))
    })
    .transpose()
}

/// The step that makes a network so for a claiming resource, or only updates its content.
pub(super) fn ensure(
    network: ResourceId,
    of: &ResolvedRef,
    leases: &[AssignedLease],
    holder: ResourceId,
) -> Result<Action, PlanError> {
    let spec = read(&of.spec)?;
    let leases = leases
        .iter()
        .filter(|l| l.network == network)
        .map(|l| l.lease.clone())
        .collect();
    let claim = NetworkClaim { holder, leases };
    Ok(Action::EnsureNetwork(content(
        network,
        of.generation,
        &of.tenant,
        &spec,
        Some(claim),
    )))
}

fn content(
    network: ResourceId,
    generation: i64,
    tenant: &TenantId,
    spec: &NetworkSpec,
    claim: Option<NetworkClaim>,
) -> EnsureNetwork {
    EnsureNetwork {
        network,
        tenant: tenant.clone(),
        generation,
        cidr: spec.cidr,
        gateway: spec.gateway(),
        dns: spec.dns.clone(),
        leases: spec
            .leases
            .iter()
            .map(|l| HostLease {
                mac: l.mac.clone(),
                ip: l.ip,
                hostname: l.hostname.clone(),
            })
            .collect(),
        claim,
    }
}

pub(super) fn read(spec: &serde_json::Value) -> Result<NetworkSpec, PlanError> {
    NetworkSpec::deserialize(spec).map_err(|source| PlanError::Spec {
        kind: Kind::Network,
        source,
    })
}

/// Whether a host would see a difference between the two.
fn differs(new: &NetworkSpec, applied: &NetworkSpec) -> bool {
    new.cidr != applied.cidr
        || new.gateway() != applied.gateway()
        || new.dns != applied.dns
        || new.leases != applied.leases
}

impl KindDef for Network {
    type Spec = NetworkSpec;
    const KIND: Kind = Kind::Network;
    const ACTIONS: &'static [job::Action] = &[];

    fn validate(spec: &NetworkSpec, when: When<'_, NetworkSpec>) -> Vec<FieldError> {
        let mut faults = faults::range(spec);
        if faults.is_empty() {
            faults.extend(faults::gateway(spec));
            faults.extend(faults::dns(spec));
            faults.extend(faults::leases(spec));
        }
        if let When::Updating(before) = when {
            if spec.cidr != before.cidr {
                let detail = format!("the range of a network can't be changed from {}", before.cidr);
                faults.push(FieldError::new("/cidr", "IMMUTABLE", detail));
            }
            if spec.cidr == before.cidr && spec.gateway() != before.gateway() {
                let detail = format!(
                    "the gateway of a network can't be changed from {}",
                    before.gateway()
                );
                faults.push(FieldError::new("/gateway", "IMMUTABLE", detail));
            }
        }
        faults
    }

    fn references(_: &NetworkSpec) -> Vec<Reference> {
        Vec::new()
    }

    fn lease_requests(_: &NetworkSpec) -> Vec<LeaseRequest> {
        Vec::new()
    }

    fn demand(_: &NetworkSpec) -> Demand {
        Demand::default()
    }

    fn host_labels(_: &NetworkSpec) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    fn venue(_: job::Action) -> Venue {
        Venue::WhereItIs
    }

    fn apply_action(_: &mut NetworkSpec, _: job::Action) {}

    fn stand_in() -> NetworkSpec {
        NetworkSpec {
            cidr: Ipv4Net::default(),
            gateway: None,
            dns: Vec::new(),
            leases: Vec::new(),
        }
    }

    fn plan(action: job::Action, resolved: &Resolved) -> Result<Vec<Step>, PlanError> {
        let update = |spec: &NetworkSpec| {
            Action::EnsureNetwork(content(
                resolved.id,
                resolved.generation,
                &resolved.tenant,
                spec,
                None,
            ))
        };
        match action {
            job::Action::Create | job::Action::Delete => Ok(Vec::new()),
            job::Action::Update => {
                let spec = read(&resolved.spec)?;
                let applied = resolved.applied.as_ref().map(read).transpose()?;
                Ok(match (&resolved.host, applied) {
                    (Some(_), None) => vec![Step::forward_only(update(&spec))],
                    // The undo has the new generation too: a lower one wouldn't overwrite what the step wrote.
                    (Some(_), Some(old)) if differs(&spec, &old) => {
                        vec![Step::undoable(update(&spec), update(&old))]
                    }
                    (None, _) | (Some(_), Some(_)) => Vec::new(),
                })
            }
            job::Action::Repair => match resolved.host {
                Some(_) => Ok(vec![Step::forward_only(update(&read(&resolved.spec)?))]),
                None => Ok(Vec::new()),
            },
            job::Action::Start | job::Action::Stop | job::Action::Reboot => Err(PlanError::NoSuchAction {
                kind: Kind::Network,
                action,
            }),
        }
    }

    fn step_names(
        action: job::Action,
        spec: &NetworkSpec,
        applied: Option<&NetworkSpec>,
    ) -> Vec<&'static str> {
        match action {
            job::Action::Update if applied.is_none_or(|old| differs(spec, old)) => vec!["ensure_network"],
            job::Action::Repair => vec!["ensure_network"],
            job::Action::Create
            | job::Action::Update
            | job::Action::Delete
            | job::Action::Start
            | job::Action::Stop
            | job::Action::Reboot => Vec::new(),
        }
    }
}
