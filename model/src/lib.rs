//! What things are: kinds, specs, states, transitions, ids, errors. No I/O, no clock, no randomness but the ids'.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `ids` | typed identifiers |
//! | `problem` | faults of a document, and the problem a user reads |
//! | `schema` | checks a document against a kind's JSON Schema, all faults at once |
//! | `kinds` | one file a kind: spec, status, validation, references, demand, plan |
//! | `step` | a plan as data: what is done on a host beside what undoes it |
//! | `job` | job states and their legal transitions |
//! | `quota` | how much of what a tenant may have |
//! | `place` | placement: hosts and requests in, a host or the counted reasons out |
//! | `check` | what the books are checked for, and hosts' inventories against Postgres |
//! | `change` | what happened to a thing, as those who watch are told |
//! | `shown` | the state a user reads, computed from intent, applied, observed and the active job |
//! | `text` | what somebody else said, made fit for logs, answers and rows |

pub mod change;
pub mod check;
pub mod ids;
pub mod job;
pub mod kinds;
pub mod place;
pub mod problem;
pub mod quota;
pub mod schema;
pub mod shown;
pub mod step;
pub mod text;
