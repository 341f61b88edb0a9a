//! A guest's serial console: the one call that the API makes to agents.

use crate::problem::Problem;
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_proto::agent::ConsoleRequest;
use rhyzome_proto::agent::agent_client::AgentClient;
use rhyzome_runtime::{Identity, tls};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::Channel;

/// How long an agent may take.
const TIME: Duration = Duration::from_secs(10);
/// Bytes of an answer at most.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Channels to agents, kept by host and address. Without an identity (in tests) there are none.
#[derive(Debug)]
pub struct Consoles {
    identity: Option<Identity>,
    channels: Mutex<HashMap<(HostName, String), Channel>>,
}

impl Consoles {
    /// As this identity, of role api.
    pub fn new(identity: Option<Identity>) -> Self {
        Self {
            identity,
            channels: Mutex::default(),
        }
    }

    /// The last lines of an instance's console.
    pub async fn tail(
        &self,
        host: &HostName,
        address: &str,
        instance: ResourceId,
        lines: u32,
    ) -> Result<Vec<u8>, Problem> {
        let channel = self.channel(host, address)?;
        let request = ConsoleRequest {
            host: host.to_string(),
            instance: instance.0.as_bytes().to_vec(),
            tail_lines: lines,
            follow: false,
        };
        let call = async {
            let mut chunks = AgentClient::new(channel).console(request).await?.into_inner();
            let mut text = Vec::new();
            while let Some(chunk) = chunks.message().await? {
                text.extend_from_slice(&chunk.data);
                if text.len() >= BYTES_MAX {
                    break;
                }
            }
            Ok::<_, tonic::Status>(text)
        };
        match tokio::time::timeout(TIME, call).await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(status)) if status.code() == tonic::Code::NotFound => {
                Err(Problem::not_found("console of instance", &instance.to_string()))
            }
            Ok(Err(status)) => {
                tracing::warn!(%host, code = %status.code(), message = status.message(), "console");
                Err(Problem::unavailable(
                    "The instance's host can not be reached now.",
                ))
            }
            Err(_) => Err(Problem::unavailable("The instance's host does not answer now.")),
        }
    }

    fn channel(&self, host: &HostName, address: &str) -> Result<Channel, Problem> {
        let Some(identity) = &self.identity else {
            return Err(Problem::unavailable("Consoles can not be reached from here."));
        };
        let key = (host.clone(), address.to_owned());
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&key) {
            return Ok(channel.clone());
        }
        let channel = tls::connect_agent(address, host.as_str(), identity)
            .map_err(|error| Problem::internal("channel to an agent", &error))?;
        // An address that a host had before is of no more use.
        channels.retain(|(other, _), _| other != host);
        channels.insert(key, channel.clone());
        Ok(channel)
    }
}
