//! Many callers, one sync: the group commit.
//!
//! A caller changes the state and queues the change's bytes under one lock, so that the file has the order in which decisions
//! were made. A thread writes and syncs whatever was queued since its last sync; a caller that must not answer before its
//! decision is safe waits on a [`Ticket`]. Changes that nobody waits for (a step's result) go with the next batch, or by themselves
//! shortly after. After a failed write every ticket fails, for good: the agent must end. A panic of the thread ends the process.

mod held;

use super::codec;
use super::file::{LedgerError, LedgerFile, snapshot};
use super::record::Change;
use super::state::{HostState, State};
use rhyzome_model::ids::HostName;
use rhyzome_runtime::part;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::SetOnce;
use uuid::Uuid;

/// How long a change that nobody waits for may stay in memory.
const LINGER: Duration = Duration::from_millis(50);
/// The file is compacted when it is larger than this, and than four times its last snapshot.
const COMPACT_FROM: u64 = 32 << 20;

pub use held::Queued;

type Batch = Arc<SetOnce<Result<(), LedgerError>>>;

/// Cheap to share.
#[derive(Debug)]
pub struct Ledger {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    wake: Condvar,
}

#[derive(Debug)]
struct Inner {
    state: State,
    queued: Vec<u8>,
    batch: Batch,
    in_flight: Option<Batch>,
    hurry: bool,
    closing: bool,
    failed: Option<LedgerError>,
}

/// Becomes ready when all that was decided before it was taken is on the disk.
#[derive(Debug)]
#[must_use = "an answer must wait for it"]
pub struct Ticket(Option<Batch>);

impl Ticket {
    /// One with nothing to wait for.
    pub fn ready() -> Self {
        Self(None)
    }

    /// Waits.
    ///
    /// # Errors
    /// The write failed, or the ledger was closed.
    pub async fn durable(&self) -> Result<(), LedgerError> {
        match &self.0 {
            Some(batch) => batch.wait().await.clone(),
            None => Ok(()),
        }
    }
}

/// The state under the lock.
#[derive(Debug)]
pub struct Tx<'a> {
    inner: &'a mut Inner,
}

impl Tx<'_> {
    /// A host, if this ledger has it.
    pub fn host(&self, host: &HostName) -> Option<&HostState> {
        self.inner.state.hosts.get(host)
    }

    /// Changes the state now, and the file some time after; in order.
    pub fn write(&mut self, host: &HostName, change: &Change) {
        self.inner.state.apply(host, change);
        codec::encode(&mut self.inner.queued, host, change);
    }

    /// For waiting until all that was written so far is durable; the writer hurries.
    pub fn ticket(&mut self) -> Ticket {
        let inner = &mut *self.inner;
        if inner.failed.is_some() || inner.closing || !inner.queued.is_empty() {
            inner.hurry = true;
            return Ticket(Some(inner.batch.clone()));
        }
        Ticket(inner.in_flight.clone())
    }
}

impl Shared {
    fn new(state: State, queued: Vec<u8>) -> Arc<Self> {
        let inner = Inner {
            state,
            queued,
            batch: Batch::default(),
            in_flight: None,
            hurry: false,
            closing: false,
            failed: None,
        };
        Arc::new(Self {
            inner: Mutex::new(inner),
            wake: Condvar::new(),
        })
    }
}

