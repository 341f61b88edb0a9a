//! What a watch looks at beside all else that it does: it may take long, or hang with the host's storage. Of each kind one look at a time;
//! whoever asks while one is under way gets another, begun after it.

use super::inventory;
use crate::apply::Engine;
use crate::driver::{Capacity, GuestSeen, StepError};
use rhyzome_model::ids::HostName;
use rhyzome_proto::agent::Inventory;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use tokio::task::JoinSet;

/// A kind of look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Look {
    Capacity,
    Guests,
    Inventory,
}

/// What one showed.
#[derive(Debug)]
pub(super) enum Looked {
    Capacity(Capacity),
    Guests(Vec<GuestSeen>),
    Inventory(Inventory),
}

/// The looks of a watch, ended with it.
pub(super) struct Looks {
    engine: Arc<Engine>,
    host: HostName,
    running: JoinSet<(Look, Result<Looked, StepError>)>,
    /// Whether somebody asked since it was begun.
    under_way: HashMap<Look, bool>,
}

impl Looks {
    pub(super) fn new(engine: Arc<Engine>, host: HostName) -> Self {
        Self {
            engine,
            host,
            running: JoinSet::new(),
            under_way: HashMap::new(),
        }
    }

    /// A look that is begun after this.
    pub(super) fn ask(&mut self, look: Look) {
        match self.under_way.entry(look) {
            Entry::Occupied(mut again) => *again.get_mut() = true,
            Entry::Vacant(place) => {
                place.insert(false);
                let (engine, host) = (self.engine.clone(), self.host.clone());
                self.running
                    .spawn(async move { (look, make(look, &engine, &host).await) });
            }
        }
    }

    /// A look, unless one is under way.
    pub(super) fn keep_fresh(&mut self, look: Look) {
        if !self.under_way.contains_key(&look) {
            self.ask(look);
        }
    }

    /// The next that is made; pending while none is under way. Panics as a look does.
    pub(super) async fn made(&mut self) -> Result<Looked, StepError> {
        match self.running.join_next().await {
            Some(Ok((look, looked))) => {
                if self.under_way.remove(&look) == Some(true) {
                    self.ask(look);
                }
                looked
            }
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Some(Err(_)) | None => std::future::pending().await,
        }
    }
}

async fn make(look: Look, engine: &Engine, host: &HostName) -> Result<Looked, StepError> {
    match look {
        Look::Capacity => engine.driver().capacity(host).await.map(Looked::Capacity),
        Look::Guests => engine.driver().guests(host).await.map(Looked::Guests),
        Look::Inventory => inventory::inventory(engine, host).await.map(Looked::Inventory),
    }
}
