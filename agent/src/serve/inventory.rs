//! What is held, as on the wire.

use super::service::Offered;
use crate::apply::{Books, Engine};
use crate::driver::{Capacity, GuestSeen, Held, Load, StepError};
use rhyzome_model::ids::{Fence, HostName, JobId};
use rhyzome_proto::agent::{
    self, Heartbeat, HeldFence, HeldJob, HeldObject, HostCapacity, HostHello, Inventory,
};

/// All of a host, in order: what didn't change is told the same each time.
///
/// # Errors
/// The driver can't tell.
pub async fn inventory(engine: &Engine, host: &HostName) -> Result<Inventory, StepError> {
    let at_ms = engine.now_ms();
    let (books, held) = engine.inventory(host).await?;
    let mut resources: Vec<HeldFence> = books
        .fences
        .iter()
        .map(|(id, fence)| HeldFence {
            id: id.to_string(),
            fence: fence.0,
        })
        .collect();
    resources.sort_by(|a, b| a.id.cmp(&b.id));
    let job = |(id, phase): &(JobId, &str)| HeldJob {
        id: id.to_string(),
        phase: (*phase).to_owned(),
    };
    let mut jobs: Vec<HeldJob> = books.jobs.iter().map(job).collect();
    jobs.sort_by(|a, b| a.id.cmp(&b.id));
    let mut objects: Vec<HeldObject> = held.into_iter().map(object).collect();
    objects.sort_by(|a, b| (&a.kind, &a.id).cmp(&(&b.kind, &b.id)));
    Ok(Inventory {
        host: host.to_string(),
        epoch: books.epoch.0,
        objects,
        resources,
        jobs,
        at_ms,
    })
}

fn object(held: Held) -> HeldObject {
    HeldObject {
        kind: held.kind.as_str().to_owned(),
        id: held.id.to_string(),
        state: held.state,
        claims: held.claims.iter().map(ToString::to_string).collect(),
        generation: held.generation,
        facts: held.facts.into_iter().collect(),
    }
}

/// First on a watch.
pub fn hello(host: &HostName, books: &Books) -> HostHello {
    HostHello {
        host: host.to_string(),
        ledger_id: books.ledger_id.to_string(),
        epoch: books.epoch.0,
        max_fence: books.max_fence.0,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// What a host has.
pub(super) fn capacity(capacity: &Capacity, offered: &Offered) -> HostCapacity {
    HostCapacity {
        vcpus: offered.vcpus.unwrap_or(capacity.vcpus),
        memory_mib: offered.memory_mib.unwrap_or(capacity.memory_mib),
        disk_gib: offered.disk_gib.unwrap_or(capacity.disk_gib),
        labels: capacity.labels.clone().into_iter().collect(),
        driver: capacity.driver.clone(),
        accelerator: capacity.accelerator.clone(),
        networking: capacity.networking.clone(),
        vcpu_overcommit: offered.vcpu_overcommit,
    }
}

/// How busy a host is.
pub(super) fn heartbeat(load: &Load, at_ms: i64) -> Heartbeat {
    Heartbeat {
        at_ms,
        load1: load.load1,
        memory_used_mib: load.memory_used_mib,
        disk_used_gib: load.disk_used_gib,
        guests_running: load.guests_running,
    }
}

/// A guest's power.
pub(super) fn guest(seen: &GuestSeen, fence: Option<Fence>) -> agent::GuestSeen {
    agent::GuestSeen {
        instance: rhyzome_proto::convert::bytes(seen.instance.0),
        power: seen.power.as_str().to_owned(),
        at_ms: seen.at.timestamp_millis(),
        detail: seen.detail.clone(),
        metrics: seen.metrics.clone().into_iter().collect(),
        fence: fence.map_or(0, |fence| fence.0),
    }
}
