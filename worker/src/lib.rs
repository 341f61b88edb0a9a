//! The worker: takes orders from NATS, has the agent do them, decides after a failure, and reports. It keeps no state of its own.
//!
//! What is guaranteed: no more orders are pulled than there are free slots; an order is acked only after the publish ack of its outcome;
//! a worker that dies leaves its orders to another, and one that is told to end gives them back to Postgres. So does one that is to run an
//! order alone, with what came with it: it pulls nothing until that is done.
//!
//! ```text
//! delivered ─▶ read ─▶ (alone, from the third delivery) ─▶ apply ⇄ decide ─▶ outcome stored ─▶ acked
//!    │          │ broken: dead letter, terminated            │
//!    │          │ newer: reported, nak'd                     │ end of the grace period
//!    └──────────┴──── told to end: reported, acked ◀─────────┘
//! ```
//!
//! | file | what it holds |
//! | --- | --- |
//! | `config` | the section `[worker]` |
//! | `pull` | the loop: free slots, pull, end |
//! | `slot` | one delivery, from reading to ack; `slot/room`: who runs beside whom |
//! | `drive` | one order: calls and pauses |
//! | `course` | one order: where it is, and what comes next; pure |
//! | `decide` | what follows from an answer: a pure function |
//! | `call` | one call of an agent, and what its answer means |
//! | `channels` | channels to agents that live on |
//! | `report` | the orders that run here, and their reports |
//! | `words` | the errors that users and operators read |
//! | `counters` | metrics |

pub mod call;
mod channels;
pub mod config;
mod counters;
pub mod course;
pub mod decide;
mod drive;
mod pull;
pub mod report;
mod slot;
mod words;

pub use config::WorkerConfig;
pub use counters::register_metrics;
pub use pull::{WorkerError, run};
