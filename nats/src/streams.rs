//! The streams and consumers as they should be, and what makes and mends them.
//!
//! | stream | subjects | kept |
//! | --- | --- | --- |
//! | `ORDERS` | `rhyzome.orders.>` | until acked (work queue); one whose deliveries are used up and that nobody asked after, 30 days |
//! | `EVENTS` | `rhyzome.events.>` | until acked (work queue) |
//! | `DEAD` | `rhyzome.dead.>`, advisories about orders | 30 days |
//! | `JOBS` | `rhyzome.jobs.>` | 1 hour |
//!
//! [`ensure`] is idempotent and may run in many schedulers at once. It reads back what the server keeps: old servers drop fields silently.
//! What can't be mended in place is deleted and made anew, since NATS is expendable. Each consumer has one `filter_subject`.

use crate::connect::version_warning;
use crate::error::NatsError;
use crate::{Connection, NatsConfig, subjects};
use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, ReplayPolicy, pull};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{ErrorCode, context::GetStreamErrorKind};
use futures::TryStreamExt;
use std::time::Duration;

/// Stream of orders.
pub const ORDERS: &str = "ORDERS";
/// Stream of reports.
pub const EVENTS: &str = "EVENTS";
/// Stream of dead letters.
pub const DEAD: &str = "DEAD";
/// Stream of job notices.
pub const JOBS: &str = "JOBS";
/// The workers' consumer of [`ORDERS`].
pub const WORKERS: &str = "workers";
/// The schedulers' consumer of [`EVENTS`].
pub const SCHEDULERS: &str = "schedulers";
/// Every stream.
pub const ALL: [&str; 4] = [ORDERS, EVENTS, DEAD, JOBS];

/// What the limits-kept streams may take on disk, each: 256 MiB.
const KEPT_BYTES: i64 = 256 << 20;

/// What [`ensure`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ensured {
    /// Was missing, by name.
    pub made: Vec<String>,
    /// Was altered, by name.
    pub mended: Vec<String>,
}

impl Ensured {
    /// All was as it should be.
    pub fn is_nothing(&self) -> bool {
        self.made.is_empty() && self.mended.is_empty()
    }
}

/// Makes what is missing, mends what was altered, and reads it back.
pub async fn ensure(connection: &Connection, config: &NatsConfig) -> Result<Ensured, NatsError> {
    let mut done = Ensured::default();
    for want in streams(config) {
        ensure_stream(connection, &want, &mut done).await?;
    }
    for (stream, want) in consumers(config) {
        ensure_consumer(connection, stream, &want, &mut done).await?;
    }
    // Known only once the server was spoken to.
    if let Some(warning) = version_warning(&connection.server_version()) {
        tracing::warn!(warning);
    }
    if !done.is_nothing() {
        tracing::info!(made = ?done.made, mended = ?done.mended, "NATS: streams and consumers made or mended");
    }
    Ok(done)
}

/// The streams as they should be.
pub fn streams(config: &NatsConfig) -> Vec<stream::Config> {
    let base = |name: &str, subjects: &[&str]| stream::Config {
        name: name.to_owned(),
        subjects: subjects.iter().map(|s| (*s).to_owned()).collect(),
        storage: StorageType::File,
        num_replicas: config.replicas,
        duplicate_window: config.duplicate_window,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        ..Default::default()
    };
    let work_queue = |name: &str, subject: &str| stream::Config {
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::New,
        ..base(name, &[subject])
    };
    vec![
        // One that is lost to its age, and is still wanted, is published again by the sweep.
        stream::Config {
            max_age: Duration::from_hours(30 * 24),
            ..work_queue(ORDERS, subjects::ORDERS)
        },
        work_queue(EVENTS, subjects::EVENTS),
        stream::Config {
            max_age: Duration::from_hours(30 * 24),
            max_bytes: KEPT_BYTES,
            ..base(
                DEAD,
                &[
                    subjects::DEAD,
                    subjects::ADVISORY_MAX_DELIVERIES,
                    subjects::ADVISORY_TERMINATED,
                ],
            )
        },
        stream::Config {
            max_age: Duration::from_hours(1),
            // The server takes none longer than the age.
            duplicate_window: config.duplicate_window.min(Duration::from_hours(1)),
            max_bytes: KEPT_BYTES,
            ..base(JOBS, &[subjects::JOBS])
        },
    ]
}

