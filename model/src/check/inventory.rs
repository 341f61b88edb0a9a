//! What hosts hold against what Postgres says. Pure: inventories and what was read of Postgres in, violations out.
//!
//! What is legitimately in motion must not be reported. The way: look at Postgres' clock, ask the agents, then read Postgres, in one
//! snapshot. A resource *moved* since an inventory was asked for if a job is open on it in that snapshot, or if one ended since then
//! (jobs are kept when they have ended, and say when). A job that was open at any moment between the two is the one or the other, so
//! what has neither stood still from before the host looked until Postgres was read: its fence is the same at both ends, and no job
//! was open on it. Only that is compared. An end is written after the agent's word, so that an effect is never later than the end that
//! is read; and an inventory that is old only lets more resources count as moved.
//!
//! Two things hold in motion too, because fences only rise and ends are final: a fence in a ledger is at most what Postgres has
//! drawn when it is read later, and a job of a ledger is a committed one.

use super::compare::{ByHost, OneHost};
use super::{Answered, Check, Violation};
use crate::ids::{Epoch, Fence, HostName, JobId, ResourceId};
use crate::kinds::Kind;
use crate::step::ObjectKind;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

/// What a host's agent said that it holds.
#[derive(Clone, Debug)]
pub struct HostInventory {
    /// The host.
    pub host: HostName,
    /// By the database's clock, before the agent was asked.
    pub asked_at: DateTime<Utc>,
    /// The host's epoch, as its agent knew it; 0 where it didn't say.
    pub epoch: Epoch,
    /// What is there.
    pub objects: Vec<HeldObject>,
    /// The highest fence of each resource.
    pub fences: BTreeMap<ResourceId, Fence>,
    /// Jobs that the ledger has begun and not finished.
    pub unfinished: Vec<Unfinished>,
}

/// An object on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldObject {
    /// What it is.
    pub kind: ObjectKind,
    /// The resource that it is for, or the shared object's own id.
    pub id: ResourceId,
    /// Claiming resources, of a shared object.
    pub claims: BTreeSet<ResourceId>,
    /// A guest that runs.
    pub runs: bool,
    /// How much of it is there.
    pub part: Part,
}

/// How much of an object is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All.
    Whole,
    /// What a user may have written to it, but not what the host knew of it.
    Content,
    /// Less: a disk or an image without its file, an instance without its definition.
    Rest,
}

/// A job that a ledger has not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The job.
    pub job: JobId,
}

/// An inventory as agents write it: ids and kinds are texts still.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RawInventory {
    /// The host's.
    #[serde(default)]
    pub epoch: i64,
    /// What is there.
    pub objects: Vec<RawObject>,
    /// The highest fence of each resource.
    pub resources: Vec<RawFence>,
    /// Jobs that the ledger knows.
    pub jobs: Vec<RawJob>,
}

/// See [`RawInventory`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RawObject {
    /// `network`, `image`, `disk`, `instance`.
    pub kind: String,
    /// UUID text.
    pub id: String,
    /// UUID texts.
    pub claims: Vec<String>,
    /// `running`, `stopped`, `crashed`, `unknown` of an instance; of what else there is `ready`, `unknown`, and `unrecorded` of a disk's
    /// file of which its host has no record.
    #[serde(default)]
    pub state: String,
    /// Of its content; 0 of an instance without a definition, or without what belongs to that: its seed, and whether it shall run.
    #[serde(default)]
    pub generation: i64,
}

impl RawObject {
    /// A network that isn't up is made so by its agent, and a guest of which nothing can be told is there.
    fn part(&self, kind: ObjectKind) -> Part {
        match (kind, self.state.as_str()) {
            (ObjectKind::Disk, "unrecorded") => Part::Content,
            (ObjectKind::Disk | ObjectKind::Image, "unknown") => Part::Rest,
            (ObjectKind::Instance, _) if self.generation == 0 => Part::Rest,
            (ObjectKind::Network | ObjectKind::Disk | ObjectKind::Image | ObjectKind::Instance, _) => {
                Part::Whole
            }
        }
    }
}

/// See [`RawInventory`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RawFence {
    /// UUID text.
    pub id: String,
    /// The highest that was accepted.
    pub fence: i64,
}

/// See [`RawInventory`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RawJob {
    /// UUID text.
    pub id: String,
    /// `forward`, `undoing`, `finished`.
    pub phase: String,
}

/// What an agent says that can't be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InventoryError {
    /// An id that is none.
    #[error("its inventory has the id {0:?}, which is no UUID")]
    Id(String),
    /// Of a newer agent.
    #[error("its inventory has an object of the kind {0:?}, which this program doesn't know")]
    Kind(String),
}

