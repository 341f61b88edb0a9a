//! The verb *apply*: makes an order's steps so, fenced and recorded.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `order` | an order as read from the wire |
//! | `admit` | what is done with an order: a pure function to a closed enum |
//! | `engine` | admission under the locks, and the operations that run |
//! | `host` | epochs and floors, and what is held |
//! | `op` | one operation on a resource, with those who follow it |
//! | `work` | the steps forward, and their undo in reverse |
//! | `answer` | outcomes as they go on the wire |
//! | `count` | the steps' metrics |
//!
//! One operation at a time on a resource. What turns an order to undo, or supersedes it, stops the running effect and waits
//! until it is gone. An operation belongs to no call; whoever asks again follows the one that runs, or is answered from the
//! ledger. After a restart nothing goes on by itself: an order goes on when it is asked for again.

pub mod admit;
mod answer;
mod count;
mod engine;
mod host;
mod op;
mod order;
mod work;

pub use engine::{Answer, Engine, Refusal};
pub use host::Books;
pub use op::{Followed, Op};
