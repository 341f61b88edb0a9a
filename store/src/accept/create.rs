//! Creates, batched: one transaction for as many as came together, each with a verdict of its own.
//!
//! What guarantees hold: after the commit there is a resource, its references, its leases and exactly one job for each accepted
//! request, and nothing at all for a refused one. Names, addresses and keys are judged by constraints; the judgements that
//! need a read are made under a lock on what was read (references `FOR SHARE`, a network's addresses by its cursor row).
//! No request is refused because of a neighbour that is refused itself: what such a one held is judged once more without it.

use super::allocate::allocate;
use super::insert::{accepted, insert_resources, insert_rest};
use super::quota;
use super::references::resolve_references;
use super::types::{Accepted, AcceptedNow, CreateRequest, IdempotencyKey, Refusal, Reply};
use crate::changes::{self, Change};
use crate::quotas::asks;
use crate::rows::json;
use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::change::What;
use rhyzome_model::ids::{ResourceId, TenantId};
use rhyzome_model::job::JobState;
use rhyzome_model::kinds::Demand;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// How often a batch that met another's transaction is tried before the error is the caller's.
const TRIES: usize = 5;

/// A transaction that waits for no lock longer than a second.
const BEGIN_SHORT: &str = "BEGIN; SET LOCAL lock_timeout = '1s'";

type Answer = Result<Reply, Refusal>;

/// How long a lock is waited for.
#[derive(Clone, Copy, Debug)]
enum Patience {
    /// As long as the session does.
    Whole,
    /// A second.
    Short,
}

pub(super) struct LeaseRow {
    pub(super) network: ResourceId,
    pub(super) ip: Ipv4Addr,
    pub(super) mac: String,
    pub(super) hostname: Option<String>,
    pub(super) instance: Option<ResourceId>,
    pub(super) position: i32,
}

/// One request on its way through the batch.
pub(super) struct Entry {
    pub(super) request: CreateRequest,
    pub(super) refusal: Option<Refusal>,
    pub(super) spec: Value,
    pub(super) refs: Vec<(String, ResourceId)>,
    pub(super) state: JobState,
    pub(super) leases: Vec<LeaseRow>,
    /// It counts against its tenant's quotas.
    pub(super) counted: bool,
}

impl Entry {
    fn of(request: CreateRequest) -> Self {
        Self {
            spec: request.spec.clone(),
            request,
            refusal: None,
            refs: Vec::new(),
            state: JobState::Queued,
            leases: Vec::new(),
            counted: false,
        }
    }

    /// What it asks for.
    pub(super) fn asks(&self) -> Result<Demand, StoreError> {
        asks(self.request.kind, &self.spec, None)
    }
}

/// What one try of a batch came to.
enum Try {
    /// Committed.
    Done(Vec<(ResourceId, Answer)>),
    /// A key was taken by a request that committed meanwhile: the next try reads its reply.
    KeyTaken,
    /// Nothing was written: others were refused because of these, which are refused themselves; without them once more.
    Without(Vec<(ResourceId, Answer)>),
}

impl Store {
    /// Accepts creates in one transaction. The answers stand in the order of the requests.
    ///
    /// Requests of one call must not share an idempotency key: the caller keeps a second one back until the first is answered.
    pub async fn accept_creates(
        &self,
        requests: &[CreateRequest],
    ) -> Result<Vec<Result<Reply, Refusal>>, StoreError> {
        self.accept(requests, Patience::Whole).await
    }

    /// The same, but no lock is waited for longer than a second: [`StoreError::Held`], and nothing is written, where one of these needs a
    /// row that somebody holds.
    pub async fn accept_creates_soon(
        &self,
        requests: &[CreateRequest],
    ) -> Result<Vec<Result<Reply, Refusal>>, StoreError> {
        self.accept(requests, Patience::Short).await
    }

    async fn accept(
        &self,
        requests: &[CreateRequest],
        patience: Patience,
    ) -> Result<Vec<Result<Reply, Refusal>>, StoreError> {
        let mut answers: BTreeMap<ResourceId, Answer> = BTreeMap::new();
        let mut tries = 0;
        self.earlier_replies(requests, &mut answers).await?;
        loop {
            let left = requests
                .iter()
                .filter(|r| !answers.contains_key(&r.id))
                .cloned()
                .collect();
            match self.accept_once(left, patience).await {
                Ok(Try::Done(all)) => {
                    answers.extend(all);
                    break;
                }
                Ok(Try::Without(refused)) => answers.extend(refused),
                Ok(Try::KeyTaken) if tries < TRIES => {
                    tries += 1;
                    self.earlier_replies(requests, &mut answers).await?;
                }
                Ok(Try::KeyTaken) => return Err(StoreError::row("idempotency", "a key stays in conflict")),
                Err(StoreError::Conflict(_)) if tries < TRIES => tries += 1,
                Err(e) => return Err(e),
            }
        }
        // The same request, sent twice, may have been refused because of itself: then its first answer counts.
        let refused: Vec<CreateRequest> = requests
            .iter()
            .filter(|r| answers.get(&r.id).is_some_and(Result::is_err))
            .cloned()
            .collect();
        self.earlier_replies(&refused, &mut answers).await?;
        requests
            .iter()
            .map(|r| {
                answers.remove(&r.id).ok_or_else(|| {
                    StoreError::row("resources", "a request was lost on its way through the batch")
                })
            })
            .collect()
    }

