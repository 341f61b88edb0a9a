//! Waiting for a job's end: woken by change notices, judged by Postgres.
//!
//! One task reads for all who wait: the jobs of which something was heard, new ones at once, and all of them every `poll` in case
//! nothing was heard. What comes together is read in one query. Nobody is told that a job is done but from its row.

use rhyzome_model::ids::JobId;
use rhyzome_runtime::part;
use rhyzome_store::rows::JobRow;
use rhyzome_store::{Store, StoreError};
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Jobs read in one query.
const READ_MAX: usize = 500;
/// Requests to wait that are queued.
const QUEUE: usize = 4096;

/// Where jobs are read.
pub trait JobReader: Send + Sync + 'static {
    /// Those of the ids that are there, and can be read here.
    fn read(
        &self,
        ids: Vec<JobId>,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<JobRow>, StoreError>> + Send + '_>>;
}

impl JobReader for Store {
    fn read(
        &self,
        ids: Vec<JobId>,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<JobRow>, StoreError>> + Send + '_>> {
        Box::pin(async move { self.jobs_readable(&ids).await })
    }
}

struct Waiter {
    job: JobId,
    done: oneshot::Sender<JobRow>,
}

/// Jobs of which something was heard since they were last read.
#[derive(Debug, Default)]
struct Heard {
    jobs: Mutex<HashSet<JobId>>,
    some: Notify,
}

impl Heard {
    fn note(&self, job: JobId) {
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(job);
        self.some.notify_one();
    }

    fn take(&self) -> HashSet<JobId> {
        std::mem::take(&mut *self.jobs.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JobWatch {
    waiters: mpsc::Sender<Waiter>,
    heard: Arc<Heard>,
}

impl JobWatch {
    /// Begins; ends with the token.
    pub fn spawn(reader: impl JobReader, poll: Duration, token: CancellationToken) -> Self {
        let (waiters, incoming) = mpsc::channel(QUEUE);
        let heard = Arc::new(Heard::default());
        part::spawn(
            "waiting requests",
            token.run_until_cancelled_owned(watch(reader, incoming, heard.clone(), poll)),
        );
        Self { waiters, heard }
    }

    /// The job once it is done; none when the time is up first.
    pub async fn done(&self, job: JobId, within: Duration) -> Option<JobRow> {
        let (done, row) = oneshot::channel();
        self.waiters.send(Waiter { job, done }).await.ok()?;
        tokio::time::timeout(within, row).await.ok()?.ok()
    }

    /// A job may have changed: as a notice says.
    pub fn heard(&self, job: JobId) {
        self.heard.note(job);
    }
}

async fn watch(
    reader: impl JobReader,
    mut incoming: mpsc::Receiver<Waiter>,
    heard: Arc<Heard>,
    poll: Duration,
) {
    let mut waiting: HashMap<JobId, Vec<oneshot::Sender<JobRow>>> = HashMap::new();
    let mut ticks = tokio::time::interval(poll);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut new = Vec::new();
    loop {
        let mut look: HashSet<JobId> = HashSet::new();
        tokio::select! {
            n = incoming.recv_many(&mut new, READ_MAX) => {
                if n == 0 {
                    return;
                }
                for waiter in new.drain(..) {
                    look.insert(waiter.job);
                    waiting.entry(waiter.job).or_default().push(waiter.done);
                }
            }
            () = heard.some.notified() => {}
            _ = ticks.tick() => {
                waiting.retain(|_, waiters| {
                    waiters.retain(|w| !w.is_closed());
                    !waiters.is_empty()
                });
                look.extend(waiting.keys().copied());
            }
        }
        look.extend(heard.take().into_iter().filter(|job| waiting.contains_key(job)));
        let look: Vec<JobId> = look.into_iter().collect();
        for ids in look.chunks(READ_MAX) {
            match reader.read(ids.to_vec()).await {
                Ok(rows) => {
                    for row in rows.into_iter().filter(|row| row.state.is_done()) {
                        for waiter in waiting.remove(&row.id).unwrap_or_default() {
                            // Whoever gave up meanwhile needs no answer.
                            drop(waiter.send(row.clone()));
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "jobs that are waited for can't be read, again at the next poll");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{JobReader, JobWatch};
    use crate::shapes::job::tests::row;
    use rhyzome_model::ids::JobId;
    use rhyzome_model::job::JobState;
    use rhyzome_store::StoreError;
    use rhyzome_store::rows::JobRow;
    use std::collections::HashMap;
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;

    #[derive(Clone, Default)]
    struct Table {
        rows: Arc<Mutex<HashMap<JobId, JobRow>>>,
        reads: Arc<Mutex<usize>>,
    }

    impl Table {
        fn put(&self, row: JobRow) {
            self.rows.lock().unwrap().insert(row.id, row);
        }
    }

    impl JobReader for Table {
        fn read(
            &self,
            ids: Vec<JobId>,
        ) -> Pin<Box<dyn Future<Output = Result<Vec<JobRow>, StoreError>> + Send + '_>> {
            *self.reads.lock().unwrap() += 1;
            let rows = self.rows.lock().unwrap();
            let found = ids.iter().filter_map(|id| rows.get(id).cloned()).collect();
            Box::pin(std::future::ready(Ok(found)))
        }
    }

    const HOUR: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn a_job_that_is_done_answers_at_once() {
        let table = Table::default();
        let job = row(JobState::Succeeded);
        table.put(job.clone());
        let watch = JobWatch::spawn(table, HOUR, CancellationToken::new());
        assert_eq!(watch.done(job.id, HOUR).await.unwrap().id, job.id);
    }

    #[tokio::test]
    async fn a_notice_wakes_and_the_row_decides() {
        let table = Table::default();
        let mut job = row(JobState::Running);
        table.put(job.clone());
        let watch = JobWatch::spawn(table.clone(), HOUR, CancellationToken::new());
        let waiting = tokio::spawn({
            let (watch, id) = (watch.clone(), job.id);
            async move { watch.done(id, HOUR).await }
        });
        while *table.reads.lock().unwrap() < 2 {
            watch.heard(job.id);
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished(), "a notice alone ends nothing");
        job.state = JobState::Failed;
        table.put(job.clone());
        watch.heard(job.id);
        assert_eq!(waiting.await.unwrap().unwrap().state, JobState::Failed);
    }

    #[tokio::test(start_paused = true)]
    async fn the_poll_finds_what_was_not_heard_and_time_ends_it() {
        let table = Table::default();
        let mut job = row(JobState::Running);
        table.put(job.clone());
        let watch = JobWatch::spawn(table.clone(), Duration::from_secs(1), CancellationToken::new());
        assert!(watch.done(job.id, Duration::from_secs(3)).await.is_none());
        let waiting = tokio::spawn({
            let (watch, id) = (watch.clone(), job.id);
            async move { watch.done(id, HOUR).await }
        });
        tokio::task::yield_now().await;
        job.state = JobState::Succeeded;
        table.put(job);
        assert!(waiting.await.unwrap().is_some());
    }
}
