//! A plan as data: each step's do beside its undo.
//!
//! A kind's `plan` makes the list, dispatch freezes it into the order as JSON, the API shows its names, the worker carries
//! it and the agent does it. An `Action` says what shall be so, never how; doing it again finds what was done. Names
//! on a host are derived from the ids in here alone.
//!
//! A shared object (network, image) is held by claims: (object, claiming resource). Ensuring takes the claim, dropping
//! gives it back, and with the last claim the object goes.

mod read;

use crate::ids::{ResourceId, TenantId};
use crate::kinds::{ImageFormat, ImageSource, Power, RestartPolicy};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What shall be so.
    pub forward: Action,
    /// What takes it back: for a create its removal, for an update what was applied before; none where nothing is to undo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Action>,
}

impl Step {
    /// A step that can be taken back.
    pub fn undoable(forward: Action, undo: Action) -> Self {
        Self {
            forward,
            undo: Some(undo),
        }
    }

    /// A step that only goes forward.
    pub fn forward_only(forward: Action) -> Self {
        Self { forward, undo: None }
    }

    /// The name that users, metrics and `faults.toml` know it by; its undo is `undo_` and this.
    pub fn name(&self) -> &'static str {
        self.forward.name()
    }
}

/// What an agent is asked to make so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// The network is on this host, with this content unless a higher generation is there, and claimed.
    EnsureNetwork(EnsureNetwork),
    /// The claim is gone, and with the last one the network.
    DropNetwork(DropShared),
    /// The image's file is kept on this host, checked, and claimed.
    EnsureImage(EnsureImage),
    /// The claim is gone, and with the last one the file.
    DropImage(DropShared),
    /// The instance's root disk is there: an overlay on the image's file.
    EnsureDisk(EnsureDisk),
    /// The disk is gone.
    RemoveDisk(RemoveDisk),
    /// The instance is defined: seed, taps, directory, limits. Not started.
    EnsureInstance(Box<EnsureInstance>),
    /// The guest is off, and its definition gone.
    RemoveInstance(RemoveInstance),
    /// The guest runs, or doesn't.
    SetPower(SetPower),
    /// The guest was restarted once since this job began.
    Reboot(Reboot),
}

impl Action {
    /// The step's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::EnsureNetwork(_) => "ensure_network",
            Self::DropNetwork(_) => "drop_network",
            Self::EnsureImage(_) => "ensure_image",
            Self::DropImage(_) => "drop_image",
            Self::EnsureDisk(_) => "ensure_disk",
            Self::RemoveDisk(_) => "remove_disk",
            Self::EnsureInstance(_) => "ensure_instance",
            Self::RemoveInstance(_) => "remove_instance",
            Self::SetPower(_) => "set_power",
            Self::Reboot(_) => "reboot",
        }
    }

    /// Every name, for metrics that are there from the start.
    pub const NAMES: [&'static str; 10] = [
        "ensure_network",
        "drop_network",
        "ensure_image",
        "drop_image",
        "ensure_disk",
        "remove_disk",
        "ensure_instance",
        "remove_instance",
        "set_power",
        "reboot",
    ];

    /// The object on the host that it is about: its kind and id. Operations on one object never overlap.
    pub fn object(&self) -> (ObjectKind, ResourceId) {
        match self {
            Self::EnsureNetwork(a) => (ObjectKind::Network, a.network),
            Self::DropNetwork(a) => (ObjectKind::Network, a.object),
            Self::EnsureImage(a) => (ObjectKind::Image, a.image),
            Self::DropImage(a) => (ObjectKind::Image, a.object),
            Self::EnsureDisk(a) => (ObjectKind::Disk, a.disk),
            Self::RemoveDisk(a) => (ObjectKind::Disk, a.disk),
            Self::EnsureInstance(a) => (ObjectKind::Instance, a.instance),
            Self::RemoveInstance(a) => (ObjectKind::Instance, a.instance),
            Self::SetPower(a) => (ObjectKind::Instance, a.instance),
            Self::Reboot(a) => (ObjectKind::Instance, a.instance),
        }
    }
}

/// What an agent keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// A bridge in a namespace of its own, with dnsmasq and NAT.
    Network,
    /// A file by digest.
    Image,
    /// An overlay.
    Disk,
    /// A guest's definition and process.
    Instance,
}

