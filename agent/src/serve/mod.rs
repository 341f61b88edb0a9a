//! The agent's gRPC service, over mTLS.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `service` | who may call what, about which host; what the calls are counted as |
//! | `follow` | an order's reports as a stream |
//! | `watch` | a scheduler's watch of one host |
//! | `looks` | what a watch looks at, beside it |
//! | `guests` | guests' changes, handed to the watches of their host |
//! | `inventory` | what is held, as on the wire |
//! | `console` | a guest's console as a stream |

mod console;
mod follow;
mod guests;
mod inventory;
mod looks;
mod service;
mod watch;

pub use guests::GuestHub;
pub use inventory::{hello, inventory};
pub use service::{Offered, Service, WatchSettings, status};