/// The consumers as they should be, with their streams.
pub fn consumers(config: &NatsConfig) -> [(&'static str, pull::Config); 2] {
    let base = |name: &str, subject: &str| pull::Config {
        durable_name: Some(name.to_owned()),
        filter_subject: subject.to_owned(),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        replay_policy: ReplayPolicy::Instant,
        ack_wait: config.ack_wait,
        max_ack_pending: config.max_ack_pending,
        max_waiting: 4096,
        ..Default::default()
    };
    [
        (
            ORDERS,
            pull::Config {
                max_deliver: config.max_deliver,
                ..base(WORKERS, subjects::ORDERS)
            },
        ),
        // An event is delivered until it is settled, however often.
        (
            EVENTS,
            pull::Config {
                max_deliver: -1,
                ..base(SCHEDULERS, subjects::EVENTS)
            },
        ),
    ]
}

async fn ensure_stream(
    connection: &Connection,
    want: &stream::Config,
    done: &mut Ensured,
) -> Result<(), NatsError> {
    let js = connection.jetstream();
    let name = want.name.as_str();
    let refused = |e: &dyn std::fmt::Display| NatsError::refused(format!("stream {name}"), e);
    let kept = match js.get_stream(name).await {
        Ok(stream) if stream_mark(&stream.cached_info().config) == stream_mark(want) => return Ok(()),
        Ok(_) => {
            done.mended.push(name.to_owned());
            match js.update_stream(want).await {
                Ok(info) => info,
                Err(error) => {
                    tracing::warn!(%error, stream = name, "NATS: can't be mended in place, made anew");
                    js.delete_stream(name).await.map_err(|e| refused(&e))?;
                    js.create_stream(want.clone())
                        .await
                        .map_err(|e| refused(&e))?
                        .cached_info()
                        .clone()
                }
            }
        }
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                done.made.push(name.to_owned());
                js.create_stream(want.clone())
                    .await
                    .map_err(|e| refused(&e))?
                    .cached_info()
                    .clone()
            }
            GetStreamErrorKind::JetStream(_)
            | GetStreamErrorKind::EmptyName
            | GetStreamErrorKind::Request
            | GetStreamErrorKind::InvalidStreamName => return Err(refused(&error)),
        },
    };
    let (wanted, kept) = (stream_mark(want), stream_mark(&kept.config));
    if kept == wanted {
        return Ok(());
    }
    Err(NatsError::NotKept {
        what: format!("stream {name}"),
        difference: format!("wanted {wanted:?}, kept {kept:?}"),
    })
}

