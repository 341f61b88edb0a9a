//! A connection to NATS for one role: mutual TLS, reconnects for ever, every event counted and logged.
//!
//! A server that can't be reached is waited for, at the start too: parts start in any order. A denied publish looks like a time-out
//! to who published; its reason comes only here.

use crate::error::{ErrorKind, NatsError, register_metrics};
use crate::{NatsConfig, subjects};
use async_nats::jetstream::{self, context::ContextBuilder};
use async_nats::{ConnectOptions, Event, ServerError};
use rand::Rng;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Who connects: decides rights (by the certificate's subject) and the inbox prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Publishes job notices, hears changes.
    Api,
    /// Owns streams and consumers.
    Scheduler,
    /// Pulls orders, publishes events.
    Worker,
    /// An operator at the command line: reads and drops dead letters.
    Admin,
}

impl Role {
    /// Every role that has a user.
    pub const ALL: [Self; 4] = [Self::Api, Self::Scheduler, Self::Worker, Self::Admin];

    /// As in certificates and names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Scheduler => "scheduler",
            Self::Worker => "worker",
            Self::Admin => "admin",
        }
    }

    /// Replies come only under it: a role can't read another's.
    pub fn inbox_prefix(self) -> String {
        format!("_INBOX_{}", self.as_str())
    }
}

/// A connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connection {
    client: async_nats::Client,
    jetstream: jetstream::Context,
    /// Counts connects; who holds credit at a server drops it when this moves.
    connects: watch::Receiver<u64>,
}

impl Connection {
    /// The client, for core NATS.
    pub(crate) fn client(&self) -> &async_nats::Client {
        &self.client
    }

    pub(crate) fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    pub(crate) fn connects(&self) -> watch::Receiver<u64> {
        self.connects.clone()
    }

    /// True while connected.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Returns once there was a connection. For readiness.
    pub async fn connected(&self) -> Result<(), NatsError> {
        let mut connects = self.connects.clone();
        connects
            .wait_for(|connects| *connects > 0)
            .await
            .map(drop)
            .map_err(|_| NatsError::refused("waiting for the connection", "the client is closed"))
    }

    /// The server's version; empty before the first connect.
    pub fn server_version(&self) -> String {
        self.client.server_info().version
    }

    /// Hands what was written to the socket; for the end of a process.
    pub async fn flush(&self) -> Result<(), NatsError> {
        self.client
            .flush()
            .await
            .map_err(|e| NatsError::refused("flush", e))
    }
}

/// Connects, in the background if need be. `tls` has the role's certificate and the CA; without it the server must take plain
/// connections (tests only). `name` is shown by the server.
pub async fn connect(
    config: &NatsConfig,
    role: Role,
    name: &str,
    tls: Option<rustls::ClientConfig>,
) -> Result<Connection, NatsError> {
    register_metrics();
    let (heard, connects) = watch::channel(0_u64);
    let heard = Arc::new(heard);
    let mut options = ConnectOptions::new()
        .name(name)
        .custom_inbox_prefix(role.inbox_prefix())
        .retry_on_initial_connect()
        .max_reconnects(None)
        .connection_timeout(Duration::from_secs(5))
        .ping_interval(Duration::from_secs(10))
        .client_capacity(8192)
        .subscription_capacity(65_536)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            on_event(&event, &heard);
            std::future::ready(())
        });
    if let Some(tls) = tls {
        options = options.require_tls(true).tls_client_config(tls);
    }
    let addresses: Vec<async_nats::ServerAddr> = config
        .url
        .split(',')
        .map(|url| url.trim().parse())
        .collect::<Result<_, _>>()
        .map_err(|e: std::io::Error| NatsError::Connect {
            url: config.url.clone(),
            why: e.to_string(),
        })?;
    let client = options.connect(addresses).await.map_err(|e| NatsError::Connect {
        url: config.url.clone(),
        why: e.to_string(),
    })?;
    let jetstream = ContextBuilder::new()
        .timeout(config.publish_timeout)
        .ack_timeout(config.publish_timeout)
        .max_ack_inflight(16_384)
        .build(client.clone());
    Ok(Connection {
        client,
        jetstream,
        connects,
    })
}

