//! What is to be done with a batch of due jobs: each is decided (`decide`), and placed on the view of the hosts. No transaction and no
//! clock; what it reads beside the batch comes by a trait.

use crate::decide::{Around, Next, ToPlace, decide, held_back, unplannable, wait_for_room, wait_to_grow};
use crate::place::{View, grow};
use chrono::{DateTime, TimeDelta, Utc};
use rhyzome_model::ids::{HostName, ResourceId, TenantId};
use rhyzome_model::kinds::Kind;
use rhyzome_model::place;
use rhyzome_store::dispatch::{Decision, DueJob, NewOrder, RefRow};
use rhyzome_store::hosts::ClusterView;
use rhyzome_store::leases::LeaseView;
use rhyzome_store::{Store, StoreError};
use std::collections::BTreeMap;

/// What is read from Postgres while a batch is decided.
pub trait Reads: Sync {
    /// What placement reads, at one moment.
    fn cluster_view(&self) -> impl Future<Output = Result<ClusterView, StoreError>> + Send;

    /// The hosts of a tenant's resources, by id or name.
    fn hosts_of(
        &self,
        tenant: &TenantId,
        kind: Kind,
        targets: &[String],
    ) -> impl Future<Output = Result<Vec<HostName>, StoreError>> + Send;
}

impl Reads for Store {
    async fn cluster_view(&self) -> Result<ClusterView, StoreError> {
        self.cluster_view().await
    }

    async fn hosts_of(
        &self,
        tenant: &TenantId,
        kind: Kind,
        targets: &[String],
    ) -> Result<Vec<HostName>, StoreError> {
        self.hosts_of(tenant, kind, targets).await
    }
}

/// A batch of due jobs, with all that was read with them.
pub struct Due<'a> {
    /// The jobs, in turn.
    pub jobs: &'a [DueJob],
    /// What their resources refer to, by referrer.
    pub refs: &'a BTreeMap<ResourceId, Vec<RefRow>>,
    /// Their resources' leases, by instance.
    pub leases: &'a BTreeMap<ResourceId, Vec<LeaseView>>,
    /// The database's time.
    pub now: DateTime<Utc>,
    /// `instance.stop_timeout`, seconds.
    pub stop_timeout_s: u32,
    /// How long who waits for room waits at most until it is judged anew.
    pub recheck: TimeDelta,
}

/// Decides all of a batch, each job with regard to what was decided of those before it.
pub async fn decide_all(
    store: &impl Reads,
    view: &mut View,
    batch: &Due<'_>,
) -> Result<Vec<Decision>, StoreError> {
    let mut decisions = Vec::with_capacity(batch.jobs.len());
    let mut refused = Vec::new();
    let mut cramped = Vec::new();
    for job in batch.jobs {
        let around = Around {
            refs: batch.refs.get(&job.resource).map_or(&[], Vec::as_slice),
            leases: batch.leases.get(&job.resource).map_or(&[], Vec::as_slice),
            up: &view.up,
            stop_timeout_s: batch.stop_timeout_s,
            now: batch.now,
        };
        match decide(job, &around) {
            Ok(Next::Decided(decision)) => match *decision {
                Decision::Order(order) if grow(&mut view.cluster, job, &order).is_some() => {
                    cramped.push((job, order));
                }
                decision => decisions.push(decision),
            },
            Ok(Next::Place(mut to_place)) => {
                keep_apart(store, job, batch, &decisions, &mut to_place).await?;
                if let Some(order) = placed(view, &to_place) {
                    decisions.push(Decision::Order(order));
                } else {
                    refused.push((job, *to_place));
                }
            }
            Err(error) => {
                tracing::error!(job = %job.id, %error, "no plan; it ends");
                decisions.push(unplannable(job));
            }
        }
    }
    if !refused.is_empty() || !cramped.is_empty() {
        // Nobody waits because of a view that is older than what was freed since.
        view.read(store).await?;
        for (job, order) in cramped {
            decisions.push(match grow(&mut view.cluster, job, &order) {
                None => Decision::Order(order),
                Some(refusal) => wait_to_grow(job, &refusal, batch.now + batch.recheck, batch.now),
            });
        }
        for (job, mut to_place) in refused {
            // Those before it that were refused, too, may have found room since.
            keep_apart(store, job, batch, &decisions, &mut to_place).await?;
            decisions.push(place_or_wait(view, job, &to_place, batch));
        }
    }
    Ok(decisions)
}

/// Where those are from which it is kept apart: as committed, and as decided just now in the same batch.
async fn keep_apart(
    store: &impl Reads,
    job: &DueJob,
    batch: &Due<'_>,
    decisions: &[Decision],
    to_place: &mut ToPlace,
) -> Result<(), StoreError> {
    if to_place.apart_from.is_empty() {
        return Ok(());
    }
    to_place.request.apart_from = store
        .hosts_of(&job.tenant, job.kind, &to_place.apart_from)
        .await?;
    for decision in decisions {
        let Decision::Order(order) = decision else {
            continue;
        };
        let Some(other) = batch
            .jobs
            .iter()
            .find(|j| j.id == order.job && j.tenant == job.tenant && j.kind == job.kind)
        else {
            continue;
        };
        if to_place
            .apart_from
            .iter()
            .any(|t| *t == other.name || *t == other.resource.to_string())
        {
            to_place.request.apart_from.push(order.host.clone());
        }
    }
    Ok(())
}

fn placed(view: &mut View, to_place: &ToPlace) -> Option<NewOrder> {
    if to_place.refused_until.is_some() {
        return None;
    }
    match view.cluster.place(&to_place.request) {
        place::Verdict::Placed(host) => Some(at(&to_place.order, host)),
        place::Verdict::NoRoom(_) => None,
    }
}

fn at(order: &NewOrder, host: HostName) -> NewOrder {
    NewOrder {
        host,
        ..order.clone()
    }
}

fn place_or_wait(view: &mut View, job: &DueJob, to_place: &ToPlace, batch: &Due<'_>) -> Decision {
    let verdict = match to_place.refused_until {
        Some(_) => view.cluster.judge(&held_back(to_place, &view.up)),
        None => view.cluster.place(&to_place.request),
    };
    match verdict {
        place::Verdict::Placed(host) => Decision::Order(at(&to_place.order, host)),
        place::Verdict::NoRoom(refusal) => {
            for (reason, hosts) in &refusal.excluded {
                metrics::counter!("rhyzome_placement_refusals_total", "reason" => reason.as_str())
                    .increment(u64::from(*hosts));
            }
            let due = match (to_place.refused_until, to_place.lapses) {
                (Some(until), _) => until,
                (None, Some(lapses)) => lapses.min(batch.now + batch.recheck),
                (None, None) => batch.now + batch.recheck,
            };
            wait_for_room(job, &refusal, due, batch.now)
        }
    }
}
