//! What an instance's spec can't mean.

use super::super::network::mac_fault;
use super::{APART_FROM, InstanceSpec, Placement, Power};
use crate::problem::FieldError;
use std::collections::HashMap;
use std::net::Ipv4Addr;

/// Most virtual processors: what QEMU's q35 machine takes without an interrupt remapper.
const VCPUS_MAX: u32 = 255;
/// Least memory that a guest can begin with, MiB.
pub(super) const MEMORY_MIN_MIB: u32 = 64;
/// Most memory, MiB: 16 TiB.
const MEMORY_MAX_MIB: u32 = 16 * 1024 * 1024;
/// Largest root disk, GiB: 64 TiB.
const DISK_MAX_GIB: u32 = 65_536;
/// Most interfaces: slots of a PCI bus less those of disks and the like.
const INTERFACES_MAX: usize = 16;
/// Largest `user_data`, bytes.
const USER_DATA_MAX: usize = 64 * 1024;
/// Most SSH keys, and the longest, bytes (an RSA key of 16,384 bits has some 2,800).
const SSH_KEYS_MAX: usize = 64;
const SSH_KEY_MAX_BYTES: usize = 8 * 1024;
/// Most entries of each kind in `placement`.
const PLACEMENT_MAX: usize = 64;

fn range_fault(pointer: &str, value: u32, min: u32, max: u32, unit: &str) -> Option<FieldError> {
    (!(min..=max).contains(&value)).then(|| {
        FieldError::new(
            pointer,
            "OUT_OF_RANGE",
            format!("{value}{unit}; it must be from {min} to {max}"),
        )
    })
}

pub(super) fn size(spec: &InstanceSpec) -> Vec<FieldError> {
    let mut faults = Vec::new();
    faults.extend(range_fault("/vcpus", spec.vcpus, 1, VCPUS_MAX, ""));
    faults.extend(range_fault(
        "/memory_mib",
        spec.memory_mib,
        MEMORY_MIN_MIB,
        MEMORY_MAX_MIB,
        " MiB",
    ));
    faults.extend(
        spec.root_disk_gib
            .and_then(|gib| range_fault("/root_disk_gib", gib, 1, DISK_MAX_GIB, " GiB")),
    );
    if spec.image.is_empty() {
        faults.push(FieldError::new(
            "/image",
            "EMPTY",
            "an image is needed, by id or name",
        ));
    }
    if !spec.disks.is_empty() {
        let detail = "further disks are not supported yet; leave the field out";
        faults.push(FieldError::new("/disks", "NOT_SUPPORTED", detail));
    }
    faults
}

pub(super) fn interface(spec: &InstanceSpec) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let count = spec.interfaces.len();
    if count == 0 {
        faults.push(FieldError::new(
            "/interfaces",
            "TOO_FEW",
            "an instance needs at least one interface",
        ));
    }
    if count > INTERFACES_MAX {
        let detail = format!("{count} interfaces; there may be {INTERFACES_MAX}");
        faults.push(FieldError::new("/interfaces", "TOO_MANY", detail));
    }
    let mut by_mac: HashMap<&str, usize> = HashMap::new();
    let mut by_ip: HashMap<(&str, Ipv4Addr), usize> = HashMap::new();
    for (i, nic) in spec.interfaces.iter().enumerate() {
        let at = |field: &str| format!("/interfaces/{i}/{field}");
        if nic.network.is_empty() {
            faults.push(FieldError::new(
                at("network"),
                "EMPTY",
                "a network is needed, by id or name",
            ));
        }
        if let Some(mac) = &nic.mac {
            faults.extend(mac_fault(at("mac"), mac));
            if let Some(first) = by_mac.get(mac.as_str()) {
                let detail = format!("{mac} is in /spec/interfaces/{first} already");
                faults.push(FieldError::new(at("mac"), "DUPLICATE", detail));
            }
            by_mac.entry(mac).or_insert(i);
        }
        if let Some(ip) = nic.ip {
            if let Some(first) = by_ip.get(&(nic.network.as_str(), ip)) {
                let detail = format!("{ip} is in /spec/interfaces/{first} already");
                faults.push(FieldError::new(at("ip"), "DUPLICATE", detail));
            }
            by_ip.entry((&nic.network, ip)).or_insert(i);
        }
    }
    faults
}

