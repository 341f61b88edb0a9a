//! Channels to agents: one for each host, which lives on and reconnects by itself. A host that moved gets a new one; that of a host which
//! nothing goes to any more is dropped.

use rhyzome_proto::agent::agent_client::AgentClient;
use rhyzome_runtime::Identity;
use rhyzome_runtime::tls::{TlsError, connect_agent};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;

/// A channel that nobody asked for in this time is dropped; a call that is under way on it goes on. A new one costs a handshake.
const UNUSED: Duration = Duration::from_hours(1);
/// How often it is looked for such.
const LOOK: Duration = Duration::from_mins(5);

#[derive(Debug)]
struct Known {
    address: String,
    client: AgentClient<Channel>,
    used: Instant,
}

/// By host; as many as there were hosts lately.
#[derive(Debug)]
pub(crate) struct Channels {
    identity: Identity,
    known: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    by_host: HashMap<String, Known>,
    looked: Instant,
}

impl Kept {
    fn drop_unused(&mut self, now: Instant) {
        if now.duration_since(self.looked) >= LOOK {
            self.looked = now;
            self.by_host
                .retain(|_, known| now.duration_since(known.used) < UNUSED);
        }
    }
}

impl Channels {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            known: Mutex::new(Kept {
                by_host: HashMap::new(),
                looked: Instant::now(),
            }),
        }
    }

    /// The agent of `host`, at `address`. Connects when it is first used.
    pub(crate) fn agent(&self, host: &str, address: &str) -> Result<AgentClient<Channel>, TlsError> {
        self.agent_at(host, address, Instant::now())
    }

    fn agent_at(&self, host: &str, address: &str, now: Instant) -> Result<AgentClient<Channel>, TlsError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.drop_unused(now);
        if let Some(here) = known.by_host.get_mut(host).filter(|k| k.address == address) {
            here.used = now;
            return Ok(here.client.clone());
        }
        let client = AgentClient::new(connect_agent(address, host, &self.identity)?);
        known.by_host.insert(
            host.to_owned(),
            Known {
                address: address.to_owned(),
                client: client.clone(),
                used: now,
            },
        );
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhyzome_runtime::pki::{Ca, Existing, Request};
    use rhyzome_runtime::{Role, TlsFiles};

    #[tokio::test]
    async fn a_channel_that_nothing_goes_to_any_more_is_dropped() {
        rhyzome_runtime::install_crypto();
        let pki = tempfile::tempdir().unwrap();
        let ca = Ca::init(pki.path(), 1, Existing::Keep).unwrap();
        ca.issue(&Request::new(Role::Worker, "worker-1"), Existing::Keep)
            .unwrap();
        let files = TlsFiles::in_pki(pki.path(), Role::Worker, "worker-1");
        let channels = Channels::new(Identity::load(&files).unwrap());
        let begin = Instant::now();
        let ask = |host: &str, minutes: u64| {
            let at = begin + Duration::from_mins(minutes);
            channels.agent_at(host, "127.0.0.1:1", at).unwrap();
            let kept = channels.known.lock().unwrap();
            let mut hosts: Vec<String> = kept.by_host.keys().cloned().collect();
            hosts.sort();
            hosts
        };
        assert_eq!(ask("gone", 0), ["gone"]);
        for minutes in 0..60 {
            assert_eq!(ask("busy", minutes), ["busy", "gone"]);
        }
        assert_eq!(ask("busy", 60), ["busy"]);
        assert_eq!(ask("gone", 61), ["busy", "gone"]);
    }
}
