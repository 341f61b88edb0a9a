//! The section `[nats]` of the configuration: where the server is, and what the streams' consumers keep to.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// `[nats]`. Every role reads the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NatsConfig {
    /// `tls://HOST:PORT`; several with commas between.
    pub url: String,
    /// How long a delivered order may go without a word of its worker before it is delivered again.
    #[serde(with = "crate::duration")]
    pub ack_wait: Duration,
    /// Deliveries of one order before the server gives it up.
    pub max_deliver: i64,
    /// Deliveries out and not acked, of all workers together; beyond it the server holds back.
    pub max_ack_pending: i64,
    /// Copies of each stream, in a cluster.
    pub replicas: usize,
    /// How long a message id is remembered.
    #[serde(with = "crate::duration")]
    pub duplicate_window: Duration,
    /// How long a publish ack is waited for before the message is published again.
    #[serde(with = "crate::duration")]
    pub publish_timeout: Duration,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            url: "tls://127.0.0.1:4222".into(),
            ack_wait: Duration::from_secs(30),
            max_deliver: 5,
            max_ack_pending: 20_000,
            replicas: 1,
            duplicate_window: Duration::from_mins(2),
            publish_timeout: Duration::from_secs(5),
        }
    }
}
