//! What every request handler shares.

use crate::accept::batch::Batcher;
use crate::accept::image_floor::ImageFloors;
use crate::accept::keys::KeyLocks;
use crate::announce::Announcer;
use crate::auth::Verifier;
use crate::config::ApiConfig;
use crate::console::Consoles;
use crate::events::Seats;
use crate::rate::TenantRate;
use crate::wait::JobWatch;
use rhyzome_nats::Connection;
use rhyzome_store::Store;
use std::sync::Arc;

/// Handed to every handler; cheap to clone.
pub type App = Arc<AppState>;

/// See [`App`].
#[derive(Debug)]
pub struct AppState {
    /// `[api]`.
    pub config: ApiConfig,
    /// Postgres.
    pub store: Store,
    /// For readiness; none where a test has no NATS.
    pub nats: Option<Connection>,
    /// Tokens to callers.
    pub verifier: Verifier,
    /// Requests a second by tenant.
    pub rate: TenantRate,
    /// Creates, many in one transaction.
    pub batcher: Batcher,
    /// One request at a time with an idempotency key.
    pub keys: KeyLocks,
    /// What images need of instances.
    pub image_floors: ImageFloors,
    /// Tells of what was committed.
    pub announcer: Announcer,
    /// Wakes who waits for a job.
    pub jobs: JobWatch,
    /// Who watches what changes.
    pub events: Seats,
    /// Agents' serial consoles.
    pub consoles: Consoles,
}
