//! Who may call what, about which host; what the calls are counted as.
//!
//! The host in a call must be the one whose certificate the caller asked for, so that a call that was meant for one host can't
//! be taken by another behind the same listener.

use super::console::{Console, MOST_LINES};
use super::follow::{follow, soon, told};
use super::guests::GuestHub;
use super::inventory;
use super::watch::Watch;
use crate::apply::{Answer, Engine, Refusal};
use futures::stream::{BoxStream, StreamExt};
use metrics::{Counter, counter};
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_proto::agent::agent_server::Agent;
use rhyzome_proto::agent::{
    ApplyReport, ApplyRequest, ConsoleChunk, ConsoleRequest, HostReport, Inventory, InventoryRequest,
    WatchControl,
};
use rhyzome_proto::convert::WireError;
use rhyzome_runtime::{Peer, Role};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

/// How watches behave.
#[derive(Clone, Copy, Debug)]
pub struct WatchSettings {
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Between two reports of all guests' figures.
    pub guest_refresh: Duration,
    /// What the operator says that a host has.
    pub offered: Offered,
}

/// What the operator says that a host has, over what the driver found.
#[derive(Clone, Copy, Debug)]
pub struct Offered {
    /// Processors; as found where left out.
    pub vcpus: Option<u32>,
    /// MiB; as found where left out.
    pub memory_mib: Option<u64>,
    /// GiB; as found where left out.
    pub disk_gib: Option<u64>,
    /// Virtual processors offered for each processor.
    pub vcpu_overcommit: f64,
}

/// The service.
pub struct Service {
    engine: Arc<Engine>,
    hub: Arc<GuestHub>,
    settings: WatchSettings,
    shutdown: CancellationToken,
    calls: [CallCounts; 4],
}

#[derive(Clone, Copy)]
enum Method {
    Apply,
    Watch,
    GetInventory,
    Console,
}

impl Method {
    const ALL: [Self; 4] = [Self::Apply, Self::Watch, Self::GetInventory, Self::Console];

    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Watch => "Watch",
            Self::GetInventory => "GetInventory",
            Self::Console => "Console",
        }
    }
}

/// The codes that this service answers, each with its counter.
struct CallCounts(Vec<(Code, Counter)>);

impl CallCounts {
    fn register(method: Method) -> Self {
        let codes = [
            (Code::Ok, "OK"),
            (Code::InvalidArgument, "INVALID_ARGUMENT"),
            (Code::NotFound, "NOT_FOUND"),
            (Code::PermissionDenied, "PERMISSION_DENIED"),
            (Code::FailedPrecondition, "FAILED_PRECONDITION"),
            (Code::Unimplemented, "UNIMPLEMENTED"),
            (Code::Internal, "INTERNAL"),
            (Code::Unavailable, "UNAVAILABLE"),
            (Code::Unauthenticated, "UNAUTHENTICATED"),
        ];
        let register = |(code, name): (Code, &'static str)| {
            let count = counter!("rhyzome_agent_calls_total", "method" => method.as_str(), "code" => name);
            count.increment(0);
            (code, count)
        };
        Self(codes.map(register).into())
    }
}

