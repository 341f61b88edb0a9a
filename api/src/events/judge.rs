//! What a caller may know of among what changed, and how it is now: as the GETs have it, at the moment when it is sent.
//!
//! A resource that is gone is judged by the tags that it had last, and so are its jobs: who could read it by its tags is told that it
//! went. A resource whose tags were changed so that a caller may no longer read it is not told of from then on.

use super::text::{EventDoc, ObjectDoc, event};
use crate::accept::reply::besides_of;
use crate::auth::Caller;
use crate::problem::Problem;
use crate::shapes::resource::Beside;
use crate::shapes::{Reader, job, resource};
use chrono::Utc;
use rhyzome_model::change::What;
use rhyzome_model::ids::{JobId, ResourceId, TenantId};
use rhyzome_model::kinds::Kind;
use rhyzome_store::Store;
use rhyzome_store::changes::{Position, Remains, Row, Thing};
use rhyzome_store::rows::{JobRow, ResourceRow};
use std::collections::{BTreeMap, HashMap};

/// Who watches.
#[derive(Debug)]
pub(super) struct Watcher<'a> {
    pub(super) store: &'a Store,
    pub(super) caller: &'a Caller,
    pub(super) reader: Reader,
}

/// What changed, as it is now.
#[derive(Default)]
struct Now {
    jobs: HashMap<JobId, JobRow>,
    resources: HashMap<ResourceId, ResourceRow>,
    remains: HashMap<ResourceId, Remains>,
    besides: HashMap<ResourceId, Beside>,
}

impl Watcher<'_> {
    /// The text of some entries of a row, from one on: of those that the caller may know of.
    pub(super) async fn text(&self, row: &Row, from: usize, to: usize) -> Result<String, Problem> {
        let entries = row.entries.get(from..to).unwrap_or_default();
        let now = self.now(entries).await?;
        let mut text = String::new();
        let at = Utc::now();
        for (n, entry) in entries.iter().enumerate() {
            let Some((thing, what)) = entry else {
                tracing::debug!(tenant = %row.tenant, "a change of a later version is told by no stream of this one");
                continue;
            };
            let object = match *thing {
                Thing::Job(id, state) => {
                    let Some(found) = now.jobs.get(&id).filter(|j| self.may_job(&now, j)) else {
                        continue;
                    };
                    ObjectDoc::Job {
                        state: state.shown(),
                        job: job::document(found, self.reader, at),
                    }
                }
                Thing::Resource(kind, id) => {
                    let found = now.resources.get(&id);
                    if !self.may_resource(&now, &row.tenant, kind, id) {
                        continue;
                    }
                    let nothing = Beside::default();
                    let beside = now.besides.get(&id).unwrap_or(&nothing);
                    ObjectDoc::Resource {
                        resource: found
                            .filter(|_| *what != What::Deleted)
                            .map(|r| resource::document(r, beside, self.reader)),
                    }
                }
            };
            let document = EventDoc {
                kind: thing.kind(),
                id: thing.id(),
                tenant: row.tenant.as_str(),
                change: *what,
                changed_at: row.at,
                object,
            };
            event(&mut text, Position::within(row, from + n + 1), &document)
                .map_err(|error| Problem::internal("event", &error))?;
        }
        Ok(text)
    }

    async fn now(&self, entries: &[Option<(Thing, What)>]) -> Result<Now, Problem> {
        let mut now = Now::default();
        let mut jobs = Vec::new();
        let mut resources = Vec::new();
        for (thing, _) in entries.iter().flatten() {
            match *thing {
                Thing::Job(id, _) => jobs.push(id),
                Thing::Resource(_, id) => resources.push(id),
            }
        }
        if !jobs.is_empty() {
            let found = self.store.jobs_readable(&jobs).await?;
            now.jobs = found.into_iter().map(|row| (row.id, row)).collect();
        }
        let limited = now.jobs.values().filter(|row| !self.reads_all(row));
        resources.extend(limited.map(|row| row.resource_id));
        resources.sort_unstable();
        resources.dedup();
        if resources.is_empty() {
            return Ok(now);
        }
        let found = self.store.resources_readable(&resources).await?;
        for &kind in Kind::ALL {
            let of_kind: Vec<&ResourceRow> = found.iter().filter(|r| r.kind == kind).collect();
            now.besides.extend(besides_of(self.store, kind, &of_kind).await?);
        }
        now.resources = found.into_iter().map(|row| (row.id, row)).collect();
        resources.retain(|id| !now.resources.contains_key(id));
        if !resources.is_empty() {
            now.remains = self.store.changes_remains(&resources).await?;
        }
        Ok(now)
    }

    fn reads_all(&self, row: &JobRow) -> bool {
        self.caller.reads_all(row.kind.as_str()) || self.caller.reads_all("job")
    }

    fn own(&self, tenant: &TenantId) -> bool {
        self.caller.is_operator() || *tenant == self.caller.tenant
    }

    fn may_job(&self, now: &Now, row: &JobRow) -> bool {
        self.own(&row.tenant)
            && (self.reads_all(row)
                || self.may_read(row.kind, row.resource_id, now.seen(row.resource_id).tags))
    }

    fn may_resource(&self, now: &Now, tenant: &TenantId, kind: Kind, id: ResourceId) -> bool {
        let seen = now.seen(id);
        (self.own(tenant) || seen.public) && self.may_read(kind, id, seen.tags)
    }

    fn may_read(&self, kind: Kind, id: ResourceId, tags: &BTreeMap<String, String>) -> bool {
        self.caller
            .may(kind.as_str(), "read", Some(&id.to_string()), tags)
    }
}

/// By what a resource is judged.
struct Seen<'a> {
    tags: &'a BTreeMap<String, String>,
    public: bool,
}

static NO_TAGS: BTreeMap<String, String> = BTreeMap::new();

impl Now {
    fn seen(&self, id: ResourceId) -> Seen<'_> {
        match (self.resources.get(&id), self.remains.get(&id)) {
            (Some(row), _) => Seen {
                tags: &row.tags,
                public: row.public,
            },
            (None, Some(remains)) => Seen {
                tags: &remains.tags,
                public: remains.public,
            },
            (None, None) => Seen {
                tags: &NO_TAGS,
                public: false,
            },
        }
    }
}
