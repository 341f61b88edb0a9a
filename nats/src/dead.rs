//! Dead letters: what nobody could read or do, kept in the stream `DEAD` with the reason in its subject and headers.
//!
//! The stream holds the server's advisories too; these are no letters.

use crate::error::NatsError;
use crate::orders::{self, is_nothing};
use crate::publish::{Outgoing, Stored};
use crate::streams::DEAD;
use crate::{Connection, Delivery, subjects};
use async_nats::jetstream::message::StreamMessage;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use rhyzome_model::text::{Form, cleaned};
use rhyzome_proto::convert::WireError;
use rhyzome_proto::job::Order;

/// Header with a sentence why.
pub const WHY: &str = "Rhyzome-Why";
/// Characters of that sentence; more is cut off.
const LONGEST_WHY: usize = 500;
/// Header with the subject that it was published to.
pub const SUBJECT: &str = "Rhyzome-Subject";

/// Why a message is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No one can read it.
    Broken,
    /// Its workers die of it.
    Poisoned,
}

impl Reason {
    /// As in the subject.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Poisoned => "poisoned",
        }
    }
}

/// Keeps a message that came as `subject`, with its place in its stream.
pub async fn publish(
    connection: &Connection,
    reason: Reason,
    subject: &str,
    sequence: u64,
    payload: Bytes,
    why: &str,
) -> Result<Stored, NatsError> {
    // A subject's last token: of an order and of an event, the job.
    let id = subject
        .rsplit('.')
        .next()
        .filter(|id| !id.is_empty())
        .unwrap_or("unknown");
    let mut letter = Outgoing::new(
        subjects::dead(reason.as_str(), id),
        format!("{}:{subject}:{sequence}", reason.as_str()),
        payload,
    );
    // Header values are lines.
    let why = cleaned(why, Form::Line, LONGEST_WHY).into_owned();
    letter.headers = vec![(WHY, why), (SUBJECT, subject.to_owned())];
    connection.publish(&letter).await
}

/// What nobody can read: kept as a letter and never delivered again; handed back, where it can't be kept now.
pub async fn bury(connection: &Connection, delivery: &Delivery, why: &str) {
    tracing::error!(
        why,
        subject = delivery.subject(),
        sequence = delivery.sequence(),
        "a broken message, kept as a dead letter"
    );
    let kept = publish(
        connection,
        Reason::Broken,
        delivery.subject(),
        delivery.sequence(),
        delivery.payload().clone(),
        why,
    )
    .await;
    match kept {
        Ok(_) => delivery.terminate().await,
        Err(error) => {
            tracing::warn!(%error, "a dead letter was not stored; the message is handed back");
            delivery.nak().await;
        }
    }
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its place in the stream of dead letters.
    pub sequence: u64,
    /// Why, as in its subject: [`Reason::as_str`].
    pub reason: String,
    /// A sentence why; empty where it has none.
    pub why: String,
    /// Where it was published first.
    pub subject: String,
    /// Since when it is here.
    pub at: DateTime<Utc>,
    /// As it was published.
    pub payload: Bytes,
}

impl Letter {
    fn of(message: &StreamMessage) -> Self {
        let header = |name: &str| {
            message
                .headers
                .get(name)
                .map(|v| v.as_str().to_owned())
                .unwrap_or_default()
        };
        let reason = message.subject.split('.').nth(2).unwrap_or_default();
        Self {
            sequence: message.sequence,
            reason: reason.to_owned(),
            why: header(WHY),
            subject: header(SUBJECT),
            at: DateTime::from_timestamp(message.time.unix_timestamp(), message.time.nanosecond())
                .unwrap_or_default(),
            payload: message.payload.clone(),
        }
    }

    /// The order that it was, if it was one.
    pub fn order(&self) -> Result<Order, WireError> {
        orders::read(&self.payload)
    }
}

fn refused(doing: &str) -> impl Fn(&dyn std::fmt::Display) -> NatsError + '_ {
    move |why| NatsError::refused(doing, why)
}

/// Up to `most` letters from a place on, oldest first. Needs no more than to read messages of the stream.
pub async fn list(connection: &Connection, from: u64, most: usize) -> Result<Vec<Letter>, NatsError> {
    let refused = refused("dead letters");
    let stream = connection
        .jetstream()
        .get_stream_no_info(DEAD)
        .await
        .map_err(|e| refused(&e))?;
    let (mut letters, mut next) = (Vec::new(), from.max(1));
    while letters.len() < most {
        match stream
            .get_first_raw_message_by_subject(subjects::DEAD, next)
            .await
        {
            Ok(message) => {
                next = message.sequence + 1;
                letters.push(Letter::of(&message));
            }
            Err(error) if is_nothing(&error.kind()) => break,
            Err(error) => return Err(refused(&error)),
        }
    }
    Ok(letters)
}

/// The letter at a place; none if there is none, or something that is no letter.
pub async fn get(connection: &Connection, sequence: u64) -> Result<Option<Letter>, NatsError> {
    let found = list(connection, sequence, 1).await?;
    Ok(found.into_iter().find(|letter| letter.sequence == sequence))
}

/// Takes a letter out of the stream; false if it wasn't there.
pub async fn remove(connection: &Connection, sequence: u64) -> Result<bool, NatsError> {
    let doing = format!("dead letter {sequence}");
    let refused = refused(&doing);
    let stream = connection
        .jetstream()
        .get_stream_no_info(DEAD)
        .await
        .map_err(|e| refused(&e))?;
    stream.delete_message(sequence).await.map_err(|e| refused(&e))
}