impl Service {
    /// A service over an engine. Watches and consoles end when the token is cancelled.
    pub fn new(
        engine: Arc<Engine>,
        hub: Arc<GuestHub>,
        settings: WatchSettings,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            engine,
            hub,
            settings,
            shutdown,
            calls: Method::ALL.map(CallCounts::register),
        }
    }

    fn counted<T>(&self, method: Method, answer: Result<T, Status>) -> Result<T, Status> {
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        let CallCounts(counts) = &self.calls[method as usize];
        if let Some((_, count)) = counts.iter().find(|(known, _)| *known == code) {
            count.increment(1);
        }
        answer
    }

    /// The host of a call: served here, and the one that the caller's connection was made to.
    fn host<T>(&self, request: &Request<T>, roles: &[Role], meant: Option<&str>) -> Result<HostName, Status> {
        let peer = Peer::require(request, roles)?;
        let only = || match self.engine.driver().hosts().as_slice() {
            [only] => Some(only.to_string()),
            [] | [_, _, ..] => None,
        };
        let asked = peer.sni.clone().or_else(only).ok_or_else(|| {
            Status::permission_denied(
                "ask for the host's certificate by its name: this listener serves several hosts",
            )
        })?;
        let host = HostName(meant.map_or_else(|| asked.clone(), str::to_owned));
        if !self.engine.serves(&host) {
            return Err(Status::not_found(format!("this agent doesn't serve host {host}")));
        }
        if asked.eq_ignore_ascii_case(host.as_str()) {
            Ok(host)
        } else {
            Err(Status::permission_denied(format!(
                "the connection is to host {asked}, the call is about host {host}"
            )))
        }
    }

    async fn do_apply(&self, request: Request<ApplyRequest>) -> Result<Response<ReportStream>, Status> {
        let missing = || Status::invalid_argument("there is no order in the call");
        let meant = request
            .get_ref()
            .order
            .as_ref()
            .ok_or_else(missing)?
            .host
            .as_str();
        self.host(&request, &[Role::Worker], Some(meant))?;
        let order = request.into_inner().order.ok_or_else(missing)?;
        let answer = self
            .engine
            .apply(&order)
            .await
            .map_err(|refusal| status(&refusal))?;
        let op = match answer {
            Answer::Now(outcome) => return Ok(Response::new(once(outcome))),
            Answer::Follow(op) => op,
        };
        Ok(Response::new(match soon(&op).await {
            Some(outcome) => once(outcome),
            None => follow(op).boxed(),
        }))
    }

    fn do_watch(&self, request: Request<Streaming<WatchControl>>) -> Result<Response<WatchStream>, Status> {
        let host = self.host(&request, &[Role::Scheduler], None)?;
        let (out, reports) = mpsc::channel(64);
        let watch = Watch {
            engine: self.engine.clone(),
            hub: self.hub.clone(),
            host,
            settings: self.settings,
            shutdown: self.shutdown.clone(),
        };
        tokio::spawn(watch.run(request.into_inner(), out));
        Ok(Response::new(ReceiverStream::new(reports).boxed()))
    }

    async fn do_inventory(&self, request: Request<InventoryRequest>) -> Result<Response<Inventory>, Status> {
        let host = self.host(
            &request,
            &[Role::Scheduler, Role::Admin],
            Some(&request.get_ref().host),
        )?;
        let made = inventory::inventory(&self.engine, &host).await;
        made.map(Response::new).map_err(|error| {
            tracing::warn!(%host, %error, inside = error.inside, "what the host holds can't be told");
            Status::unavailable(error.detail)
        })
    }

    async fn do_console(&self, request: Request<ConsoleRequest>) -> Result<Response<ConsoleStream>, Status> {
        let host = self.host(&request, &[Role::Api], Some(&request.get_ref().host))?;
        let ConsoleRequest {
            host: _,
            instance,
            tail_lines,
            follow,
        } = request.into_inner();
        let instance = rhyzome_proto::convert::uuid(&instance).map_err(|e| status(&e.into()))?;
        let console = Console {
            driver: self.engine.driver().clone(),
            host,
            instance: ResourceId(instance),
            shutdown: self.shutdown.clone(),
        };
        let tail = console.tail(MOST_LINES.min(tail_lines as usize)).await;
        let tail = tail.map_err(|error| Status::unavailable(error.detail))?;
        let (tail, rest) = tail.ok_or_else(|| Status::not_found("the host has no such guest"))?;
        let (out, chunks) = mpsc::channel(16);
        tokio::spawn(console.tell(tail, rest.filter(|_| follow), out));
        Ok(Response::new(ReceiverStream::new(chunks).boxed()))
    }
}

fn once(outcome: rhyzome_proto::agent::ApplyOutcome) -> ReportStream {
    told(outcome).boxed()
}

/// A refusal as the caller sees it: what can be asked again is UNAVAILABLE.
pub fn status(refusal: &Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::Wire(WireError::Broken(_)) => Status::invalid_argument(text),
        Refusal::Wire(WireError::Newer(_)) => Status::unimplemented(text),
        Refusal::UnknownHost(_) => Status::not_found(text),
        Refusal::Mismatch { .. } => Status::failed_precondition(text),
        Refusal::NotTold(_) | Refusal::Ending | Refusal::Ledger(_) => Status::unavailable(text),
    }
}

type ReportStream = BoxStream<'static, Result<ApplyReport, Status>>;
type WatchStream = BoxStream<'static, Result<HostReport, Status>>;
type ConsoleStream = BoxStream<'static, Result<ConsoleChunk, Status>>;

#[tonic::async_trait]
impl Agent for Service {
    type ApplyStream = ReportStream;
    type WatchStream = WatchStream;
    type ConsoleStream = ConsoleStream;

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ReportStream>, Status> {
        self.counted(Method::Apply, self.do_apply(request).await)
    }

    async fn watch(
        &self,
        request: Request<Streaming<WatchControl>>,
    ) -> Result<Response<WatchStream>, Status> {
        self.counted(Method::Watch, self.do_watch(request))
    }

    async fn get_inventory(&self, request: Request<InventoryRequest>) -> Result<Response<Inventory>, Status> {
        self.counted(Method::GetInventory, self.do_inventory(request).await)
    }

    async fn console(&self, request: Request<ConsoleRequest>) -> Result<Response<ConsoleStream>, Status> {
        self.counted(Method::Console, self.do_console(request).await)
    }
}
