//! Who runs beside whom: ordinary orders beside each other, one that workers may have died of alone.
//!
//! While one is to run alone, from the moment at which it came, no other is begun: what waited for it here would be kept from other
//! workers, which have room.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};

/// From this delivery on, workers may have died of the order.
const SUSPECT_FROM: u64 = 3;

/// Of a worker.
#[derive(Debug)]
pub(crate) struct Rooms {
    /// Read by ordinary orders, written by one that runs alone.
    alone: Arc<RwLock<()>>,
    /// How many run alone, or wait to.
    suspects: watch::Sender<usize>,
}

/// A place for an order.
#[derive(Debug)]
pub(crate) enum Room {
    /// Beside others.
    Beside(OwnedRwLockReadGuard<()>),
    /// Alone, once the others have ended.
    Alone(Suspect),
}

/// While it is there, nothing else is begun.
#[derive(Debug)]
pub(crate) struct Suspect(watch::Sender<usize>);

impl Suspect {
    fn new(suspects: &watch::Sender<usize>) -> Self {
        suspects.send_modify(|many| *many += 1);
        Self(suspects.clone())
    }
}

impl Drop for Suspect {
    fn drop(&mut self) {
        self.0.send_modify(|many| *many -= 1);
    }
}

/// Held while an order runs. What keeps others from being begun goes after what they would wait for.
#[derive(Debug)]
pub(crate) enum Entered {
    Beside {
        _with: OwnedRwLockReadGuard<()>,
    },
    Alone {
        _without: OwnedRwLockWriteGuard<()>,
        _suspect: Suspect,
    },
}

impl Rooms {
    pub(crate) fn new() -> Self {
        Self {
            alone: Arc::new(RwLock::new(())),
            suspects: watch::channel(0).0,
        }
    }

    /// How many run alone, or wait to: nothing more is to be pulled while there is one.
    pub(crate) fn suspects(&self) -> watch::Receiver<usize> {
        self.suspects.subscribe()
    }

    /// For an order that was delivered so often; none for an ordinary one while another is to run alone.
    pub(crate) fn for_order(&self, delivered: u64) -> Option<Room> {
        if delivered >= SUSPECT_FROM {
            return Some(Room::Alone(Suspect::new(&self.suspects)));
        }
        if *self.suspects.borrow() > 0 {
            return None;
        }
        Arc::clone(&self.alone).try_read_owned().ok().map(Room::Beside)
    }

    /// Waits until it may run: alone, or, where others don't end in time, beside them, lest one long order stands in the way of all.
    pub(crate) async fn enter(&self, room: Room, alone_wait: Duration) -> Entered {
        let suspect = match room {
            Room::Beside(with) => return Entered::Beside { _with: with },
            Room::Alone(suspect) => suspect,
        };
        let alone = Arc::clone(&self.alone);
        if let Ok(without) = tokio::time::timeout(alone_wait, alone.write_owned()).await {
            return Entered::Alone {
                _without: without,
                _suspect: suspect,
            };
        }
        drop(suspect);
        Entered::Beside {
            _with: Arc::clone(&self.alone).read_owned().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_is_begun_while_one_runs_alone_or_waits_to() {
        let rooms = Rooms::new();
        let suspects = rooms.suspects();
        let beside = rooms.for_order(1).unwrap();
        let long = rooms.enter(beside, Duration::ZERO).await;
        let suspect = rooms.for_order(3).unwrap();
        assert_eq!(*suspects.borrow(), 1);
        assert!(rooms.for_order(2).is_none());
        drop(long);
        let alone = rooms.enter(suspect, Duration::from_mins(1)).await;
        assert!(matches!(alone, Entered::Alone { .. }));
        assert!(rooms.for_order(1).is_none());
        drop(alone);
        assert_eq!(*suspects.borrow(), 0);
        assert!(rooms.for_order(1).is_some());
    }

    #[tokio::test]
    async fn one_that_waited_long_enough_runs_beside_others() {
        let rooms = Rooms::new();
        let long = rooms.for_order(1).unwrap();
        let suspect = rooms.for_order(3).unwrap();
        let entered = rooms.enter(suspect, Duration::from_millis(1)).await;
        assert!(matches!(entered, Entered::Beside { .. }));
        assert!(rooms.for_order(1).is_some());
        drop(long);
    }
}