/// Between 0 and 50 ms after the first loss, doubling to at most 2 s, with jitter so that a fleet doesn't come back at once.
fn reconnect_delay(attempts: usize) -> Duration {
    let cap = 50_u64.saturating_mul(1 << attempts.min(6)).min(2_000);
    Duration::from_millis(rand::rng().random_range(cap / 2..=cap))
}

fn on_event(event: &Event, heard: &watch::Sender<u64>) {
    match event {
        Event::Connected => {
            tracing::info!("NATS: connected");
            heard.send_modify(|n| *n += 1);
        }
        Event::Disconnected => {
            ErrorKind::Disconnected.count();
            tracing::warn!("NATS: disconnected");
        }
        Event::LameDuckMode => tracing::info!("NATS: the server is about to go"),
        Event::Draining => tracing::debug!("NATS: draining"),
        Event::Closed => tracing::info!("NATS: closed"),
        Event::SlowConsumer(sid) => {
            ErrorKind::SlowConsumer.count();
            tracing::warn!(
                sid,
                "NATS: a subscription's buffer is full, messages were dropped"
            );
        }
        Event::ServerError(ServerError::AuthorizationViolation) => {
            ErrorKind::Permission.count();
            tracing::error!("NATS: the server refuses this certificate");
        }
        Event::ServerError(ServerError::SlowConsumer(sid)) => {
            ErrorKind::SlowConsumer.count();
            tracing::warn!(sid, "NATS: slow consumer");
        }
        Event::ServerError(ServerError::Other(why)) => {
            let kind = if why.to_ascii_lowercase().contains("permissions violation") {
                ErrorKind::Permission
            } else {
                ErrorKind::Server
            };
            kind.count();
            tracing::error!(why, "NATS: server error");
        }
        Event::ClientError(why) => {
            ErrorKind::Client.count();
            tracing::warn!(%why, "NATS: client error");
        }
    }
}

/// A warning if the server is older than what production should have (2.12.7: security fixes), or its version can't be read.
pub fn version_warning(version: &str) -> Option<String> {
    const OLDEST: (u32, u32, u32) = (2, 12, 7);
    let mut numbers = version.split(['.', '-', '+']).map(|n| n.parse::<u32>().ok());
    let read = (|| Some((numbers.next()??, numbers.next()??, numbers.next()??)))();
    match read {
        Some(v) if v >= OLDEST => None,
        Some(_) => Some(format!(
            "nats-server {version} is older than 2.12.7, which has security fixes: upgrade it"
        )),
        None => Some(format!(
            "nats-server's version {version:?} can't be read; 2.12.7 or newer is wanted"
        )),
    }
}

/// Streams that a role touches name their subjects here, so that a reader of `server` finds what its rights are for.
pub(crate) fn subscriptions(role: Role) -> Vec<String> {
    let own = match role {
        Role::Api => vec![subjects::CHANGES],
        Role::Scheduler => vec![subjects::JOBS],
        Role::Worker => vec![subjects::CONTROL],
        Role::Admin => Vec::new(),
    };
    own.into_iter()
        .map(str::to_owned)
        .chain([format!("{}.>", role.inbox_prefix())])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{reconnect_delay, version_warning};
    use std::time::Duration;

    #[test]
    fn old_servers_are_warned_of() {
        for good in ["2.12.7", "2.15.1", "3.0.0", "2.13.0-RC.1"] {
            assert_eq!(version_warning(good), None, "{good}");
        }
        for bad in ["2.9.10", "2.12.6", "", "x"] {
            assert!(version_warning(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn reconnects_come_within_two_seconds_for_ever() {
        for attempts in [0, 1, 5, 6, 7, 1_000, usize::MAX] {
            assert!(reconnect_delay(attempts) <= Duration::from_secs(2));
        }
    }
}