async fn ensure_consumer(
    connection: &Connection,
    stream: &str,
    want: &pull::Config,
    done: &mut Ensured,
) -> Result<(), NatsError> {
    let name = want.durable_name.clone().unwrap_or_default();
    let label = format!("{stream}/{name}");
    let refused = |e: &dyn std::fmt::Display| NatsError::refused(format!("consumer {label}"), e);
    let wanted = consumer_mark(&consumer::IntoConsumerConfig::into_consumer_config(want.clone()));
    let handle = connection
        .jetstream()
        .get_stream_no_info(stream)
        .await
        .map_err(|e| refused(&e))?;
    let made = match handle.consumer_info(&name).await {
        Ok(info) if consumer_mark(&info.config) == wanted => return Ok(()),
        Ok(_) => {
            done.mended.push(label.clone());
            handle.create_consumer(want.clone()).await
        }
        Err(error) => {
            tracing::debug!(%error, consumer = label, "NATS: consumer not found");
            done.made.push(label.clone());
            handle.create_consumer(want.clone()).await
        }
    };
    let kept = match made {
        Ok(consumer) => consumer.cached_info().config.clone(),
        Err(error) => {
            // On a work queue consumers may not overlap (error 10100), and some fields can't change: only ours stays, made anew.
            tracing::warn!(%error, consumer = label, "NATS: can't be mended in place, the stream's consumers are made anew");
            let others: Vec<String> = handle
                .consumer_names()
                .try_collect()
                .await
                .map_err(|e| refused(&e))?;
            for other in others {
                handle.delete_consumer(&other).await.map_err(|e| refused(&e))?;
            }
            handle
                .create_consumer(want.clone())
                .await
                .map_err(|e| refused(&e))?
                .cached_info()
                .config
                .clone()
        }
    };
    let kept = consumer_mark(&kept);
    if kept == wanted {
        return Ok(());
    }
    Err(NatsError::NotKept {
        what: format!("consumer {label}"),
        difference: format!("wanted {wanted:?}, kept {kept:?}"),
    })
}

/// A server writes "no limit" as -1, we leave it 0.
fn limit(n: i64) -> i64 {
    n.max(0)
}

/// What of a stream's definition must be as we want it.
#[derive(Debug, PartialEq)]
struct StreamMark {
    subjects: Vec<String>,
    retention: RetentionPolicy,
    storage: StorageType,
    discard: DiscardPolicy,
    replicas: usize,
    limits: [i64; 5],
    max_age: Duration,
    duplicate_window: Duration,
    /// No ack, sealed, denies deletes, denies purges: all off.
    switches: [bool; 4],
    /// It is a source of its own: no mirror, no sources, nothing republished or renamed.
    plain: bool,
}

fn stream_mark(c: &stream::Config) -> StreamMark {
    let mut subjects = c.subjects.clone();
    subjects.sort();
    StreamMark {
        subjects,
        retention: c.retention,
        storage: c.storage,
        discard: c.discard,
        replicas: c.num_replicas,
        limits: [
            limit(c.max_bytes),
            limit(c.max_messages),
            limit(c.max_messages_per_subject),
            limit(i64::from(c.max_message_size)),
            limit(i64::from(c.max_consumers)),
        ],
        max_age: c.max_age,
        duplicate_window: c.duplicate_window,
        switches: [c.no_ack, c.sealed, c.deny_delete, c.deny_purge],
        plain: c.mirror.is_none()
            && c.sources.as_ref().is_none_or(Vec::is_empty)
            && c.republish.is_none()
            && c.subject_transform.is_none(),
    }
}

/// What of a consumer's definition must be as we want it.
#[derive(Debug, PartialEq)]
struct ConsumerMark {
    pull: bool,
    durable: Option<String>,
    filter: String,
    filters: Vec<String>,
    ack: AckPolicy,
    deliver: DeliverPolicy,
    ack_wait: Duration,
    backoff: Vec<Duration>,
    inactive_threshold: Duration,
    max_expires: Duration,
    headers_only: bool,
    limits: [i64; 5],
}

fn consumer_mark(c: &consumer::Config) -> ConsumerMark {
    ConsumerMark {
        pull: c.deliver_subject.is_none(),
        durable: c.durable_name.clone(),
        filter: c.filter_subject.clone(),
        filters: c.filter_subjects.clone(),
        ack: c.ack_policy,
        deliver: c.deliver_policy,
        ack_wait: c.ack_wait,
        backoff: c.backoff.clone(),
        inactive_threshold: c.inactive_threshold,
        max_expires: c.max_expires,
        headers_only: c.headers_only,
        limits: [
            limit(c.max_deliver),
            limit(c.max_ack_pending),
            limit(c.max_waiting),
            limit(c.max_batch),
            limit(c.max_bytes),
        ],
    }
}
