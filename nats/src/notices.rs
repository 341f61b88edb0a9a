//! What may be lost: control and change notices on core NATS, job notices in the stream `JOBS`, which schedulers take as a wake-up.
//!
//! Whoever hears one re-reads Postgres; whoever hears none looks at times regardless.

use crate::error::{ErrorKind, NatsError};
use crate::publish::Outgoing;
use crate::{Connection, subjects};
use async_nats::Subscriber;
use bytes::Bytes;
use futures::StreamExt;
use prost::Message;
use rhyzome_model::ids::{JobId, TenantId};
use rhyzome_proto::convert::check_version;
use rhyzome_proto::job::{Control, JobNotice};
use tokio::sync::mpsc;
use uuid::Uuid;

/// Something of a tenant changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// Whose.
    pub tenant: TenantId,
    /// A resource's kind, or `job`.
    pub kind: String,
    /// Its id.
    pub id: Uuid,
}

/// Tells of changes, after the commit. An error means that some were not sent.
pub async fn publish_changes(connection: &Connection, changes: &[Change]) -> Result<(), NatsError> {
    for change in changes {
        let subject = subjects::change(change.tenant.as_str(), &change.kind, change.id);
        connection
            .client()
            .publish(subject, Bytes::new())
            .await
            .map_err(|e| {
                ErrorKind::Publish.count();
                NatsError::refused("change notice", e)
            })?;
    }
    Ok(())
}

/// Hears changes.
#[derive(Debug)]
pub struct Changes(Subscriber);

impl Changes {
    /// Of all tenants.
    pub async fn of_all(connection: &Connection) -> Result<Self, NatsError> {
        subscribe(connection, subjects::CHANGES.into()).await.map(Self)
    }

    /// Of one tenant.
    pub async fn of(connection: &Connection, tenant: &TenantId) -> Result<Self, NatsError> {
        subscribe(connection, subjects::changes_of(tenant.as_str()))
            .await
            .map(Self)
    }

    /// The next; none once the client is closed.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            let message = self.0.next().await?;
            if let Some((tenant, kind, id)) = subjects::read_change(&message.subject) {
                return Some(Change {
                    tenant: tenant.into(),
                    kind: kind.to_owned(),
                    id,
                });
            }
            ErrorKind::Broken.count();
        }
    }
}

/// Tells running workers that a job is to be undone now.
pub async fn publish_control(connection: &Connection, control: &Control) -> Result<(), NatsError> {
    connection
        .client()
        .publish(subjects::CONTROL, control.encode_to_vec().into())
        .await
        .map_err(|e| {
            ErrorKind::Publish.count();
            NatsError::refused("control notice", e)
        })
}

/// Hears control notices.
#[derive(Debug)]
pub struct Controls(Subscriber);

impl Controls {
    /// Subscribes.
    pub async fn new(connection: &Connection) -> Result<Self, NatsError> {
        subscribe(connection, subjects::CONTROL.into()).await.map(Self)
    }

    /// The next that can be read, as job and notice; none once the client is closed.
    pub async fn next(&mut self) -> Option<(JobId, Control)> {
        loop {
            let message = self.0.next().await?;
            if let Some(read) = read_control(&message.payload) {
                return Some(read);
            }
            ErrorKind::Broken.count();
        }
    }
}

fn read_control(payload: &Bytes) -> Option<(JobId, Control)> {
    let control = Control::decode(payload.clone()).ok()?;
    check_version(control.version).ok()?;
    let job = rhyzome_proto::convert::uuid(&control.job).ok()?;
    Some((JobId(job), control))
}

/// The message of a job notice; the id is the job's.
pub fn job_message(notice: &JobNotice) -> Result<Outgoing, NatsError> {
    let job = rhyzome_proto::convert::uuid(&notice.job)?;
    Ok(Outgoing::new(
        subjects::job(&notice.tenant, job),
        job.to_string(),
        notice.encode_to_vec(),
    ))
}

/// Publishes job notices in the background, in natural batches. Losing one only delays its job until the next scan.
#[derive(Clone, Debug)]
pub struct JobAnnouncer(mpsc::Sender<JobNotice>);

impl JobAnnouncer {
    /// Begins; ends once every clone is dropped.
    pub fn spawn(connection: Connection) -> Self {
        let (sender, mut waiting) = mpsc::channel::<JobNotice>(16_384);
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while waiting.recv_many(&mut batch, crate::publish::IN_FLIGHT).await > 0 {
                let messages = batch.drain(..).filter_map(|n| job_message(&n).ok()).collect();
                let failed = connection
                    .publish_all(messages)
                    .await
                    .into_iter()
                    .filter_map(Result::err)
                    .next_back();
                if let Some(error) = failed {
                    tracing::warn!(%error, "job notices were not stored; the scan will find the jobs");
                }
            }
        });
        Self(sender)
    }

    /// After the commit. Never waits: when thousands wait already, one more can't wake anybody.
    pub fn announce(&self, notice: JobNotice) {
        if self.0.try_send(notice).is_err() {
            ErrorKind::Publish.count();
        }
    }
}

/// Hears that there are new jobs.
#[derive(Debug)]
pub struct JobWakeups(Subscriber);

impl JobWakeups {
    /// Subscribes.
    pub async fn new(connection: &Connection) -> Result<Self, NatsError> {
        subscribe(connection, subjects::JOBS.into()).await.map(Self)
    }

    /// Waits until there is one, and takes all that have come: how many. None once the client is closed.
    pub async fn next(&mut self) -> Option<usize> {
        self.0.next().await?;
        let mut heard = 1;
        while let Some(Some(_)) = futures::FutureExt::now_or_never(self.0.next()) {
            heard += 1;
        }
        Some(heard)
    }
}

async fn subscribe(connection: &Connection, subject: String) -> Result<Subscriber, NatsError> {
    let doing = format!("subscribe to {subject}");
    connection
        .client()
        .subscribe(subject)
        .await
        .map_err(|e| NatsError::refused(doing, e))
}
