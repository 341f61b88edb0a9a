//! Accepts what changes a resource that is there: update, actions, delete, cancel, retry. One transaction each, the resource's row
//! locked first, so that jobs of one resource are numbered in the order in which their intents were written.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `types` | what is asked, and what a delete answers |
//! | `update` | new intent and its job |
//! | `static_leases` | a network's, put in the place of those before |
//! | `delete` | in every state, and before all that waits |
//! | `cancel` | at once, or by a mark |
//! | `retry` | a new job for one that failed |
//! | `mend` | what reconcile asks for: repairs, quarantine, removals |
//! | `rows` | what each of them reads and writes |

mod cancel;
mod delete;
mod mend;
mod retry;
mod rows;
mod static_leases;
mod types;
mod update;

pub use mend::Mended;
pub use types::{Cancelled, ChangeRequest, Deleted, Work};
