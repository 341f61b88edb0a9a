//! What was left of a request's body when it was answered: a refusal comes before the body is read.
//!
//! HTTP/1.1 finds the next request behind this body (RFC 9112, 9.3 and 9.6), so a server that doesn't read it has to close the
//! connection, and to say so: a client that isn't told sends its next request into nothing. Guarantees: a small rest is read, within a
//! bounded time, and the connection stays; else the answer has `Connection: close`.

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use futures::stream::poll_fn;
use http::header::{CONNECTION, EXPECT, HeaderValue};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

/// A rest that is read, bytes.
const REST_MAX: u64 = 64 * 1024;
/// How long it may take to come.
const REST_TIME: Duration = Duration::from_secs(1);

struct Seen {
    body: Body,
    ended: bool,
}

type Shared = Arc<Mutex<Seen>>;

/// The body of a request, kept in sight while somebody reads it.
pub(crate) struct Unread {
    body: Shared,
    /// The client sends it only once it is told to go on.
    waits: bool,
}

impl Unread {
    /// Takes the body in sight. None where there is none, or where requests don't follow each other on the connection.
    pub(crate) fn watch(request: &mut Request) -> Option<Self> {
        if request.body().is_end_stream() || request.version() > http::Version::HTTP_11 {
            return None;
        }
        let waits = request.headers().contains_key(EXPECT);
        let body: Shared = Arc::new(Mutex::new(Seen {
            body: std::mem::take(request.body_mut()),
            ended: false,
        }));
        let reader = body.clone();
        *request.body_mut() = Body::from_stream(poll_fn(move |cx| data(&reader, cx)));
        Some(Self { body, waits })
    }

    /// Reads the rest, or has the answer say that the connection ends.
    pub(crate) async fn settle(self, response: &mut Response) {
        let read = tokio::time::timeout(REST_TIME, self.read());
        if !read.await.unwrap_or(false) {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// Whether it could be read to its end.
    async fn read(&self) -> bool {
        let hint = {
            let seen = self.body.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.ended || seen.body.is_end_stream() {
                return true;
            }
            seen.body.size_hint()
        };
        if self.waits || hint.lower() > REST_MAX {
            return false;
        }
        let mut left = REST_MAX;
        loop {
            match std::future::poll_fn(|cx| data(&self.body, cx)).await {
                None => return true,
                Some(Ok(bytes)) if bytes.len() as u64 <= left => left -= bytes.len() as u64,
                Some(Ok(_) | Err(_)) => return false,
            }
        }
    }
}

/// The next bytes. Trailers say nothing here.
fn data(body: &Shared, cx: &mut Context<'_>) -> Poll<Option<Result<bytes::Bytes, axum::Error>>> {
    let mut seen = body.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.ended {
        return Poll::Ready(None);
    }
    loop {
        match std::task::ready!(Pin::new(&mut seen.body).poll_frame(cx)) {
            None => {
                seen.ended = true;
                return Poll::Ready(None);
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    return Poll::Ready(Some(Ok(bytes)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{REST_MAX, Unread};
    use axum::body::{Body, to_bytes};
    use axum::extract::Request;
    use axum::response::Response;
    use bytes::Bytes;
    use futures::StreamExt;
    use http::header::{CONNECTION, EXPECT};

    /// Pieces of a body of no known length, and how many of them were read.
    fn pieces(n: usize, size: usize) -> Body {
        let piece = Bytes::from(vec![b'x'; size]);
        Body::from_stream(futures::stream::iter(
            (0..n).map(move |_| Ok::<_, axum::Error>(piece.clone())),
        ))
    }

    async fn closes(mut request: Request, read: bool) -> bool {
        let unread = Unread::watch(&mut request);
        if read {
            to_bytes(request.into_body(), usize::MAX).await.unwrap();
        } else {
            drop(request);
        }
        let mut response = Response::new(Body::empty());
        if let Some(unread) = unread {
            unread.settle(&mut response).await;
        }
        response.headers().contains_key(CONNECTION)
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_rest_is_read_and_a_large_one_is_told() {
        let large = usize::try_from(REST_MAX).unwrap() + 1;
        let never = || Body::from_stream(pieces(1, 1).into_data_stream().chain(futures::stream::pending()));
        for (body, read, closed) in [
            (Body::empty(), false, false),
            (Body::from("{}"), false, false),
            (pieces(3, 1_000), false, false),
            (Body::from(vec![b'x'; large]), false, true),
            (pieces(large, 1), false, true),
            (Body::from(vec![b'x'; large]), true, false),
            (pieces(large / 1_000 + 1, 1_000), true, false),
            (never(), false, true),
        ] {
            assert_eq!(closes(Request::new(body), read).await, closed);
        }
        let waits = Request::builder()
            .header(EXPECT, "100-continue")
            .body(Body::from("{}"))
            .unwrap();
        assert!(closes(waits, false).await, "what isn't sent yet is not asked for");
        let multiplexed = Request::builder()
            .version(http::Version::HTTP_2)
            .body(Body::from(vec![b'x'; large]))
            .unwrap();
        assert!(!closes(multiplexed, false).await);
    }
}
