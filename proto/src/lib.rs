//! Wire contracts: what travels on NATS and what a hypervisor agent serves. The `.proto` files beside this are the source.

pub mod convert;

/// Every message says which version of its meaning it has; this one.
pub const VERSION: u32 = 1;

/// Generated, nested as the packages are, since the packages name one another.
mod wire {
    #![allow(missing_docs, unreachable_pub, clippy::pedantic)]
    pub mod job {
        pub mod v1 {
            tonic::include_proto!("rhyzome.job.v1");
        }
    }
    pub mod event {
        pub mod v1 {
            tonic::include_proto!("rhyzome.event.v1");
        }
    }
    pub mod agent {
        pub mod v1 {
            tonic::include_proto!("rhyzome.agent.v1");
        }
    }
}

/// The agent's service.
pub use wire::agent::v1 as agent;
/// Reports.
pub use wire::event::v1 as event;
/// Orders and notices.
pub use wire::job::v1 as job;
