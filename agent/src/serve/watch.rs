//! A scheduler's watch of one host: hello, capacity and inventory at once, then heartbeats, guests' changes and what is asked for.
//!
//! Any number of watches of a host may be open. What takes long (an inventory) holds up neither heartbeats nor the scheduler's
//! word, and is made once at a time. The watch ends when the scheduler goes, or the agent.

use super::guests::{GuestHub, Heard};
use super::inventory;
use super::service::WatchSettings;
use crate::apply::{Engine, Refusal};
use crate::driver::{Capacity, GuestSeen, SeenPower};
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
    guests: HashMap<ResourceId, SeenPower>,
}

/// The inventories of a watch, beside it: they may take long. Whoever asks while one is made gets another, made after it.
#[derive(Default)]
struct Inventories {
    /// The one that is being made; ended with the watch.
    making: JoinSet<()>,
    /// Somebody asked since it was begun.
    again: bool,
}

impl Inventories {
    fn ask(&mut self, watch: &Watch, out: &Out) {
        if self.making.is_empty() {
            self.making.spawn(tell_inventory(
                watch.engine.clone(),
                watch.host.clone(),
                out.clone(),
            ));
        } else {
            self.again = true;
        }
    }

    /// Returns when one was made; pending while none is.
    async fn made(&mut self) {
        if self.making.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    fn ask_again(&mut self, watch: &Watch, out: &Out) {
        if std::mem::take(&mut self.again) {
            self.ask(watch, out);
        }
    }
}

async fn tell_inventory(engine: Arc<Engine>, host: HostName, out: Out) {
    match inventory::inventory(&engine, &host).await {
        // A watch that ended meanwhile needs none.
        Ok(inventory) => drop(send(&out, Report::Inventory(inventory)).await),
        Err(error) => {
            tracing::warn!(%host, %error, inside = error.inside, "what the host holds can't be told");
        }
    }
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
        self.tell_capacity(&mut told, out).await?;
        let mut inventories = Inventories::default();
        inventories.ask(self, out);
        self.tell_guests(&mut told, out).await?;
        let mut capacity = later(CAPACITY_LOOK);
        let mut guests = later(self.settings.guest_refresh);
        loop {
            tokio::select! {
                control = controls.next() => match control {
                    Some(Ok(control)) => self.obey(&control, &mut inventories, out).await?,
                    Some(Err(_)) | None => return Err(Gone),
                },
                change = heard.recv() => match change {
                    Some(Heard::Guest(guest)) => self.tell_guest(&guest, &mut told, out).await?,
                    Some(Heard::Missed) => self.tell_guests(&mut told, out).await?,
                    None => return Err(Gone),
                },
                () = inventories.made() => inventories.ask_again(self, out),
                _ = guests.tick() => self.tell_guests(&mut told, out).await?,
                _ = capacity.tick() => self.tell_capacity(&mut told, out).await?,
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
    async fn obey(
        &self,
        control: &WatchControl,
        inventories: &mut Inventories,
        out: &Out,
    ) -> Result<(), Gone> {
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
            inventories.ask(self, out);
        }
        Ok(())
    }

    async fn ends(&self, refusal: &Refusal, out: &Out) -> Result<(), Gone> {
        let status = Status::unavailable(refusal.to_string());
        out.send(Err(status)).await.map_err(|_| Gone).and(Err(Gone))
    }

    async fn tell_capacity(&self, told: &mut Told, out: &Out) -> Result<(), Gone> {
        match self.engine.driver().capacity(&self.host).await {
            Ok(capacity) if told.capacity.as_ref() == Some(&capacity) => Ok(()),
            Ok(capacity) => {
                let what = Report::Capacity(inventory::capacity(&capacity, &self.settings.offered));
                told.capacity = Some(capacity);
                send(out, what).await
            }
            Err(error) => {
                tracing::warn!(host = %self.host, %error, inside = error.inside, "what the host has can't be told");
                Ok(())
            }
        }
    }

    async fn tell_guest(&self, guest: &GuestSeen, told: &mut Told, out: &Out) -> Result<(), Gone> {
        told.guests.insert(guest.instance, guest.power);
        let fence = self.engine.fence_of(&self.host, guest.instance);
        send(out, Report::Guest(inventory::guest(guest, fence))).await
    }

    /// Those that have figures, and those whose power wasn't told yet.
    async fn tell_guests(&self, told: &mut Told, out: &Out) -> Result<(), Gone> {
        let guests = match self.engine.driver().guests(&self.host).await {
            Ok(guests) => guests,
            Err(error) => {
                tracing::warn!(host = %self.host, %error, inside = error.inside, "the guests can't be told");
                return Ok(());
            }
        };
        let before = std::mem::take(&mut told.guests);
        for guest in guests {
            if !guest.metrics.is_empty() || before.get(&guest.instance) != Some(&guest.power) {
                self.tell_guest(&guest, told, out).await?;
            } else {
                told.guests.insert(guest.instance, guest.power);
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
