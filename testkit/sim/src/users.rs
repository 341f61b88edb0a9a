//! What users ask for, and what breaks around them: hosts that can't be reached, storage that goes.

use crate::books::{Ask, NOBODYS, Origin, Refused};
use crate::lock;
use crate::rig::short;
use crate::sim::Sim;
use chrono::TimeDelta;
use rhyzome_model::ids::{JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState};
use rhyzome_model::kinds::Kind;
use serde_json::{Value, json};
use std::sync::Arc;

/// All that users of all tenants ask for in a schedule.
pub(crate) async fn ask(sim: Arc<Sim>, tenants: Vec<TenantId>) {
    for tenant in &tenants {
        create(&sim, tenant, Kind::Network);
        create(&sim, tenant, Kind::Image);
    }
    let (requests, busy_s) = (sim.odds().requests, sim.odds().busy_s);
    for _ in 0..requests {
        let most = busy_s * 2_000 / u64::from(requests);
        sim.doze(0, most).await;
        let tenant = &tenants[sim.between(0, tenants.len() as u64) as usize];
        match sim.between(0, 20) {
            0 => create(&sim, tenant, Kind::Network),
            1 => create(&sim, tenant, Kind::Image),
            2..=9 => create(&sim, tenant, Kind::Instance),
            10..=12 => change(&sim, tenant).await,
            13..=15 => delete(&sim, tenant).await,
            16..=18 => cancel(&sim).await,
            _ => retry(&sim).await,
        }
        sim.due.notify_waiters();
        sim.audit();
    }
}

fn origin(sim: &Sim) -> Origin {
    let seconds = if sim.chance(0.2) {
        sim.between(2, 15)
    } else {
        sim.between(30, 90)
    };
    Origin {
        now: sim.now(),
        deadline: sim.now() + TimeDelta::seconds(seconds as i64),
        job: JobId(sim.id()),
    }
}

/// One of these, by the dice; none of none.
pub(crate) fn pick<T: Clone>(sim: &Sim, from: &[T]) -> Option<T> {
    if from.is_empty() {
        return None;
    }
    from.get(sim.between(0, from.len() as u64) as usize).cloned()
}

fn resources(sim: &Sim, tenant: &TenantId, kind: Kind) -> Vec<ResourceId> {
    let of = |r: &&crate::books::Resource| r.tenant == *tenant && r.kind == kind;
    lock(&sim.books)
        .resources
        .values()
        .filter(of)
        .map(|r| r.id)
        .collect()
}

fn answered(sim: &Sim, what: &str, id: impl std::fmt::Display, answer: Result<(), Refused>) {
    match answer {
        Ok(()) => sim.say(format_args!("asked: {what} {id}")),
        Err(Refused(why)) => sim.say(format_args!("asked: {what} {id}: refused, {why}")),
    }
}

fn create(sim: &Arc<Sim>, tenant: &TenantId, kind: Kind) {
    let networks = resources(sim, tenant, Kind::Network);
    let images = resources(sim, tenant, Kind::Image);
    let spec = match kind {
        Kind::Network => json!({ "cidr": "10.0.0.0/28" }),
        Kind::Image => json!({ "source": { "url": "https://example.org/i.qcow2" }, "format": "qcow2" }),
        Kind::Instance => {
            let (Some(network), Some(image)) = (pick(sim, &networks), pick(sim, &images)) else {
                return;
            };
            let mut interfaces = vec![json!({ "network": network })];
            if sim.chance(0.2)
                && let Some(second) = pick(sim, &networks).filter(|n| *n != network)
            {
                interfaces.push(json!({ "network": second }));
            }
            let power = if sim.chance(0.8) { "on" } else { "off" };
            json!({ "vcpus": sim.between(1, 3), "memory_mib": 512, "image": image, "interfaces": interfaces, "power": power })
        }
    };
    let spec = match kind.ops().parse(&spec) {
        Ok(spec) => spec,
        Err(faults) => return sim.broken(format!("a spec of the simulation is none: {faults:?}")),
    };
    let id = ResourceId(sim.id());
    let ask = Ask {
        id,
        tenant: tenant.clone(),
        kind,
        name: format!("x{}", sim.between(0, 1_000_000_000)),
        spec,
    };
    let origin = origin(sim);
    let answer = lock(&sim.books).accept_create(ask, origin);
    answered(sim, &format!("create {kind} {id} by"), short(origin.job), answer);
}

