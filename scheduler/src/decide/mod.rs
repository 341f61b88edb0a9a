//! What is to be done with one due job. Pure: the job as locked and read, and which hosts are up, in; a decision, or what placement
//! shall find a host for, out.
//!
//! ```text
//! has a host ──▶ host down: wait ─ undo wanted: order in mode undo ─ else: the same order again
//! has none   ──▶ cancelled, too late: ends ─ earlier job, reference: waits ─ no steps: succeeds
//!                 ─ the resource has a host: order there ─ else: placement
//! ```
//!
//! | file | what it holds |
//! | --- | --- |
//! | `types` | what a decision depends on, and what comes of it |
//! | `job` | the decision |
//! | `plan` | the order, and what placement is asked |
//! | `wait` | what it waits for |
//! | `ends` | ends without an order |

mod ends;
mod job;
mod plan;
mod types;
mod wait;

pub use ends::unplannable;
pub use job::decide;
pub use plan::held_back;
pub use types::{Around, Next, ToPlace};
pub use wait::wait_for_room;
