//! Settle: events become rows, many in one transaction.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `batch` | locks and reads the jobs that reports are about; has what was decided of them written |
//! | `open` | what a report changes of a job that stays open |
//! | `ends` | what the end of a job changes, for settle, dispatch and cancel alike: each book once, with its cause |
//! | `resource` | what an end changes of the resource |
//! | `abandon` | ends a job whose undo an operator gives up, and what is known of its rest |
//! | `books` | what hosts, tenants and networks get back, in the order of all locks |
//!
//! Guards: a report counts only with the job's own fence, and a terminal state absorbs.

mod abandon;
mod batch;
mod books;
mod ends;
mod open;
mod resource;

pub(crate) use abandon::audit_abandoned;
pub use abandon::{Abandoned, NotAbandoned};
pub use batch::{OpenJob, SettleTx, Settled, Settlement};
pub use ends::{Effect, End, Kept};
pub(crate) use ends::{apply_ends, wake};
