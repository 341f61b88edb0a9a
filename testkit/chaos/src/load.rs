//! The load: actors that make, change, start, stop, cancel and delete networks and instances of their own, each with its own dice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::client::{Answer, Client};
use crate::journal::Journal;
use crate::run::SIMULATED;

/// What an actor has at most.
const INSTANCES: usize = 8;
const NETWORKS: usize = 3;

/// One who asks.
struct Actor {
    client: Client,
    journal: Arc<Journal>,
    dice: StdRng,
    prefix: String,
    count: u32,
    networks: Vec<String>,
    instances: Vec<String>,
    jobs: Vec<String>,
}

/// Starts actors; they end when `stop` is set.
pub(crate) fn start(
    clients: &[Client],
    each: u32,
    seed: u64,
    round: u32,
    journal: &Arc<Journal>,
    stop: &Arc<AtomicBool>,
) -> Vec<JoinHandle<Result<()>>> {
    let mut tasks = Vec::new();
    for (t, client) in clients.iter().enumerate() {
        for n in 0..each {
            let number = u64::from(round) * 1000 + t as u64 * 100 + u64::from(n);
            let actor = Actor {
                client: client.clone(),
                journal: Arc::clone(journal),
                dice: StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                prefix: format!("r{round}-a{n}"),
                count: 0,
                networks: Vec::new(),
                instances: Vec::new(),
                jobs: Vec::new(),
            };
            tasks.push(tokio::spawn(actor.run(Arc::clone(stop))));
        }
    }
    tasks
}

