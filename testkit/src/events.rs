//! A client of `/v1/events`, as a browser's is one (WHATWG HTML, 9.2): it reads events, keeps the last id, and comes again with it.
//!
//! [`Watch`] is one connection; [`Follower`] comes again by itself, whatever ends a connection.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::Client;
use reqwest::header::{AUTHORIZATION, HeaderName};
use serde_json::Value;

use crate::patience::PATIENCE;
use crate::rest::Rest;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(100);

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What comes after it is asked for with this.
    pub id: String,
    /// `job`, a resource's kind, or `end`.
    pub event: String,
    /// The document.
    pub data: Value,
}

/// Why there is no stream.
#[derive(Debug)]
pub enum NotOpen {
    /// A problem was answered.
    Refused {
        /// HTTP status.
        status: u16,
        /// The document.
        problem: Value,
    },
    /// Nothing was.
    Broken(reqwest::Error),
}

/// One connection.
#[derive(Debug)]
pub struct Watch {
    response: reqwest::Response,
    parser: Parser,
    waiting: VecDeque<Event>,
}

impl Watch {
    /// Opens a stream at `url` (with `/v1/events` and its query), after an id or from now on. Returns when the first words have come,
    /// so that [`Watch::last_id`] says where it begins.
    ///
    /// # Errors
    /// It was refused, or nobody answered.
    pub async fn open(url: &str, token: Option<&str>, after: Option<&str>) -> Result<Self, NotOpen> {
        rhyzome_runtime::install_crypto();
        let client = Client::builder()
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            // Keep-alives come every 15 seconds.
            .read_timeout(Duration::from_secs(40))
            .build()
            .map_err(NotOpen::Broken)?;
        let mut request = client.get(url).header("accept", "text/event-stream");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(after) = after {
            request = request.header(LAST_EVENT_ID, after);
        }
        let response = request.send().await.map_err(NotOpen::Broken)?;
        let status = response.status().as_u16();
        if status != 200 {
            let text = response.text().await.map_err(NotOpen::Broken)?;
            return Err(NotOpen::Refused {
                status,
                problem: serde_json::from_str(&text).unwrap_or(Value::String(text)),
            });
        }
        let mut watch = Self {
            response,
            parser: Parser::default(),
            waiting: VecDeque::new(),
        };
        while watch.parser.id.is_none() && watch.more().await {}
        Ok(watch)
    }

    /// A stream of all that a client may see.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn of(rest: &Rest, after: Option<&str>) -> Self {
        Self::at(rest, "/v1/events", after).await
    }

    /// The same with a query.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn at(rest: &Rest, path: &str, after: Option<&str>) -> Self {
        match Self::open(&format!("{}{path}", rest.base()), rest.token(), after).await {
            Ok(watch) => watch,
            Err(error) => panic!("{path} after {after:?}: {error:?}"),
        }
    }

    /// The problem that a stream is refused with.
    ///
    /// # Panics
    /// Where it is not refused.
    pub async fn refused(rest: &Rest, path: &str, after: Option<&str>) -> (u16, Value) {
        match Self::open(&format!("{}{path}", rest.base()), rest.token(), after).await {
            Err(NotOpen::Refused { status, problem }) => (status, problem),
            other => panic!("{path} after {after:?} is not refused: {other:?}"),
        }
    }

    /// What to come again with.
    pub fn last_id(&self) -> Option<&str> {
        self.parser.id.as_deref()
    }

    /// The next event; none where the stream is over or broke.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// All events up to the first that is so, with it.
    ///
    /// # Panics
    /// Where it doesn't come in time, or the stream ends before.
    pub async fn until(&mut self, what: &str, mut is: impl FnMut(&Event) -> bool) -> Vec<Event> {
        let mut seen = Vec::new();
        let look = async {
            loop {
                let Some(event) = self.next().await else {
                    return false;
                };
                let last = is(&event);
                seen.push(event);
                if last {
                    return true;
                }
            }
        };
        let came = tokio::time::timeout(PATIENCE, look).await;
        assert!(
            matches!(came, Ok(true)),
            "waited in vain for {what} ({came:?}): {seen:#?}"
        );
        seen
    }

    async fn more(&mut self) -> bool {
        match self.response.chunk().await {
            Ok(Some(chunk)) => {
                self.parser.read(&chunk, &mut self.waiting);
                true
            }
            Ok(None) | Err(_) => false,
        }
    }
}

