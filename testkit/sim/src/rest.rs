//! What must hold at rest: every job has ended, nothing is held for any, and hosts hold exactly what was applied.

use crate::host::Host;
use crate::lock;
use crate::sim::Sim;
use chrono::{DateTime, Utc};
use rhyzome_model::check::compare;
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_model::kinds::Kind;
use rhyzome_model::step::ObjectKind;
use rhyzome_scheduler::inventory::document;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// An object on a host: what it is, how it is, who claims it.
type Objects = BTreeMap<(&'static str, ResourceId), (String, BTreeSet<ResourceId>)>;

/// Whether nothing moves, and nothing is to be mended: every job ended, no message anywhere, nobody at work, and every host was looked at
/// since and found as it is to be.
pub(crate) fn is_at_rest(sim: &Sim, healed_at: DateTime<Utc>) -> bool {
    let idle = sim.busy.load(std::sync::atomic::Ordering::Relaxed) == 0;
    let empty = {
        let bus = lock(&sim.bus);
        bus.orders.under_way() == 0 && bus.events.under_way() == 0
    };
    let books = lock(&sim.books);
    idle && empty && books.open_jobs().next().is_none() && books.is_well(healed_at)
}

/// Who doesn't come to rest.
pub(crate) fn unrest(sim: &Sim) {
    let open: Vec<String> = lock(&sim.books)
        .open_jobs()
        .map(|j| {
            let waiting = j.waiting.as_ref().map_or("", |w| w.reason.as_str());
            format!(
                "1: job {} ({} {}) never ends: {}, mode {}, on {:?}, fence {:?}, due {:?}, out since {:?}, waits for {waiting:?}",
                j.id, j.kind, j.action, j.state, j.mode, j.host, j.fence, j.due, j.dispatched_at
            )
        })
        .collect();
    for what in lock(&sim.books).unmended() {
        sim.broken(what);
    }
    if open.is_empty() && !sim.is_broken() {
        let (orders, events) = {
            let bus = lock(&sim.bus);
            (bus.orders.under_way(), bus.events.under_way())
        };
        sim.broken(format!(
            "1: every job ended, and {orders} orders and {events} events are left"
        ));
    }
    for what in open {
        sim.broken(what);
    }
}

/// See the module.
pub(crate) async fn check(sim: &Sim) {
    sim.audit();
    {
        let books = lock(&sim.books);
        let mut left = Vec::new();
        if let Some((resource, _)) = books.line.iter().next() {
            left.push(format!("4: somebody stands in line for {resource}"));
        }
        left.extend(
            books
                .running
                .iter()
                .filter(|(_, n)| **n != 0)
                .map(|(t, n)| format!("4: {n} jobs of {t} run")),
        );
        let metered: BTreeSet<_> = books.usage.keys().copied().collect();
        let made: BTreeSet<_> = books
            .resources
            .values()
            .filter(|r| r.applied.is_some())
            .map(|r| r.id)
            .collect();
        if metered != made {
            left.push(format!("4: usage is open for {metered:?}, there are {made:?}"));
        }
        for home in books.homes.keys() {
            let lived_in = books
                .refs
                .iter()
                .any(|(from, to)| to == home && books.resources.get(from).is_some_and(|r| r.host.is_some()));
            if !lived_in {
                left.push(format!(
                    "4: network {home} has a home where none of its instances is"
                ));
            }
        }
        drop(books);
        for what in left {
            sim.broken(what);
        }
    }
    for (name, host) in &sim.hosts {
        let expected = expected(sim, name);
        let mut found = Objects::new();
        for held in host.held().await {
            let state = if held.kind == ObjectKind::Instance {
                held.state.clone()
            } else {
                String::new()
            };
            found.insert(
                (held.kind.as_str(), held.id),
                (state, held.claims.into_iter().collect()),
            );
        }
        for (key, is) in &found {
            match expected.get(key) {
                None => sim.broken(format!(
                    "6, 7: {} {} is on {name}, and nothing says so: {is:?}",
                    key.0, key.1
                )),
                Some(should) if should != is => {
                    sim.broken(format!(
                        "7: {} {} on {name} is {is:?}, it should be {should:?}",
                        key.0, key.1
                    ));
                }
                Some(_) => {}
            }
        }
        for (key, should) in &expected {
            if !found.contains_key(key) {
                sim.broken(format!(
                    "7: {} {} isn't on {name}: it should be {should:?}",
                    key.0, key.1
                ));
            }
        }
        fences(sim, name, host);
    }
    looks_well(sim).await;
}

fn fences(sim: &Sim, name: &HostName, host: &Host) {
    let fences: Vec<(ResourceId, i64)> = lock(&sim.books)
        .resources
        .values()
        .filter(|r| r.host.as_ref() == Some(name))
        .map(|r| (r.id, r.fence))
        .collect();
    for (id, fence) in fences {
        if host
            .fence_of(id)
            .is_some_and(|held| held > fence && held < 1_000_000)
        {
            sim.broken(format!("5: {name} holds a fence for {id} above {fence}"));
        }
    }
}

/// The product's own check of hosts finds nothing.
async fn looks_well(sim: &Sim) {
    let asked_at = sim.now();
    for (name, host) in &sim.hosts {
        let Some(inventory) = host.inventory(sim).await else {
            continue;
        };
        lock(&sim.books).host_inventory(name, document(&inventory), asked_at);
    }
    let found = {
        let books = lock(&sim.books);
        let looked = books.inventories_stored();
        let known = books.known(&looked);
        compare(&looked, &known)
    };
    for violation in found {
        sim.broken(format!(
            "{}: {}: {}",
            violation.check.invariant().number(),
            violation.check.as_str(),
            violation.found
        ));
    }
}

/// What a host must hold: what was applied there, and the claims of that.
fn expected(sim: &Sim, host: &HostName) -> Objects {
    let books = lock(&sim.books);
    let mut objects = Objects::new();
    let here = |r: &&crate::books::Resource| r.host.as_ref() == Some(host) && r.applied.is_some();
    for resource in books.resources.values().filter(here) {
        match resource.kind {
            Kind::Network => {}
            Kind::Image => {
                let entry = objects.entry(("image", resource.id)).or_default();
                entry.1.insert(resource.id);
            }
            Kind::Instance => {
                let power = resource
                    .applied
                    .as_ref()
                    .and_then(|s| s.get("power"))
                    .and_then(Value::as_str);
                let state = if power == Some("on") { "running" } else { "stopped" };
                objects.insert(("instance", resource.id), (state.to_owned(), BTreeSet::new()));
                objects.entry(("disk", resource.id)).or_default();
                for (_, to) in books.refs.iter().filter(|(from, _)| *from == resource.id) {
                    let kind = match books.resources.get(to).map(|r| r.kind) {
                        Some(Kind::Network) => "network",
                        Some(Kind::Image) => "image",
                        Some(Kind::Instance) | None => continue,
                    };
                    objects.entry((kind, *to)).or_default().1.insert(resource.id);
                }
            }
        }
    }
    objects
}
