//! One stream: reads on from a position, writes what the caller may know of, and waits.

use super::judge::Watcher;
use super::seats::Seat;
use super::text::{self, End};
use crate::app::App;
use crate::auth::{Caller, TokenError};
use crate::problem::{Code, Problem};
use crate::shapes::Reader;
use bytes::Bytes;
use futures::Stream;
use http::HeaderValue;
use jsonwebtoken::get_current_timestamp;
use rhyzome_store::changes::{Gone, Page, Position, Row, Whose};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Rows of one page.
const ROWS: i64 = 20;
/// Entries that are read and written together.
const ENTRIES: usize = 200;
/// A stream that has nothing to say says so.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// After an error of the database.
const AGAIN: Duration = Duration::from_secs(1);

/// Where a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what comes from now on.
    Now,
    /// With what comes after this.
    After(Position),
}

/// See the module.
#[derive(Debug)]
pub struct Feed {
    app: App,
    caller: Arc<Caller>,
    /// As sent, so that the token is judged again.
    authorization: HeaderValue,
    whose: Whose,
    seat: Seat,
    /// Read, and not written yet.
    rows: VecDeque<Row>,
    /// Everything before it is written, or not for this caller.
    at: Position,
    /// Where to read on.
    next: Position,
    written: Instant,
}

/// What a stream says next.
enum Said {
    Text(String),
    Nothing,
    Last(End),
}

impl Feed {
    /// A stream of whose changes the caller asked for. Refuses to begin where changes were forgotten.
    pub async fn begin(
        app: App,
        caller: Arc<Caller>,
        authorization: HeaderValue,
        whose: Whose,
        seat: Seat,
        start: Start,
    ) -> Result<Self, Problem> {
        let mut feed = Self {
            at: match start {
                Start::Now => app.store.changes_now().await?,
                Start::After(position) => position,
            },
            rows: VecDeque::new(),
            written: Instant::now(),
            next: Position::default(),
            app,
            caller,
            authorization,
            whose,
            seat,
        };
        feed.next = feed.at;
        match feed.page().await? {
            Ok(page) => feed.take(page),
            Err(Gone) => {
                return Err(Problem::new(
                    Code::EventsGone,
                    "What changed right after this Last-Event-ID is no longer kept. Read what is there anew, then watch without the header.",
                ));
            }
        }
        Ok(feed)
    }

    /// The body.
    pub fn stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        let hello = text::hello(self.at);
        let first = futures::stream::once(std::future::ready(Ok(Bytes::from(hello))));
        let rest = futures::stream::unfold(Some(self), |feed| async {
            let mut feed = feed?;
            match feed.say().await {
                Ok(text) => Some((Ok(Bytes::from(text)), Some(feed))),
                Err(end) => Some((Ok(Bytes::from(text::end(end))), None)),
            }
        });
        futures::StreamExt::chain(first, rest)
    }

    /// What is to be written next, as soon as there is something; an error is the end.
    async fn say(&mut self) -> Result<String, End> {
        loop {
            let said = match self.step().await {
                Ok(said) => said,
                Err(error) => {
                    tracing::debug!(
                        code = error.code().as_str(),
                        "a stream of changes can't be read on, again soon"
                    );
                    self.wait(AGAIN).await;
                    Said::Nothing
                }
            };
            match said {
                Said::Text(text) => {
                    self.written = Instant::now();
                    return Ok(text);
                }
                Said::Last(end) => return Err(end),
                Said::Nothing if self.written.elapsed() >= KEEP_ALIVE => {
                    self.written = Instant::now();
                    return Ok(text::keep_alive(self.at));
                }
                Said::Nothing => {}
            }
        }
    }

    async fn step(&mut self) -> Result<Said, Problem> {
        if let Some(end) = self.ended().await {
            return Ok(Said::Last(end));
        }
        if let Some(row) = self.rows.front() {
            return self.write(row.clone()).await;
        }
        match self.page().await? {
            Err(Gone) => return Ok(Said::Last(End::Gone)),
            Ok(page) => self.take(page),
        }
        if self.rows.is_empty() {
            self.at = self.next;
            self.wait(KEEP_ALIVE.saturating_sub(self.written.elapsed())).await;
        }
        Ok(Said::Nothing)
    }

    async fn page(&self) -> Result<Result<Page, Gone>, Problem> {
        Ok(self.app.store.changes_page(&self.whose, self.next, ROWS).await?)
    }

    fn take(&mut self, page: Page) {
        self.rows.extend(page.rows);
        self.next = page.next;
    }

    /// Writes some of the first row.
    async fn write(&mut self, row: Row) -> Result<Said, Problem> {
        let from = self.at.seen_of(&row);
        let to = row.entries.len().min(from.saturating_add(ENTRIES));
        let watcher = Watcher {
            store: &self.app.store,
            caller: &self.caller,
            reader: if self.caller.is_operator() {
                Reader::Operator
            } else {
                Reader::Tenant
            },
        };
        let text = watcher.text(&row, from, to).await?;
        if to == row.entries.len() {
            self.at = Position::after(&row);
            self.rows.pop_front();
        } else {
            self.at = Position::within(&row, to);
        }
        Ok(if text.is_empty() {
            Said::Nothing
        } else {
            Said::Text(text)
        })
    }

    /// Whether the stream is over: its token's time, its issuer's binding, or the process'.
    async fn ended(&self) -> Option<End> {
        if self.app.events.end().is_cancelled() {
            return Some(End::Shutdown);
        }
        if get_current_timestamp() >= self.caller.expires_s {
            return Some(End::Token);
        }
        match self
            .app
            .verifier
            .caller(Some(self.authorization.as_bytes()))
            .await
        {
            // Whoever can't be asked has not refused.
            Ok(_) | Err(TokenError::IssuerDown | TokenError::Store(_)) => None,
            Err(
                TokenError::Missing
                | TokenError::Malformed
                | TokenError::Algorithm
                | TokenError::Issuer
                | TokenError::Signature
                | TokenError::Expired
                | TokenError::NotYet
                | TokenError::Claim,
            ) => Some(End::Token),
        }
    }

    /// Until there may be something new, the stream may be over, or the time is up.
    async fn wait(&mut self, most: Duration) {
        let left = self.caller.expires_s.saturating_sub(get_current_timestamp());
        let most = most.min(Duration::from_secs(left));
        let end = self.app.events.end().clone();
        tokio::select! {
            () = self.seat.woken() => {}
            () = end.cancelled() => {}
            () = tokio::time::sleep(most) => {}
        }
    }
}
