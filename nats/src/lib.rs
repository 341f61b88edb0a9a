//! NATS: the only crate that names a stream, a subject or a consumer.
//!
//! JetStream is a rebuildable, lossy transport: delivery is at least once, nothing here is the truth, and [`streams::ensure`] makes
//! anew whatever was lost. A publish whose ack didn't come is *unknown* and is published again with the same message id.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `config` | the section `[nats]` |
//! | `duration` | durations as text, as in configuration |
//! | `connect` | a connection of a role: TLS, reconnects for ever, counted events |
//! | `subjects` | every subject, made and read |
//! | `streams` | the streams and consumers as they should be, and what mends them |
//! | `publish` | publishes with a message id, one or many in flight |
//! | `pull` | a pull consumer with credit: never more than asked for |
//! | `orders` | typed: scheduler → worker |
//! | `events` | typed: worker → scheduler |
//! | `dead` | what nobody could do or read |
//! | `notices` | core NATS and wake-ups: control, changes, job notices |
//! | `server` | the configuration of a `nats-server`, with a user and least rights for each role |

pub mod config;
pub mod connect;
pub mod dead;
pub mod duration;
mod error;
pub mod events;
pub mod notices;
pub mod orders;
pub mod publish;
pub mod pull;
pub mod server;
pub mod streams;
pub mod subjects;

pub use config::NatsConfig;
pub use connect::{Connection, Role};
pub use error::{ErrorKind, NatsError, register_metrics};
pub use publish::Outgoing;
pub use pull::{Delivery, Puller};
