//! Real guests on this machine, beside the simulated hosts: some that run across the whole run, whatever is broken (invariant 13), and others
//! that are cancelled or deleted at any moment of their creation and leave nothing (invariant 6).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use rand::Rng;
use rand::rngs::StdRng;
use reqwest::Method;
use rhyzome_testkit::processes::send;
use rhyzome_testkit::rest::small_instance;
use rhyzome_testkit::{Stack, tools};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use sqlx::{PgPool, Row};

use crate::client::Client;
use crate::journal::Journal;

/// As `rhyzome up` names it.
pub(crate) const HOST: &str = "host-1";
/// Guests that run all the time.
const KEPT: usize = 2;
/// A guest under software emulation on a busy machine needs this long at the very most.
const BOOT: Duration = Duration::from_mins(4);
/// Set, there are none.
const SKIP: &str = "RHYZOME_SKIP_REAL";

/// Why this machine can't have any.
pub(crate) fn why_not() -> Option<&'static str> {
    if std::env::var_os(SKIP).is_some() {
        Some("RHYZOME_SKIP_REAL is set")
    } else if !nix::unistd::Uid::effective().is_root() {
        Some("not root")
    } else if tools::image_dir_if_any().is_none() {
        Some("there is no image tiny.qcow2")
    } else if tools::on_path("qemu-system-x86_64").is_none() {
        Some("there is no qemu-system-x86_64")
    } else {
        None
    }
}

/// See the module.
pub(crate) struct Real {
    /// The host's own label, that simulated ones don't have.
    label: (String, Value),
    /// Where its agent keeps everything.
    objects: PathBuf,
    /// Network of the guests that stay.
    network: String,
    /// Processes of the guests that stay.
    guests: BTreeSet<i32>,
    /// Networks and instances of which nothing may be left.
    gone: Vec<String>,
    names: u32,
}

impl Real {
    /// With guests that run.
    pub(crate) async fn start(
        stack: &Stack,
        db: &PgPool,
        client: &Client,
        journal: &Journal,
    ) -> Result<Self> {
        let mut real = Self {
            label: label(db).await?,
            objects: stack.data().join("agents").join(HOST).join("objects"),
            network: String::new(),
            guests: BTreeSet::new(),
            gone: Vec::new(),
            names: 0,
        };
        let network = real.network(client, journal).await?;
        let mut jobs = Vec::new();
        for _ in 0..KEPT {
            jobs.push(real.guest(client, journal, &network.1).await?.0);
        }
        let until = Instant::now() + BOOT;
        for job in &jobs {
            loop {
                let job = client
                    .ask(&Method::GET, &format!("/v1/jobs/{job}"), None, None)
                    .await?
                    .body;
                if job["state"] == "succeeded" {
                    break;
                }
                if job["done"] == json!(true) || Instant::now() > until {
                    bail!("a real guest didn't start: {job:#}");
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        real.guests = qemu(stack);
        if real.guests.len() != KEPT {
            bail!("{KEPT} real guests should run: {:?}", real.guests);
        }
        real.network = network.1;
        journal.did("real guests started that stay");
        Ok(real)
    }

    async fn ask(
        &mut self,
        client: &Client,
        journal: &Journal,
        kinds: &str,
        spec: Value,
    ) -> Result<(String, String)> {
        self.names += 1;
        let name = format!("real-{}", self.names);
        let body = json!({ "name": name, "spec": spec });
        let answer = client
            .ask(&Method::POST, &format!("/v1/{kinds}"), Some(&body), Some(&name))
            .await?;
        let (Some(job), Some(resource)) = (answer.job(), answer.resource()) else {
            bail!("a create was answered {} {}", answer.status, answer.body);
        };
        journal.accepted(job, "create");
        Ok((job.to_owned(), resource.to_owned()))
    }

    async fn network(&mut self, client: &Client, journal: &Journal) -> Result<(String, String)> {
        self.ask(client, journal, "networks", json!({ "cidr": "10.77.0.0/24" }))
            .await
    }

    async fn guest(&mut self, client: &Client, journal: &Journal, network: &str) -> Result<(String, String)> {
        let mut spec = small_instance(network);
        let (key, value) = self.label.clone();
        spec["placement"] = json!({ "host_labels": { key: value } });
        self.ask(client, journal, "instances", spec).await
    }

    /// A guest that is cancelled or deleted at any moment, with its network.
    pub(crate) async fn churn(
        &mut self,
        client: &Client,
        journal: &Journal,
        dice: &mut StdRng,
    ) -> Result<()> {
        let network = self.network(client, journal).await?.1;
        let (job, guest) = self.guest(client, journal, &network).await?;
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..6000))).await;
        if dice.random_bool(0.5) {
            let path = format!("/v1/jobs/{job}/cancel");
            let answer = client.ask(&Method::POST, &path, None, None).await?;
            journal.did(&format!("cancelled a real guest: {}", answer.status));
            tokio::time::sleep(Duration::from_millis(dice.random_range(0..1500))).await;
        }
        for (kinds, id) in [("instances", &guest), ("networks", &network)] {
            self.delete(client, journal, &format!("/v1/{kinds}/{id}")).await?;
        }
        self.gone.extend([network, guest]);
        Ok(())
    }

