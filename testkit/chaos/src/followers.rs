//! Invariant 10: clients that watch `/v1/events` through all that breaks, and come again after each end of a connection, have seen at rest
//! every change that is in Postgres, once and in order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rhyzome_testkit::Stack;
use rhyzome_testkit::events::{Follower, NotOpen, Watch};
use sqlx::{PgPool, Row};
use tokio::task::JoinHandle;

use crate::journal::Journal;

const TENANT: &str = "demo";
/// One keeps its connection for as long as it lasts, one loses it after so many events.
const LOSE_AFTER: [Option<usize>; 2] = [None, Some(17)];
/// How long they may take to see the last changes.
const CATCH_UP: Duration = Duration::from_mins(1);

/// Ids that were seen and not compared yet.
type Seen = Arc<Mutex<VecDeque<String>>>;

/// See the module.
pub(crate) struct Followers {
    seen: Vec<Seen>,
    tasks: Vec<JoinHandle<()>>,
    /// The row from which on nothing was compared yet, and how many of its entries were.
    from: (String, i64, usize),
}

impl Drop for Followers {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The address of one of the API servers; where none says that it serves, the stack's own.
fn url(stack: &Stack, which: usize) -> String {
    let apis = stack.apis();
    match apis.get(which % apis.len().max(1)) {
        Some(api) => format!("http://{api}/v1/events"),
        None => format!("{}/v1/events", stack.file().api_url),
    }
}

impl Followers {
    /// Begins to watch.
    pub(crate) async fn start(stack: &Arc<Stack>, journal: &Arc<Journal>) -> Result<Self> {
        let token = stack.token(&["--tenant", TENANT]);
        let watch = Watch::open(&url(stack, 0), Some(&token), None)
            .await
            .map_err(|error| anyhow!("watching: {error:?}"))?;
        let first = watch
            .last_id()
            .context("a stream that doesn't say where it begins")?
            .to_owned();
        let mut parts = first.split('-');
        let from = (|| {
            let from = (
                parts.next()?.to_owned(),
                parts.next()?.parse().ok()?,
                parts.next()?.parse().ok()?,
            );
            Some(from)
        })()
        .with_context(|| format!("the id {first}"))?;
        let mut followers = Self {
            seen: Vec::new(),
            tasks: Vec::new(),
            from,
        };
        for (which, lose_after) in LOSE_AFTER.into_iter().enumerate() {
            let seen = Seen::default();
            followers.seen.push(Arc::clone(&seen));
            let follow = follow(
                Arc::clone(stack),
                Arc::clone(journal),
                which,
                lose_after,
                first.clone(),
                seen,
            );
            followers.tasks.push(tokio::spawn(follow));
        }
        Ok(followers)
    }

    /// They are gone when this returns.
    pub(crate) async fn stop(mut self) {
        for task in std::mem::take(&mut self.tasks) {
            task.abort();
            // An aborted task says so.
            let _ = task.await;
        }
    }

    /// At rest: what each has seen since the last time is what is there.
    pub(crate) async fn check(&mut self, db: &PgPool, journal: &Journal) -> Result<()> {
        let rows = sqlx::query(
            "SELECT c.xid::text, c.seq, c.entries FROM changes c WHERE c.tenant = $1 AND (c.xid, c.seq) >= ($2::text::xid8, $3)
               AND c.xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY c.xid, c.seq",
        )
        .bind(TENANT)
        .bind(&self.from.0)
        .bind(self.from.1)
        .fetch_all(db)
        .await
        .context("reading what changed")?;
        let mut there: Vec<String> = Vec::new();
        for row in &rows {
            let (xid, seq, entries): (String, i64, String) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let before = if (&xid, seq) == (&self.from.0, self.from.1) {
                self.from.2
            } else {
                0
            };
            there.extend((before..entries.lines().count()).map(|n| format!("{xid}-{seq}-{}", n + 1)));
        }
        if let Some(row) = rows.last() {
            self.from = (row.try_get(0)?, row.try_get::<i64, _>(1)? + 1, 0);
        }
        let until = Instant::now() + CATCH_UP;
        for (which, seen) in self.seen.iter().enumerate() {
            while lock(seen).len() < there.len() && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let mut seen = lock(seen);
            let most = there.len().min(seen.len());
            let told: Vec<String> = seen.drain(..most).collect();
            if told != there {
                let at = told
                    .iter()
                    .zip(&there)
                    .position(|(told, there)| told != there)
                    .unwrap_or(most);
                journal.broken(
                    10,
                    &format!(
                        "watcher {which} saw {} changes of {}; the first difference is at {at}: {:?} for {:?}",
                        told.len(),
                        there.len(),
                        told.get(at),
                        there.get(at)
                    ),
                );
            }
        }
        Ok(())
    }
}

fn lock(seen: &Seen) -> std::sync::MutexGuard<'_, VecDeque<String>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn follow(
    stack: Arc<Stack>,
    journal: Arc<Journal>,
    which: usize,
    lose_after: Option<usize>,
    first: String,
    seen: Seen,
) {
    let mut after = first;
    loop {
        let token = stack.token(&["--tenant", TENANT]);
        let at = Arc::clone(&stack);
        let mut follower = Follower::new(move || url(&at, which), &token, Some(&after));
        let mut events = 0;
        let refused = loop {
            match follower.next().await {
                Ok(event) => {
                    after.clone_from(&event.id);
                    // What is public belongs to another tenant.
                    if event.data["tenant"] == TENANT {
                        lock(&seen).push_back(event.id);
                    }
                    events += 1;
                    if lose_after.is_some_and(|n| events % n == 0) {
                        follower.drop_connection();
                    }
                }
                Err(error) => break error,
            }
        };
        match refused {
            // A token lasts an hour.
            NotOpen::Refused { status: 401, .. } => {}
            NotOpen::Refused { .. } | NotOpen::Broken(_) => {
                journal.broken(10, &format!("watcher {which} is refused: {refused:?}"));
                return;
            }
        }
    }
}
