//! The hypervisor agent: makes one object (network, image, disk, instance) be as the step says, fenced.

pub mod apply;
pub mod claims;
pub mod config;
pub mod driver;
pub mod ledger;
pub mod objects;
mod run;
pub mod serve;
pub mod simulated;

pub use config::AgentConfig;
pub use run::{AgentError, run, stop_guests};
