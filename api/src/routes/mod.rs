//! The routes, one file a part of the URL.
//!
//! | file | what it serves |
//! | --- | --- |
//! | `table` | every endpoint with what it needs; the router is made of it |
//! | `resources` | `/v1/{kinds}` of every kind, and their actions |
//! | `list` | `GET /v1/{kinds}`: a page, bounded in bytes |
//! | `networks` | `/v1/networks/{id}/leases` |
//! | `instances` | `/v1/instances/{id}/console` |
//! | `jobs` | `/v1/jobs` |
//! | `events` | `/v1/events` |
//! | `kinds` | `/v1/kinds` |
//! | `hosts` | `/v1/hosts`, for operators |
//! | `health` | `/healthz`, `/readyz` |
//! | `openapi`, `docs` | the contract, from the code |

pub mod docs;
pub mod events;
pub mod health;
pub mod hosts;
pub mod instances;
pub mod jobs;
pub mod kinds;
mod list;
pub mod networks;
pub mod openapi;
pub mod resources;
pub mod table;