async fn change(sim: &Arc<Sim>, tenant: &TenantId) {
    let kind = if sim.chance(0.8) {
        Kind::Instance
    } else {
        Kind::Network
    };
    let Some(id) = pick(sim, &resources(sim, tenant, kind)) else {
        return;
    };
    sim.quiet().await;
    let Some(mut spec) = lock(&sim.books).resources.get(&id).map(|r| r.spec.clone()) else {
        return;
    };
    let action = match kind {
        Kind::Network | Kind::Image => Action::Update,
        Kind::Instance => {
            [Action::Update, Action::Start, Action::Stop, Action::Reboot][sim.between(0, 4) as usize]
        }
    };
    match (kind, action) {
        (Kind::Network | Kind::Image, _) => spec["dns"] = json!([format!("10.0.0.{}", sim.between(2, 9))]),
        (Kind::Instance, Action::Update) => {
            spec["vcpus"] = Value::from(sim.between(1, 4));
        }
        (Kind::Instance, action) => match kind.ops().apply_action(&spec, action) {
            Ok(changed) => spec = changed,
            Err(error) => return sim.broken(format!("a spec of the simulation is none: {error}")),
        },
    }
    let origin = origin(sim);
    let answer = lock(&sim.books).accept_change(id, action, spec, origin);
    answered(
        sim,
        &format!("{action} {kind} {id} by"),
        short(origin.job),
        answer,
    );
}

async fn delete(sim: &Arc<Sim>, tenant: &TenantId) {
    let kind = [
        Kind::Instance,
        Kind::Instance,
        Kind::Instance,
        Kind::Network,
        Kind::Image,
    ][sim.between(0, 5) as usize];
    // An operator may remove what is in quarantine before its time.
    let quarantined = resources(sim, &TenantId::from(NOBODYS), kind);
    let of = if quarantined.is_empty() || sim.chance(0.7) {
        resources(sim, tenant, kind)
    } else {
        quarantined
    };
    let Some(id) = pick(sim, &of) else {
        return;
    };
    sim.quiet().await;
    let origin = origin(sim);
    let answer = lock(&sim.books).accept_delete(id, origin);
    answered(sim, &format!("delete {kind} {id} by"), short(origin.job), answer);
}

fn jobs(sim: &Sim, of: impl Fn(JobState) -> bool) -> Vec<JobId> {
    let mut jobs: Vec<(i64, JobId)> = lock(&sim.books)
        .jobs
        .values()
        .filter(|j| of(j.state))
        .map(|j| (j.seq, j.id))
        .collect();
    jobs.sort_unstable();
    jobs.into_iter().map(|(_, id)| id).collect()
}

async fn cancel(sim: &Arc<Sim>) {
    let Some(job) = pick(sim, &jobs(sim, |s| !s.is_done())) else {
        return;
    };
    sim.quiet().await;
    let now = sim.now();
    let answer = lock(&sim.books).accept_cancel(job, now);
    answered(sim, "cancel", short(job), answer);
}

async fn retry(sim: &Arc<Sim>) {
    let failed = jobs(sim, |s| matches!(s, JobState::Failed | JobState::Cancelled));
    let Some(job) = pick(sim, &failed) else { return };
    sim.quiet().await;
    let origin = origin(sim);
    let answer = lock(&sim.books).accept_retry(job, origin);
    answered(
        sim,
        &format!("retry {} by", short(job)),
        short(origin.job),
        answer,
    );
}

/// Hosts are lost for a while.
pub(crate) async fn partitions(sim: Arc<Sim>) {
    let every = sim.odds().partition_every_s;
    if every == 0 {
        return;
    }
    let hosts: Vec<_> = sim.hosts.values().cloned().collect();
    loop {
        sim.doze(500, every * 2_000).await;
        if sim.is_healed() {
            return;
        }
        let Some(host) = pick(&sim, &hosts) else { return };
        host.reach(false);
        sim.say(format_args!("nobody reaches {}", host.name));
        sim.doze(200, 12_000).await;
        host.reach(true);
        sim.say(format_args!("{} is reached again", host.name));
    }
}

/// What the bus stores goes, and single messages with it.
pub(crate) async fn losses(sim: Arc<Sim>) {
    let every = sim.odds().wipe_every_s;
    let mut next_wipe = if every == 0 {
        u64::MAX
    } else {
        sim.between(1, every * 2)
    };
    loop {
        sim.clock.sleep(1_000).await;
        if sim.is_healed() {
            return;
        }
        next_wipe -= 1;
        if next_wipe == 0 {
            next_wipe = sim.between(1, every * 2);
            lock(&sim.bus).wipe();
            lock(&sim.told).clear();
            sim.say(format_args!("all that the bus stored is gone"));
        }
        if sim.wrong(|o| o.lose) {
            let mut dice = sim.dice();
            let mut bus = lock(&sim.bus);
            bus.orders.lose_one(&mut dice);
            if let Some(key) = bus.events.lose_one(&mut dice) {
                lock(&sim.told).retain(|(job, _)| job.0.as_u128() != key);
            }
        }
        if sim.chance(0.1) {
            let mut bus = lock(&sim.bus);
            bus.orders.forget_ids();
            bus.events.forget_ids();
        }
    }
}
