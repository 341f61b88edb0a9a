//! An agent that does as a script says, over mutual TLS: each way of failing is one act.

use futures::StreamExt;
use rhyzome_model::job::ErrorClass;
use rhyzome_model::problem::JobError;
use rhyzome_proto::agent::agent_server::{Agent, AgentServer};
use rhyzome_proto::agent::{
    ApplyOutcome, ApplyReport, ApplyRequest, ConsoleChunk, ConsoleRequest, HostReport, Inventory,
    InventoryRequest, WatchControl, apply_report,
};
use rhyzome_proto::convert::error_bytes;
use rhyzome_proto::event::{self, Outcome, OutcomeKind, StepResult, StepState};
use rhyzome_proto::job::Order;
use rhyzome_runtime::tls::{ServerTls, incoming};
use rhyzome_runtime::{Identity, Peer, Role};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// What the agent does with a call.
#[derive(Clone, Debug)]
pub enum Act {
    /// Both steps, then this end.
    End(OutcomeKind),
    /// The first step, then the second fails.
    Fail(ErrorClass),
    /// The phase is undoing.
    Turn,
    /// A lower fence.
    Stale,
    /// The first step, then the stream ends without an outcome.
    BreakOff,
    /// An error instead of an answer.
    Refuse(tonic::Code),
    /// A word of the future.
    Nonsense,
    /// Both steps, and success once [`FakeAgent::release`] says so.
    Hold,
}

type Script = dyn Fn(&Order, usize) -> Act + Send + Sync;

struct State {
    script: Box<Script>,
    calls: Mutex<Vec<Order>>,
    now: AtomicUsize,
    most: AtomicUsize,
    released: watch::Sender<bool>,
}

#[derive(Clone)]
pub struct FakeAgent {
    pub address: String,
    state: Arc<State>,
    token: CancellationToken,
}

impl FakeAgent {
    /// `script` gets the order and how many calls of its job came before.
    pub async fn start(
        identity: &Identity,
        script: impl Fn(&Order, usize) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let agent = Self {
            address: listener.local_addr().unwrap().to_string(),
            state: Arc::new(State {
                script: Box::new(script),
                calls: Mutex::default(),
                now: AtomicUsize::new(0),
                most: AtomicUsize::new(0),
                released: watch::channel(false).0,
            }),
            token: CancellationToken::new(),
        };
        let connections = incoming(
            listener,
            ServerTls::single(identity).unwrap(),
            agent.token.clone(),
        );
        let serving = tonic::transport::Server::builder()
            .add_service(AgentServer::new(agent.clone()))
            .serve_with_incoming_shutdown(connections, agent.token.clone().cancelled_owned());
        tokio::spawn(serving);
        agent
    }

    /// Calls so far, in order.
    pub fn calls(&self) -> Vec<Order> {
        self.state.calls.lock().unwrap().clone()
    }

    /// Of one order's job.
    pub fn calls_of(&self, order: &Order) -> Vec<Order> {
        self.calls().into_iter().filter(|c| c.job == order.job).collect()
    }

    /// Calls under way, and the most that ever were.
    pub fn under_way(&self) -> (usize, usize) {
        (
            self.state.now.load(Ordering::SeqCst),
            self.state.most.load(Ordering::SeqCst),
        )
    }

    /// Lets go of all that are held.
    pub fn release(&self) {
        self.state.released.send_replace(true);
    }
}

fn step(index: u32, name: &str, state: StepState) -> ApplyReport {
    let result = StepResult {
        index,
        name: name.into(),
        state: state.into(),
        ..Default::default()
    };
    ApplyReport {
        report: Some(apply_report::Report::Step(result)),
    }
}

fn outcome(kind: i32, class: Option<ErrorClass>) -> ApplyReport {
    let error = class.map(|class| JobError::new("FAKE", class.as_str()));
    let outcome = Outcome {
        kind,
        error: error_bytes(error.as_ref()),
        class: class.map_or(0, |c| event::ErrorClass::from(c).into()),
    };
    ApplyReport {
        report: Some(apply_report::Report::Outcome(ApplyOutcome {
            outcome: Some(outcome),
            steps: Vec::new(),
        })),
    }
}

struct UnderWay(Arc<State>);

impl UnderWay {
    fn new(state: &Arc<State>) -> Self {
        let now = state.now.fetch_add(1, Ordering::SeqCst) + 1;
        state.most.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(state))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FakeAgent {
    async fn act(&self, act: Act, out: mpsc::Sender<Result<ApplyReport, Status>>) {
        let _under_way = UnderWay::new(&self.state);
        let done = |index| step(index, "ensure_disk", StepState::Succeeded);
        let say = |report| async { drop(out.send(Ok(report)).await) };
        match act {
            Act::End(kind) => {
                say(done(0)).await;
                say(done(1)).await;
                say(outcome(kind.into(), None)).await;
            }
            Act::Fail(class) => {
                say(done(0)).await;
                say(step(1, "ensure_instance", StepState::Failed)).await;
                say(outcome(OutcomeKind::StepFailed.into(), Some(class))).await;
            }
            Act::Turn => say(outcome(OutcomeKind::TurnToUndo.into(), None)).await,
            Act::Stale => say(outcome(OutcomeKind::Stale.into(), None)).await,
            Act::BreakOff => say(done(0)).await,
            Act::Nonsense => say(outcome(99, None)).await,
            Act::Hold => {
                say(done(0)).await;
                let mut released = self.state.released.subscribe();
                let let_go = async { released.wait_for(|r| *r).await.map(drop) };
                let alive = tokio::select! {
                    let_go = let_go => let_go.is_ok(),
                    () = out.closed() => false,
                };
                if alive {
                    say(done(1)).await;
                    say(outcome(OutcomeKind::Succeeded.into(), None)).await;
                }
            }
            Act::Refuse(_) => unreachable!("refused before"),
        }
    }
}

#[tonic::async_trait]
impl Agent for FakeAgent {
    type ApplyStream = ReceiverStream<Result<ApplyReport, Status>>;

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<Self::ApplyStream>, Status> {
        Peer::require(&request, &[Role::Worker])?;
        let order = request.into_inner().order.unwrap();
        let act = {
            let mut calls = self.state.calls.lock().unwrap();
            let before = calls.iter().filter(|c| c.job == order.job).count();
            calls.push(order.clone());
            (self.state.script)(&order, before)
        };
        if let Act::Refuse(code) = act {
            return Err(Status::new(code, "as the script says"));
        }
        let (out, stream) = mpsc::channel(8);
        let agent = self.clone();
        tokio::spawn(async move { agent.act(act, out).await });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type WatchStream = Pin<Box<dyn futures::Stream<Item = Result<HostReport, Status>> + Send>>;

    async fn watch(
        &self,
        _: Request<Streaming<WatchControl>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(futures::stream::empty().boxed()))
    }

    async fn get_inventory(&self, _: Request<InventoryRequest>) -> Result<Response<Inventory>, Status> {
        Ok(Response::new(Inventory::default()))
    }

    type ConsoleStream = Pin<Box<dyn futures::Stream<Item = Result<ConsoleChunk, Status>> + Send>>;

    async fn console(&self, _: Request<ConsoleRequest>) -> Result<Response<Self::ConsoleStream>, Status> {
        Ok(Response::new(futures::stream::empty().boxed()))
    }
}
