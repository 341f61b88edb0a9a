//! Guests' changes, handed to the watches of their host: one task listens to the driver for all of them.
//!
//! A change that finds a watch's queue full, or that the driver's channel dropped, is made up for: the watch is told to report every guest.

use crate::driver::{Driver, GuestSeen};
use rhyzome_model::ids::HostName;
use rhyzome_runtime::part;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;

const QUEUE: usize = 256;

/// What a watch hears.
#[derive(Clone, Debug)]
pub(super) enum Heard {
    /// A guest's power changed.
    Guest(GuestSeen),
    /// Something was missed: look at all of them.
    Missed,
}

#[derive(Default)]
struct Watcher {
    queue: Option<mpsc::Sender<Heard>>,
    missed: bool,
}

/// See the module.
#[derive(Default)]
pub struct GuestHub {
    watchers: Mutex<HashMap<HostName, Vec<Watcher>>>,
}

impl GuestHub {
    /// A hub that listens to a driver until the token is cancelled.
    pub fn start(driver: &Arc<dyn Driver>, token: CancellationToken) -> Arc<Self> {
        let hub = Arc::new(Self::default());
        let mut changes = driver.watch_guests();
        let for_task = hub.clone();
        part::spawn("guest changes", async move {
            while let Some(change) = token.run_until_cancelled(changes.recv()).await {
                match change {
                    Ok(guest) => for_task.tell(&guest),
                    Err(RecvError::Lagged(missed)) => {
                        tracing::warn!(
                            missed,
                            "guests changed faster than they were told on; all are reported"
                        );
                        for_task.tell_all_missed();
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        });
        hub
    }

    /// Hears of a host's guests until it is dropped. Those that were dropped are forgotten: nothing else may ever happen on the host.
    pub(super) fn listen(&self, host: &HostName) -> mpsc::Receiver<Heard> {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        let of_host = watchers.entry(host.clone()).or_default();
        of_host.retain(|watcher| watcher.queue.as_ref().is_some_and(|q| !q.is_closed()));
        of_host.push(Watcher {
            queue: Some(queue),
            missed: false,
        });
        receiver
    }

    fn tell(&self, guest: &GuestSeen) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_host) = watchers.get_mut(&guest.host) {
            for watcher in of_host.iter_mut() {
                watcher.tell(Heard::Guest(guest.clone()));
            }
            of_host.retain(|watcher| watcher.queue.is_some());
        }
    }

    fn tell_all_missed(&self) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        for of_host in watchers.values_mut() {
            for watcher in of_host.iter_mut() {
                watcher.tell(Heard::Missed);
            }
            of_host.retain(|watcher| watcher.queue.is_some());
        }
    }
}

impl Watcher {
    fn tell(&mut self, heard: Heard) {
        let Some(queue) = &self.queue else { return };
        let heard = if self.missed { Heard::Missed } else { heard };
        match queue.try_send(heard) {
            Ok(()) => self.missed = false,
            Err(TrySendError::Full(_)) => self.missed = true,
            Err(TrySendError::Closed(_)) => self.queue = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_that_ended_are_forgotten_though_no_guest_changes() {
        let hub = GuestHub::default();
        let host = HostName::from("host-1");
        let held = || hub.watchers.lock().unwrap()[&host].len();
        let stays = hub.listen(&host);
        for _ in 0..9 {
            drop(hub.listen(&host));
        }
        assert_eq!(held(), 2, "one that is there, and the last that ended");
        drop(stays);
        let _new = hub.listen(&host);
        assert_eq!(held(), 1);
    }
}