/// Comes again after whatever ended a connection, with the last id: sees every change once while it is kept.
pub struct Follower {
    /// Where to connect now; it may change.
    url: Box<dyn Fn() -> String + Send + Sync>,
    token: String,
    after: Option<String>,
    watch: Option<Watch>,
    /// Connections so far.
    pub connections: usize,
}

impl Follower {
    /// Begins with what comes after an id, or from now on.
    pub fn new(url: impl Fn() -> String + Send + Sync + 'static, token: &str, after: Option<&str>) -> Self {
        Self {
            url: Box::new(url),
            token: token.to_owned(),
            after: after.map(str::to_owned),
            watch: None,
            connections: 0,
        }
    }

    /// What it has seen up to; none before it was first connected.
    pub fn last_id(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// Lets go of the connection, as a client does that loses it.
    pub fn drop_connection(&mut self) {
        self.watch = None;
    }

    /// The next event, as long as it takes; an error is a refusal that coming again doesn't help against (400, 401, 403, 410).
    ///
    /// # Errors
    /// See above.
    pub async fn next(&mut self) -> Result<Event, NotOpen> {
        loop {
            let Some(watch) = &mut self.watch else {
                self.connect().await?;
                continue;
            };
            let event = watch.next().await;
            // Of the event and no further: others may wait behind it.
            match event {
                Some(event) if event.event == "end" => self.watch = None,
                Some(event) => {
                    self.after = Some(event.id.clone());
                    return Ok(event);
                }
                None => {
                    self.after = watch.last_id().map(str::to_owned).or(self.after.take());
                    self.watch = None;
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<(), NotOpen> {
        let (url, after) = ((self.url)(), self.after.as_deref());
        match Watch::open(&url, Some(&self.token), after).await {
            Ok(watch) => {
                self.connections += 1;
                if self.after.is_none() {
                    self.after = watch.last_id().map(str::to_owned);
                }
                self.watch = Some(watch);
                Ok(())
            }
            Err(
                error @ NotOpen::Refused {
                    status: 400 | 401 | 403 | 410,
                    ..
                },
            ) => Err(error),
            Err(NotOpen::Refused { .. } | NotOpen::Broken(_)) => {
                tokio::time::sleep(PAUSE).await;
                Ok(())
            }
        }
    }
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower")
            .field("after", &self.after)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

/// Lines to events.
#[derive(Debug, Default)]
struct Parser {
    bytes: Vec<u8>,
    /// Of the last event, or of an id alone.
    id: Option<String>,
    next_id: Option<String>,
    event: String,
    data: Vec<String>,
}

impl Parser {
    fn read(&mut self, chunk: &[u8], events: &mut VecDeque<Event>) {
        self.bytes.extend_from_slice(chunk);
        while let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            self.line(
                String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']),
                events,
            );
        }
    }

    fn line(&mut self, line: &str, events: &mut VecDeque<Event>) {
        if line.is_empty() {
            self.id = self.next_id.clone().or(self.id.take());
            let (event, data) = (std::mem::take(&mut self.event), std::mem::take(&mut self.data));
            if !data.is_empty() {
                let data = data.join("\n");
                events.push_back(Event {
                    id: self.id.clone().unwrap_or_default(),
                    event,
                    data: serde_json::from_str(&data).unwrap_or(Value::String(data)),
                });
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.next_id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.event),
            "data" => self.data.push(value.to_owned()),
            // A comment has no field's name; `retry` and what is unknown change nothing here.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Parser};
    use serde_json::json;
    use std::collections::VecDeque;

    #[test]
    fn events_ids_and_comments_however_they_are_cut() {
        let text = "retry: 1000\nid: 1-0-0\n\n: keep-alive\nid: 2-0-0\n\nid: 3-1-1\nevent: job\ndata: {\"a\":\"ü\"}\n\nevent: end\ndata: {}\n\nid: 9";
        for size in 1..text.len() {
            let (mut parser, mut events) = (Parser::default(), VecDeque::new());
            for chunk in text.as_bytes().chunks(size) {
                parser.read(chunk, &mut events);
            }
            let event = |event: &str, data| Event {
                id: "3-1-1".to_owned(),
                event: event.to_owned(),
                data,
            };
            assert_eq!(
                events,
                [event("job", json!({ "a": "ü" })), event("end", json!({}))]
            );
            assert_eq!(
                parser.id.as_deref(),
                Some("3-1-1"),
                "what is not ended does not count"
            );
        }
    }
}
