//! Scenarios that bring about one exact moment, without other load.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use reqwest::Method;
use rhyzome_runtime::fault::{Point, Side};
use rhyzome_testkit::faults::{Fault, FaultError};
use rhyzome_testkit::processes::send;
use rhyzome_testkit::rest::small_instance_on;
use serde_json::{Value, json};

use crate::client::Client;
use crate::control::Hit;
use crate::run::{Run, SIMULATED};

/// How long one thing may take to come about.
const SOON: Duration = Duration::from_mins(2);
/// A change of `faults.toml` is in force by then: it is looked at four times a second.
const IN_FORCE: Duration = Duration::from_secs(1);

pub(super) struct Asked {
    pub(super) job: String,
    pub(super) resource: String,
}

fn name(what: &str) -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("{what}-{}", &id[..10])
}

pub(super) async fn create(run: &Run, kinds: &str, spec: Value) -> Result<Asked> {
    let body = json!({ "name": name("exact"), "spec": spec });
    let client = &run.clients[0];
    let answer = client
        .ask(
            &Method::POST,
            &format!("/v1/{kinds}"),
            Some(&body),
            Some(&name("key")),
        )
        .await?;
    let (Some(job), Some(resource)) = (answer.job(), answer.resource()) else {
        bail!("a create was answered {} {}", answer.status, answer.body);
    };
    run.journal.accepted(job, "create");
    Ok(Asked {
        job: job.to_owned(),
        resource: resource.to_owned(),
    })
}

pub(super) async fn network(run: &Run) -> Result<String> {
    let network = create(run, "networks", json!({ "cidr": "10.20.0.0/24" })).await?;
    done(&run.clients[0], &network.job).await?;
    Ok(network.resource)
}

pub(super) async fn instance(run: &Run, network: &str) -> Result<Asked> {
    create(run, "instances", small_instance_on(network, SIMULATED)).await
}

