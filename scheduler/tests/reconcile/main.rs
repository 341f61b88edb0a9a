//! What is amiss on hosts is mended, on real books, with agents that answer as a test says.
//!
//! | file | what it tests |
//! | --- | --- |
//! | `repairs` | what a host lacks is made again |
//! | `put_back` | all of a host that was put back to an older copy of itself is |
//! | `quarantine` | what nobody owns is kept, and then removed |
//! | `strays` | what a resource left on another host is removed there |
//! | `looks` | what they share: what a look finds, and what is asked for of it |

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod looks;
mod put_back;
mod quarantine;
mod repairs;
mod strays;
#[path = "../support/mod.rs"]
mod support;
