//! Accept, the first of the five verbs: authenticated, authorised and validated requests become a resource and a job, in one
//! transaction, and a 202.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `create` | a create's document to what the store accepts |
//! | `batch` | creates that come together, in one transaction |
//! | `aside` | creates that met a row that somebody holds |
//! | `change` | updates and actions against the generation that was read |
//! | `image_floor` | what an instance's image needs of it |
//! | `policy` | what only operators may ask for |
//! | `keys` | one request at a time with an idempotency key |
//! | `refusal` | the store's refusals as problems |
//! | `placement` | where a resource would be placed, and what each host has to say |
//! | `dry_run` | all checks, nothing written |
//! | `ended` | counts the jobs that a cancel ends at once |
//! | `reply` | the 202 |

mod aside;
pub mod batch;
pub mod change;
pub mod create;
pub mod dry_run;
pub mod ended;
pub mod image_floor;
pub mod keys;
pub mod placement;
pub mod policy;
pub mod refusal;
pub mod reply;
