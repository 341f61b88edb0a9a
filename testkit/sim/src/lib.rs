//! The whole path in one process: a seeded simulation of schedules.
//!
//! What runs is the product: the scheduler's decisions, placement, judgements and look-out (`rhyzome-scheduler`), the course of a
//! worker's order and its reports (`rhyzome-worker`), the agents' engine, admission, ledger and simulated hosts (`rhyzome-agent`), and
//! the messages' bytes between them (`rhyzome-proto`). In memory, and under the dice's hand, are Postgres (`books`), NATS (`bus`), the
//! calls, the disks under the ledgers, and time. One thread, one order of events: a seed gives the same schedule each time.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `clock` | virtual time |
//! | `odds` | what goes wrong in a schedule, and how often |
//! | `books` | Postgres in memory |
//! | `bus` | NATS in memory |
//! | `sim` | what all parts share: dice, trace, points at which a process dies or stops |
//! | `host` | an agent on its host: lives, calls, disk |
//! | `past` | copies of hosts, hosts that are put back to them, and what hosts lose |
//! | `rig` | the driver below it: delays, faults, and what no effect may do |
//! | `worker`, `scheduler`, `sweep`, `watch`, `check`, `users` | the processes |
//! | `rest` | what must hold at rest |
//! | `run` | a schedule from its seed |
//! | `mutant` | rules taken away |
//! | `trace` | what happened |

pub mod books;
pub mod bus;
mod check;
pub mod clock;
mod host;
pub mod mutant;
pub mod odds;
mod past;
mod rest;
mod rig;
pub mod run;
mod scheduler;
mod sim;
mod sweep;
mod trace;
mod users;
mod watch;
mod worker;

pub use mutant::Mutant;
pub use run::{Schedule, schedule};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Everything is on one thread: nobody waits here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