impl RawInventory {
    /// Understands it.
    pub fn read(self, host: HostName, asked_at: DateTime<Utc>) -> Result<HostInventory, InventoryError> {
        fn id<I: FromStr>(text: &str) -> Result<I, InventoryError> {
            text.parse().map_err(|_| InventoryError::Id(text.to_owned()))
        }
        let object = |o: &RawObject| {
            let kind = ObjectKind::parse(&o.kind).ok_or_else(|| InventoryError::Kind(o.kind.clone()))?;
            Ok(HeldObject {
                kind,
                id: id(&o.id)?,
                claims: o.claims.iter().map(|c| id(c)).collect::<Result<_, _>>()?,
                runs: o.state == "running",
                part: o.part(kind),
            })
        };
        Ok(HostInventory {
            host,
            asked_at,
            epoch: Epoch(self.epoch),
            objects: self.objects.iter().map(object).collect::<Result<_, _>>()?,
            fences: self
                .resources
                .iter()
                .map(|r| Ok((id(&r.id)?, Fence(r.fence))))
                .collect::<Result<_, _>>()?,
            unfinished: self
                .jobs
                .iter()
                .filter(|j| j.phase != "finished")
                .map(|j| id(&j.id).map(|job| Unfinished { job }))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// What Postgres says, in one snapshot after the inventories.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The last fence that was drawn.
    pub last_fence: Fence,
    /// Every resource.
    pub resources: BTreeMap<ResourceId, KnownResource>,
    /// Resources on which a job is open or ended lately.
    pub moved: BTreeMap<ResourceId, Moved>,
    /// Hosts on which a job is open or ended lately.
    pub hosts_moved: BTreeMap<HostName, Moved>,
    /// The jobs that ledgers have not finished, as far as they are there.
    pub jobs: BTreeMap<JobId, KnownJob>,
    /// The answers by which resources' newest orders ended.
    pub answered: BTreeMap<ResourceId, Answered>,
}

/// A resource, as Postgres has it.
#[derive(Clone, Debug)]
pub struct KnownResource {
    /// What.
    pub kind: Kind,
    /// Where it lives.
    pub host: Option<HostName>,
    /// It was made.
    pub applied: bool,
    /// It was turned off, as applied.
    pub off: bool,
    /// Of its newest order.
    pub fence: Fence,
    /// What it refers to.
    pub refs: BTreeMap<ResourceId, Kind>,
    /// What its row is.
    pub row: RowOf,
}

/// What a row among the resources is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOf {
    /// A resource.
    Resource,
    /// A resource that may not be as it was applied, whatever shows: its host was put back to an older copy of itself, or a repair of it
    /// came to nothing, and it was not made so again since.
    InDoubt,
    /// None: it stands in for what a host holds of nobody.
    StandIn,
}

impl KnownResource {
    /// Whether it is a resource, and nothing that stands in for one.
    pub fn is_resource(&self) -> bool {
        match self.row {
            RowOf::Resource | RowOf::InDoubt => true,
            RowOf::StandIn => false,
        }
    }
}

/// When something moved last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// It moves now: a job is open, or one that was abandoned may have left something.
    Open,
    /// The last job ended then.
    Ended(DateTime<Utc>),
}

/// A job of a ledger, as Postgres has it.
#[derive(Clone, Copy, Debug)]
pub struct KnownJob {
    /// When it ended. None while it is open, and where it was abandoned: its ledger need not finish it.
    pub ended_at: Option<DateTime<Utc>>,
}

impl Known {
    /// Whether a resource stood still since then.
    pub fn is_still(&self, resource: ResourceId, since: DateTime<Utc>) -> bool {
        stood(self.moved.get(&resource), since)
    }

    /// Whether nothing was done on a host since then.
    pub fn is_quiet(&self, host: &HostName, since: DateTime<Utc>) -> bool {
        stood(self.hosts_moved.get(host), since)
    }
}

fn stood(moved: Option<&Moved>, since: DateTime<Utc>) -> bool {
    match moved {
        None => true,
        Some(Moved::Open) => false,
        Some(Moved::Ended(at)) => *at < since,
    }
}

/// Compares.
pub fn compare(inventories: &[HostInventory], known: &Known) -> Vec<Violation> {
    let mut found = Vec::new();
    let by_host = ByHost::new(known);
    for inventory in inventories {
        fences(inventory, known, &mut found);
        jobs(inventory, known, &mut found);
        let of_host = OneHost::new(inventory, known, &by_host).compare();
        found.extend(of_host.iter().map(|finding| finding.violation(&inventory.host)));
    }
    found.sort();
    found
}

fn fences(inventory: &HostInventory, known: &Known, found: &mut Vec<Violation>) {
    for (resource, fence) in &inventory.fences {
        let ids = || [inventory.host.to_string(), resource.to_string()];
        let host = &inventory.host;
        if *fence > known.last_fence {
            let text = format!(
                "host {host} accepted fence {} for {resource}, and the last that was drawn is {}",
                fence.0, known.last_fence.0
            );
            found.push(Violation::of_all(Check::FenceAhead, ids(), text));
        } else if let Some(is) = known
            .resources
            .get(resource)
            .filter(|r| r.is_resource() && r.fence < *fence)
        {
            let text = format!(
                "host {host} accepted fence {} for {resource}, whose newest order has {}",
                fence.0, is.fence.0
            );
            found.push(Violation::of_all(Check::JobFence, ids(), text));
        }
    }
}

fn jobs(inventory: &HostInventory, known: &Known, found: &mut Vec<Violation>) {
    let host = &inventory.host;
    for Unfinished { job } in &inventory.unfinished {
        let ids = [host.to_string(), job.to_string()];
        match known.jobs.get(job) {
            None => {
                let text = format!("host {host} works on job {job}, which nobody committed");
                found.push(Violation::of_all(Check::LedgerPhantom, ids, text));
            }
            Some(KnownJob { ended_at: Some(at) }) if *at < inventory.asked_at => {
                let text = format!("host {host} has not finished job {job}, which ended at {at}");
                found.push(Violation::of_all(Check::LedgerUnfinished, ids, text));
            }
            Some(KnownJob {
                ended_at: Some(_) | None,
            }) => {}
        }
    }
}
