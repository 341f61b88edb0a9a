//! Virtual time: nothing passes but from one event to the next. Who sleeps is woken in the order of times, then of asking.

use crate::lock;
use chrono::{DateTime, Utc};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Mutex;
use tokio::sync::oneshot;

/// When every schedule begins, Unix milliseconds.
pub const BEGIN_MS: i64 = 1_800_000_000_000;

thread_local! {
    /// What the clocks of agents show: the engine takes a plain function for its clock.
    static AGENTS_MS: Cell<i64> = const { Cell::new(BEGIN_MS) };
}

/// Unix milliseconds by the agents' clocks of the schedule that runs on this thread.
pub fn agents_ms() -> i64 {
    AGENTS_MS.get()
}

/// See the module.
#[derive(Debug)]
pub struct Clock {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    now_ms: i64,
    agents_ahead_ms: i64,
    asked: u64,
    sleepers: BTreeMap<(i64, u64), oneshot::Sender<()>>,
}

impl Clock {
    /// At the beginning. The agents' clocks are ahead by so much, or behind.
    pub fn new(agents_ahead_ms: i64) -> Self {
        AGENTS_MS.set(BEGIN_MS + agents_ahead_ms);
        Self {
            inner: Mutex::new(Inner {
                now_ms: BEGIN_MS,
                agents_ahead_ms,
                asked: 0,
                sleepers: BTreeMap::new(),
            }),
        }
    }

    /// Unix milliseconds.
    pub fn now_ms(&self) -> i64 {
        lock(&self.inner).now_ms
    }

    /// The database's time.
    pub fn now(&self) -> DateTime<Utc> {
        at(self.now_ms())
    }

    /// Every clock shows the same from now on.
    pub fn set_right(&self) {
        lock(&self.inner).agents_ahead_ms = 0;
    }

    /// Sleeps.
    pub async fn sleep(&self, ms: u64) {
        let woken = {
            let mut inner = lock(&self.inner);
            let (wake, woken) = oneshot::channel();
            let key = (inner.now_ms + ms as i64, inner.asked);
            inner.asked += 1;
            inner.sleepers.insert(key, wake);
            woken
        };
        // The sender is gone only with the clock itself.
        let _ = woken.await;
    }

    /// Goes to the next event, and wakes its sleeper; false where there is none.
    pub fn advance(&self) -> bool {
        let mut inner = lock(&self.inner);
        let (ms, wake) = loop {
            match inner.sleepers.pop_first() {
                None => return false,
                // Nobody waits for it any more.
                Some((_, wake)) if wake.is_closed() => {}
                Some(((ms, _), wake)) => break (ms, wake),
            }
        };
        inner.now_ms = ms;
        AGENTS_MS.set(ms + inner.agents_ahead_ms);
        // Who doesn't wait any more isn't woken.
        let _ = wake.send(());
        true
    }
}

/// A time from Unix milliseconds.
pub fn at(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or(DateTime::UNIX_EPOCH)
}