pub(super) fn guest(spec: &InstanceSpec) -> Vec<FieldError> {
    let mut faults = Vec::new();
    if let Some(data) = &spec.user_data {
        if data.len() > USER_DATA_MAX {
            let detail = format!("{} bytes; it may have {USER_DATA_MAX} (64 KiB)", data.len());
            faults.push(FieldError::new("/user_data", "TOO_LONG", detail));
        }
        if data.contains('\0') {
            faults.push(FieldError::new(
                "/user_data",
                "INVALID_TEXT",
                "it must be text, without a NUL character",
            ));
        }
    }
    if spec.ssh_keys.len() > SSH_KEYS_MAX {
        let detail = format!("{} keys; there may be {SSH_KEYS_MAX}", spec.ssh_keys.len());
        faults.push(FieldError::new("/ssh_keys", "TOO_MANY", detail));
    }
    for (i, key) in spec.ssh_keys.iter().enumerate() {
        if !is_ssh_key(key) {
            let detail = "not a public key on one line, such as \"ssh-ed25519 AAAA… name\"";
            faults.push(FieldError::new(
                format!("/ssh_keys/{i}"),
                "INVALID_SSH_KEY",
                detail,
            ));
        }
    }
    faults
}

/// Type, base64 and an optional comment (sshd(8), AUTHORIZED_KEYS FILE FORMAT, without options). The base64 begins with
/// the length of the type's name as 32 bits, so with `AAAA`.
fn is_ssh_key(key: &str) -> bool {
    const TYPES: [&str; 7] = [
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    ];
    let mut words = key.split(' ');
    let known = words.next().is_some_and(|t| TYPES.contains(&t));
    let body = words.next().unwrap_or_default();
    let digits = body.trim_end_matches('=');
    let base64 = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    known
        && key.len() <= SSH_KEY_MAX_BYTES
        && !key.chars().any(char::is_control)
        && body.len() >= 32
        && body.len().is_multiple_of(4)
        && body.len() - digits.len() <= 2
        && digits.starts_with("AAAA")
        && digits.bytes().all(base64)
}

pub(super) fn placement(spec: &InstanceSpec) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let Some(placement) = &spec.placement else {
        return faults;
    };
    let sizes = [
        ("/placement/host_labels", placement.host_labels.len()),
        (APART_FROM, placement.apart_from.len()),
    ];
    for (pointer, len) in sizes {
        if len > PLACEMENT_MAX {
            let detail = format!("{len} entries; there may be {PLACEMENT_MAX}");
            faults.push(FieldError::new(pointer, "TOO_MANY", detail));
        }
    }
    for (i, other) in placement.apart_from.iter().enumerate() {
        if other.is_empty() {
            let detail = "an instance is needed, by id or name";
            faults.push(FieldError::new(format!("{APART_FROM}/{i}"), "EMPTY", detail));
        }
    }
    faults
}

pub(super) fn update(spec: &InstanceSpec, before: &InstanceSpec) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let fixed = [
        ("/image", "image", spec.image != before.image),
        (
            "/root_disk_gib",
            "root disk's size",
            spec.root_disk_gib != before.root_disk_gib,
        ),
        ("/interfaces", "interfaces", spec.interfaces != before.interfaces),
        ("/disks", "disks", spec.disks != before.disks),
        ("/user_data", "user data", spec.user_data != before.user_data),
        ("/ssh_keys", "SSH keys", spec.ssh_keys != before.ssh_keys),
        (
            "/placement",
            "placement",
            placement_of(spec) != placement_of(before),
        ),
    ];
    for (pointer, what, changed) in fixed {
        if changed {
            let detail = format!("the {what} of an instance can't be changed; make a new instance");
            faults.push(FieldError::new(pointer, "IMMUTABLE", detail));
        }
    }
    let off = spec.power == Power::Off && before.power == Power::Off;
    let sizes = [
        ("/vcpus", "vcpus", spec.vcpus != before.vcpus),
        ("/memory_mib", "memory", spec.memory_mib != before.memory_mib),
    ];
    for (pointer, what, changed) in sizes {
        if changed && !off {
            let detail =
                format!("the {what} can be changed only while the instance is stopped; stop it first");
            faults.push(FieldError::new(pointer, "NOT_WHILE_RUNNING", detail));
        }
    }
    faults
}

/// An empty placement says as much as none.
fn placement_of(spec: &InstanceSpec) -> Placement {
    spec.placement.clone().unwrap_or_default()
}
