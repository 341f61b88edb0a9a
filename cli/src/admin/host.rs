//! `rhyzome admin host`.

use anyhow::{Context, Result, bail};
use rhyzome_model::ids::HostName;
use rhyzome_proto::agent::agent_client::AgentClient;
use rhyzome_proto::agent::{self, InventoryRequest};
use rhyzome_runtime::tls::{TlsConfig, connect_agent};
use rhyzome_runtime::{Identity, Role};
use rhyzome_store::Store;
use rhyzome_store::hosts::HostRow;
use serde::Serialize;

use crate::args::HostTask;
use crate::output::{self, Row};

/// As which component the command line asks agents.
pub(crate) const ADMIN_NAME: &str = "cli";

/// Performs one of its tasks.
pub(crate) async fn run(store: &Store, tls: &TlsConfig, task: &HostTask) -> Result<()> {
    match task {
        HostTask::Add { name, address } => {
            if address
                .rsplit_once(':')
                .is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
            {
                bail!("--address {address}: HOST:PORT is what it takes");
            }
            store.host_add(&HostName(name.clone()), address).await?;
            println!("host {name} is added");
        }
        HostTask::List { output } => output::list(&store.host_list().await?, output.output)?,
        HostTask::Inventory { name, output } => {
            let host = store
                .host_get(&HostName(name.clone()))
                .await?
                .with_context(|| format!("there is no host {name}"))?;
            output::one(&inventory(tls, &host).await?, output.output)?;
        }
        HostTask::Cordon { name } => {
            store.host_cordon(&HostName(name.clone()), true).await?;
            println!("host {name} is cordoned: nothing new is placed there, and nothing is mended");
        }
        HostTask::Uncordon { name } => {
            store.host_cordon(&HostName(name.clone()), false).await?;
            println!("host {name} takes new resources again");
        }
        HostTask::Remove { name } => {
            let in_quarantine = store.host_remove(&HostName(name.clone())).await?;
            println!("host {name} is removed");
            if !in_quarantine.is_empty() {
                println!(
                    "What was in quarantine there stays on it, and nobody looks at it any more: {}",
                    in_quarantine.join(", ")
                );
            }
        }
    }
    Ok(())
}

/// With which agents are asked.
pub(crate) fn identity(tls: &TlsConfig) -> Result<Identity> {
    Identity::load(&tls.files(Role::Admin, ADMIN_NAME)?).with_context(|| {
        format!("the certificate to ask agents with (`rhyzome pki issue admin {ADMIN_NAME}` makes one)")
    })
}

/// Asks a host's agent what it holds.
pub(crate) async fn ask(identity: &Identity, host: &HostRow) -> Result<agent::Inventory> {
    let channel = connect_agent(&host.address, host.name.as_str(), identity)?;
    let reply = AgentClient::new(channel)
        .max_decoding_message_size(usize::MAX)
        .get_inventory(InventoryRequest {
            host: host.name.to_string(),
        })
        .await
        .with_context(|| format!("asking the agent of {} at {}", host.name, host.address))?;
    Ok(reply.into_inner())
}

async fn inventory(tls: &TlsConfig, host: &HostRow) -> Result<Inventory> {
    let reply = ask(&identity(tls)?, host).await?;
    Ok(Inventory {
        host: reply.host,
        epoch: reply.epoch,
        objects: reply
            .objects
            .into_iter()
            .map(|object| Held {
                kind: object.kind,
                id: object.id,
                state: object.state,
                claims: object.claims,
            })
            .collect(),
        resources: reply
            .resources
            .into_iter()
            .map(|held| Fence {
                id: held.id,
                fence: held.fence,
            })
            .collect(),
        jobs: reply
            .jobs
            .into_iter()
            .map(|job| Job {
                id: job.id,
                phase: job.phase,
            })
            .collect(),
    })
}

#[derive(Debug, Serialize)]
struct Inventory {
    host: String,
    epoch: i64,
    objects: Vec<Held>,
    resources: Vec<Fence>,
    jobs: Vec<Job>,
}

#[derive(Debug, Serialize)]
struct Held {
    kind: String,
    id: String,
    state: String,
    claims: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Fence {
    id: String,
    fence: i64,
}

#[derive(Debug, Serialize)]
struct Job {
    id: String,
    phase: String,
}

impl Row for Inventory {
    const HEADS: &'static [&'static str] = &["HOST", "EPOCH", "OBJECTS", "RESOURCES", "JOBS"];

    fn cells(&self) -> Vec<String> {
        let lines = |lines: Vec<String>| lines.join("\n");
        vec![
            self.host.clone(),
            self.epoch.to_string(),
            lines(
                self.objects
                    .iter()
                    .map(|o| format!("{} {} {} claims={}", o.kind, o.id, o.state, o.claims.len()))
                    .collect(),
            ),
            lines(
                self.resources
                    .iter()
                    .map(|r| format!("{} fence={}", r.id, r.fence))
                    .collect(),
            ),
            lines(
                self.jobs
                    .iter()
                    .map(|j| format!("{} {}", j.id, j.phase))
                    .collect(),
            ),
        ]
    }
}

impl Row for HostRow {
    const HEADS: &'static [&'static str] = &[
        "NAME",
        "ADDRESS",
        "STATE",
        "EPOCH",
        "VCPUS",
        "MEMORY_MIB",
        "DISK_GIB",
        "LABELS",
    ];

    fn cells(&self) -> Vec<String> {
        let state = match (self.up, self.two_agents) {
            (true, _) => "up",
            (false, false) => "down",
            (false, true) => "down: two agents",
        };
        let cordoned = if self.cordoned { ", cordoned" } else { "" };
        let used_of = |used: i64, offered: i64| format!("{used}/{offered}");
        vec![
            self.name.to_string(),
            self.address.clone(),
            format!("{state}{cordoned}"),
            self.epoch.to_string(),
            used_of(self.used.vcpus, self.offered.vcpus),
            used_of(self.used.memory_mib, self.offered.memory_mib),
            used_of(self.used.disk_gib, self.offered.disk_gib),
            output::pairs(&self.labels),
        ]
    }
}
