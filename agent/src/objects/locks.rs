//! A lock for each object: operations on one never overlap. An instance's may be held when a network's is taken, never the other way.

use rhyzome_model::ids::ResourceId;
use rhyzome_model::step::ObjectKind;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OwnedMutexGuard;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// All of a host.
#[derive(Default)]
pub(crate) struct Locks {
    map: Mutex<HashMap<(ObjectKind, ResourceId), Lock>>,
}

impl Locks {
    /// Waits until nobody else holds it.
    pub(crate) async fn take(&self, kind: ObjectKind, id: ResourceId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds or waits for are forgotten now and then.
            if map.len() > 1024 {
                map.retain(|_, lock| Arc::strong_count(lock) > 1);
            }
            Arc::clone(map.entry((kind, id)).or_default())
        };
        lock.lock_owned().await
    }
}
