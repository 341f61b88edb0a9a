//! A scheduler's watches of hosts: hellos, epochs and floors, whether an agent is heard, and what it says it holds.

use crate::host::Host;
use crate::lock;
use crate::scheduler::config;
use crate::sim::Sim;
use chrono::{DateTime, Utc};
use rhyzome_model::check::{RawInventory, older};
use rhyzome_scheduler::inventory::document;
use rhyzome_scheduler::left_behind::is_gone;
use rhyzome_store::watches::{Greeting, Hello};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A stream to one of an agent's lives, greeted.
#[derive(Clone, Copy)]
struct Stream {
    life: u64,
    epoch: i64,
}

/// The watch of one host: greets its agent, tells it epoch and floor, and notes whether it is heard.
pub(crate) async fn watch(sim: Arc<Sim>, host: Arc<Host>) {
    let mut silent_since: Option<i64> = None;
    let mut stream: Option<Stream> = None;
    loop {
        sim.doze(300, 2_000).await;
        if sim.wrong(|o| o.call_lost) {
            stream = None;
        } else {
            // Whom another found to have been put back is greeted anew.
            let epoch = lock(&sim.books).hosts.get(&host.name).map_or(0, |h| h.epoch);
            stream = stream.filter(|s| s.epoch == epoch);
            if stream.is_none() {
                stream = greet(&sim, &host).await;
            }
            stream = match stream {
                Some(greeted) => tell(&sim, &host, greeted).await,
                None => None,
            };
        }
        let heard = stream.is_some();
        let now_ms = sim.clock.now_ms();
        let since = *silent_since.get_or_insert(now_ms);
        let up = heard || now_ms - since < 2_500;
        if heard {
            silent_since = None;
        }
        let mut books = lock(&sim.books);
        if let Some(row) = books.hosts.get_mut(&host.name)
            && row.up != up
        {
            row.up = up;
            drop(books);
            sim.say(format_args!(
                "{} is {}",
                host.name,
                if up { "up" } else { "down" }
            ));
            sim.freed.store(true, Ordering::Relaxed);
        }
    }
}

async fn greet(sim: &Arc<Sim>, host: &Arc<Host>) -> Option<Stream> {
    // Before the agent is asked: what it has answered until then it must know.
    let answered = lock(&sim.books).host_answered(&host.name);
    let opened_at = sim.now();
    sim.doze(0, 50).await;
    let (life, said) = host.hello()?;
    sim.doze(0, 50).await;
    sim.quiet().await;
    let hello = Hello {
        ledger_id: said.ledger_id,
        epoch: said.epoch,
        max_fence: said.max_fence,
        answered,
    };
    let now = sim.now();
    let greeting = lock(&sim.books).host_greet(&host.name, &hello, now);
    sim.audit();
    match greeting {
        Greeting::SetBack { .. } | Greeting::TwoAgents { .. } => None,
        Greeting::Epoch { epoch, behind } => {
            if let Some(fence) = behind {
                sim.say(format_args!(
                    "{} knows {} and has answered {fence}: it was put back, and has epoch {epoch}",
                    host.name, hello.max_fence
                ));
            }
            (!was_put_back(sim, host, opened_at).await).then_some(Stream { life, epoch })
        }
    }
}

/// What it says that it holds first shows whether it is an older copy of itself.
async fn was_put_back(sim: &Arc<Sim>, host: &Arc<Host>, opened_at: DateTime<Utc>) -> bool {
    let Some(inventory) = host.inventory(sim).await else {
        return true;
    };
    let raw: Result<RawInventory, _> = serde_json::from_value(document(&inventory));
    let Ok(Ok(looked)) = raw.map(|raw| raw.read(host.name.clone(), opened_at)) else {
        return true;
    };
    sim.quiet().await;
    let now = sim.now();
    let mut books = lock(&sim.books);
    let known = books.known(std::slice::from_ref(&looked));
    let put_back = older(&[looked], &known);
    put_back.iter().any(|o| books.host_older(&o.host, o.epoch, now))
}

async fn tell(sim: &Arc<Sim>, host: &Arc<Host>, stream: Stream) -> Option<Stream> {
    sim.quiet().await;
    let floor = lock(&sim.books).floor(&host.name);
    // The word is on its way.
    sim.doze(0, 50).await;
    host.told(sim, stream.life, stream.epoch, floor)
        .await
        .then_some(stream)
}

/// Asks a watched host what it holds, so often that every check finds an inventory that is younger than the last.
pub(crate) async fn inventories(sim: Arc<Sim>, host: Arc<Host>) {
    let interval_ms = config().check_interval.duration().as_millis() as u64;
    loop {
        sim.doze(interval_ms * 2 / 5, interval_ms * 9 / 10).await;
        let up = lock(&sim.books).hosts.get(&host.name).is_some_and(|h| h.up);
        let asked_at = sim.now();
        if !up {
            continue;
        }
        let Some(inventory) = host.inventory(&sim).await else {
            continue;
        };
        let gone: Vec<_> = {
            let mut books = lock(&sim.books);
            books.host_inventory(&host.name, document(&inventory), asked_at);
            books.abandoned_on(&host.name)
        };
        for rest in gone.iter().filter(|rest| is_gone(rest, &inventory)) {
            sim.quiet().await;
            if lock(&sim.books).abandoned_gone(rest) {
                sim.say(format_args!("nothing is left of {} on {}", rest.job, host.name));
                sim.freed.store(true, Ordering::Relaxed);
            }
            sim.audit();
        }
    }
}
