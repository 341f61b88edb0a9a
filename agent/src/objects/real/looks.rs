//! What is asked of a host again and again, and never may hang with its storage: of each kind one look at a time, however often it is asked for.

use super::RealDriver;
use super::parts::{Parts, of_memory};
use crate::driver::{Load, StepError};
use crate::objects::aside::aside;
use rhyzome_model::job::ErrorClass;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long a heartbeat waits for what the storage tells of the load; then it says what was seen last.
const LOAD_WITHIN: Duration = Duration::from_secs(1);
/// Looks into guests' consoles at a time.
const CONSOLES: usize = 32;

/// The turns of each kind of look. Who has one keeps it until its look has ended, though nobody waits for that.
pub(super) struct Looks {
    pub(super) inventory: Arc<Semaphore>,
    pub(super) capacity: Arc<Semaphore>,
    pub(super) guests: Arc<Semaphore>,
    load: Arc<Semaphore>,
    pub(super) consoles: Arc<Semaphore>,
    last_load: Mutex<Load>,
}

impl Default for Looks {
    fn default() -> Self {
        let one = || Arc::new(Semaphore::new(1));
        Self {
            inventory: one(),
            capacity: one(),
            guests: one(),
            load: one(),
            consoles: Arc::new(Semaphore::new(CONSOLES)),
            last_load: Mutex::default(),
        }
    }
}

impl RealDriver {
    /// A look in its turn.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        turns: &Arc<Semaphore>,
        look: impl FnOnce(&Parts) -> Result<T, StepError> + Send + 'static,
    ) -> Result<T, StepError> {
        let parts = Arc::clone(self.parts()?);
        let turn = Arc::clone(turns).acquire_owned().await.map_err(|e| {
            StepError::new(ErrorClass::Unavailable, "ENDING", "the host's agent is ending").inside(e)
        })?;
        let looked = aside(&self.tasks, async move {
            let looked = look(&parts);
            drop(turn);
            looked
        });
        looked.await
    }

    /// How busy the host is: as seen last, where its storage doesn't tell in time, or tells nothing.
    pub(super) async fn weigh(&self) -> Result<Load, StepError> {
        self.parts()?;
        let looked = self.look(&self.looks.load, Parts::weigh);
        match tokio::time::timeout(LOAD_WITHIN, looked).await {
            Ok(Ok(load)) => {
                *self.last_load() = load;
                return Ok(load);
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, inside = error.inside, "a heartbeat tells the disks and guests that were seen last");
            }
            Err(_) => tracing::warn!(
                "the host's storage doesn't answer: a heartbeat tells the disks and guests that were seen last"
            ),
        }
        let last = *self.last_load();
        Ok(of_memory(last))
    }

    fn last_load(&self) -> std::sync::MutexGuard<'_, Load> {
        self.looks
            .last_load
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
