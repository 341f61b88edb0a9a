//! The agent's durable record: what was accepted, what may have happened, what was decided. One file a process, for all its hosts.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `record`, `codec` | the changes, and their bytes |
//! | `state` | what the changes add up to; pure, the same in recovery as live |
//! | `frame` | a batch of bytes with a sequence number and a checksum |
//! | `file` | the file: recovery, append, compaction |
//! | `commit` | many callers, one sync: the group commit; `held` is that without file and thread |

mod codec;
mod commit;
mod crc;
mod file;
pub(crate) mod frame;
pub mod record;
pub mod state;

pub use commit::{Ledger, Queued, Ticket, Tx};
pub use file::LedgerError;
