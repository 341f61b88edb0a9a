//! `rhyzome admin dead-letters`: read and dropped on NATS, replayed as a retry in the database.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::JobId;
use rhyzome_nats::dead::{self, Letter};
use rhyzome_nats::{Connection, Role};
use rhyzome_proto::job::Order;
use rhyzome_runtime::trace::TraceParent;
use rhyzome_runtime::{Identity, tls};
use rhyzome_store::Store;
use rhyzome_store::accept::{Origin, Refusal};
use rhyzome_store::rows::JobRow;
use serde::Serialize;

use super::{ADMIN_NAME, actor, when};
use crate::args::DeadLettersTask;
use crate::output::{self, Row};
use crate::settings::Settings;

/// How long NATS may take to be reached.
const REACHED_WITHIN: Duration = Duration::from_secs(10);
/// Letters that one list shows.
const MOST: usize = 10_000;

/// Performs one of its tasks.
pub(crate) async fn run(store: &Store, settings: &Settings, task: &DeadLettersTask) -> Result<()> {
    let nats = connect(settings).await?;
    match task {
        DeadLettersTask::List { output } => {
            let letters = dead::list(&nats, 0, MOST).await?;
            let shown: Vec<Shown> = letters.iter().map(Shown::of).collect();
            output::list(&shown, output.output)?;
        }
        DeadLettersTask::Show { sequence, output } => {
            output::one(&Shown::of(&existing(&nats, *sequence).await?), output.output)?;
        }
        DeadLettersTask::Replay { sequence } => {
            let letter = existing(&nats, *sequence).await?;
            let old = job_of(store, &letter).await?;
            let new = retry(store, settings, &old).await?;
            println!("job {} tries job {} again", new.id, old.id);
            dead::remove(&nats, *sequence).await.with_context(|| {
                format!(
                    "job {} is made, but dead letter {sequence} is not dropped: drop it",
                    new.id
                )
            })?;
        }
        DeadLettersTask::Drop { sequence } => {
            existing(&nats, *sequence).await?;
            dead::remove(&nats, *sequence).await?;
            println!("dead letter {sequence} is dropped");
        }
    }
    Ok(())
}

async fn connect(settings: &Settings) -> Result<Connection> {
    let identity = Identity::load(&settings.tls.files(rhyzome_runtime::Role::Admin, ADMIN_NAME)?)
        .with_context(|| {
            format!("the certificate for NATS (`rhyzome pki issue admin {ADMIN_NAME}` makes one)")
        })?;
    let tls = tls::client_config(&identity)?;
    let nats = rhyzome_nats::connect::connect(&settings.nats, Role::Admin, ADMIN_NAME, Some(tls)).await?;
    tokio::time::timeout(REACHED_WITHIN, nats.connected())
        .await
        .with_context(|| {
            format!(
                "NATS at {} can't be reached, or refuses the certificate of the role admin",
                settings.nats.url
            )
        })??;
    Ok(nats)
}

async fn existing(nats: &Connection, sequence: u64) -> Result<Letter> {
    dead::get(nats, sequence)
        .await?
        .with_context(|| format!("there is no dead letter {sequence}"))
}

/// The job of the order that a letter was.
async fn job_of(store: &Store, letter: &Letter) -> Result<JobRow> {
    let sequence = letter.sequence;
    let order = letter
        .order()
        .with_context(|| format!("dead letter {sequence} can't be replayed: no order can be read from it"))?;
    let id = order.job_id()?;
    store.job_get(id).await?.with_context(|| {
        format!("dead letter {sequence} can't be replayed: its job {id} is gone (jobs are kept 30 days after their end)")
    })
}

/// As `POST /v1/jobs/{id}/retry`.
async fn retry(store: &Store, settings: &Settings, old: &JobRow) -> Result<JobRow> {
    let cannot = format!("job {} can't be tried again", old.id);
    let resource = store
        .resource_by_id(old.resource_id)
        .await?
        .with_context(|| format!("{cannot}: the {} is gone", old.kind))?;
    let steps = old.kind.ops().step_names(
        old.action,
        &resource.spec,
        resource.planned_against(old.action)?.as_ref(),
    )?;
    let trace = TraceParent::new();
    let deadline = settings.scheduler.job_deadline.duration().as_secs();
    let origin = Origin {
        actor: actor(),
        trace_id: trace.trace_id(),
        traceparent: trace.to_string(),
        deadline_s: i64::try_from(deadline).unwrap_or(i64::MAX),
    };
    let reply = store
        .accept_retry(&old.tenant, old.id, JobId::new(), &steps, None, &origin)
        .await?;
    match reply {
        Ok(reply) => reply
            .accepted
            .job
            .with_context(|| format!("{cannot}: no job was made")),
        Err(Refusal::NotRetryable { detail }) => bail!("{cannot}: {detail}"),
        Err(Refusal::Deleting { job: Some(job) }) => {
            bail!("{cannot}: the {} is being deleted by job {job}", old.kind)
        }
        Err(Refusal::Deleting { job: None }) => bail!("{cannot}: the {} is being deleted", old.kind),
        Err(other) => bail!("{cannot}: {other:?}"),
    }
}

/// A letter, and the order that it was.
#[derive(Debug, Serialize)]
struct Shown {
    sequence: u64,
    reason: String,
    why: String,
    subject: String,
    at: DateTime<Utc>,
    bytes: usize,
    job: Option<JobId>,
    order: Option<ShownOrder>,
}

#[derive(Debug, Serialize)]
struct ShownOrder {
    tenant: String,
    host: String,
    kind: String,
    action: String,
    mode: String,
    fence: i64,
    attempt: u32,
}

impl Shown {
    fn of(letter: &Letter) -> Self {
        let order = letter.order().ok();
        Self {
            sequence: letter.sequence,
            reason: letter.reason.clone(),
            why: letter.why.clone(),
            subject: letter.subject.clone(),
            at: letter.at,
            bytes: letter.payload.len(),
            job: order.as_ref().and_then(|order| order.job_id().ok()),
            order: order.map(|order: Order| ShownOrder {
                mode: order
                    .model_mode()
                    .map(|mode| mode.to_string())
                    .unwrap_or_default(),
                tenant: order.tenant,
                host: order.host,
                kind: order.resource_kind,
                action: order.action,
                fence: order.fence,
                attempt: order.attempt,
            }),
        }
    }
}

impl Row for Shown {
    const HEADS: &'static [&'static str] = &["SEQ", "REASON", "AT", "JOB", "ORDER", "WHY"];

    fn cells(&self) -> Vec<String> {
        let order = self.order.as_ref();
        vec![
            self.sequence.to_string(),
            self.reason.clone(),
            when(self.at),
            self.job.map(|job| job.to_string()).unwrap_or_default(),
            order.map_or_else(
                || format!("{} ({} bytes)", self.subject, self.bytes),
                |o| {
                    format!(
                        "{}.{} of {} on {}, {}, fence {}, attempt {}",
                        o.kind, o.action, o.tenant, o.host, o.mode, o.fence, o.attempt
                    )
                },
            ),
            self.why.clone(),
        ]
    }
}