    async fn accept_once(&self, requests: Vec<CreateRequest>, patience: Patience) -> Result<Try, StoreError> {
        let mut entries: Vec<Entry> = requests.into_iter().map(Entry::of).collect();
        if entries.is_empty() {
            return Ok(Try::Done(Vec::new()));
        }
        let mut tx = match patience {
            Patience::Whole => self.pool.begin().await?,
            Patience::Short => self.pool.begin_with(BEGIN_SHORT).await?,
        };
        resolve_references(&mut tx, &mut entries).await?;
        allocate(&mut tx, &mut entries).await?;
        quota::judge(&mut tx, &mut entries).await?;
        let now = insert_resources(&mut tx, &mut entries).await?;
        let in_the_way = in_the_way(&entries);
        if !in_the_way.is_empty() {
            tx.rollback().await?;
            entries.retain(|e| in_the_way.contains(&e.request.id));
            return answers_of(entries, now).map(Try::Without);
        }
        if let Some(now) = now
            && !insert_rest(&mut tx, &entries, now).await?
        {
            tx.rollback().await?;
            return Ok(Try::KeyTaken);
        }
        changes::write(&mut tx, entries.iter().flat_map(created).collect()).await?;
        tx.commit().await?;
        answers_of(entries, now).map(Try::Done)
    }

    /// What a create would be answered, with everything judged and nothing written.
    pub async fn check_create(
        &self,
        request: CreateRequest,
    ) -> Result<Result<Accepted, Refusal>, StoreError> {
        let mut entries = vec![Entry::of(CreateRequest {
            idempotency: None,
            ..request
        })];
        let mut tx = self.pool.begin().await?;
        resolve_references(&mut tx, &mut entries).await?;
        allocate(&mut tx, &mut entries).await?;
        quota::judge(&mut tx, &mut entries).await?;
        let now = insert_resources(&mut tx, &mut entries).await?;
        if let Some(now) = now {
            insert_rest(&mut tx, &entries, now).await?;
        }
        tx.rollback().await?;
        let (_, answer) = answers_of(entries, now)?
            .pop()
            .ok_or_else(|| StoreError::row("resources", "a request was lost on its way"))?;
        Ok(answer.map(|reply| reply.accepted))
    }

    /// Puts in the replies that were given to the same keys before.
    async fn earlier_replies(
        &self,
        requests: &[CreateRequest],
        answers: &mut BTreeMap<ResourceId, Answer>,
    ) -> Result<(), StoreError> {
        let keyed: Vec<(&CreateRequest, &IdempotencyKey)> = requests
            .iter()
            .filter_map(|r| Some((r, r.idempotency.as_ref()?)))
            .collect();
        if keyed.is_empty() {
            return Ok(());
        }
        let numbers: Vec<i32> = (0..).take(keyed.len()).collect();
        let tenants: Vec<String> = keyed.iter().map(|k| k.0.tenant.to_string()).collect();
        let methods: Vec<String> = keyed.iter().map(|k| k.1.method.clone()).collect();
        let paths: Vec<String> = keyed.iter().map(|k| k.1.path.clone()).collect();
        let keys: Vec<String> = keyed.iter().map(|k| k.1.key.clone()).collect();
        let rows = sqlx::query!(
            r#"SELECT q.n AS "n!", i.body_hash, i.reply
               FROM unnest($1::int4[], $2::text[], $3::text[], $4::text[], $5::text[]) AS q(n, tenant, method, path, key)
               JOIN idempotency i ON i.tenant = q.tenant AND i.method = q.method AND i.path = q.path AND i.key = q.key"#,
            &numbers,
            &tenants,
            &methods,
            &paths,
            &keys
        )
        .fetch_all(&self.pool)
        .await?;
        for row in rows {
            let Some((request, key)) = usize::try_from(row.n).ok().and_then(|n| keyed.get(n)) else {
                continue;
            };
            answers.insert(request.id, earlier(&row.body_hash, row.reply, key)?);
        }
        Ok(())
    }

