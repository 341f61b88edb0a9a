//! What the system's tests stand on: real Postgres, real NATS, real agents, and the tools that break them.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `tools` | where the binary, nats-server, Postgres and the image are |
//! | `stack` | a stack by `rhyzome up`, its own or shared, that ends with the test |
//! | `agents` | simulated hosts started by hand against a running stack |
//! | `rest` | a client of the REST API that knows jobs |
//! | `events` | a client of `/v1/events` that comes again after the last id |
//! | `faults` | `faults.toml` of simulated hosts |
//! | `processes` | kill, stop and continue a stack's processes |
//! | `tokens` | an issuer of a test's own, and tokens that nobody should accept |
//! | `database` | a private Postgres for a crate's own tests: a fresh database for each |
//! | `nats` | a private nats-server with the roles' users over mutual TLS |
//! | `logs` | WARN and ERROR lines of a stack that nobody expects |
//! | `guard` | ends what a test process started, however that ends |
//! | `patience` | waiting for a state |
//!
//! It guarantees: nothing that a test started outlives it, killed tests included; nothing listens on a port that was chosen beforehand;
//! tests that share a stack use names of their own.

pub mod agents;
pub mod database;
pub mod events;
pub mod faults;
pub mod guard;
pub mod logs;
pub mod nats;
pub mod oidc;
pub mod patience;
pub mod processes;
pub mod rest;
pub mod stack;
pub mod tokens;
pub mod tools;

pub use agents::{Agent, AgentSize};
pub use patience::{PATIENCE, eventually};
pub use rest::{Answer, Rest};
pub use stack::{LocalHost, Options, Restart, Stack};