impl ObjectKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Network, Self::Image, Self::Disk, Self::Instance];

    /// As in inventories.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Image => "image",
            Self::Disk => "disk",
            Self::Instance => "instance",
        }
    }

    /// The kind of a text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A fixed answer of a network's DHCP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostLease {
    /// `02:…`, lower case with colons.
    pub mac: String,
    /// Inside the network's range.
    pub ip: Ipv4Addr,
    /// A DNS label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// See [`Action::EnsureNetwork`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnsureNetwork {
    /// The network.
    pub network: ResourceId,
    /// Whose.
    pub tenant: TenantId,
    /// Of the network's intent; a lower one never overwrites the content of a higher one.
    pub generation: i64,
    /// Its range.
    pub cidr: Ipv4Net,
    /// The gateway's address, on the bridge.
    pub gateway: Ipv4Addr,
    /// Given out by DHCP; the gateway itself where empty.
    pub dns: Vec<Ipv4Addr>,
    /// The user's static leases.
    pub leases: Vec<HostLease>,
    /// Who claims it. `None` in an update of the network itself, which takes no claim and makes nothing that isn't there.
    pub claim: Option<NetworkClaim>,
}

/// A resource's hold on a network, with the leases that live as long as it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkClaim {
    /// The claiming resource.
    pub holder: ResourceId,
    /// Its addresses on this network.
    pub leases: Vec<HostLease>,
}

/// Gives back a claim on a shared object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropShared {
    /// The network or image.
    pub object: ResourceId,
    /// The claiming resource.
    pub holder: ResourceId,
}

/// See [`Action::EnsureImage`]. Its result is an [`ImageFacts`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnsureImage {
    /// The image.
    pub image: ResourceId,
    /// Where its bytes come from.
    pub source: ImageSource,
    /// As the user declared; another is refused.
    pub format: ImageFormat,
    /// SHA-256 in hex that the bytes must have, where it is known.
    pub sha256: Option<String>,
    /// The claiming resource: an instance, or the image itself on the host that fetched it first.
    pub holder: ResourceId,
}

/// What fetching an image found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFacts {
    /// SHA-256 of the file's bytes, hex.
    pub sha256: String,
    /// Of the file.
    pub size_bytes: u64,
    /// Of the disk in it.
    pub virtual_size_bytes: u64,
}

/// See [`Action::EnsureDisk`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnsureDisk {
    /// The disk: for a root disk the instance's own id.
    pub disk: ResourceId,
    /// What the overlay lies on.
    pub image: ResourceId,
    /// Digest of the image's file, hex.
    pub image_sha256: String,
    /// Format of the image's file.
    pub image_format: ImageFormat,
    /// GiB.
    pub size_gib: u32,
}

/// See [`Action::RemoveDisk`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveDisk {
    /// The disk.
    pub disk: ResourceId,
}

/// See [`Action::EnsureInstance`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnsureInstance {
    /// The instance.
    pub instance: ResourceId,
    /// Whose.
    pub tenant: TenantId,
    /// Its name, also the guest's host name.
    pub name: String,
    /// Of the instance's intent.
    pub generation: i64,
    /// Virtual processors.
    pub vcpus: u32,
    /// MiB.
    pub memory_mib: u32,
    /// In order; at least one.
    pub interfaces: Vec<Nic>,
    /// For the seed; 64 KiB at most. Never logged.
    pub user_data: Option<String>,
    /// For the seed.
    pub ssh_keys: Vec<String>,
    /// What the agent does when the guest ends by itself.
    pub restart: RestartPolicy,
    /// How long a guest may take to end on the ACPI button before it is cut off, seconds.
    pub stop_timeout_s: u32,
}

/// A network interface of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// The network.
    pub network: ResourceId,
    /// Lower case with colons.
    pub mac: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Prefix length of the network.
    pub prefix_len: u8,
    /// The network's gateway.
    pub gateway: Ipv4Addr,
}

/// See [`Action::RemoveInstance`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveInstance {
    /// The instance.
    pub instance: ResourceId,
}

/// See [`Action::SetPower`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetPower {
    /// The instance.
    pub instance: ResourceId,
    /// On or off.
    pub power: Power,
}

/// See [`Action::Reboot`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reboot {
    /// The instance.
    pub instance: ResourceId,
}
