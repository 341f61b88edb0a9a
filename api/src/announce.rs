//! Tells of what was committed: job notices wake schedulers, change notices wake who watches.
//!
//! Nothing here is waited for and everything may be lost: the scan counts, and watchers look at times regardless.

use rhyzome_model::ids::{JobId, ResourceId, TenantId};
use rhyzome_model::job::Action;
use rhyzome_model::kinds::Kind;
use rhyzome_nats::Connection;
use rhyzome_nats::notices::{Change, JobAnnouncer, publish_changes};
use rhyzome_proto::VERSION;
use rhyzome_proto::job::JobNotice;
use rhyzome_runtime::fault::{self, Point, Side};
use rhyzome_runtime::part;
use rhyzome_store::rows::{JobRow, ResourceRow};
use tokio::sync::mpsc;

/// Notices that wait to be sent; beyond that they are dropped.
const QUEUE: usize = 16_384;
/// Sent in one go.
const BATCH: usize = 256;

/// See the module. Without NATS (in tests) it tells nobody.
#[derive(Clone, Debug)]
pub struct Announcer(Option<Channels>);

#[derive(Clone, Debug)]
struct Channels {
    jobs: JobAnnouncer,
    changes: mpsc::Sender<Change>,
}

impl Announcer {
    /// Begins; ends once every clone is dropped.
    pub fn spawn(nats: Option<Connection>) -> Self {
        Self(nats.map(|connection| {
            let (changes, mut waiting) = mpsc::channel(QUEUE);
            let sender = connection.clone();
            part::spawn("change notices", async move {
                let mut batch = Vec::with_capacity(BATCH);
                while waiting.recv_many(&mut batch, BATCH).await > 0 {
                    if let Err(error) = publish_changes(&sender, &batch).await {
                        tracing::warn!(%error, "change notices were not sent");
                    }
                    batch.clear();
                }
            });
            let (jobs, publishing) = JobAnnouncer::new(connection);
            part::spawn("job notices", publishing);
            Channels { jobs, changes }
        }))
    }

    /// A job was accepted.
    pub fn accepted(&self, resource: &ResourceRow, job: Option<&JobRow>) {
        if let Some(job) = job {
            self.wake(&resource.tenant, resource.kind, job.action, job.id);
            self.change(&resource.tenant, "job", job.id.0);
        }
        self.change(&resource.tenant, resource.kind.as_str(), resource.id.0);
    }

    /// A job was cancelled, or is to be undone.
    pub fn cancelled(&self, tenant: &TenantId, kind: Kind, job: JobId, resource: ResourceId) {
        self.wake(tenant, kind, Action::Delete, job);
        self.change(tenant, "job", job.0);
        self.change(tenant, kind.as_str(), resource.0);
    }

    fn wake(&self, tenant: &TenantId, kind: Kind, action: Action, job: JobId) {
        fault::point(Point::WakeUp, Side::Before);
        if let Some(channels) = &self.0 {
            channels.jobs.announce(JobNotice {
                version: VERSION,
                job: job.0.as_bytes().to_vec(),
                tenant: tenant.to_string(),
                resource_kind: kind.to_string(),
                action: action.to_string(),
            });
        }
        fault::point(Point::WakeUp, Side::After);
    }

    fn change(&self, tenant: &TenantId, kind: &str, id: uuid::Uuid) {
        let Some(channels) = &self.0 else { return };
        let change = Change {
            tenant: tenant.clone(),
            kind: kind.to_owned(),
            id,
        };
        if channels.changes.try_send(change).is_err() {
            tracing::debug!("a change notice was dropped: too many wait");
        }
    }
}
