//! Server-Sent Events (WHATWG HTML, 9.2) of what changed: read from Postgres alone, notices only say when to look.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `seats` | who watches in this process: how many may, and waking them |
//! | `feed` | one stream: reads on, judges, writes; what ends it |
//! | `judge` | what a caller may know of, among what changed |
//! | `text` | events as text, and the document of one |
//!
//! Guarantees: an event's id is the position after it, so that who comes again with it in `Last-Event-ID` gets every later change once,
//! in the same order; a stream holds a page and no more, and reads on only when the client took what was written; it ends with its
//! token and with the process.

mod feed;
mod judge;
mod seats;
mod text;

pub use feed::{Feed, Start};
pub use seats::{Full, Limits, Seat, Seats};
pub use text::EventDoc;
