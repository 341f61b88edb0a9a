//! What every role needs to start: configuration, telemetry, an identity that is re-read, a ready file, shutdown. It knows no domain.
//!
//! - [`config`]: flag over environment over one TOML file; a wrong value names itself and where it came from, and so does a variable that nobody reads.
//! - [`tls`]: who a process is and whom it speaks to, by X.509 with a SPIFFE URI SAN.
//! - [`pki`]: a small CA for those who have none.
//! - [`telemetry`] and [`trace`]: logs, metrics with a listener of their own, W3C trace context.
//! - [`process`]: all of it in one value, which a role's `run` is handed.
//! - [`fault`]: where a test ends a process, compiled to nothing without the feature `faults`.
//! - [`http`]: serves HTTP to who doesn't keep it waiting.
//! - [`part`]: a task without which a role is none.
//! - [`ready`] and [`shutdown`]: how a process says that it serves, and how it is told to end.

pub mod config;
pub mod fault;
pub mod http;
pub mod part;
pub mod pki;
pub mod process;
pub mod ready;
pub mod shutdown;
pub mod span;
pub mod telemetry;
pub mod tls;
pub mod trace;

pub use process::Process;
pub use shutdown::Shutdown;
pub use span::Span;
pub use tls::{Identity, Peer, Role, TlsFiles, install_crypto};
