//! The load: networks first, then creates of instances, one at a time or many at once, each seen to its end.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::future::try_join_all;
use http::{HeaderName, Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::args::Args;
use crate::rest::{Connection, all_items};
use crate::scrape::{Metrics, Scraper};
use crate::stack::StackFile;
use crate::usage::{self, Usage};

/// RFC 7240.
const PREFER: HeaderName = HeaderName::from_static("prefer");
const WAIT: &str = "wait=30";
/// The scheduler's count of ends is looked at so often when the end is near: it decides how exactly that is known.
const LOOK_LEAST: Duration = Duration::from_millis(25);
/// And so often before: each look costs the scheduler a millisecond, which counts as its own.
const LOOK_MOST: Duration = Duration::from_secs(1);
/// So long without a job that ends, and REST is asked what they wait for.
const STALLED: Duration = Duration::from_mins(1);
/// So long, and REST is asked whether the count is wrong (a scheduler was started again).
const DOUBTED: Duration = Duration::from_secs(5);
const TELL: Duration = Duration::from_secs(2);
const KIND: (&str, &str) = ("kind", "instance.create");

/// Who asks for instances, and in which networks.
#[derive(Debug)]
pub(crate) struct Load {
    apis: Vec<String>,
    token: String,
    networks: Vec<String>,
    /// Tells the names of this run from those of an earlier one on the same stack.
    run: String,
}

/// One create at a time. Milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Alone {
    /// Request to done, the median.
    pub(crate) p50_ms: f64,
    /// Request to done, the 99th percentile.
    pub(crate) p99_ms: f64,
    /// Accepted until dispatched, the mean, by the job's own times.
    pub(crate) dispatch_ms: f64,
    /// Dispatched until settled, the mean, by the job's own times.
    pub(crate) run_ms: f64,
}

/// Many creates at once.
#[derive(Debug, Clone)]
pub(crate) struct Burst {
    /// How many were accepted, and succeeded.
    pub(crate) creates: u32,
    /// From the first request to the last 202.
    pub(crate) accepted_s: f64,
    /// From the first request until the last job was done.
    pub(crate) done_s: f64,
    /// By role, while the load lasted.
    pub(crate) cpu_s: BTreeMap<String, f64>,
    /// When it was over.
    pub(crate) after: Usage,
    /// Jobs in a transaction of dispatch, the mean.
    pub(crate) dispatch_batch: f64,
    /// Events in a transaction of settle, the mean.
    pub(crate) settle_batch: f64,
}

#[derive(Deserialize)]
struct Accepted {
    job: Identified,
    resource: Identified,
}

#[derive(Deserialize)]
struct Identified {
    id: Uuid,
}

/// An accepted create.
#[derive(Debug, Clone, Copy)]
struct Created {
    job: Uuid,
    instance: Uuid,
}

impl Load {
    /// Makes the networks, and an instance on each, which settles where the network lives.
    pub(crate) async fn prepare(stack: &StackFile, token: String, networks: u32) -> Result<Self> {
        let since_1970 = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .context("the clock")?;
        let run = format!("{:x}", since_1970.as_millis());
        let mut load = Self {
            apis: stack.apis()?,
            token,
            networks: Vec::new(),
            run,
        };
        let mut connection = load.connection(0)?;
        eprintln!("making {networks} networks, and an instance on each");
        for n in 0..networks {
            let name = format!("bench-{}-{n}", load.run);
            let body = json!({ "name": name, "spec": { "cidr": format!("10.{n}.0.0/16") } });
            let network = create(&mut connection, "networks", &body).await?;
            let id = network["resource"]["id"]
                .as_str()
                .context("a network without an id")?;
            load.networks.push(id.to_owned());
        }
        for n in 0..networks {
            create(&mut connection, "instances", &load.instance("first", n)).await?;
        }
        Ok(load)
    }

    fn connection(&self, number: usize) -> Result<Connection> {
        Connection::new(&self.apis[number % self.apis.len()], Some(&self.token))
    }

