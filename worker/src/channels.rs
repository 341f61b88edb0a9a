//! Channels to agents: one for each host, which lives on and reconnects by itself. A host that moved gets a new one.

use rhyzome_proto::agent::agent_client::AgentClient;
use rhyzome_runtime::Identity;
use rhyzome_runtime::tls::{TlsError, connect_agent};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use tonic::transport::Channel;

#[derive(Debug)]
struct Known {
    address: String,
    client: AgentClient<Channel>,
}

/// By host; as many as there are hosts.
#[derive(Debug)]
pub(crate) struct Channels {
    identity: Identity,
    known: Mutex<HashMap<String, Known>>,
}

impl Channels {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            known: Mutex::new(HashMap::new()),
        }
    }

    /// The agent of `host`, at `address`. Connects when it is first used.
    pub(crate) fn agent(&self, host: &str, address: &str) -> Result<AgentClient<Channel>, TlsError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = known.get(host).filter(|k| k.address == address) {
            return Ok(here.client.clone());
        }
        let client = AgentClient::new(connect_agent(address, host, &self.identity)?);
        known.insert(
            host.to_owned(),
            Known {
                address: address.to_owned(),
                client: client.clone(),
            },
        );
        Ok(client)
    }
}
