//! Section `[agent]` of the configuration.

use rhyzome_model::ids::{HostName, is_dns_label};
use rhyzome_runtime::Span;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What makes things so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverKind {
    /// QEMU/KVM, bridges, files.
    #[default]
    Qemu,
    /// Hosts that aren't there.
    Simulated,
}

/// How guests reach their network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkingKind {
    /// Bridges in namespaces.
    Bridge,
    /// QEMU's user network.
    User,
}

/// What runs guests' code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AcceleratorKind {
    /// The machine's.
    Kvm,
    /// Emulation.
    Tcg,
}

/// Section `[agent]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// The host's name, or the beginning of the simulated hosts' names; the process's name where left out.
    pub name: Option<String>,
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where ledger and objects are kept.
    pub state: PathBuf,
    /// What makes things so.
    pub driver: DriverKind,
    /// How many simulated hosts, NAME-1 to NAME-N; where left out one, NAME itself.
    pub hosts: Option<u32>,
    /// Processors; as found where left out.
    pub vcpus: Option<u32>,
    /// MiB; as found where left out, less the reserve.
    pub memory_mib: Option<u64>,
    /// GiB; as found where left out, less the reserve.
    pub disk_gib: Option<u64>,
    /// For placement.
    pub labels: BTreeMap<String, String>,
    /// Virtual processors offered for each processor.
    pub vcpu_overcommit: f64,
    /// MiB that aren't offered, of memory that was found.
    pub memory_reserve_mib: u64,
    /// GiB that aren't offered, of disk that was found.
    pub disk_reserve_gib: u64,
    /// The operator's image folder.
    pub image_dir: Option<PathBuf>,
    /// Prefixes of URLs that may be http, private or loopback.
    pub image_allow: Vec<String>,
    /// The largest image that is fetched, GiB.
    pub image_max_gib: u64,
    /// How guests reach their network; as found where left out.
    pub networking: Option<NetworkingKind>,
    /// What runs guests' code; as found where left out.
    pub accelerator: Option<AcceleratorKind>,
    /// `faults.toml` of simulated hosts; need not be there.
    pub faults: Option<PathBuf>,
    /// Between two heartbeats.
    pub heartbeat: Span,
    /// Between two reports of all guests' figures.
    pub guest_refresh: Span,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            name: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            state: PathBuf::from("/var/lib/rhyzome/agent"),
            driver: DriverKind::default(),
            hosts: None,
            vcpus: None,
            memory_mib: None,
            disk_gib: None,
            labels: BTreeMap::new(),
            vcpu_overcommit: 4.0,
            memory_reserve_mib: 1024,
            disk_reserve_gib: 10,
            image_dir: None,
            image_allow: Vec::new(),
            image_max_gib: 64,
            networking: None,
            accelerator: None,
            faults: None,
            heartbeat: Span::seconds(2),
            guest_refresh: Span::seconds(30),
        }
    }
}

impl AgentConfig {
    /// The hosts that the process serves, or what is wrong with their names or number.
    ///
    /// # Errors
    /// A sentence with the value and what would be right.
    pub fn host_names(&self, process_name: &str) -> Result<Vec<HostName>, String> {
        let name = self.name.as_deref().unwrap_or(process_name);
        let names: Vec<HostName> = match (self.driver, self.hosts) {
            (DriverKind::Qemu | DriverKind::Simulated, None) => vec![name.into()],
            (DriverKind::Qemu, Some(_)) => return Err("agent.hosts is for the simulated driver only".into()),
            (DriverKind::Simulated, Some(0)) => return Err("agent.hosts is 0: at least one is needed".into()),
            (DriverKind::Simulated, Some(count)) => {
                (1..=count).map(|i| HostName(format!("{name}-{i}"))).collect()
            }
        };
        match names.iter().find(|host| !is_dns_label(host.as_str())) {
            Some(wrong) => Err(format!(
                "`{wrong}` can't be a host's name: lower-case letters, digits and hyphens, 63 at most"
            )),
            None => Ok(names),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hosts() {
        let simulated = AgentConfig {
            driver: DriverKind::Simulated,
            ..AgentConfig::default()
        };
        assert_eq!(simulated.host_names("sim").unwrap(), ["sim".into()]);
        let three = AgentConfig {
            hosts: Some(3),
            ..simulated.clone()
        };
        assert_eq!(
            three.host_names("sim").unwrap(),
            ["sim-1".into(), "sim-2".into(), "sim-3".into()]
        );
        assert!(
            AgentConfig {
                hosts: Some(0),
                ..simulated.clone()
            }
            .host_names("sim")
            .is_err()
        );
        assert!(
            AgentConfig {
                hosts: Some(1),
                ..AgentConfig::default()
            }
            .host_names("h")
            .is_err()
        );
        assert!(simulated.host_names("Not_A_Label").is_err());
        let named = AgentConfig {
            name: Some("rack-7".into()),
            ..simulated
        };
        assert_eq!(named.host_names("ignored").unwrap(), ["rack-7".into()]);
    }
}
