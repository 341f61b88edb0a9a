//! What a real host's driver needs to know, and what it finds out by itself where nobody says.

use super::accel::Accelerator;
use super::network::Networking;
use rhyzome_model::ids::HostName;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What a choice is made by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice<T> {
    /// By trying on this host.
    #[default]
    Probe,
    /// By the operator.
    Fixed(T),
}

/// What a real host's driver needs to know.
#[derive(Clone, Debug)]
pub struct RealConfig {
    /// The host's name.
    pub host: HostName,
    /// Its folder; made where it isn't there.
    pub state_dir: PathBuf,
    /// The operator's image folder.
    pub image_dir: Option<PathBuf>,
    /// URL prefixes from which images may come by http, and from private or loopback addresses.
    pub image_allow: Vec<String>,
    /// Of an image's file, bytes.
    pub image_max_bytes: u64,
    /// For fetching an image.
    pub image_timeout: Duration,
    /// For placement.
    pub labels: BTreeMap<String, String>,
    /// MiB that guests don't get.
    pub memory_reserve_mib: u64,
    /// GiB that guests and images don't get.
    pub disk_reserve_gib: u64,
    /// Bridges or QEMU's user network.
    pub networking: Choice<Networking>,
    /// KVM or emulation.
    pub accelerator: Choice<Accelerator>,
}

impl RealConfig {
    /// With what an operator who says nothing gets.
    pub fn new(host: HostName, state_dir: PathBuf) -> Self {
        Self {
            host,
            state_dir,
            image_dir: None,
            image_allow: Vec::new(),
            image_max_bytes: 64 << 30,
            image_timeout: Duration::from_mins(30),
            labels: BTreeMap::new(),
            memory_reserve_mib: 512,
            disk_reserve_gib: 1,
            networking: Choice::Probe,
            accelerator: Choice::Probe,
        }
    }
}
