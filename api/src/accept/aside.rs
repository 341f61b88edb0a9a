//! Creates that met a row that somebody holds: kept apart from all others, by what they need.
//!
//! Which row it was isn't known, so that those that ask for the same things count as one line: the first of a line are accepted together, with
//! the patience of an ordinary transaction, some lines at a time; whoever comes meanwhile and needs the same stands behind them. A line
//! ends when nobody stands in it.

use super::batch::{Item, QUEUE, Worker};
use crate::problem::Problem;
use rhyzome_model::ids::TenantId;
use rhyzome_model::kinds::Kind;
use rhyzome_runtime::part;
use rhyzome_store::accept::CreateRequest;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

/// Whose, and what a create refers to, as it was written, in order.
type Needs = (TenantId, Vec<(Kind, String)>);

fn needs(request: &CreateRequest) -> Needs {
    let mut targets: Vec<(Kind, String)> = request
        .references
        .iter()
        .map(|reference| (reference.kind, reference.target.clone()))
        .collect();
    targets.sort_unstable();
    targets.dedup();
    (request.tenant.clone(), targets)
}

/// See the module.
pub(super) struct Aside {
    /// Who waits behind those that are being accepted.
    lines: Mutex<HashMap<Needs, Vec<Item>>>,
    beside: Semaphore,
    batch_max: usize,
}

impl Aside {
    /// With so many transactions at a time, of so many requests each.
    pub(super) fn new(beside: usize, batch_max: usize) -> Self {
        Self {
            lines: Mutex::default(),
            beside: Semaphore::new(beside.max(1)),
            batch_max,
        }
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<Needs, Vec<Item>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a request back that needs nothing of what is waited for; any other stands in line.
    pub(super) fn free(&self, item: Item) -> Option<Item> {
        let mut lines = self.lines();
        if lines.is_empty() {
            return Some(item);
        }
        let Some(line) = lines.get_mut(&needs(&item.request)) else {
            return Some(item);
        };
        if line.len() < QUEUE {
            line.push(item);
        } else {
            item.answer(Err(Problem::held()));
        }
        None
    }

    /// Begins a line for each of the things that these need.
    pub(super) fn put(self: &Arc<Self>, items: impl Iterator<Item = Item>, worker: &Worker) {
        let mut parts: BTreeMap<Needs, Vec<Item>> = BTreeMap::new();
        for item in items {
            parts.entry(needs(&item.request)).or_default().push(item);
        }
        for (needs, first) in parts {
            self.lines().insert(needs.clone(), Vec::new());
            part::spawn(
                "creates set aside",
                Arc::clone(self).go_on(needs, first, worker.clone()),
            );
        }
    }

    async fn go_on(self: Arc<Self>, needs: Needs, mut items: Vec<Item>, worker: Worker) {
        while !items.is_empty() {
            {
                let _one = self.beside.acquire().await;
                worker.accept_patiently(items).await;
            }
            items = self.next(&needs);
        }
    }

    /// The next in a line; a line without any is over.
    fn next(&self, needs: &Needs) -> Vec<Item> {
        let mut lines = self.lines();
        let Some(line) = lines.get_mut(needs) else {
            return Vec::new();
        };
        let next: Vec<Item> = line.drain(..line.len().min(self.batch_max)).collect();
        if next.is_empty() {
            lines.remove(needs);
        }
        next
    }
}
