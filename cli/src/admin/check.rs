//! `rhyzome admin check`: the books against each other, and against what every agent holds.
//!
//! Ends with 0 where nothing is broken, 1 where something is, and 2 where it could not look at all of it; what is broken
//! is said in any case, and so is what it could not look at.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rhyzome_model::check::{HostInventory, RawFence, RawInventory, RawJob, RawObject, Violation};
use rhyzome_runtime::Identity;
use rhyzome_runtime::tls::TlsConfig;
use rhyzome_store::Store;
use rhyzome_store::hosts::HostRow;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::host;
use crate::args::Format;
use crate::output::{self, Row};

/// Agents that are asked at once.
const AT_ONCE: usize = 32;
/// An agent that says nothing for so long can't be reached.
const SILENCE: Duration = Duration::from_secs(30);

/// Something is broken.
const BROKEN: u8 = 1;
/// It could not be looked at all of it.
pub(crate) const NOT_LOOKED: u8 = 2;

#[derive(Debug, Serialize)]
struct Checked {
    violations: Vec<Violation>,
    not_looked: Vec<NotLooked>,
}

/// A host whose agent could not say what it holds.
#[derive(Debug, Serialize)]
struct NotLooked {
    host: String,
    why: String,
}

/// Checks, and says what is broken.
pub(crate) async fn run(store: &Store, tls: &TlsConfig, format: Format) -> Result<ExitCode> {
    let checked = check(store, tls).await?;
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&checked)?),
        Format::Table if checked.violations.is_empty() => println!("nothing is broken"),
        Format::Table => output::list(&checked.violations, format)?,
    }
    for NotLooked { host, why } in &checked.not_looked {
        eprintln!("host {host} was not looked at: {why}");
    }
    Ok(
        match (checked.violations.is_empty(), checked.not_looked.is_empty()) {
            (false, _) => ExitCode::from(BROKEN),
            (true, false) => ExitCode::from(NOT_LOOKED),
            (true, true) => ExitCode::SUCCESS,
        },
    )
}

async fn check(store: &Store, tls: &TlsConfig) -> Result<Checked> {
    let hosts = store.host_list().await.context("reading the hosts")?;
    let (inventories, not_looked) = if hosts.is_empty() {
        (Vec::new(), Vec::new())
    } else {
        ask_all(store, &host::identity(tls)?, hosts).await
    };
    let violations = store.check(&inventories).await.context("checking the books")?;
    Ok(Checked {
        violations,
        not_looked,
    })
}

async fn ask_all(
    store: &Store,
    identity: &Identity,
    hosts: Vec<HostRow>,
) -> (Vec<HostInventory>, Vec<NotLooked>) {
    let free = Arc::new(Semaphore::new(AT_ONCE));
    let mut asked = JoinSet::new();
    for host in hosts {
        let (store, identity, free) = (store.clone(), identity.clone(), Arc::clone(&free));
        asked.spawn(async move {
            // It is never closed.
            let _place = free.acquire_owned().await;
            let answer = tokio::time::timeout(SILENCE, ask(&store, &identity, &host)).await;
            let answer = answer.unwrap_or_else(|_| Err(anyhow::anyhow!("nothing heard for {SILENCE:?}")));
            (host.name.to_string(), answer)
        });
    }
    let mut inventories = Vec::new();
    let mut not_looked = Vec::new();
    for (host, answer) in asked.join_all().await {
        match answer {
            Ok(inventory) => inventories.push(inventory),
            Err(error) => not_looked.push(NotLooked {
                host,
                why: format!("{error:#}"),
            }),
        }
    }
    not_looked.sort_by(|a, b| a.host.cmp(&b.host));
    (inventories, not_looked)
}

async fn ask(store: &Store, identity: &Identity, host: &HostRow) -> Result<HostInventory> {
    let asked_at = store.now().await?;
    let reply = host::ask(identity, host).await?;
    let raw = RawInventory {
        epoch: reply.epoch,
        objects: reply
            .objects
            .into_iter()
            .map(|o| RawObject {
                generation: o.generation,
                kind: o.kind,
                id: o.id,
                claims: o.claims,
                state: o.state,
            })
            .collect(),
        resources: reply
            .resources
            .into_iter()
            .map(|r| RawFence {
                id: r.id,
                fence: r.fence,
            })
            .collect(),
        jobs: reply
            .jobs
            .into_iter()
            .map(|j| RawJob {
                id: j.id,
                phase: j.phase,
            })
            .collect(),
    };
    Ok(raw.read(host.name.clone(), asked_at)?)
}

impl Row for Violation {
    const HEADS: &'static [&'static str] = &["INVARIANT", "CHECK", "IDS", "FOUND", "WHAT TO DO"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.check.invariant().number().to_string(),
            self.check.to_string(),
            self.ids.join("\n"),
            self.found.clone(),
            self.check.remedy().to_owned(),
        ]
    }
}
