//! What users read, exactly as the contract says: rows in, documents out. Pure.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `resource` | a resource, its ETag and status |
//! | `job` | a job, its steps and error |
//! | `page` | lists, and the token of the next page |

pub mod job;
pub mod page;
pub mod resource;

/// Who reads: operators see hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A tenant's user.
    Tenant,
    /// An operator.
    Operator,
}