fn locked(shared: &Shared) -> MutexGuard<'_, Inner> {
    // Changes are applied whole or not at all, so a panic elsewhere leaves nothing half done.
    shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    /// Opens or makes the ledger of a directory; hosts that it doesn't have are new, with a ledger id of their own.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn open(dir: &Path, hosts: &[HostName]) -> Result<Self, LedgerError> {
        let (mut file, mut state) = LedgerFile::open(dir)?;
        let mut fresh = Vec::new();
        for host in hosts
            .iter()
            .filter(|host| !state.hosts.contains_key(*host))
            .collect::<Vec<_>>()
        {
            let change = Change::Host {
                ledger_id: Uuid::new_v4(),
            };
            state.apply(host, &change);
            codec::encode(&mut fresh, host, &change);
        }
        if !fresh.is_empty() {
            file.append(&fresh)?;
        }
        let shared = Shared::new(state, Vec::new());
        let for_writer = shared.clone();
        let writer = writer(dir, move || write_on(&for_writer, file))?;
        Ok(Self {
            shared,
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Looks, decides and writes under the lock. Must be short.
    pub fn with<R>(&self, f: impl FnOnce(&mut Tx<'_>) -> R) -> R {
        let mut inner = locked(&self.shared);
        let before = (inner.queued.is_empty(), inner.hurry);
        let result = f(&mut Tx { inner: &mut inner });
        let wake = before != (inner.queued.is_empty(), inner.hurry);
        drop(inner);
        if wake {
            self.shared.wake.notify_one();
        }
        result
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<LedgerError> {
        locked(&self.shared).failed.clone()
    }

    /// Writes what is queued and ends. What comes after is refused.
    pub fn close(&self) {
        locked(&self.shared).closing = true;
        self.shared.wake.notify_one();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!("the ledger's thread panicked");
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.close();
    }
}

/// Nobody else would write, and every ticket would wait for ever: its panic ends the process.
fn writer(dir: &Path, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LedgerError> {
    std::thread::Builder::new()
        .name("ledger".into())
        .spawn(move || part::run("ledger", work))
        .map_err(|e| LedgerError::Io {
            path: dir.to_owned(),
            doing: "starting its thread",
            detail: e.to_string(),
        })
}

fn write_on(shared: &Shared, mut file: LedgerFile) {
    let mut compact_at = COMPACT_FROM.max(file.length().saturating_mul(2));
    let mut spare = Vec::new();
    loop {
        let mut inner = wait_for_work(shared);
        if inner.queued.is_empty() {
            fail(&mut inner, LedgerError::Closed);
            return;
        }
        let compaction = (file.length() > compact_at).then(|| snapshot(&inner.state));
        let bytes = std::mem::replace(&mut inner.queued, std::mem::take(&mut spare));
        let batch = std::mem::take(&mut inner.batch);
        inner.in_flight = Some(batch.clone());
        inner.hurry = false;
        drop(inner);

        let written = match &compaction {
            Some(snapshot) => file.replace(snapshot),
            None => file.append(&bytes),
        };
        if compaction.is_some() {
            compact_at = COMPACT_FROM.max(file.length().saturating_mul(4));
            tracing::info!(bytes = file.length(), "the ledger was compacted");
        }
        let mut inner = locked(shared);
        inner.in_flight = None;
        if let Err(error) = &written {
            tracing::error!(%error, "the ledger can't be written any more");
            fail(&mut inner, error.clone());
        }
        drop(inner);
        let ended = written.is_err();
        // Nobody else sets a batch that is in flight.
        let _ = batch.set(written);
        if ended {
            return;
        }
        spare = bytes;
        spare.clear();
    }
}

fn wait_for_work(shared: &Shared) -> MutexGuard<'_, Inner> {
    let mut inner = locked(shared);
    while !inner.closing && !inner.hurry {
        if inner.queued.is_empty() {
            inner = shared.wake.wait(inner).unwrap_or_else(PoisonError::into_inner);
        } else {
            let (guard, waited) = shared
                .wake
                .wait_timeout(inner, LINGER)
                .unwrap_or_else(PoisonError::into_inner);
            inner = guard;
            if waited.timed_out() {
                break;
            }
        }
    }
    inner
}

/// From now on every ticket fails.
fn fail(inner: &mut Inner, error: LedgerError) {
    inner.failed = Some(error.clone());
    inner.closing = true;
    // A batch is set once, here or where it was written.
    let _ = inner.batch.set(Err(error));
}

#[cfg(test)]
mod tests;