    fn instance(&self, series: &str, n: u32) -> Value {
        let network = &self.networks[n as usize % self.networks.len()];
        json!({
            "name": format!("{series}-{}-{n}", self.run),
            "spec": { "vcpus": 1, "memory_mib": 128, "image": "tiny", "interfaces": [{ "network": network }] },
        })
    }

    /// Creates one instance after the other.
    pub(crate) async fn alone(&self, count: u32) -> Result<Alone> {
        eprintln!("{count} creates, one at a time");
        let mut connection = self.connection(0)?;
        let (mut took, mut dispatch, mut run) = (Vec::new(), 0.0, 0.0);
        for n in 0..count {
            let body = self.instance("alone", n);
            let began = Instant::now();
            let made = create(&mut connection, "instances", &body).await?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
            let job = &made["job"];
            dispatch += between(job, "created_at", "started_at")?;
            run += between(job, "started_at", "ended_at")?;
        }
        took.sort_by(f64::total_cmp);
        Ok(Alone {
            p50_ms: percentile(&took, 0.50),
            p99_ms: percentile(&took, 0.99),
            dispatch_ms: dispatch / f64::from(count),
            run_ms: run / f64::from(count),
        })
    }

    /// Creates many at once, and waits until all are done. An error where a request isn't accepted, or a job doesn't succeed.
    pub(crate) async fn burst(&self, stack: &StackFile, args: &Args) -> Result<Burst> {
        eprintln!("{} creates, {} at a time", args.creates, args.concurrency);
        let mut scraper = Scraper::of_role(stack, "scheduler")?;
        let metrics_before = scraper.read().await?;
        let mut connections = Vec::new();
        for number in 0..args.concurrency.min(args.creates) as usize {
            let mut connection = self.connection(number)?;
            connection.get("/v1/kinds").await?;
            connections.push(connection);
        }
        let before = usage::sample(stack)?;
        let shared = Shared::default();
        let began = Instant::now();
        let until = args.duration.map(|duration| began + duration);
        let sending = async {
            let senders = connections
                .into_iter()
                .map(|connection| self.send(connection, &shared, args.creates, until));
            try_join_all(senders).await?;
            shared.accepted_after.set(Some(began.elapsed()));
            anyhow::Ok(())
        };
        let mut watcher = Watcher {
            load: self,
            shared: &shared,
            before: &metrics_before,
            began,
        };
        let ((), (done, metrics)) = tokio::try_join!(sending, watcher.until_done(&mut scraper))?;
        let after = usage::sample(stack)?;
        let accepted = shared
            .accepted_after
            .get()
            .context("the load was never accepted")?;
        let created = shared.created.take();
        self.verify(&created).await?;
        Ok(Burst {
            creates: created.len() as u32,
            accepted_s: accepted.as_secs_f64(),
            done_s: done.as_secs_f64(),
            cpu_s: usage::cpu_between(&before, &after),
            after,
            dispatch_batch: mean(&metrics_before, &metrics, "rhyzome_dispatch_batch_size"),
            settle_batch: mean(&metrics_before, &metrics, "rhyzome_settle_batch_size"),
        })
    }

    async fn send(
        &self,
        mut connection: Connection,
        shared: &Shared,
        creates: u32,
        until: Option<Instant>,
    ) -> Result<()> {
        loop {
            let n = shared.next.get();
            if n >= creates || until.is_some_and(|until| Instant::now() >= until) {
                return Ok(());
            }
            shared.next.set(n + 1);
            let body = Bytes::from(self.instance("many", n).to_string());
            let answer = connection.call(Method::POST, "/v1/instances", None, body).await?;
            if answer.status != StatusCode::ACCEPTED {
                bail!(
                    "a create was not accepted: {} {}",
                    answer.status,
                    String::from_utf8_lossy(&answer.body)
                );
            }
            let accepted: Accepted =
                serde_json::from_slice(&answer.body).context("what was answered to a create")?;
            shared.created.borrow_mut().push(Created {
                job: accepted.job.id,
                instance: accepted.resource.id,
            });
        }
    }