impl Actor {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.act().await?;
            let pause = self.dice.random_range(20..250);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        // Most of it goes again, so that later rounds have room.
        for instance in std::mem::take(&mut self.instances) {
            if self.dice.random_bool(0.95) {
                self.change(
                    "delete",
                    &Method::DELETE,
                    &format!("/v1/instances/{instance}"),
                    None,
                )
                .await?;
            }
        }
        for network in std::mem::take(&mut self.networks) {
            let path = format!("/v1/networks/{network}");
            let answer = self.client.ask(&Method::DELETE, &path, None, None).await?;
            // 409: an instance is on it, or was not gone yet.
            self.note("delete network", &answer, &[202, 404, 409]);
        }
        Ok(())
    }

    async fn act(&mut self) -> Result<()> {
        if self.networks.is_empty() {
            return self.network().await;
        }
        match self.dice.random_range(0..100) {
            0..35 if self.instances.len() < INSTANCES => self.instance().await,
            35..40 if self.networks.len() < NETWORKS => self.network().await,
            40..55 => self.patch().await,
            55..63 => self.power("stop").await,
            63..71 => self.power("start").await,
            71..83 => self.cancel().await,
            83..96 => self.delete().await,
            96..98 => self.delete_network().await,
            _ => Ok(()),
        }
    }

    fn name(&mut self) -> String {
        self.count += 1;
        format!("{}-{}", self.prefix, self.count)
    }

    fn pick(&mut self, instances: usize) -> usize {
        self.dice.random_range(0..instances)
    }

    async fn network(&mut self) -> Result<()> {
        let body = json!({ "name": self.name(), "spec": { "cidr": "10.20.0.0/24" } });
        if let Some(id) = self.create("networks", &body).await? {
            self.networks.push(id);
        }
        Ok(())
    }

    async fn instance(&mut self) -> Result<()> {
        let n = self.pick(self.networks.len());
        let memory = 128 * self.dice.random_range(1..4);
        let power = if self.dice.random_bool(0.8) { "on" } else { "off" };
        let spec = json!({ "vcpus": 1, "memory_mib": memory, "image": "tiny", "power": power,
                           "placement": { "host_labels": { "test": SIMULATED } }, "interfaces": [{ "network": self.networks[n] }] });
        let body = json!({ "name": self.name(), "spec": spec });
        if let Some(id) = self.create("instances", &body).await? {
            self.instances.push(id);
        }
        Ok(())
    }

    /// A create is asked for with a key, and now and then again: the same job, or with another body a refusal.
    async fn create(&mut self, kinds: &str, body: &Value) -> Result<Option<String>> {
        let path = format!("/v1/{kinds}");
        let key = format!(
            "{}-{}",
            self.client.tenant,
            body["name"].as_str().unwrap_or_default()
        );
        let answer = self
            .client
            .ask(&Method::POST, &path, Some(body), Some(&key))
            .await?;
        self.note(&format!("create {kinds}"), &answer, &[202, 422]);
        if answer.status != 202 {
            return Ok(None);
        }
        if self.dice.random_bool(0.15) {
            let again = self
                .client
                .ask(&Method::POST, &path, Some(body), Some(&key))
                .await?;
            if again.job() != answer.job() {
                self.journal.broken(
                    2,
                    &format!("the key {key} replayed: {} {}", again.status, again.body),
                );
            }
            let mut other = body.clone();
            other["tags"] = json!({ "other": "body" });
            let refused = self
                .client
                .ask(&Method::POST, &path, Some(&other), Some(&key))
                .await?;
            if refused.status != 422 {
                self.journal
                    .broken(2, &format!("the key {key} with another body: {}", refused.status));
            }
            self.journal.did("idempotency keys replayed");
        }
        Ok(answer.resource().map(str::to_owned))
    }

    async fn patch(&mut self) -> Result<()> {
        if self.instances.is_empty() {
            return Ok(());
        }
        let n = self.pick(self.instances.len());
        let body = json!({ "spec": { "memory_mib": 128 * self.dice.random_range(1..6) } });
        let path = format!("/v1/instances/{}", self.instances[n]);
        self.change("patch", &Method::PATCH, &path, Some(&body)).await
    }

    async fn power(&mut self, action: &str) -> Result<()> {
        if self.instances.is_empty() {
            return Ok(());
        }
        let n = self.pick(self.instances.len());
        let path = format!("/v1/instances/{}/{action}", self.instances[n]);
        self.change(action, &Method::POST, &path, None).await
    }

    async fn cancel(&mut self) -> Result<()> {
        let Some(job) = self.jobs.pop() else { return Ok(()) };
        self.change("cancel", &Method::POST, &format!("/v1/jobs/{job}/cancel"), None)
            .await
    }

    async fn delete(&mut self) -> Result<()> {
        if self.instances.is_empty() {
            return Ok(());
        }
        let n = self.pick(self.instances.len());
        let instance = self.instances.swap_remove(n);
        self.change(
            "delete",
            &Method::DELETE,
            &format!("/v1/instances/{instance}"),
            None,
        )
        .await
    }

    async fn delete_network(&mut self) -> Result<()> {
        let n = self.pick(self.networks.len());
        let path = format!("/v1/networks/{}", self.networks[n]);
        let answer = self.client.ask(&Method::DELETE, &path, None, None).await?;
        self.note("delete network", &answer, &[202, 404, 409]);
        if answer.status != 409 {
            self.networks.swap_remove(n);
        }
        Ok(())
    }

    async fn change(&mut self, what: &str, method: &Method, path: &str, body: Option<&Value>) -> Result<()> {
        let key = (*method == Method::POST).then(|| uuid::Uuid::new_v4().to_string());
        let answer = self.client.ask(method, path, body, key.as_deref()).await?;
        // Gone: where an answer was lost, the delete had been accepted before.
        let wanted: &[u16] = if answer.lost > 0 || what == "delete" {
            &[200, 202, 404, 409, 412, 422]
        } else {
            &[200, 202, 409, 422]
        };
        self.note(what, &answer, wanted);
        Ok(())
    }

    fn note(&mut self, what: &str, answer: &Answer, wanted: &[u16]) {
        self.journal.answered(what, answer.status);
        if !wanted.contains(&answer.status) {
            let text = format!("{what} was answered {} {}", answer.status, answer.body);
            self.journal.broken(0, &text);
        }
        if answer.status != 202 && answer.code() == "INTERNAL" {
            self.journal.broken(0, &format!("{what}: {}", answer.body));
        }
        if answer.status == 202
            && let Some(job) = answer.job()
        {
            self.journal.accepted(job, what);
            if what != "cancel" {
                self.jobs.push(job.to_owned());
            }
        }
    }
}
