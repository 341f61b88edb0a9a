//! What a look finds amiss, and what is asked for of it.

use crate::support::agent::Luck;
use crate::support::common::make;
use crate::support::furnished::{furnished, instance, job, resource};
use crate::support::walk::Walk;
use chrono::Utc;
use rhyzome_model::check::{Amiss, HostInventory, Owner, Stray, Wrong};
use rhyzome_model::ids::{Epoch, HostName, JobId, ResourceId, TenantId};
use rhyzome_model::kinds::Kind;
use rhyzome_model::step::{ObjectKind, Step};
use rhyzome_store::amiss::Noted;
use rhyzome_store::change::Mended;
use rhyzome_store::dispatch::OrderRow;
use rhyzome_store::rows::JobRow;
use std::collections::BTreeMap;

/// An instance, made.
pub(crate) async fn made() -> (Walk, ResourceId, HostName) {
    let mut walk = furnished().await;
    let tenant = walk.tenants[0].clone();
    let create = instance(&walk, &tenant, "x").await;
    walk.dispatch().await;
    walk.settle(Luck::Good).await;
    let id = job(&walk, create).await.resource_id;
    let host = resource(&walk, id).await.host.unwrap();
    (walk, id, host)
}

pub(crate) fn incomplete(host: &HostName, id: ResourceId, disk_lost: bool) -> Amiss {
    Amiss {
        host: host.clone(),
        resource: id,
        kind: Kind::Instance,
        wrong: Wrong::Incomplete { disk_lost },
        asked_at: Utc::now(),
    }
}

/// A guest that runs, with its disk and its claim on a network.
pub(crate) fn stray(host: &HostName, id: ResourceId, owner: Owner, network: ResourceId) -> Amiss {
    Amiss {
        host: host.clone(),
        resource: id,
        kind: Kind::Instance,
        wrong: Wrong::Stray(Stray {
            owner,
            objects: vec![ObjectKind::Instance, ObjectKind::Disk],
            claims: vec![(ObjectKind::Network, network)],
            runs: true,
        }),
        asked_at: Utc::now(),
    }
}

/// A look at these hosts, which found this.
pub(crate) async fn noted(walk: &Walk, hosts: &[&HostName], found: &[Amiss]) -> Noted {
    let asked_at = walk.store.now().await.unwrap();
    let look = |host: &&HostName| HostInventory {
        host: (*host).clone(),
        asked_at,
        objects: Vec::new(),
        epoch: Epoch(1),
        fences: BTreeMap::new(),
        unfinished: Vec::new(),
    };
    let looked: Vec<HostInventory> = hosts.iter().map(look).collect();
    walk.store.amiss_note(&looked, found).await.unwrap()
}

/// It is found by a look, and its repair is asked for.
pub(crate) async fn repair(walk: &Walk, amiss: &Amiss) -> Option<JobRow> {
    let found = Amiss {
        asked_at: Utc::now(),
        ..amiss.clone()
    };
    noted(walk, &[&found.host], std::slice::from_ref(&found)).await;
    let mended = walk.store.accept_repair(&found, &make::origin()).await.unwrap();
    mended.map(|m| m.job.unwrap())
}

pub(crate) async fn delete(walk: &Walk, tenant: &TenantId, id: ResourceId) -> JobId {
    let job = JobId::new();
    let accepted = walk
        .store
        .accept_delete(
            tenant,
            Kind::Instance,
            id,
            None,
            job,
            &["as", "asked"],
            &make::origin(),
        )
        .await;
    accepted.unwrap().unwrap();
    job
}

pub(crate) fn names(order: &OrderRow) -> Vec<String> {
    let name = |s: &String| serde_json::from_str::<Step>(s).unwrap().name().to_owned();
    order.frozen.iter().map(name).collect()
}

pub(crate) fn row(mended: Option<Mended>) -> Option<JobRow> {
    mended.and_then(|m| m.job)
}
