//! Orders: published by schedulers, pulled by workers.
//!
//! A work queue: an acked order is gone from the stream. An order whose deliveries are used up stays in it, and is told from one
//! that waits, so that the sweep can take it out and publish it again.

use crate::error::NatsError;
use crate::publish::{Outgoing, Stored};
use crate::pull::Puller;
use crate::streams::{DEAD, ORDERS, WORKERS};
use crate::{Connection, subjects};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use prost::Message;
use rhyzome_model::ids::{Fence, JobId};
use rhyzome_proto::job::Order;

/// Whether an order of a job is in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderPresence {
    /// None: acked, or lost, or never published.
    Absent,
    /// Waits for a worker, or a worker has it.
    Live {
        /// Its place in the stream.
        sequence: u64,
    },
    /// Its deliveries are used up: no worker will get it. Take it out with [`remove`], then publish anew.
    Exhausted {
        /// Its place in the stream.
        sequence: u64,
    },
}

/// What the orders' consumer has: for telling live orders from exhausted ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerState {
    /// Every message up to this place is acked, terminated or given up.
    pub ack_floor: u64,
    /// The last place that was ever delivered.
    pub delivered: u64,
    /// Waiting for a worker.
    pub pending: u64,
    /// With workers.
    pub ack_pending: u64,
}

impl ConsumerState {
    /// Nobody has this message, nor will get it.
    fn is_past(self, sequence: u64) -> bool {
        sequence <= self.ack_floor || (self.ack_pending == 0 && sequence <= self.delivered)
    }
}

/// First publish of an order, or a later one of the same order by the sweep: the latter must not be taken for a duplicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publication {
    /// Message id `<job>:<fence>`.
    First,
    /// Message id `<job>:<fence>:<nonce>`; a time in milliseconds will do.
    Again(u64),
}

/// The message of an order.
pub fn message(order: &Order, publication: Publication) -> Result<Outgoing, NatsError> {
    let job = order.job_id()?;
    let id = match publication {
        Publication::First => format!("{job}:{}", order.fence),
        Publication::Again(nonce) => format!("{job}:{}:{nonce}", order.fence),
    };
    Ok(Outgoing::new(
        subjects::order(&order.resource_kind, job.0),
        id,
        order.encode_to_vec(),
    ))
}

/// Publishes orders, many in flight, and answers for each in the same order.
pub async fn publish_all(
    connection: &Connection,
    orders: &[Order],
    publication: Publication,
) -> Vec<Result<Stored, NatsError>> {
    let mut answers: Vec<Option<Result<Stored, NatsError>>> = Vec::with_capacity(orders.len());
    let mut messages = Vec::with_capacity(orders.len());
    for order in orders {
        match message(order, publication) {
            Ok(message) => {
                messages.push(message);
                answers.push(None);
            }
            Err(error) => answers.push(Some(Err(error))),
        }
    }
    let mut published = connection.publish_all(messages).await.into_iter();
    answers
        .into_iter()
        .map(|answer| {
            answer
                .or_else(|| published.next())
                .unwrap_or(Err(NatsError::Shutdown))
        })
        .collect()
}

/// Pulls as a worker.
pub async fn puller(connection: &Connection) -> Result<Puller, NatsError> {
    Puller::new(connection, ORDERS, WORKERS).await
}

/// What the workers' consumer has now.
pub async fn consumer_state(connection: &Connection) -> Result<ConsumerState, NatsError> {
    state_of(connection, ORDERS, WORKERS).await
}

pub(crate) async fn state_of(
    connection: &Connection,
    stream: &str,
    consumer: &str,
) -> Result<ConsumerState, NatsError> {
    let doing = || format!("consumer {consumer} of {stream}");
    let handle = connection
        .jetstream()
        .get_stream_no_info(stream)
        .await
        .map_err(|e| NatsError::refused(doing(), e))?;
    let info = handle
        .consumer_info(consumer)
        .await
        .map_err(|e| NatsError::refused(doing(), e))?;
    Ok(ConsumerState {
        ack_floor: info.ack_floor.stream_sequence,
        delivered: info.delivered.stream_sequence,
        pending: info.num_pending,
        ack_pending: info.num_ack_pending as u64,
    })
}

/// Whether an order of this job is in the stream. `state` as read *before* the call, once for a whole sweep: a message that the floor
/// has passed, or that was delivered while nothing is with workers, and that is still in the stream, is exhausted. Under load the
/// floor of a consumer that gave up a message stays behind until it has nothing out (seen on 2.15.1): [`exhausted`] tells sooner.
pub async fn presence(
    connection: &Connection,
    kind: &str,
    job: JobId,
    state: ConsumerState,
) -> Result<OrderPresence, NatsError> {
    let subject = subjects::order(kind, job.0);
    let stream = connection
        .jetstream()
        .get_stream_no_info(ORDERS)
        .await
        .map_err(|e| NatsError::refused(format!("order at {subject}"), e))?;
    match stream.get_last_raw_message_by_subject(&subject).await {
        Ok(message) if state.is_past(message.sequence) => Ok(OrderPresence::Exhausted {
            sequence: message.sequence,
        }),
        Ok(message) => Ok(OrderPresence::Live {
            sequence: message.sequence,
        }),
        Err(error) if is_nothing(&error.kind()) => Ok(OrderPresence::Absent),
        Err(error) => Err(NatsError::refused(format!("order at {subject}"), error)),
    }
}