    /// The reply that was given to a key, or the refusal of another body under it.
    pub async fn idempotency_find(
        &self,
        tenant: &TenantId,
        key: &IdempotencyKey,
    ) -> Result<Option<Result<Reply, Refusal>>, StoreError> {
        let row = sqlx::query!(
            "SELECT body_hash, reply FROM idempotency WHERE tenant = $1 AND method = $2 AND path = $3 AND key = $4",
            tenant.as_str(),
            key.method,
            key.path,
            key.key
        )
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| earlier(&row.body_hash, row.reply, key)).transpose()
    }
}

/// What those who watch are told of an accepted request.
fn created(entry: &Entry) -> Vec<Change> {
    let request = &entry.request;
    if entry.refusal.is_some() {
        return Vec::new();
    }
    vec![
        Change::job(&request.tenant, request.job, entry.state, What::Created),
        Change::resource(&request.tenant, request.kind, request.id, What::Created),
    ]
}

fn earlier(body_hash: &[u8], reply: Value, key: &IdempotencyKey) -> Result<Answer, StoreError> {
    if body_hash != key.body_hash {
        return Ok(Err(Refusal::KeyReused));
    }
    Ok(Ok(Reply {
        accepted: json("idempotency", reply)?,
        now: AcceptedNow::Earlier,
    }))
}

/// What each is answered, that was written then.
fn answers_of(
    entries: Vec<Entry>,
    now: Option<DateTime<Utc>>,
) -> Result<Vec<(ResourceId, Answer)>, StoreError> {
    let answer = |mut entry: Entry| {
        let answer = match (entry.refusal.take(), now) {
            (Some(refusal), _) => Err(refusal),
            (None, Some(now)) => Ok(Reply {
                accepted: accepted(&entry, now),
                now: AcceptedNow::Now,
            }),
            (None, None) => {
                return Err(StoreError::row(
                    "resources",
                    "a request was neither refused nor written",
                ));
            }
        };
        Ok((entry.request.id, answer))
    };
    entries.into_iter().map(answer).collect()
}

/// Refused requests because of which others were refused, and which these others must be judged without.
fn in_the_way(entries: &[Entry]) -> BTreeSet<ResourceId> {
    let refused: BTreeSet<ResourceId> = entries
        .iter()
        .filter(|e| e.refusal.is_some())
        .map(|e| e.request.id)
        .collect();
    let mut holders = BTreeSet::new();
    for entry in entries {
        match &entry.refusal {
            Some(
                Refusal::NameTaken { holder }
                | Refusal::AddressTaken {
                    holder: Some(holder), ..
                },
            ) => {
                holders.extend(refused.get(holder));
            }
            // Addresses that refused neighbours were given.
            Some(Refusal::RangeUsedUp { .. }) => {
                let others = entries
                    .iter()
                    .filter(|e| e.request.id != entry.request.id && e.refusal.is_some());
                holders.extend(
                    others
                        .filter(|e| takes_of_the_same(e, entry))
                        .map(|e| e.request.id),
                );
            }
            // What refused neighbours counted as.
            Some(Refusal::QuotaExceeded { .. }) => {
                let others = entries
                    .iter()
                    .filter(|e| e.counted && e.refusal.is_some() && e.request.tenant == entry.request.tenant);
                holders.extend(others.map(|e| e.request.id));
            }
            Some(_) | None => {}
        }
    }
    // Who is refused because of one of these isn't in the way for good: it is judged again with the others.
    let innocent = |entry: &&Entry| match &entry.refusal {
        Some(
            Refusal::NameTaken { holder }
            | Refusal::AddressTaken {
                holder: Some(holder), ..
            },
        ) => refused.contains(holder),
        Some(Refusal::RangeUsedUp { .. }) => entry.leases.iter().all(|l| l.instance.is_none()),
        Some(_) | None => false,
    };
    for entry in entries.iter().filter(innocent) {
        holders.remove(&entry.request.id);
    }
    holders
}

/// Whether one has an address of a network that the other wants one of, or named or was given one before it was refused.
fn takes_of_the_same(holder: &Entry, other: &Entry) -> bool {
    let wanted = |network: &str| other.request.leases.iter().any(|w| w.network == network);
    let given = |l: &LeaseRow| l.instance.is_some() && wanted(&l.network.to_string());
    let found_none = matches!(holder.refusal, Some(Refusal::RangeUsedUp { .. }));
    holder.leases.iter().any(given)
        || (!found_none && holder.request.leases.iter().any(|l| wanted(&l.network)))
}

pub(super) fn open(entries: &mut [Entry]) -> impl Iterator<Item = &mut Entry> {
    entries.iter_mut().filter(|e| e.refusal.is_none())
}
