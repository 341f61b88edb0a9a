//! The trait's face of the real host.

use super::RealDriver;
use super::parts::Parts;
use crate::driver::{
    Capacity, ConsolePart, Driver, Effect, Fut, GuestSeen, Held, Load, Seen, StepContext, StepError,
};
use crate::objects::aside::aside;
use crate::objects::console;
use crate::objects::watching::until_listed;
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_model::step::{Action, ObjectKind};
use rhyzome_runtime::part;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::broadcast;

impl Driver for RealDriver {
    fn start(&self) -> Fut<'_, Result<(), StepError>> {
        Box::pin(self.begin())
    }

    fn hosts(&self) -> Vec<HostName> {
        vec![self.config.host.clone()]
    }

    fn make_so<'a>(
        &'a self,
        context: &'a StepContext,
        action: &'a Action,
    ) -> Fut<'a, Result<Effect, StepError>> {
        Box::pin(self.do_action(context, action))
    }

    fn observe<'a>(
        &'a self,
        context: &'a StepContext,
        action: &'a Action,
    ) -> Fut<'a, Result<Seen, StepError>> {
        Box::pin(self.look_at(context, action))
    }

    fn inventory<'a>(&'a self, _host: &'a HostName) -> Fut<'a, Result<Vec<Held>, StepError>> {
        Box::pin(self.look(&self.looks.inventory, Parts::list))
    }

    fn capacity<'a>(&'a self, _host: &'a HostName) -> Fut<'a, Result<Capacity, StepError>> {
        Box::pin(self.look(&self.looks.capacity, Parts::measure))
    }

    fn load<'a>(&'a self, _host: &'a HostName) -> Fut<'a, Result<Load, StepError>> {
        Box::pin(self.weigh())
    }

    fn guests<'a>(&'a self, _host: &'a HostName) -> Fut<'a, Result<Vec<GuestSeen>, StepError>> {
        Box::pin(self.look(&self.looks.guests, |parts| parts.instances.look()))
    }

    fn watch_guests(&self) -> broadcast::Receiver<GuestSeen> {
        self.seen.subscribe()
    }

    fn console_tail<'a>(
        &'a self,
        _host: &'a HostName,
        instance: ResourceId,
        lines: usize,
    ) -> Fut<'a, Result<Option<Vec<u8>>, StepError>> {
        let tail = move |folder: PathBuf| console::tail(&folder, lines);
        Box::pin(self.look(&self.looks.consoles, move |parts| {
            parts.console_folder(instance).map(tail).transpose()
        }))
    }

    fn console_part<'a>(
        &'a self,
        _host: &'a HostName,
        instance: ResourceId,
        from: Option<u64>,
    ) -> Fut<'a, Result<Option<ConsolePart>, StepError>> {
        let part = move |folder: PathBuf| console::part(&folder, from);
        Box::pin(self.look(&self.looks.consoles, move |parts| {
            parts.console_folder(instance).map(part).transpose()
        }))
    }

    fn stop_guests(&self) -> Fut<'_, Result<usize, StepError>> {
        Box::pin(self.stop_all())
    }

    fn epoch_told(&self, _host: &HostName) {
        let Ok(parts) = self.parts() else { return };
        if self.told.swap(true, Ordering::AcqRel) {
            return;
        }
        let (parts, locks, ending) = (Arc::clone(parts), Arc::clone(&self.locks), self.ending.clone());
        let tasks = self.tasks.clone();
        parts.guests.told.store(true, Ordering::Release);
        self.tasks.spawn(part::guard("networks and guests that were there", async move {
            let work = aside(&tasks, async move {
                for id in until_listed(|| parts.networks.ids()).await {
                    let _lock = locks.take(ObjectKind::Network, id).await;
                    if let Err(error) = parts.networks.revive(id).await {
                        tracing::warn!(network = %id, %error, inside = error.inside, "a network could not be made again");
                    }
                }
                parts.guests.resume().await;
            });
            tokio::select! {
                () = ending.cancelled() => {}
                () = work => {}
            }
        }));
    }
}
