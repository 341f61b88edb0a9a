//! What may be lost: control and change notices on core NATS, job notices in the stream `JOBS`, which schedulers take as a wake-up.
//!
//! Whoever hears one re-reads Postgres; whoever hears none looks at times regardless.

use crate::error::{ErrorKind, NatsError};
use crate::{Connection, subjects};
use async_nats::Subscriber;
use bytes::Bytes;
use futures::StreamExt;
use prost::Message;
use rhyzome_model::ids::{JobId, TenantId};
use rhyzome_proto::convert::check_version;
use rhyzome_proto::job::{Control, JobNotice};
use std::collections::{BTreeMap, VecDeque};
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

/// Changes that one message tells of: far below the server's limit of a message's size.
const CHANGES_MAX: usize = 1000;

/// Tells of changes, after the commit; those of one tenant together. An error means that some were not sent.
///
/// The payload is text, a line `KIND ID` each.
pub async fn publish_changes(connection: &Connection, changes: &[Change]) -> Result<(), NatsError> {
    let mut of_tenants: BTreeMap<&TenantId, Vec<&Change>> = BTreeMap::new();
    for change in changes {
        of_tenants.entry(&change.tenant).or_default().push(change);
    }
    for (tenant, changes) in of_tenants {
        for part in changes.chunks(CHANGES_MAX) {
            let mut lines = String::with_capacity(part.len() * 48);
            for change in part {
                lines.push_str(&change.kind);
                lines.push(' ');
                lines.push_str(change.id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
                lines.push('\n');
            }
            connection
                .client()
                .publish(subjects::changes_of(tenant.as_str()), lines.into())
                .await
                .map_err(|e| {
                    ErrorKind::Publish.count();
                    NatsError::refused("change notice", e)
                })?;
        }
    }
    Ok(())
}

fn read_changes<'a>(tenant: &'a str, payload: &'a [u8]) -> impl Iterator<Item = Option<Change>> + 'a {
    payload
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(move |line| {
            let (kind, id) = std::str::from_utf8(line).ok()?.split_once(' ')?;
            Some(Change {
                tenant: tenant.into(),
                kind: kind.to_owned(),
                id: Uuid::parse_str(id).ok()?,
            })
        })
}

/// Hears changes.
#[derive(Debug)]
pub struct Changes {
    messages: Subscriber,
    heard: VecDeque<Change>,
}

impl Changes {
    /// Of all tenants.
    pub async fn of_all(connection: &Connection) -> Result<Self, NatsError> {
        Self::on(connection, subjects::CHANGES.into()).await
    }

    /// Of one tenant.
    pub async fn of(connection: &Connection, tenant: &TenantId) -> Result<Self, NatsError> {
        Self::on(connection, subjects::changes_of(tenant.as_str())).await
    }

    async fn on(connection: &Connection, subject: String) -> Result<Self, NatsError> {
        Ok(Self {
            messages: subscribe(connection, subject).await?,
            heard: VecDeque::new(),
        })
    }

    /// The next; none once the client is closed.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            if let Some(change) = self.heard.pop_front() {
                return Some(change);
            }
            let message = self.messages.next().await?;
            let Some(tenant) = subjects::read_changes_of(&message.subject) else {
                ErrorKind::Broken.count();
                continue;
            };
            for change in read_changes(tenant, &message.payload) {
                match change {
                    Some(change) => self.heard.push_back(change),
                    None => ErrorKind::Broken.count(),
                }
            }
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

/// Publishes job notices in the background. Nobody waits for their acks: losing one only delays its job until the next scan.
#[derive(Clone, Debug)]
pub struct JobAnnouncer(mpsc::Sender<JobNotice>);

impl JobAnnouncer {
    /// One, and what publishes for it until every clone is dropped: to be run in a task of its own.
    pub fn new(connection: Connection) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, mut waiting) = mpsc::channel::<JobNotice>(16_384);
        let publishing = async move {
            while let Some(notice) = waiting.recv().await {
                if let Err(error) = announce(&connection, &notice).await {
                    ErrorKind::Publish.count();
                    tracing::warn!(%error, "a job notice was not sent; the scan will find the job");
                }
            }
        };
        (Self(sender), publishing)
    }

    /// After the commit. Never waits: when thousands wait already, one more can't wake anybody.
    pub fn announce(&self, notice: JobNotice) {
        if self.0.try_send(notice).is_err() {
            ErrorKind::Publish.count();
        }
    }
}

async fn announce(connection: &Connection, notice: &JobNotice) -> Result<(), NatsError> {
    let job = rhyzome_proto::convert::uuid(&notice.job)?;
    connection
        .client()
        .publish(subjects::job(&notice.tenant, job), notice.encode_to_vec().into())
        .await
        .map_err(|e| NatsError::refused("job notice", e))
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
