//! The job protocol as a model that is explored exhaustively, within bounds, by [stateright](https://docs.rs/stateright).
//!
//! Guarantees that each rule in [`rules`] carries weight: with all of them the invariants in [`properties`] hold in every
//! configuration of [`scenarios`]; without any one of them a counterexample is found. What the model found in the rules
//! themselves is in `FINDINGS.md`.
//!
//! A job in Postgres ([`postgres`]); `blocked` is `Queued` behind another job, `undoing` is `Running`, as no
//! transaction tells them apart:
//!
//! ```text
//!   Absent ─accept▶ Queued ─dispatch▶ Running ─succeeded──────▶ Succeeded
//!                    │  ▲                │ ├──failed, deadline──▶ Failed
//!                    │  └──suspended─────┤ └──cancelled─────────▶ Cancelled
//!                    │     stale         │
//!                    │     released      │
//!                    └─ no host has it: cancelled, deadline ────▶ Cancelled · Failed
//! ```
//!
//! A job at an agent ([`agent`]), durable:
//!
//! ```text
//!   Unknown ─first call▶ Forward ─undo order, step failed▶ Undoing(verdict) ─all undone▶ Finished(verdict)
//!                         │  ▲                                                              │
//!                         │  └──────────────── Released only, by a higher fence ◀───────────┘
//!                         └─all done▶ Finished(Succeeded)
//! ```
//!
//! An order at a worker ([`worker`]), volatile:
//!
//! ```text
//!   Idle ─pull▶ Calls(forward) ─outcome, stale, suspended▶ Publishes ─publish ack▶ Acks ─▶ Idle
//!                 └─step failed, turn to undo▶ Calls(undo) ─outcome─▲
//! ```
//!
//! What is atomic here: a Postgres transaction, a ledger write, one effect on a host (a change of a shared object happens
//! under its lock), one message. Everything else interleaves: a pause is a path on which the others go first, a reordering
//! one on which a later message is taken first; losses, repeats, crashes and refusals have budgets ([`config::Faults`]).
//! A call of a dead worker that is still on the network is the call of a paused one.
//!
//! An update stands for a power action, too: one step on the host that has the resource, whose undo makes so what was applied.
//!
//! Reconcile ([`reconcile`]) finds what is amiss on hosts, which go back to older copies, lose what they had, or aren't seen whole; two
//! jobs that only it asks for mend that. A *repair* makes what is applied where it lives; a *clear* removes a stray from the host that
//! has it, whether it stands in quarantine, is a deleted resource's, or was left by a create that came to nothing. What passes before
//! it, and that a guest is turned off meanwhile, is time, of which a model has none: of that rule stays that two looks find the same.
//!
//! Not modelled: hosts declared dead, a database that was set back, tenants and their turns, a second instance beside a stray.

pub mod agent;
pub mod bus;
pub mod config;
pub mod ledger;
pub mod livelock;
pub mod postgres;
pub mod properties;
pub mod reconcile;
pub mod rules;
pub mod scenarios;
pub mod scheduler;
pub mod state;
pub mod steps;
pub mod system;
pub mod worker;

pub use rules::{Rule, Rules};
