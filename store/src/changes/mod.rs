//! What changed, for those who watch: written with the change itself, read in the order in which it became final.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `write` | one statement at the end of each transaction that changes what a user sees |
//! | `lines` | the entries of a row as text |
//! | `read` | pages after a position; what is forgotten |
//!
//! Guarantees: a change that committed has exactly one entry, one that did not has none; who reads on from a position sees every entry
//! after it once, in one order that is the same for all; who was too late is told.
//!
//! What a user sees and no entry tells: what follows from the time alone (`waiting_on` of a job that nobody has looked at for a
//! moment, and its `until`), a guest's metrics, and that a job was forgotten.

mod lines;
mod read;
mod write;

pub use read::{Gone, Heads, NoPosition, Page, Position, Remains, Row, Whose};
pub(crate) use write::write;

use crate::rows::{JobRow, ResourceRow};
use crate::settle::{Effect, End};
use rhyzome_model::change::What;
use rhyzome_model::ids::{JobId, ResourceId, TenantId};
use rhyzome_model::job::JobState;
use rhyzome_model::kinds::Kind;
use uuid::Uuid;

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thing {
    /// A job, and the state that it was left in.
    Job(JobId, JobState),
    /// A resource.
    Resource(Kind, ResourceId),
}

impl Thing {
    /// `job`, or the resource's kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Job(..) => "job",
            Self::Resource(kind, _) => kind.as_str(),
        }
    }

    /// Its id.
    pub fn id(&self) -> Uuid {
        match self {
            Self::Job(id, _) => id.0,
            Self::Resource(_, id) => id.0,
        }
    }
}

/// A change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub tenant: TenantId,
    /// What.
    pub thing: Thing,
    /// How.
    pub what: What,
}

impl Change {
    /// A job, as it was left.
    pub fn job(tenant: &TenantId, id: JobId, state: JobState, what: What) -> Self {
        Self {
            tenant: tenant.clone(),
            thing: Thing::Job(id, state),
            what,
        }
    }

    /// A resource.
    pub fn resource(tenant: &TenantId, kind: Kind, id: ResourceId, what: What) -> Self {
        Self {
            tenant: tenant.clone(),
            thing: Thing::Resource(kind, id),
            what,
        }
    }
}

/// Of a change of intent: the resource, and the job that makes it so.
pub(crate) fn accepted(resource: &ResourceRow, job: Option<&JobRow>) -> Vec<Change> {
    job.map(|job| Change::job(&job.tenant, job.id, job.state, What::Created))
        .into_iter()
        .chain([Change::resource(
            &resource.tenant,
            resource.kind,
            resource.id,
            What::Updated,
        )])
        .collect()
}

/// Of ends: the jobs, and what became of their resources.
pub(crate) fn ended(ends: &[End]) -> impl Iterator<Item = Change> + '_ {
    ends.iter().flat_map(|end| {
        let what = match end.effect {
            Effect::Removed => What::Deleted,
            Effect::Applied { .. }
            | Effect::NotMade { .. }
            | Effect::LeftBehind { .. }
            | Effect::NotChanged { .. } => What::Updated,
        };
        [
            Change::job(&end.tenant, end.job, end.state, What::Updated),
            Change::resource(&end.tenant, end.kind, end.resource, what),
        ]
    })
}
