//! What can go wrong with NATS, and the counter of it: `rhyzome_nats_errors_total{kind}`.

use rhyzome_proto::convert::WireError;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The options or the address are wrong; a server that can't be reached is waited for instead.
    #[error("NATS: connecting to {url}: {why}")]
    Connect {
        /// Where to.
        url: String,
        /// The client's words.
        why: String,
    },
    /// The ack didn't come in time, several times: whether the message is in the stream is unknown.
    #[error("NATS: publish to {subject}: no ack, it may or may not be stored")]
    Unknown {
        /// Where to.
        subject: String,
    },
    /// No stream takes the subject now.
    #[error("NATS: publish to {subject}: no stream takes it")]
    NoStream {
        /// Where to.
        subject: String,
    },
    /// Larger than the server takes; publishing it again can't help.
    #[error("NATS: publish to {subject}: larger than the server takes")]
    TooBig {
        /// Where to.
        subject: String,
    },
    /// The server said no.
    #[error("NATS: {doing}: {why}")]
    Refused {
        /// What was being done to what.
        doing: String,
        /// The server's or client's words.
        why: String,
    },
    /// A definition was set, but the server keeps another (an old server drops what it doesn't know).
    #[error("NATS: the server doesn't keep {what} as it was set: {difference}")]
    NotKept {
        /// Which stream or consumer.
        what: String,
        /// Wanted and kept.
        difference: String,
    },
    /// A message that can't be read.
    #[error("NATS: {0}")]
    Wire(#[from] WireError),
    /// The caller is being shut down.
    #[error("NATS: given up, shutting down")]
    Shutdown,
}

impl NatsError {
    /// An API call that failed.
    pub(crate) fn refused(doing: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Refused {
            doing: doing.into(),
            why: why.to_string(),
        }
    }
}

/// Labels of `rhyzome_nats_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The connection was lost.
    Disconnected,
    /// A subscription's buffer overflowed; messages were dropped.
    SlowConsumer,
    /// A publish or subscription that the role may not make.
    Permission,
    /// Another word of the server.
    Server,
    /// A word of the client library.
    Client,
    /// A publish without an ack, or refused.
    Publish,
    /// An ack that could not be sent.
    Ack,
    /// A pull request that the server refused, or a consumer that is gone.
    Pull,
    /// A message that can't be read.
    Broken,
}

impl ErrorKind {
    const ALL: [Self; 9] = [
        Self::Disconnected,
        Self::SlowConsumer,
        Self::Permission,
        Self::Server,
        Self::Client,
        Self::Publish,
        Self::Ack,
        Self::Pull,
        Self::Broken,
    ];

    /// As in the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::SlowConsumer => "slow_consumer",
            Self::Permission => "permission",
            Self::Server => "server",
            Self::Client => "client",
            Self::Publish => "publish",
            Self::Ack => "ack",
            Self::Pull => "pull",
            Self::Broken => "broken",
        }
    }

    /// Counts one.
    pub fn count(self) {
        metrics::counter!("rhyzome_nats_errors_total", "kind" => self.as_str()).increment(1);
    }
}

/// Makes the counters, at 0; once, after the recorder is installed. [`crate::connect`] calls it too.
pub fn register_metrics() {
    for kind in ErrorKind::ALL {
        metrics::counter!("rhyzome_nats_errors_total", "kind" => kind.as_str()).increment(0);
    }
    metrics::counter!("rhyzome_nats_redeliveries_total").increment(0);
}
