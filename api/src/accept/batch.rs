//! Creates that come together, in one transaction: natural batching.
//!
//! A batch is whatever came while the last one was being committed, up to a cap; an idle service adds no latency. One batch at a time costs
//! least: it is as large as can be, and meets nobody on the rows that all creates lock. Only behind one that takes long, for it waits for
//! a row that somebody holds, others go on, some at a time. A request that breaks a batch is found by accepting each of its requests alone, so that it fails no neighbour. What
//! was committed is announced here, even if who asked has gone meanwhile.

use crate::announce::Announcer;
use crate::problem::Problem;
use rhyzome_runtime::fault::{self, Point, Side};
use rhyzome_store::accept::{AcceptedNow, CreateRequest, Refusal, Reply};
use rhyzome_store::{Store, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot};

/// Requests that wait for a batch; beyond that, callers wait.
const QUEUE: usize = 4096;
/// How long a batch keeps those that came after it waiting; more than any takes that waits for nobody.
const PATIENCE: Duration = Duration::from_millis(200);

type Answer = Result<Result<Reply, Refusal>, Problem>;

struct Item {
    request: CreateRequest,
    answer: oneshot::Sender<Answer>,
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Batcher(mpsc::Sender<Item>);

impl Batcher {
    /// Begins, with so many batches in flight where some take long; ends once every clone is dropped.
    pub fn spawn(store: &Store, announcer: &Announcer, batch_max: usize, in_flight: usize) -> Self {
        let (sender, waiting) = mpsc::channel(QUEUE);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..in_flight.max(1) {
            let worker = Worker {
                store: store.clone(),
                announcer: announcer.clone(),
                waiting: waiting.clone(),
                batch_max: batch_max.max(1),
            };
            tokio::spawn(worker.run());
        }
        Self(sender)
    }

    /// Accepts a create. No two requests with the same idempotency key may be here at a time ([`super::keys`]).
    pub async fn accept(&self, request: CreateRequest) -> Answer {
        let (answer, answered) = oneshot::channel();
        let gone = || Problem::unavailable("The service is about to end.");
        self.0.send(Item { request, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

struct Worker {
    store: Store,
    announcer: Announcer,
    waiting: Arc<Mutex<mpsc::Receiver<Item>>>,
    batch_max: usize,
}

impl Worker {
    async fn run(self) {
        let mut items = Vec::with_capacity(self.batch_max);
        loop {
            let mut waiting = self.waiting.lock().await;
            if waiting.recv_many(&mut items, self.batch_max).await == 0 {
                return;
            }
            let (requests, askers): (Vec<_>, Vec<_>) = items.drain(..).map(|i| (i.request, i.answer)).unzip();
            let accepting = self.accept(requests);
            tokio::pin!(accepting);
            let soon = tokio::time::timeout(PATIENCE, &mut accepting).await;
            drop(waiting);
            let answers = match soon {
                Ok(answers) => answers,
                Err(_) => accepting.await,
            };
            for (asker, answer) in askers.into_iter().zip(answers) {
                if let Ok(Ok(Reply {
                    accepted,
                    now: AcceptedNow::Now,
                })) = &answer
                {
                    self.announcer.accepted(&accepted.resource, accepted.job.as_ref());
                }
                // Who has gone reads the job later, or never.
                drop(asker.send(answer));
            }
        }
    }

    async fn accept(&self, requests: Vec<CreateRequest>) -> Vec<Answer> {
        let alone = requests.len() == 1;
        fault::point(Point::AcceptCommit, Side::Before);
        match self.store.accept_creates(&requests).await {
            Ok(answers) => {
                fault::point(Point::AcceptCommit, Side::After);
                answers.into_iter().map(Ok).collect()
            }
            Err(error) if alone => vec![Err(error.into())],
            // Whether it was committed is unknown: accepting again could make it twice. Or one of them met a row that is held: one by one
            // each would wait for those before it.
            Err(error @ (StoreError::Unreachable(_) | StoreError::Held(_))) => {
                let problem = Problem::from(error);
                requests.iter().map(|_| Err(problem.clone())).collect()
            }
            Err(error) => {
                tracing::warn!(%error, requests = requests.len(), "a batch failed, each of its requests is accepted alone");
                let mut answers = Vec::with_capacity(requests.len());
                for request in requests {
                    let answer = match self.store.accept_creates(&[request]).await {
                        Ok(mut one) => one.pop().ok_or_else(|| Problem::internal("accept", &"no answer")),
                        Err(error) => Err(error.into()),
                    };
                    answers.push(answer);
                }
                answers
            }
        }
    }
}
