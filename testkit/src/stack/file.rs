//! What a stack says of itself: `stack.json`, and the inventories of its hosts.

use std::path::PathBuf;

use serde::Deserialize;

/// `stack.json`; what it says beside this is left out.
#[derive(Clone, Debug, Deserialize)]
pub struct StackFile {
    /// Without `/v1`.
    pub api_url: String,
    /// The data folder.
    pub data_dir: PathBuf,
    /// Logs of all processes.
    pub log_dir: PathBuf,
    /// Certificates.
    pub pki_dir: PathBuf,
    /// Of the development issuer.
    pub issuer_url: String,
    /// The database.
    pub postgres: PostgresEntry,
    /// The message bus.
    pub nats: NatsEntry,
    /// Agents of hosts.
    pub agents: Vec<AgentEntry>,
    /// What runs.
    pub processes: Vec<ProcessEntry>,
}

/// See [`StackFile`].
#[derive(Clone, Debug, Deserialize)]
pub struct PostgresEntry {
    /// How it is reached.
    pub url: String,
}

/// See [`StackFile`].
#[derive(Clone, Debug, Deserialize)]
pub struct NatsEntry {
    /// How it is reached.
    pub url: String,
    /// Where JetStream keeps its streams.
    pub jetstream_dir: PathBuf,
}

/// See [`StackFile`].
#[derive(Clone, Debug, Deserialize)]
pub struct AgentEntry {
    /// The host's name.
    pub host: String,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

/// See [`StackFile`].
#[derive(Clone, Debug, Deserialize)]
pub struct ProcessEntry {
    /// `api`, `scheduler`, `worker`, `agent`, `dev-issuer`, `postgres`, `nats`.
    pub role: String,
    /// As in its certificate.
    pub name: String,
    /// Its id.
    pub pid: i32,
    /// Its metrics, where it has any.
    pub metrics_url: Option<String>,
}

/// What an agent says that it holds.
#[derive(Clone, Debug, Deserialize)]
pub struct Inventory {
    /// The host.
    pub host: String,
    /// Its epoch.
    pub epoch: i64,
    /// What is there.
    pub objects: Vec<Held>,
    /// The highest fence of each resource.
    pub resources: Vec<Fenced>,
    /// Jobs that the ledger knows.
    pub jobs: Vec<LedgerJob>,
}

/// See [`Inventory`].
#[derive(Clone, Debug, Deserialize)]
pub struct Held {
    /// `network`, `image`, `disk`, `instance`.
    pub kind: String,
    /// The resource that it is for, or the shared object's own.
    pub id: String,
    /// As the agent sees it.
    pub state: String,
    /// Who claims a shared object.
    pub claims: Vec<String>,
}

/// See [`Inventory`].
#[derive(Clone, Debug, Deserialize)]
pub struct Fenced {
    /// The resource.
    pub id: String,
    /// Its highest fence.
    pub fence: i64,
}

/// See [`Inventory`].
#[derive(Clone, Debug, Deserialize)]
pub struct LedgerJob {
    /// The job.
    pub id: String,
    /// `forward`, `undoing`, `finished`.
    pub phase: String,
}

impl Inventory {
    /// Everything that there is of a resource: objects for it and claims by it.
    pub fn traces_of(&self, resource: &str) -> Vec<&Held> {
        self.objects
            .iter()
            .filter(|held| held.id == resource || held.claims.iter().any(|claim| claim == resource))
            .collect()
    }
}