    /// Until nothing stands in its way.
    async fn delete(&self, client: &Client, journal: &Journal, path: &str) -> Result<()> {
        let until = Instant::now() + BOOT;
        loop {
            let answer = client.ask(&Method::DELETE, path, None, None).await?;
            match answer.status {
                202 => {
                    if let Some(job) = answer.job() {
                        journal.accepted(job, "delete");
                    }
                    journal.did("deleted of a real guest");
                    return Ok(());
                }
                404 => return Ok(()),
                // The instance on the network is still there.
                409 if Instant::now() < until => tokio::time::sleep(Duration::from_millis(200)).await,
                status => bail!("DELETE {path} was answered {status} {}", answer.body),
            }
        }
    }

    /// At rest the very same guests run, and of the others nothing is left.
    pub(crate) fn check(&mut self, stack: &Stack, journal: &Journal) -> Result<()> {
        let now = qemu(stack);
        for gone in self.guests.difference(&now) {
            journal.broken(13, &format!("the guest with process {gone} doesn't run any more"));
        }
        for more in now.difference(&self.guests) {
            journal.broken(6, &format!("the guest with process {more} should not run"));
        }
        let owner = self.owner()?;
        if !namespace(&owner, &self.network).exists() {
            journal.broken(13, "the namespace of the guests that stay is gone");
        }
        for id in self.gone.drain(..) {
            let mut left = named(&self.objects, &id)?;
            left.push(namespace(&owner, &id));
            left.push(Path::new("/sys/class/net").join(format!("rzv{}", short(&owner, &id))));
            for path in left.iter().filter(|path| path.exists()) {
                journal.broken(6, &format!("{} is left of what was deleted", path.display()));
            }
        }
        Ok(())
    }

    /// What the agent's names on the machine are made from (agent/src/objects/names.rs).
    fn owner(&self) -> Result<String> {
        let text = std::fs::read_to_string(self.objects.join("identity.json"))
            .context("reading the host's identity")?;
        let id: String = serde_json::from_str(&text).context("reading the host's identity")?;
        Ok(format!("{id}/{HOST}"))
    }

    /// The host restarts: the agent stands still, all that runs on the host is gone, and then the agent is gone, too.
    pub(crate) fn restart_host(&mut self, stack: &Stack) -> Result<()> {
        let agents = stack.processes("agent");
        let agent = agents
            .iter()
            .find(|agent| agent.name == HOST)
            .context("no local agent")?;
        send(agent.pid, Signal::SIGSTOP);
        for process in stack.marked() {
            if is_of_guests(&process.command) {
                send(process.pid, Signal::SIGKILL);
            }
        }
        let file = namespace(&self.owner()?, &self.network);
        let name = file.file_name().context("a namespace has a name")?;
        let status = Command::new("ip").args(["netns", "delete"]).arg(name).status()?;
        if !status.success() {
            bail!("ip netns delete {}: {status}", file.display());
        }
        send(agent.pid, Signal::SIGKILL);
        self.guests.clear();
        Ok(())
    }

    /// Waits until the guests that should run do again, with other processes.
    pub(crate) async fn back(&mut self, stack: &Stack) -> Result<()> {
        let until = Instant::now() + BOOT;
        loop {
            let now = qemu(stack);
            if now.len() == KEPT {
                self.guests = now;
                return Ok(());
            }
            if Instant::now() > until {
                bail!(
                    "{BOOT:?} after its restart {} of {KEPT} guests run on the host",
                    now.len()
                );
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// One that the real host has by itself, and simulated ones haven't.
async fn label(db: &PgPool) -> Result<(String, Value)> {
    let until = Instant::now() + Duration::from_mins(1);
    loop {
        let row = sqlx::query("SELECT labels FROM hosts WHERE name = $1 AND watch_up")
            .bind(HOST)
            .fetch_optional(db)
            .await?;
        if let Some(row) = row {
            let labels: Value = row.try_get(0)?;
            let labels = labels.as_object().cloned().unwrap_or_default();
            return labels.into_iter().next().context("the real host has no label");
        }
        if Instant::now() > until {
            bail!("the real host isn't heard");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn qemu(stack: &Stack) -> BTreeSet<i32> {
    let guests = stack.marked().into_iter();
    guests
        .filter(|process| {
            let program = process.command.split(' ').next().unwrap_or_default();
            program.contains("qemu-system")
        })
        .map(|process| process.pid)
        .collect()
}

fn is_of_guests(command: &str) -> bool {
    ["qemu-system", "dnsmasq"]
        .iter()
        .any(|program| command.contains(program))
}

/// The first 12 hex digits of the agent's hash of an id.
fn short(owner: &str, id: &str) -> String {
    let digest = digest(&SHA256, format!("{owner}/{id}").as_bytes());
    let hex: Vec<String> = digest
        .as_ref()
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    hex.concat()
}

/// The file that stands for a network's namespace.
fn namespace(owner: &str, network: &str) -> PathBuf {
    Path::new("/run/netns").join(format!("rz-{}", short(owner, network)))
}

/// Every file and folder whose name holds an id.
fn named(folder: &Path, id: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)
            .with_context(|| format!("reading {}", folder.display()))?
            .flatten()
        {
            if entry.file_name().to_string_lossy().contains(id) {
                found.push(entry.path());
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    Ok(found)
}