/// Waits until a job satisfies `is`.
pub(super) async fn job_until(
    client: &Client,
    id: &str,
    what: &str,
    is: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let until = Instant::now() + SOON;
    loop {
        let job = client
            .ask(&Method::GET, &format!("/v1/jobs/{id}"), None, None)
            .await?
            .body;
        if is(&job) {
            return Ok(job);
        }
        if Instant::now() > until {
            bail!("waited {SOON:?} in vain for {what}: {job:#}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(super) async fn done(client: &Client, id: &str) -> Result<Value> {
    job_until(client, id, "the job to end", |job| job["done"] == json!(true)).await
}

pub(super) async fn cancel(run: &Run, job: &str) -> Result<()> {
    let answer = run.clients[0]
        .ask(&Method::POST, &format!("/v1/jobs/{job}/cancel"), None, None)
        .await?;
    if ![202, 409].contains(&answer.status) {
        bail!("a cancel was answered {} {}", answer.status, answer.body);
    }
    Ok(())
}

pub(super) async fn until(what: &str, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + SOON;
    while !is()? {
        if Instant::now() > until {
            bail!("waited {SOON:?} in vain for {what}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Which worker stopped at its point, as a process id.
pub(super) fn stopped(run: &Run, before: usize) -> Option<i32> {
    run.points.hits().get(before).map(|hit| hit.pid)
}

pub(super) async fn late_worker(run: &mut Run) -> Result<()> {
    let network = network(run).await?;
    let before = run.points.hits().len();
    run.points
        .arm(&[(Point::StepCall, Side::Before, 1, 1.0, Hit::Stop)])?;
    let asked = instance(run, &network).await?;
    until("a worker to stop with the order in its hands", || {
        Ok(stopped(run, before).is_some())
    })
    .await?;
    let pid = stopped(run, before).context("no worker stopped")?;
    cancel(run, &asked.job).await?;
    let job = done(&run.clients[0], &asked.job).await?;
    if job["state"] != "cancelled" {
        bail!("the job should be cancelled: {job:#}");
    }
    // The agent hears a floor above both fences, and prunes the job.
    let stack = run.stack.clone();
    until("the agent to forget the job", || {
        let known = stack.inventories();
        Ok(!known
            .values()
            .any(|of_host| of_host.jobs.iter().any(|job| job.id == asked.job)))
    })
    .await?;
    send(pid, Signal::SIGCONT);
    run.journal.did("a worker was late by an undo");
    // What it does now, it does at once.
    tokio::time::sleep(Duration::from_secs(4)).await;
    Ok(())
}

pub(super) async fn settle_crash(run: &mut Run) -> Result<()> {
    let network = network(run).await?;
    for _ in 0..3 {
        let hits = run.points.hits().len();
        run.points
            .arm(&[(Point::SettleCommit, Side::Before, 1, 1.0, Hit::Abort)])?;
        let asked = instance(run, &network).await?;
        done(&run.clients[0], &asked.job).await?;
        if run.points.hits().len() == hits {
            bail!("no scheduler aborted");
        }
        run.journal.did("a scheduler aborted before it settled");
    }
    // The event was not acked, so that it came again: nobody had reason to think that the order was lost.
    let folder = run.stack.file().log_dir;
    for entry in std::fs::read_dir(&folder)?.flatten() {
        let text = String::from_utf8_lossy(&std::fs::read(entry.path())?).into_owned();
        if let Some(line) = text
            .lines()
            .find(|line| line.contains("are not in the stream; published again"))
        {
            let what = format!("an order whose outcome had been reported was taken for lost: {line}");
            // Others before it may have had reason to: only this scenario alone says it for sure.
            if run.is_first() {
                run.journal.broken(9, &what);
            }
        }
    }
    Ok(())
}

pub(super) async fn permanent(run: &mut Run) -> Result<()> {
    let network = network(run).await?;
    run.stack
        .faults()
        .set(&[Fault::at("set_power").error(FaultError::Permanent)]);
    tokio::time::sleep(IN_FORCE).await;
    let asked = instance(run, &network).await?;
    let job = done(&run.clients[0], &asked.job).await?;
    if job["state"] != "failed" {
        bail!("the job should have failed: {job:#}");
    }
    run.journal.did("a create failed for good");
    Ok(())
}

pub(super) async fn suspended(run: &mut Run) -> Result<()> {
    let network = network(run).await?;
    run.stack
        .faults()
        .set(&[Fault::at("set_power").error(FaultError::Unavailable).times(8)]);
    tokio::time::sleep(IN_FORCE).await;
    let asked = instance(run, &network).await?;
    let job = done(&run.clients[0], &asked.job).await?;
    if job["state"] != "succeeded" || job["attempt"].as_i64() < Some(2) {
        bail!("the job should have succeeded after a re-attempt: {job:#}");
    }
    run.journal.did("a create was suspended");
    Ok(())
}

pub(super) async fn refused_twice(run: &mut Run) -> Result<()> {
    let network = network(run).await?;
    // The first keeps the network where it is, and the host's floor below what comes after.
    run.stack
        .faults()
        .set(&[Fault::at("set_power").error(FaultError::Unavailable)]);
    tokio::time::sleep(IN_FORCE).await;
    let first = instance(run, &network).await?;
    job_until(&run.clients[0], &first.job, "a re-attempt", |job| {
        job["attempt"].as_i64() > Some(1)
    })
    .await?;
    run.stack.faults().set(&[
        Fault::at("set_power").error(FaultError::Unavailable),
        Fault::at("ensure_instance").error(FaultError::NoRoom),
    ]);
    tokio::time::sleep(IN_FORCE).await;
    let second = instance(run, &network).await?;
    job_until(&run.clients[0], &second.job, "two refusals", |job| {
        job["attempt"].as_i64() > Some(2)
    })
    .await?;
    cancel(run, &second.job).await?;
    done(&run.clients[0], &second.job).await?;
    run.journal.did("a create was refused twice by one host");
    run.stack.faults().clear();
    done(&run.clients[0], &first.job).await?;
    Ok(())
}

/// A scheduler stands still in the middle of a transaction, with rows locked that all need; it goes on only when all is done without it.
pub(super) async fn frozen(run: &mut Run) -> Result<()> {
    let network = network(run).await?;
    for point in [Point::DispatchCommit, Point::SettleCommit] {
        let hits = run.points.hits().len();
        run.points.arm(&[(point, Side::Before, 1, 1.0, Hit::Stop)])?;
        let first = instance(run, &network).await?;
        until("a scheduler to stop in its transaction", || {
            Ok(stopped(run, hits).is_some())
        })
        .await?;
        let pid = stopped(run, hits).context("no scheduler stopped")?;
        let second = instance(run, &network).await?;
        done(&run.clients[0], &first.job).await?;
        done(&run.clients[0], &second.job).await?;
        send(pid, Signal::SIGCONT);
        run.journal
            .did(&format!("a scheduler stood still before its {}", point.as_str()));
    }
    Ok(())
}

pub(super) async fn unpublished(run: &mut Run) -> Result<()> {
    let network = network(run).await?;
    run.points
        .arm(&[(Point::OrderPublish, Side::Before, 1, 1.0, Hit::Abort)])?;
    let hits = run.points.hits().len();
    instance(run, &network).await?;
    until("a scheduler to abort", || Ok(run.points.hits().len() > hits)).await?;
    run.journal.did("a scheduler aborted before it published");
    Ok(())
}
