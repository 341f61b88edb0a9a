//! What a network's spec can't mean.

use super::{NetworkSpec, address_fault, mac_fault};
use crate::ids::is_dns_label;
use crate::problem::FieldError;
use std::collections::HashMap;
use std::net::Ipv4Addr;

/// The shortest prefix that a network may have: a whole class A.
const PREFIX_MIN: u8 = 8;
/// The longest prefix that leaves room for a gateway and one guest.
const PREFIX_MAX: u8 = 30;
/// Name servers that a guest can use: resolvers read three (`MAXNS` of resolv.conf(5)); more is a mistake.
const DNS_MAX: usize = 8;
/// Static leases in one document.
const LEASES_MAX: usize = 4096;

pub(super) fn range(spec: &NetworkSpec) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let cidr = spec.cidr;
    if cidr.addr() != cidr.network() {
        let detail = format!("{cidr} has host bits set; the network is {}", cidr.trunc());
        faults.push(FieldError::new("/cidr", "HOST_BITS_SET", detail));
    }
    if !(PREFIX_MIN..=PREFIX_MAX).contains(&cidr.prefix_len()) {
        let detail = format!(
            "/{} is not a usable prefix; it must be from /{PREFIX_MIN} to /{PREFIX_MAX}",
            cidr.prefix_len()
        );
        faults.push(FieldError::new("/cidr", "UNUSABLE_RANGE", detail));
    }
    let net = cidr.network();
    if net.is_multicast() || net.is_loopback() || net.octets()[0] == 0 || net.octets()[0] >= 240 {
        let detail = format!(
            "{cidr} is not a range that hosts can have; take one of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"
        );
        faults.push(FieldError::new("/cidr", "UNUSABLE_RANGE", detail));
    }
    faults
}

pub(super) fn gateway(spec: &NetworkSpec) -> Option<FieldError> {
    let gateway = spec.gateway?;
    let cidr = spec.cidr;
    let fault = |code, detail: String| Some(FieldError::new("/gateway", code, detail));
    if !cidr.contains(&gateway) {
        fault(
            "ADDRESS_OUTSIDE_NETWORK",
            format!("{gateway} is outside of the network's range {cidr}"),
        )
    } else if gateway == cidr.network() {
        fault(
            "ADDRESS_RESERVED",
            format!("{gateway} is the address of the network {cidr} itself"),
        )
    } else if gateway == cidr.broadcast() {
        fault(
            "ADDRESS_RESERVED",
            format!("{gateway} is the broadcast address of {cidr}"),
        )
    } else {
        None
    }
}

pub(super) fn dns(spec: &NetworkSpec) -> Vec<FieldError> {
    let mut faults = Vec::new();
    if spec.dns.len() > DNS_MAX {
        let detail = format!("{} name servers; there may be {DNS_MAX}", spec.dns.len());
        faults.push(FieldError::new("/dns", "TOO_MANY", detail));
    }
    for (i, ip) in spec.dns.iter().enumerate() {
        if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() {
            let detail = format!("{ip} can't be a name server's address");
            faults.push(FieldError::new(format!("/dns/{i}"), "INVALID_ADDRESS", detail));
        }
    }
    faults
}

pub(super) fn leases(spec: &NetworkSpec) -> Vec<FieldError> {
    let mut faults = Vec::new();
    if spec.leases.len() > LEASES_MAX {
        let detail = format!("{} static leases; there may be {LEASES_MAX}", spec.leases.len());
        faults.push(FieldError::new("/leases", "TOO_MANY", detail));
    }
    let mut by_ip: HashMap<Ipv4Addr, usize> = HashMap::new();
    let mut by_mac: HashMap<&str, usize> = HashMap::new();
    let mut by_hostname: HashMap<&str, usize> = HashMap::new();
    for (i, lease) in spec.leases.iter().enumerate() {
        let at = |field: &str| format!("/leases/{i}/{field}");
        if let Some((code, detail)) = address_fault(spec, lease.ip) {
            faults.push(FieldError::new(at("ip"), code, detail));
        }
        faults.extend(mac_fault(at("mac"), &lease.mac));
        let mut duplicate = |field: &str, text: String, first: usize| {
            let detail = format!("{text} is in /spec/leases/{first} already");
            faults.push(FieldError::new(at(field), "DUPLICATE", detail));
        };
        if let Some(&first) = by_ip.get(&lease.ip) {
            duplicate("ip", lease.ip.to_string(), first);
        }
        if let Some(&first) = by_mac.get(lease.mac.as_str()) {
            duplicate("mac", lease.mac.clone(), first);
        }
        by_ip.entry(lease.ip).or_insert(i);
        by_mac.entry(&lease.mac).or_insert(i);
        if let Some(hostname) = &lease.hostname {
            if let Some(&first) = by_hostname.get(hostname.as_str()) {
                duplicate("hostname", hostname.clone(), first);
            }
            by_hostname.entry(hostname).or_insert(i);
            if !is_dns_label(hostname) {
                let detail =
                    format!("{hostname:?} is not a DNS label: a-z, 0-9 and hyphens inside, 63 at most");
                faults.push(FieldError::new(at("hostname"), "INVALID_HOSTNAME", detail));
            }
        }
    }
    faults
}
