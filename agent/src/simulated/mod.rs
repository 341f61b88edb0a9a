//! A driver for hosts that aren't there: the same objects, claims, capacity and power states as the real one, made in memory and on disk.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `world` | a host's objects, and what an action makes of them; pure |
//! | `log` | the effects on disk, so that they outlive the process |
//! | `faults` | `faults.toml`: what shall go wrong |
//! | `driver` | the trait's face |
//!
//! An effect is written before it counts as made, without a sync: it outlives `kill -9`, not a power loss. Fences, phases, the ledger
//! and all that is above the driver are the real agent's.

mod driver;
pub mod faults;
mod log;
mod world;

pub use driver::{Settings, SimulatedDriver};
pub use log::EffectsError;
pub use world::Size;
