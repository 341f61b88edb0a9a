//! A scheduler's watch of one host: hello, capacity and inventory at once, then heartbeats, guests' changes and what is asked for.
//!
//! Any number of watches of a host may be open. What is looked at (`looks`) holds up neither heartbeats nor the scheduler's word, however
//! long it takes. The watch ends when the scheduler goes, or the agent.

use super::guests::{GuestHub, Heard};
use super::inventory;
use super::looks::{Look, Looked, Looks};
use super::service::WatchSettings;
use crate::apply::{Engine, Refusal};
use crate::driver::{Capacity, GuestSeen, SeenPower, StepError};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{Epoch, Fence, HostName, ResourceId};
use rhyzome_proto::agent::{HostReport, WatchControl, host_report::Report};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// How often it is looked whether a host's capacity is another.
const CAPACITY_LOOK: Duration = Duration::from_secs(30);

type Out = mpsc::Sender<Result<HostReport, Status>>;

/// One watch.
pub(super) struct Watch {
    pub(super) engine: Arc<Engine>,
    pub(super) hub: Arc<GuestHub>,
    pub(super) host: HostName,
    pub(super) settings: WatchSettings,
    pub(super) shutdown: CancellationToken,
}

/// The receiver is gone: the watch is over.
struct Gone;

async fn send(out: &Out, what: Report) -> Result<(), Gone> {
    out.send(Ok(HostReport { report: Some(what) }))
        .await
        .map_err(|_| Gone)
}

/// What a watch has told.
#[derive(Default)]
struct Told {
    capacity: Option<Capacity>,
    /// As they were, and when.
    guests: HashMap<ResourceId, (SeenPower, DateTime<Utc>)>,
}

impl Watch {
    /// Runs until either side goes.
    pub(super) async fn run(self, mut controls: Streaming<WatchControl>, out: Out) {
        let mut heard = self.hub.listen(&self.host);
        let _ended = self.talk(&mut controls, &mut heard, &out).await;
    }

    async fn talk(
        &self,
        controls: &mut Streaming<WatchControl>,
        heard: &mut mpsc::Receiver<Heard>,
        out: &Out,
    ) -> Result<(), Gone> {
        let mut told = Told::default();
        let Some(books) = self.engine.books(&self.host) else {
            return Err(Gone);
        };
        send(out, Report::Hello(inventory::hello(&self.host, &books))).await?;
        // Not before: the hello is the first that a scheduler hears. They end with the watch.
        let mut beats = JoinSet::new();
        beats.spawn(beat(
            self.engine.clone(),
            self.host.clone(),
            self.settings.heartbeat,
            out.clone(),
        ));
        let mut looks = Looks::new(self.engine.clone(), self.host.clone());
        for look in [Look::Capacity, Look::Inventory, Look::Guests] {
            looks.ask(look);
        }
        let mut capacity = later(CAPACITY_LOOK);
        let mut guests = later(self.settings.guest_refresh);
        loop {
            tokio::select! {
                control = controls.next() => match control {
                    Some(Ok(control)) => self.obey(&control, &mut looks, out).await?,
                    Some(Err(_)) | None => return Err(Gone),
                },
                change = heard.recv() => match change {
                    Some(Heard::Guest(guest)) => self.tell_guest(&guest, &mut told, out).await?,
                    Some(Heard::Missed) => looks.ask(Look::Guests),
                    None => return Err(Gone),
                },
                looked = looks.made() => self.tell(looked, &mut told, out).await?,
                _ = guests.tick() => looks.keep_fresh(Look::Guests),
                _ = capacity.tick() => looks.keep_fresh(Look::Capacity),
                () = self.shutdown.cancelled() => {
                    // The scheduler may be gone too.
                    let _ = out.send(Err(Status::unavailable("the agent is ending"))).await;
                    return Err(Gone);
                }
                () = out.closed() => return Err(Gone),
            }
        }
    }

