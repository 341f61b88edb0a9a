//! How long a connection may still say nothing: what it is at, by what comes over it and by the requests that are under way.

use super::Limits;
use axum::http::Version;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// Of one connection. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Patience(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: Limits,
    at: Mutex<At>,
}

#[derive(Debug)]
struct At {
    /// Requests that are under way.
    requests: usize,
    /// Bytes that come between two requests begin the next: in HTTP/2 they may say something of the connection.
    one_by_one: bool,
    /// While there is no request: when that ends at the latest.
    until: Instant,
    /// The head of a request is on its way.
    head: bool,
}

/// A request that is under way, until it is dropped.
pub(super) struct Turn(Patience);

impl Patience {
    /// Of a connection that is made now.
    pub(super) fn new(limits: Limits) -> Self {
        Self(Arc::new(Inner {
            limits,
            at: Mutex::new(At {
                requests: 0,
                one_by_one: true,
                until: Instant::now() + limits.head,
                head: true,
            }),
        }))
    }

    /// The head of a request has come whole.
    pub(super) fn turn(&self, version: Version) -> Turn {
        let mut at = self.at();
        at.requests += 1;
        at.one_by_one = version < Version::HTTP_2;
        at.head = false;
        Turn(self.clone())
    }

    /// Ends when the client has said nothing for too long.
    pub(super) async fn over(&self) {
        let mut sleep = pin!(sleep_until(self.at().until));
        poll_fn(|cx| {
            loop {
                // What changed since is seen here: most of it happens in the task that waits here, and what doesn't (a further request of
                // HTTP/2 that ends) when the time is over that was waited for.
                let (busy, until) = {
                    let at = self.at();
                    (at.requests > 0, at.until)
                };
                if !busy && sleep.deadline() != until {
                    sleep.as_mut().reset(until);
                }
                ready!(sleep.as_mut().poll(cx));
                if !busy {
                    return Poll::Ready(());
                }
                sleep.as_mut().reset(Instant::now() + self.0.limits.idle);
            }
        })
        .await;
    }

    /// Something was read: between two requests, the beginning of the next.
    fn read(&self) {
        let mut at = self.at();
        if at.requests == 0 && at.one_by_one && !at.head {
            at.head = true;
            at.until = Instant::now() + self.0.limits.head;
        }
    }

    /// Something of an answer was taken.
    fn written(&self) {
        let mut at = self.at();
        if at.requests == 0 && !at.head {
            at.until = Instant::now() + self.0.limits.idle;
        }
    }

    fn at(&self) -> MutexGuard<'_, At> {
        self.0.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut at = self.0.at();
        at.requests = at.requests.saturating_sub(1);
        if at.requests == 0 {
            at.until = Instant::now() + self.0.0.limits.idle;
        }
    }
}

/// A connection, in sight.
#[derive(Debug)]
pub(super) struct Watched<Io> {
    io: Io,
    patience: Patience,
}

impl<Io> Watched<Io> {
    pub(super) fn new(io: Io, patience: Patience) -> Self {
        Self { io, patience }
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Watched<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.patience.read();
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Watched<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.patience.written();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
        self.patience.written();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::{Limits, Patience, Version};
    use std::time::Duration;
    use tokio::time::{Instant, advance};

    const LIMITS: Limits = Limits {
        head: Duration::from_secs(20),
        idle: Duration::from_mins(2),
    };

    /// Seconds from now to the end.
    async fn left(patience: &Patience) -> u64 {
        let now = Instant::now();
        patience.over().await;
        now.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_no_head_is_left_after_the_time_of_one() {
        let patience = Patience::new(LIMITS);
        for _ in 0..10 {
            advance(Duration::from_secs(1)).await;
            patience.read();
            patience.written();
        }
        assert_eq!(left(&patience).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn between_requests_there_is_more_time_until_the_next_begins() {
        let patience = Patience::new(LIMITS);
        drop(patience.turn(Version::HTTP_11));
        assert_eq!(left(&patience).await, 120);

        let patience = Patience::new(LIMITS);
        drop(patience.turn(Version::HTTP_11));
        advance(Duration::from_secs(100)).await;
        // The end of the answer is taken late.
        patience.written();
        advance(Duration::from_secs(100)).await;
        patience.read();
        advance(Duration::from_secs(15)).await;
        patience.read();
        assert_eq!(left(&patience).await, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_takes_as_long_as_it_takes() {
        let patience = Patience::new(LIMITS);
        let turn = patience.turn(Version::HTTP_11);
        let waits = tokio::spawn({
            let patience = patience.clone();
            async move { left(&patience).await }
        });
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_mins(1)).await;
            patience.read();
        }
        assert!(!waits.is_finished());
        drop(turn);
        let waited = waits.await.unwrap();
        // Not woken by the end: it is seen by the next look.
        assert!((6_120..=6_240).contains(&waited), "{waited}");
    }

    #[tokio::test(start_paused = true)]
    async fn in_http2_bytes_between_requests_begin_none() {
        let patience = Patience::new(LIMITS);
        let (first, second) = (patience.turn(Version::HTTP_2), patience.turn(Version::HTTP_2));
        drop(first);
        patience.read();
        drop(second);
        patience.read();
        assert_eq!(left(&patience).await, 120);
    }
}
