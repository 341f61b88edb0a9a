//! Creates that come together, in one transaction: natural batching.
//!
//! A batch is whatever came while the last one was being committed, up to a cap; an idle service adds no latency. One batch at a time costs
//! least: it is as large as can be, and meets nobody on the rows that all creates lock. A request that breaks a batch is found by accepting
//! each of its requests alone, so that it fails no neighbour. What was committed is announced here, even if who asked has gone meanwhile.
//!
//! A batch that meets a row that somebody holds is given up after a second, and its requests are set aside ([`super::aside`]): those that
//! need the same go on together, beside the batches, and whoever comes meanwhile and needs the same waits behind them.

use super::aside::Aside;
use super::keys::Turn;
use crate::announce::Announcer;
use crate::problem::Problem;
use rhyzome_runtime::fault::{self, Point, Side};
use rhyzome_runtime::part;
use rhyzome_store::accept::{AcceptedNow, CreateRequest, Refusal, Reply};
use rhyzome_store::{Store, StoreError};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Requests that wait for a batch; beyond that, callers wait.
pub(super) const QUEUE: usize = 4096;
pub(super) type Answer = Result<Result<Reply, Refusal>, Problem>;

pub(super) struct Item {
    pub(super) request: CreateRequest,
    asker: Asker,
}

/// Who waits for an answer, and the turn of its key, which is held until then, even where who asked has gone.
struct Asker {
    answer: oneshot::Sender<Answer>,
    _turn: Option<Turn>,
}

impl Asker {
    fn tell(self, answer: Answer) {
        // Who has gone reads the job later, or never.
        drop(self.answer.send(answer));
    }
}

/// Requests, and who waits for the answer to each.
type Apart = (Vec<CreateRequest>, Vec<Asker>);

impl Item {
    fn apart(items: impl IntoIterator<Item = Self>) -> Apart {
        items.into_iter().map(|item| (item.request, item.asker)).unzip()
    }

    fn together((requests, askers): Apart) -> impl Iterator<Item = Self> {
        requests
            .into_iter()
            .zip(askers)
            .map(|(request, asker)| Self { request, asker })
    }

    pub(super) fn answer(self, answer: Answer) {
        self.asker.tell(answer);
    }
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Batcher(mpsc::Sender<Item>);

impl Batcher {
    /// Begins, with so many transactions beside the batches for what was set aside; ends once every clone is dropped.
    pub fn spawn(store: &Store, announcer: &Announcer, batch_max: usize, beside: usize) -> Self {
        let (sender, waiting) = mpsc::channel(QUEUE);
        let batch_max = batch_max.max(1);
        let worker = Worker {
            store: store.clone(),
            announcer: announcer.clone(),
        };
        part::spawn(
            "creates",
            worker.run(waiting, batch_max, Arc::new(Aside::new(beside, batch_max))),
        );
        Self(sender)
    }

    /// Accepts a create. No two requests with the same idempotency key may be here at a time: so one with a key brings its turn.
    pub async fn accept(&self, request: CreateRequest, turn: Option<Turn>) -> Answer {
        let (answer, answered) = oneshot::channel();
        let gone = || Problem::unavailable("The service is about to end.");
        let asker = Asker { answer, _turn: turn };
        self.0.send(Item { request, asker }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// Accepts, and answers who asked.
#[derive(Clone)]
pub(super) struct Worker {
    store: Store,
    announcer: Announcer,
}

impl Worker {
    async fn run(self, mut waiting: mpsc::Receiver<Item>, batch_max: usize, aside: Arc<Aside>) {
        let mut items = Vec::with_capacity(batch_max);
        while waiting.recv_many(&mut items, batch_max).await > 0 {
            let (requests, askers) = Item::apart(items.drain(..).filter_map(|item| aside.free(item)));
            if requests.is_empty() {
                continue;
            }
            fault::point(Point::AcceptCommit, Side::Before);
            match self.store.accept_creates_soon(&requests).await {
                Err(error @ StoreError::Held(_)) => {
                    tracing::warn!(%error, requests = requests.len(), "creates meet a row that is held: they are set aside");
                    aside.put(Item::together((requests, askers)), &self);
                }
                done => {
                    let answers = self.answers(requests, done).await;
                    self.answer(askers, answers);
                }
            }
        }
    }

    /// Accepts requests that need the same, and answers them.
    pub(super) async fn accept_patiently(&self, items: Vec<Item>) {
        let (requests, askers) = Item::apart(items);
        fault::point(Point::AcceptCommit, Side::Before);
        let done = self.store.accept_creates(&requests).await;
        let answers = self.answers(requests, done).await;
        self.answer(askers, answers);
    }

    fn answer(&self, askers: Vec<Asker>, answers: Vec<Answer>) {
        for (asker, answer) in askers.into_iter().zip(answers) {
            if let Ok(Ok(Reply {
                accepted,
                now: AcceptedNow::Now,
            })) = &answer
            {
                self.announcer.accepted(&accepted.resource, accepted.job.as_ref());
            }
            asker.tell(answer);
        }
    }

    /// What each is answered, by what came of all of them together.
    async fn answers(
        &self,
        requests: Vec<CreateRequest>,
        done: Result<Vec<Result<Reply, Refusal>>, StoreError>,
    ) -> Vec<Answer> {
        let alone = requests.len() == 1;
        match done {
            Ok(answers) => {
                fault::point(Point::AcceptCommit, Side::After);
                answers.into_iter().map(Ok).collect()
            }
            Err(error) if alone => vec![Err(error.into())],
            // Whether it was committed is unknown: accepting again could make it twice. Or all need a row that is held still.
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