    /// What the scheduler says.
    async fn obey(&self, control: &WatchControl, looks: &mut Looks, out: &Out) -> Result<(), Gone> {
        if control.host != self.host.as_str() {
            let status = Status::permission_denied(format!("this is the watch of host {}", self.host));
            return out.send(Err(status)).await.map_err(|_| Gone).and(Err(Gone));
        }
        match self
            .engine
            .told(&self.host, Epoch(control.epoch), Fence(control.floor))
            .await
        {
            Ok(true) => {}
            Ok(false) if control.epoch == 0 => {}
            Ok(false) => {
                tracing::error!(
                    host = %self.host, told = control.epoch,
                    "the scheduler told an epoch below the one that the host knows: it isn't believed"
                );
            }
            Err(refusal) => return self.ends(&refusal, out).await,
        }
        if control.inventory {
            looks.ask(Look::Inventory);
        }
        Ok(())
    }

    async fn ends(&self, refusal: &Refusal, out: &Out) -> Result<(), Gone> {
        let status = Status::unavailable(refusal.to_string());
        out.send(Err(status)).await.map_err(|_| Gone).and(Err(Gone))
    }

    async fn tell(&self, looked: Result<Looked, StepError>, told: &mut Told, out: &Out) -> Result<(), Gone> {
        match looked {
            Ok(Looked::Capacity(capacity)) if told.capacity.as_ref() == Some(&capacity) => Ok(()),
            Ok(Looked::Capacity(capacity)) => {
                let what = Report::Capacity(inventory::capacity(&capacity, &self.settings.offered));
                told.capacity = Some(capacity);
                send(out, what).await
            }
            Ok(Looked::Guests(guests)) => self.tell_guests(guests, told, out).await,
            Ok(Looked::Inventory(inventory)) => send(out, Report::Inventory(inventory)).await,
            Err(error) => {
                tracing::warn!(host = %self.host, %error, inside = error.inside, "what the host has and holds can't be told");
                Ok(())
            }
        }
    }

    async fn tell_guest(&self, guest: &GuestSeen, told: &mut Told, out: &Out) -> Result<(), Gone> {
        told.guests.insert(guest.instance, (guest.power, guest.at));
        let fence = self.engine.fence_of(&self.host, guest.instance);
        send(out, Report::Guest(inventory::guest(guest, fence))).await
    }

    /// Those that have figures, and those whose power wasn't told yet. What happened to one since the look began is told already.
    async fn tell_guests(&self, guests: Vec<GuestSeen>, told: &mut Told, out: &Out) -> Result<(), Gone> {
        let before = std::mem::take(&mut told.guests);
        for guest in guests {
            let known = before.get(&guest.instance);
            let is_old = known.is_some_and(|(_, at)| *at > guest.at);
            let is_news = !guest.metrics.is_empty() || known.is_none_or(|(power, _)| *power != guest.power);
            match known {
                Some(known) if is_old || !is_news => {
                    told.guests.insert(guest.instance, *known);
                }
                Some(_) | None => self.tell_guest(&guest, told, out).await?,
            }
        }
        Ok(())
    }
}

fn later(period: Duration) -> tokio::time::Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Heartbeats, the first at once, then at a place in the period of their own, so that many hosts don't beat together.
async fn beat(engine: Arc<Engine>, host: HostName, period: Duration, out: Out) {
    let mut next = Instant::now();
    let mut wait = period.mul_f64(rand::random::<f64>());
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = out.closed() => return,
        }
        next = Instant::now() + std::mem::replace(&mut wait, period);
        match engine.driver().load(&host).await {
            Ok(load) => {
                if send(
                    &out,
                    Report::Heartbeat(inventory::heartbeat(&load, engine.now_ms())),
                )
                .await
                .is_err()
                {
                    return;
                }
            }
            Err(error) => tracing::debug!(%host, %error, "no heartbeat"),
        }
    }
}