    /// Asks REST, not the metrics, whether every job succeeded and every instance runs.
    async fn verify(&self, created: &[Created]) -> Result<()> {
        let mut connection = self.connection(0)?;
        let found = states(&mut connection, "/v1/jobs").await?;
        let wrong: Vec<String> = created
            .iter()
            .filter_map(|one| not_in_state("job", one.job, &found, "succeeded"))
            .collect();
        refuse(&wrong, created.len())?;
        let found = states(&mut connection, "/v1/instances").await?;
        let wrong: Vec<String> = created
            .iter()
            .filter_map(|one| not_in_state("instance", one.instance, &found, "running"))
            .collect();
        refuse(&wrong, created.len())
    }
}

/// What senders and watcher know together; all on one thread.
#[derive(Debug, Default)]
struct Shared {
    next: Cell<u32>,
    created: RefCell<Vec<Created>>,
    accepted_after: Cell<Option<Duration>>,
}

struct Watcher<'a> {
    load: &'a Load,
    shared: &'a Shared,
    before: &'a Metrics,
    began: Instant,
}

impl Watcher<'_> {
    /// When the last job was done, after the beginning; and the metrics of then.
    async fn until_done(&mut self, scraper: &mut Scraper) -> Result<(Duration, Metrics)> {
        let (mut last, mut moved, mut told) = (0.0, Instant::now(), Instant::now());
        let mut look = LOOK_LEAST;
        loop {
            tokio::time::sleep(look).await;
            let metrics = scraper.read().await?;
            let now = Instant::now();
            let ended = |outcome| {
                let labels = [KIND, ("outcome", outcome)];
                metrics.sum("rhyzome_jobs_total", &labels) - self.before.sum("rhyzome_jobs_total", &labels)
            };
            let done = ended("succeeded");
            if ended("failed") + ended("cancelled") > 0.0 {
                bail!("a job did not succeed: {}", self.first_in("failed").await?);
            }
            let accepted = self.shared.created.borrow().len() as f64;
            let all_accepted = self.shared.accepted_after.get().is_some();
            if all_accepted && done >= accepted {
                return Ok((now - self.began, metrics));
            }
            look = if all_accepted {
                next_look((accepted - done) * (now - self.began).as_secs_f64() / done)
            } else {
                LOOK_MOST
            };
            if done > last {
                (last, moved) = (done, now);
            }
            if told.elapsed() >= TELL {
                told = now;
                eprintln!(
                    "  {:5.1} s  {accepted} accepted, {done} done",
                    self.began.elapsed().as_secs_f64()
                );
            }
            if all_accepted && moved.elapsed() >= DOUBTED && self.none_is_open().await? {
                return Ok((moved - self.began, metrics));
            }
            if moved.elapsed() >= STALLED {
                bail!(
                    "{done} of {accepted} jobs are done, and none in {} s: queued {}; running {}; undoing {}",
                    STALLED.as_secs(),
                    self.first_in("queued").await?,
                    self.first_in("running").await?,
                    self.first_in("undoing").await?
                );
            }
        }
    }

    async fn none_is_open(&self) -> Result<bool> {
        for state in ["queued", "running", "undoing"] {
            if self.first_in(state).await? != Value::Null {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn first_in(&self, state: &str) -> Result<Value> {
        let mut connection = self.load.connection(0)?;
        let page = connection.get(&format!("/v1/jobs?state={state}&limit=1")).await?;
        Ok(page["items"][0].clone())
    }
}

/// Creates something and waits until its job succeeded; what was answered then.
async fn create(connection: &mut Connection, kinds: &str, body: &Value) -> Result<Value> {
    let path = format!("/v1/{kinds}");
    let body = Bytes::from(body.to_string());
    let answer = connection
        .call(Method::POST, &path, Some((PREFER, WAIT)), body)
        .await?;
    let made = answer.json(&format!("POST {path}"), StatusCode::ACCEPTED)?;
    if made["job"]["state"] != "succeeded" {
        bail!("POST {path}: the job didn't succeed within 30 s: {}", made["job"]);
    }
    Ok(made)
}

async fn states(connection: &mut Connection, path: &str) -> Result<HashMap<Uuid, String>> {
    let mut found = HashMap::new();
    all_items(connection, path, |item| {
        let (Some(id), Some(state)) = (item["id"].as_str(), item["state"].as_str()) else {
            bail!("an item of {path} without id or state: {item}");
        };
        found.insert(Uuid::parse_str(id).context("an id")?, state.to_owned());
        Ok(())
    })
    .await?;
    Ok(found)
}

fn not_in_state(what: &str, id: Uuid, found: &HashMap<Uuid, String>, wanted: &str) -> Option<String> {
    match found.get(&id).map(String::as_str) {
        Some(state) if state == wanted => None,
        Some(state) => Some(format!("the {what} {id} is {state}, not {wanted}")),
        None => Some(format!("the {what} {id} is in no list")),
    }
}

fn refuse(wrong: &[String], of: usize) -> Result<()> {
    match wrong.first() {
        None => Ok(()),
        Some(first) => bail!(
            "{} of {of} are not as they should be; the first: {first}",
            wrong.len()
        ),
    }
}

/// Milliseconds between two of a job's times.
fn between(job: &Value, from: &str, to: &str) -> Result<f64> {
    let at = |name: &str| -> Result<DateTime<Utc>> {
        let text = job[name]
            .as_str()
            .with_context(|| format!("a job that is done has no {name}: {job}"))?;
        text.parse().with_context(|| format!("{name} of a job"))
    };
    Ok((at(to)? - at(from)?).as_seconds_f64() * 1e3)
}

/// After a part of what the rest will take, in seconds: no number where nothing is done yet.
fn next_look(rest_s: f64) -> Duration {
    Duration::try_from_secs_f64(rest_s / 8.0)
        .unwrap_or(LOOK_MOST)
        .clamp(LOOK_LEAST, LOOK_MOST)
}

/// The nearest rank, of values in ascending order.
fn percentile(ascending: &[f64], part: f64) -> f64 {
    let rank = (part * ascending.len() as f64).ceil() as usize;
    ascending
        .get(rank.clamp(1, ascending.len().max(1)) - 1)
        .copied()
        .unwrap_or(f64::NAN)
}

fn mean(before: &Metrics, after: &Metrics, name: &str) -> f64 {
    let grown = |part: &str| {
        let name = format!("{name}_{part}");
        after.sum(&name, &[]) - before.sum(&name, &[])
    };
    let count = grown("count");
    if count > 0.0 { grown("sum") / count } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(
            (percentile(&values, 0.50), percentile(&values, 0.99)),
            (100.0, 198.0)
        );
        assert_eq!((percentile(&[7.0], 0.99), percentile(&[7.0], 0.5)), (7.0, 7.0));
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_job_that_is_nowhere_or_elsewhere_is_wrong() {
        let (there, failed, nowhere) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
        let found = HashMap::from([(there, "succeeded".to_owned()), (failed, "failed".to_owned())]);
        assert_eq!(not_in_state("job", there, &found, "succeeded"), None);
        assert!(
            not_in_state("job", failed, &found, "succeeded")
                .unwrap()
                .contains("is failed")
        );
        assert!(
            not_in_state("job", nowhere, &found, "succeeded")
                .unwrap()
                .contains("in no list")
        );
        assert!(refuse(&[], 3).is_ok());
        assert!(
            refuse(&["x".to_owned()], 3)
                .unwrap_err()
                .to_string()
                .contains("1 of 3")
        );
    }

    #[test]
    fn times_of_a_job() {
        let job =
            json!({ "created_at": "2026-01-01T00:00:00.000500Z", "started_at": "2026-01-01T00:00:00.002Z" });
        assert!((between(&job, "created_at", "started_at").unwrap() - 1.5).abs() < 1e-9);
        assert!(between(&job, "created_at", "ended_at").is_err());
    }
}
