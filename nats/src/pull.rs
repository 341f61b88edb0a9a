//! A pull consumer with credit: the server never has more deliveries on their way to us than we asked for.
//!
//! Orders age from the moment that the *server* delivers them, so a worker asks only for as many as it has free slots. Pull requests are
//! kept open (they end by expiry), so that a message comes the moment it is there; asking again is put off until a good part of the credit
//! is used up. Credit is forgotten, and the inbox changed, when the connection was made anew or the server fell silent. A consumer
//! that is gone is waited for.

use crate::connect::Connection;
use crate::error::{ErrorKind, NatsError};
use async_nats::jetstream::{AckKind, Message as JetStreamMessage};
use async_nats::{StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A pull request lives so long at the server.
const EXPIRES: Duration = Duration::from_secs(20);
/// The server says so often that it still has a request.
const HEARTBEAT: Duration = Duration::from_secs(4);
/// Silence that means that the server has none of our requests any more.
const SILENCE: Duration = Duration::from_secs(10);
/// An inbox that was given up is read for so long: until the requests on it have expired.
const LINGER: Duration = Duration::from_secs(21);
/// Between asks while the consumer is gone.
const GONE: Duration = Duration::from_millis(250);

/// One delivery of a message, not acked yet.
#[derive(Debug)]
pub struct Delivery {
    message: JetStreamMessage,
    delivered: u64,
    sequence: u64,
}

impl Delivery {
    /// None for what has no JetStream reply subject, and so can't be acked: counted.
    fn new(message: JetStreamMessage) -> Option<Self> {
        let read = message
            .info()
            .map(|i| (u64::try_from(i.delivered).unwrap_or(1), i.stream_sequence));
        let (delivered, sequence) = match read {
            Ok(read) => read,
            Err(error) => {
                ErrorKind::Pull.count();
                tracing::warn!(%error, subject = %message.subject, "pull: not a delivery");
                return None;
            }
        };
        if delivered > 1 {
            metrics::counter!("rhyzome_nats_redeliveries_total").increment(1);
        }
        Some(Self {
            message,
            delivered,
            sequence,
        })
    }

    /// The body.
    pub fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    /// Where it was published.
    pub fn subject(&self) -> &str {
        self.message.subject.as_str()
    }

    /// 1 for the first delivery.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Its place in the stream.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Done: not delivered again. Written, not confirmed: a lost ack means another delivery.
    pub async fn ack(&self) {
        self.say(AckKind::Ack).await;
    }

    /// Done, and the server said that it knows.
    pub async fn ack_confirmed(&self) -> Result<(), NatsError> {
        self.message
            .double_ack()
            .await
            .map_err(|e| NatsError::refused("ack", e))
    }

    /// Not done: delivered again now, to whom it may.
    pub async fn nak(&self) {
        self.say(AckKind::Nak(None)).await;
    }

    /// Not done: delivered again after so long. It counts against the consumer's pending window until then.
    pub async fn nak_after(&self, delay: Duration) {
        self.say(AckKind::Nak(Some(delay))).await;
    }

    /// Being worked at: the ack wait begins anew.
    pub async fn in_progress(&self) {
        self.say(AckKind::Progress).await;
    }

    /// Never to be delivered again; the server publishes an advisory.
    pub async fn terminate(&self) {
        self.say(AckKind::Term).await;
    }

    async fn say(&self, what: AckKind) {
        if let Err(error) = self.message.ack_with(what).await {
            ErrorKind::Ack.count();
            tracing::warn!(%error, subject = self.subject(), "ack could not be sent: the message will be delivered again");
        }
    }
}

/// Pulls from one durable consumer.
#[derive(Debug)]
pub struct Puller {
    connection: Connection,
    request_subject: String,
    connects: watch::Receiver<u64>,
    inbox: Subject,
    subscriber: Subscriber,
    /// Taken out of an inbox that was given up.
    kept: VecDeque<JetStreamMessage>,
    /// Asked for and not come, or come and not taken.
    credit: usize,
    heard: Instant,
    not_before: Option<Instant>,
    /// The inbox is to be changed before anything is asked for.
    renew: bool,
    /// The inbox before, and until when it is read.
    before: Option<(Subscriber, Instant)>,
    /// Connects that are known of; the first is no reason to change the inbox, since all waited for it.
    connected: u64,
}

impl Puller {
    /// Of a consumer of this name; it need not be there yet.
    pub(crate) async fn new(
        connection: &Connection,
        stream: &str,
        consumer: &str,
    ) -> Result<Self, NatsError> {
        let mut connects = connection.connects();
        let connected = *connects.borrow_and_update();
        let (inbox, subscriber) = subscribe(connection).await?;
        Ok(Self {
            connection: connection.clone(),
            request_subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            connects,
            inbox,
            subscriber,
            kept: VecDeque::new(),
            credit: 0,
            heard: Instant::now(),
            not_before: None,
            renew: false,
            before: None,
            connected,
        })
    }

    /// The next message, while no more than `want` are asked for or waiting here. Waits as long as it takes; pending for ever if
    /// `want` is 0. May be dropped at any point without losing a message.
    pub async fn next(&mut self, want: usize) -> Result<Delivery, NatsError> {
        loop {
            if let Some(delivery) = self.kept.pop_front().and_then(Delivery::new) {
                return Ok(delivery);
            }
            if self.renew {
                self.renew().await?;
                continue;
            }
            self.ask(want).await?;
            let wake = self.wake(want);
            tokio::select! {
                biased;
                message = self.subscriber.next() => match message {
                    Some(message) => {
                        self.heard = Instant::now();
                        if let Some(delivery) = self.read(message) {
                            return Ok(delivery);
                        }
                    }
                    None => self.renew = true,
                },
                message = last_of(&mut self.before) => match message {
                    Some(message) => self.kept.extend(deliverable(message, &self.connection)),
                    None => self.before = None,
                },
                changed = self.connects.changed() => {
                    if changed.is_err() {
                        return Err(NatsError::refused("pull", "the client is closed"));
                    }
                    let connected = *self.connects.borrow();
                    self.renew |= connected > self.connected.max(1);
                    self.connected = connected;
                }
                () = tokio::time::sleep_until(wake) => {
                    if self.credit > 0 && self.heard.elapsed() >= SILENCE {
                        tracing::debug!(subject = self.request_subject, "pull: the server fell silent, asking anew");
                        self.renew = true;
                    }
                }
            }
        }
    }

    /// All that is there, up to `most`, waiting only for the first.
    pub async fn next_batch(&mut self, most: usize) -> Result<Vec<Delivery>, NatsError> {
        let mut batch = vec![self.next(most).await?];
        while batch.len() < most {
            match self.ready() {
                Some(delivery) => batch.push(delivery),
                None => break,
            }
        }
        Ok(batch)
    }

    /// One that has come already.
    pub fn ready(&mut self) -> Option<Delivery> {
        loop {
            let message = match self.kept.pop_front() {
                Some(message) => {
                    if let Some(delivery) = Delivery::new(message) {
                        return Some(delivery);
                    }
                    continue;
                }
                None => self.subscriber.next().now_or_never()??,
            };
            self.heard = Instant::now();
            if let Some(delivery) = self.read(message) {
                return Some(delivery);
            }
        }
    }

    /// Asks for nothing more, and answers what had come or was on its way.
    pub async fn close(mut self) -> Vec<Delivery> {
        self.drain().await
    }

    /// Takes back what was asked for, so that the server gives it to others, and answers what had come or was on its way. The next
    /// [`Self::next`] asks anew.
    pub async fn let_go(&mut self) -> Vec<Delivery> {
        self.renew = true;
        self.drain().await
    }

    async fn drain(&mut self) -> Vec<Delivery> {
        while let Some(Some(message)) = last_of(&mut self.before).now_or_never() {
            self.kept.extend(deliverable(message, &self.connection));
        }
        if self.subscriber.drain().await.is_ok() {
            let drained = async {
                while let Some(message) = self.subscriber.next().await {
                    self.kept.extend(deliverable(message, &self.connection));
                }
            };
            // A server that is away can't end the drain.
            if tokio::time::timeout(Duration::from_secs(2), drained)
                .await
                .is_err()
            {
                tracing::debug!("pull: the server didn't end the subscription in time");
            }
        }
        self.kept.drain(..).filter_map(Delivery::new).collect()
    }

    /// Tops up the credit, but only once a quarter of it is free: one request then covers many messages.
    async fn ask(&mut self, want: usize) -> Result<(), NatsError> {
        let free = want.saturating_sub(self.credit);
        let little = self.credit > 0 && free < want.div_ceil(4);
        if free == 0 || little || self.not_before.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        self.not_before = None;
        let request = format!(
            r#"{{"batch":{free},"expires":{},"idle_heartbeat":{}}}"#,
            EXPIRES.as_nanos(),
            HEARTBEAT.as_nanos()
        );
        if self.credit == 0 {
            self.heard = Instant::now();
        }
        self.connection
            .client()
            .publish_with_reply(self.request_subject.clone(), self.inbox.clone(), request.into())
            .await
            .map_err(|e| NatsError::refused("pull", e))?;
        self.credit += free;
        Ok(())
    }

    /// When to look again though nothing came.
    fn wake(&self, want: usize) -> Instant {
        match self.not_before {
            Some(at) if want > self.credit => at.max(Instant::now() + Duration::from_millis(1)),
            _ => (self.heard + SILENCE).max(Instant::now() + Duration::from_millis(100)),
        }
    }

    /// A delivery, or what the server says about our requests.
    fn read(&mut self, message: async_nats::Message) -> Option<Delivery> {
        let status = message.status.unwrap_or(StatusCode::OK);
        if status == StatusCode::OK {
            self.credit = self.credit.saturating_sub(1);
            return Delivery::new(JetStreamMessage {
                message,
                context: self.connection.jetstream().clone(),
            });
        }
        if status == StatusCode::IDLE_HEARTBEAT {
            return None;
        }
        // A request that ended says how much of it was left (ADR-13, Nats-Pending-Messages).
        let left = message
            .headers
            .as_ref()
            .and_then(|h| h.get("Nats-Pending-Messages"))
            .and_then(|v| v.as_str().parse::<usize>().ok());
        self.credit = left.map_or(0, |left| self.credit.saturating_sub(left));
        let ordinary = status == StatusCode::TIMEOUT || status == StatusCode::NOT_FOUND;
        if !ordinary {
            ErrorKind::Pull.count();
            tracing::debug!(%status, why = ?message.description, subject = self.request_subject, "pull: refused, asking again soon");
            self.not_before = Some(Instant::now() + GONE);
        }
        None
    }

    /// A new inbox, for new requests. The old one is read until the requests on it have expired, should the server still have them:
    /// what it delivers on them would be lost for an ack wait otherwise.
    async fn renew(&mut self) -> Result<(), NatsError> {
        while let Some(Some(message)) = last_of(&mut self.before).now_or_never() {
            self.kept.extend(deliverable(message, &self.connection));
        }
        let (inbox, subscriber) = subscribe(&self.connection).await?;
        self.inbox = inbox;
        let before = std::mem::replace(&mut self.subscriber, subscriber);
        self.before = Some((before, Instant::now() + LINGER));
        self.credit = 0;
        self.heard = Instant::now();
        self.renew = false;
        Ok(())
    }
}

/// The next on the inbox before; none at its end, pending where there is no such inbox.
async fn last_of(before: &mut Option<(Subscriber, Instant)>) -> Option<async_nats::Message> {
    match before {
        Some((subscriber, until)) => tokio::select! {
            biased;
            message = subscriber.next() => message,
            () = tokio::time::sleep_until(*until) => None,
        },
        None => std::future::pending().await,
    }
}

fn deliverable(message: async_nats::Message, connection: &Connection) -> Option<JetStreamMessage> {
    (message.status.unwrap_or(StatusCode::OK) == StatusCode::OK).then(|| JetStreamMessage {
        message,
        context: connection.jetstream().clone(),
    })
}

async fn subscribe(connection: &Connection) -> Result<(Subject, Subscriber), NatsError> {
    let inbox = Subject::from(connection.client().new_inbox());
    let subscriber = connection
        .client()
        .subscribe(inbox.clone())
        .await
        .map_err(|e| NatsError::refused("subscribe to an inbox", e))?;
    Ok((inbox, subscriber))
}
