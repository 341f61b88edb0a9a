//! Serves HTTP/1.1 and HTTP/2 on a listener: the API, `/metrics` and the development issuer.
//!
//! Guarantees: whoever connects and doesn't send the head of a request within [`Limits::head`] is disconnected, so is whoever keeps a
//! connection idle for longer than [`Limits::idle`]; a request that is under way takes as long as its handler lets it, its body too.
//! When the token is cancelled no connection is taken on any more, and those that are open end with the request that they are at.
//!
//! hyper's own `header_read_timeout` is not used: it runs between two requests as well, and not while it isn't known yet which HTTP is
//! spoken.

mod patience;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use patience::{Patience, Turn, Watched};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Bytes that the head of a request may have; a larger one is answered 431.
const HEAD_MAX: u32 = 64 * 1024;

/// How long a client may do nothing.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From its connection, or the first byte of a further request, to the end of the request's head.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(20),
            // Clients commonly let go after 90 s: it is better that they are the first, since a request may be on its way when we do.
            idle: Duration::from_mins(2),
        }
    }
}

/// Serves until the token is cancelled and the last connection has ended.
pub async fn serve(mut listener: TcpListener, router: Router, limits: Limits, token: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        // What can't be accepted now (no file handle is left) is tried again.
        let (stream, _) = tokio::select! {
            accepted = axum::serve::Listener::accept(&mut listener) => accepted,
            () = token.cancelled() => break,
        };
        // Small answers must not wait for each other (Nagle's algorithm).
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        connections.spawn(connection(stream, router.clone(), limits, token.clone()));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection(stream: TcpStream, router: Router, limits: Limits, token: CancellationToken) {
    let patience = Patience::new(limits);
    let io = TokioIo::new(Watched::new(stream, patience.clone()));
    let turns = patience.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let turn = turns.turn(request.version());
        let answer = router.clone().oneshot(request.map(Body::new));
        async move {
            let response: Response<Body> = answer.await?;
            Ok::<_, std::convert::Infallible>(response.map(|body| Answer { body, _turn: turn }))
        }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().max_buf_size(HEAD_MAX as usize);
    server.http2().max_header_list_size(HEAD_MAX);
    server.http2().enable_connect_protocol();
    let mut served = pin!(server.serve_connection_with_upgrades(io, service));
    let mut over = pin!(patience.over());
    let mut told = false;
    loop {
        tokio::select! {
            biased;
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    tracing::trace!(%error, "a connection broke");
                }
                return;
            }
            () = token.cancelled(), if !told => {
                told = true;
                served.as_mut().graceful_shutdown();
            }
            () = over.as_mut() => {
                tracing::trace!("a client that said nothing for too long is disconnected");
                return;
            }
        }
    }
}

/// The body of an answer; the request is under way until it is dropped.
struct Answer {
    body: Body,
    _turn: Turn,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
