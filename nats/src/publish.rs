//! Publishes to JetStream with a message id, one or many in flight.
//!
//! A publish ack that doesn't come is unknown: the same message is published again with the same id, which the stream drops if it had
//! it. After some tries the caller is told so ([`NatsError::Unknown`]), or it is tried until it works ([`Connection::publish_until`]).

use crate::Connection;
use crate::error::{ErrorKind, NatsError};
use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures::StreamExt;
use rand::Rng;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How many publish acks are awaited at a time by [`Connection::publish_all`]: past 256 nothing is gained (job-protocol.md).
pub const IN_FLIGHT: usize = 256;
/// Tries of one message before its fate is called unknown.
const TRIES: u32 = 3;
/// Between tries of [`Connection::publish_until`], at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A message to publish.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Where to.
    pub subject: String,
    /// Message id: what the stream has already seen within its window, it drops.
    pub id: String,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub payload: Bytes,
}

impl Outgoing {
    /// A message without further headers.
    pub fn new(subject: String, id: String, payload: impl Into<Bytes>) -> Self {
        Self {
            subject,
            id,
            headers: Vec::new(),
            payload: payload.into(),
        }
    }

    fn message(&self) -> PublishMessage {
        let mut message = PublishMessage::build().payload(self.payload.clone());
        if !self.headers.is_empty() {
            let mut headers = HeaderMap::new();
            for (name, value) in &self.headers {
                headers.insert(*name, value.as_str());
            }
            message = message.headers(headers);
        }
        message.message_id(&self.id)
    }
}

/// A message that is in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the stream.
    pub sequence: u64,
    /// The stream had it already.
    pub duplicate: bool,
}

impl Connection {
    /// Publishes one message, a few times if its ack doesn't come.
    pub async fn publish(&self, message: &Outgoing) -> Result<Stored, NatsError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match self.publish_once(message).await {
                Ok(stored) => return Ok(stored),
                Err(error) => error,
            };
            ErrorKind::Publish.count();
            match error {
                NatsError::Unknown { .. } if tries < TRIES => {
                    tracing::debug!(
                        subject = message.subject,
                        tries,
                        "no publish ack, publishing again with the same id"
                    );
                }
                error => return Err(error),
            }
        }
    }

    /// Publishes all, many in flight, and answers for each in the same order. One that fails doesn't hold up the others.
    pub async fn publish_all(&self, messages: Vec<Outgoing>) -> Vec<Result<Stored, NatsError>> {
        futures::stream::iter(messages)
            .map(|message| async move { self.publish(&message).await })
            .buffered(IN_FLIGHT)
            .collect()
            .await
    }

    /// Publishes until it is stored: a lost server or stream is waited for. Ends early only with [`NatsError::TooBig`], or with
    /// [`NatsError::Shutdown`] once `until` is cancelled.
    pub async fn publish_until(
        &self,
        message: &Outgoing,
        until: &CancellationToken,
    ) -> Result<Stored, NatsError> {
        let mut pause = Duration::from_millis(50);
        loop {
            let tried = tokio::select! {
                tried = self.publish(message) => tried,
                () = until.cancelled() => return Err(NatsError::Shutdown),
            };
            match tried {
                Ok(stored) => return Ok(stored),
                Err(error @ NatsError::TooBig { .. }) => return Err(error),
                Err(error) => tracing::warn!(%error, "publish failed, again"),
            }
            let wait = pause.mul_f64(rand::rng().random_range(0.5..=1.0));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = until.cancelled() => return Err(NatsError::Shutdown),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn publish_once(&self, message: &Outgoing) -> Result<Stored, NatsError> {
        let sent = self
            .jetstream()
            .send_publish(message.subject.clone(), message.message())
            .await;
        let acked = match sent {
            Ok(ack) => wait(ack).await,
            Err(error) => Err(error),
        };
        acked.map_err(|error| {
            let subject = message.subject.clone();
            match error.kind() {
                PublishErrorKind::TimedOut
                | PublishErrorKind::BrokenPipe
                | PublishErrorKind::MaxAckPending => NatsError::Unknown { subject },
                PublishErrorKind::StreamNotFound => NatsError::NoStream { subject },
                PublishErrorKind::MaxPayloadExceeded => NatsError::TooBig { subject },
                PublishErrorKind::WrongLastMessageId
                | PublishErrorKind::WrongLastSequence
                | PublishErrorKind::Other => NatsError::refused(format!("publish to {subject}"), error),
            }
        })
    }
}

async fn wait(ack: PublishAckFuture) -> Result<Stored, async_nats::jetstream::context::PublishError> {
    let ack = ack.await?;
    Ok(Stored {
        sequence: ack.sequence,
        duplicate: ack.duplicate,
    })
}
