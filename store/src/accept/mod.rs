//! Accept: persists requests, many in one transaction. A bad one never fails its neighbours.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `types` | what the API hands in, and what it gets back |
//! | `create` | creates, batched |
//! | `references` | what they refer to |
//! | `allocate` | their addresses |
//! | `quota` | whether their tenants may have them |
//! | `insert` | what is written |
//! | `address` | which free address a lease gets; pure |
//!
//! What changes a resource that is there already (update, delete, actions, cancel, retry) is in `change`.

mod address;
mod allocate;
mod create;
mod insert;
mod quota;
mod references;
mod types;

pub use types::{
    Accepted, AcceptedNow, CreateRequest, IdempotencyKey, Origin, Refusal, Reply, StaticLeaseRequest,
};