/// The order at a subject as it is stored: its place and its bytes. For who looks at it without taking it.
pub async fn stored(
    connection: &Connection,
    subject: &str,
) -> Result<Option<(u64, bytes::Bytes)>, NatsError> {
    let refused = |e: &dyn std::fmt::Display| NatsError::refused(format!("order at {subject}"), e);
    let stream = connection
        .jetstream()
        .get_stream_no_info(ORDERS)
        .await
        .map_err(|e| refused(&e))?;
    match stream.get_last_raw_message_by_subject(subject).await {
        Ok(message) => Ok(Some((message.sequence, message.payload))),
        Err(error) if is_nothing(&error.kind()) => Ok(None),
        Err(error) => Err(refused(&error)),
    }
}

/// An order whose deliveries are used up.
#[derive(Clone, Debug, PartialEq)]
pub struct Exhausted {
    /// Its place in the stream of orders: for [`remove`].
    pub sequence: u64,
    /// The order.
    pub order: Order,
    /// Where it was published.
    pub subject: String,
    /// As it was published.
    pub payload: bytes::Bytes,
}

#[derive(serde::Deserialize)]
struct Advisory {
    stream_seq: u64,
}

/// The orders that the server gave up, by its advisories in the stream of dead letters from the place `from` on, and the place to go
/// on from. Advisories are best effort: [`presence`] is behind. Begin with 0; one that was taken out since isn't told again.
pub async fn exhausted(connection: &Connection, from: u64) -> Result<(Vec<Exhausted>, u64), NatsError> {
    let refused = |e: &dyn std::fmt::Display| NatsError::refused("advisories about orders", e);
    let js = connection.jetstream();
    let dead = js.get_stream_no_info(DEAD).await.map_err(|e| refused(&e))?;
    let stream = js.get_stream_no_info(ORDERS).await.map_err(|e| refused(&e))?;
    let last = dead
        .get_info()
        .await
        .map_err(|e| refused(&e))?
        .state
        .last_sequence;
    // A stream that was made anew counts from 1 again.
    let mut next = if from > last + 1 { 1 } else { from.max(1) };
    let mut found = Vec::new();
    loop {
        let advisory = match dead
            .get_first_raw_message_by_subject(subjects::ADVISORY_MAX_DELIVERIES, next)
            .await
        {
            Ok(advisory) => advisory,
            Err(error) if is_nothing(&error.kind()) => return Ok((found, next)),
            Err(error) => return Err(refused(&error)),
        };
        next = advisory.sequence + 1;
        let Ok(Advisory { stream_seq }) = serde_json::from_slice(&advisory.payload) else {
            crate::ErrorKind::Broken.count();
            continue;
        };
        match stream.get_raw_message(stream_seq).await {
            // A stream that was made anew counts from 1 again: an older advisory isn't about what has the place now.
            Ok(message) if message.time <= advisory.time => found.extend(given_up(message)),
            Ok(_) => {}
            Err(error) if is_nothing(&error.kind()) => {}
            Err(error) => return Err(refused(&error)),
        }
    }
}

fn given_up(message: StreamMessage) -> Option<Exhausted> {
    let order = Order::decode(message.payload.clone()).ok()?;
    order.job_id().ok()?;
    Some(Exhausted {
        sequence: message.sequence,
        order,
        subject: message.subject.to_string(),
        payload: message.payload,
    })
}

pub(crate) fn is_nothing(kind: &LastRawMessageErrorKind) -> bool {
    match kind {
        LastRawMessageErrorKind::NoMessageFound => true,
        LastRawMessageErrorKind::JetStream(error) => error.error_code() == ErrorCode::NO_MESSAGE_FOUND,
        LastRawMessageErrorKind::InvalidSubject | LastRawMessageErrorKind::Other => false,
    }
}

/// Takes an order out of the stream; false if it wasn't there.
pub async fn remove(connection: &Connection, sequence: u64) -> Result<bool, NatsError> {
    let doing = || format!("remove order {sequence}");
    let stream = connection
        .jetstream()
        .get_stream_no_info(ORDERS)
        .await
        .map_err(|e| NatsError::refused(doing(), e))?;
    stream
        .delete_message(sequence)
        .await
        .map_err(|e| NatsError::refused(doing(), e))
}

/// The order in a delivery. A newer version and a broken message are told apart by the error.
pub fn read(payload: &bytes::Bytes) -> Result<Order, rhyzome_proto::convert::WireError> {
    let order = Order::decode(payload.clone())
        .map_err(|e| rhyzome_proto::convert::WireError::Broken(format!("order: {e}")))?;
    rhyzome_proto::convert::check_version(order.version)?;
    order.job_id()?;
    Ok(order)
}

/// Job and fence, as logged.
pub fn key(order: &Order) -> Result<(JobId, Fence), NatsError> {
    Ok((order.job_id()?, Fence(order.fence)))
}
