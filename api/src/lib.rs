//! The REST API: authenticates, authorises and validates requests, accepts them into Postgres, and shows what is there.
//!
//! | room | what is in it |
//! | --- | --- |
//! | `routes` | the endpoints, one file a part of the URL; `routes::table` has them all with what each needs |
//! | `auth` | who asks, and what they may |
//! | `extract` | what a request says, read strictly |
//! | `accept` | the first of the five verbs: a request becomes a resource and a job |
//! | `shapes` | rows as users read them |
//! | `apart` | what instances are kept apart from, as far as it is there |
//! | `problem` | refusals (RFC 9457) |
//! | `wait` | waiting for a job's end |
//! | `events` | streams of what changes |
//! | `hear` | notices of what was committed, from everywhere |
//! | `announce` | notices of what was committed |
//! | `console` | the one call to agents |
//! | `observe` | request ids, traces, metrics, the time limit |
//! | `unread` | what is left of a body when its request is answered |
//! | `run` | starts it all |

pub mod accept;
pub mod announce;
pub mod apart;
pub mod app;
pub mod auth;
pub mod config;
pub mod console;
pub mod ctx;
pub mod events;
pub mod extract;
pub mod hear;
pub mod observe;
pub mod problem;
pub mod rate;
pub mod routes;
pub mod run;
pub mod shapes;
mod unread;
pub mod wait;

pub use config::ApiConfig;
pub use run::{ApiError, run};
