//! What a host was: copies of its folder are made now and then, and now and then it is put back to one. And what a host loses without
//! its agent: a guest's folder, a shared object, or that a guest was turned off.

use crate::host::{Copied, Host};
use crate::lock;
use crate::sim::Sim;
use crate::users::pick;
use rhyzome_agent::driver::{Direction, Driver, Held, StepContext};
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::kinds::Power;
use rhyzome_model::step::{Action, DropShared, ObjectKind, RemoveDisk, RemoveInstance, SetPower};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Hosts are put back, their agents too.
pub(crate) async fn put_back(sim: Arc<Sim>) {
    let every = sim.odds().put_back_every_s;
    if every == 0 {
        return;
    }
    let hosts: Vec<_> = sim.hosts.values().cloned().collect();
    loop {
        sim.doze(500, every * 2_000).await;
        let Some(host) = pick(&sim, &hosts) else { return };
        let copy: Copied = host.copied();
        sim.say(format_args!("a copy of {} is made", host.name));
        sim.doze(200, 8_000).await;
        if sim.is_healed() {
            return;
        }
        sim.say(format_args!("{} is put back to it", host.name));
        host.put_back(&sim, &copy);
    }
}

/// Hosts lose something.
pub(crate) async fn lose(sim: Arc<Sim>) {
    let every = sim.odds().lose_every_s;
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
        let mut held = host.held().await;
        held.retain(|h| is_left_alone(&sim, h));
        held.sort_by_key(|h| (h.kind.as_str(), h.id));
        let Some(lost) = pick(&sim, &held) else { continue };
        let what: Vec<Action> = match lost.kind {
            // A guest's disk is in its folder.
            ObjectKind::Disk | ObjectKind::Instance => guest(&sim, &lost),
            ObjectKind::Network => claims(&lost).map(Action::DropNetwork).collect(),
            ObjectKind::Image => claims(&lost).map(Action::DropImage).collect(),
        };
        sim.say(format_args!(
            "{} loses {}: {}",
            host.name,
            lost.id,
            what.iter().map(Action::name).collect::<Vec<_>>().join(", ")
        ));
        for action in what {
            make_so(&host, &action).await;
        }
    }
}

/// No job is at it now; what one is at it may make whole again, or not, and then the check sees it.
fn is_left_alone(sim: &Sim, held: &Held) -> bool {
    let books = lock(&sim.books);
    let quiet = |id: &ResourceId| !books.line.contains_key(id);
    quiet(&held.id) && held.claims.iter().all(quiet)
}

fn guest(sim: &Sim, held: &Held) -> Vec<Action> {
    let id = held.id;
    let is_off = lock(&sim.books)
        .resources
        .get(&id)
        .and_then(|r| r.applied.as_ref()?.get("power")?.as_str().map(|p| p == "off"))
        .unwrap_or(false);
    if is_off && sim.chance(0.5) {
        return vec![Action::SetPower(SetPower {
            instance: id,
            power: Power::On,
        })];
    }
    vec![
        Action::RemoveInstance(RemoveInstance { instance: id }),
        Action::RemoveDisk(RemoveDisk { disk: id }),
    ]
}

fn claims(held: &Held) -> impl Iterator<Item = DropShared> + '_ {
    held.claims.iter().map(|holder| DropShared {
        object: held.id,
        holder: *holder,
    })
}

async fn make_so(host: &Arc<Host>, action: &Action) {
    let context = StepContext {
        host: host.name.clone(),
        job: JobId(Uuid::nil()),
        index: 0,
        direction: Direction::Forward,
        cancel: CancellationToken::new(),
    };
    // What can't be lost isn't.
    let _ = host.world().make_so(&context, action).await;
}
