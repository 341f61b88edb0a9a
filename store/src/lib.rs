//! Postgres, the only truth: the one crate with SQL. One file per aggregate; a function is one transaction, or a part of one that
//! its type names.
//!
//! Locks are taken in one order, so that transactions don't wait in a ring: resources (ids ascending), lease cursors, quotas, jobs, network
//! homes, tenants, hosts. Before the quotas their tenants are held, in a mode in which nobody but who deletes a tenant waits for it.
//! Dispatch takes jobs and resources only where they are free (`SKIP LOCKED`). Three things come out of turn: the row
//! of an idempotency key is written last, a dispatch that also ends jobs takes these jobs' tenants and hosts before the homes of its
//! orders' networks, and who removes resources holds what they referred to (`FOR SHARE`) after its own jobs. Should that make a ring, the server ends one transaction of it, and it is tried again ([`StoreError::Conflict`]).

pub mod accept;
pub mod amiss;
pub mod backlog;
pub mod change;
pub mod changes;
pub mod check;
pub mod config;
pub mod dispatch;
pub mod error;
pub mod guests;
pub mod hosts;
pub mod jobs;
pub mod leases;
mod paging;
pub mod quotas;
pub mod resources;
pub mod rows;
pub mod session;
pub mod set_back;
pub mod settle;
pub mod sweep;
pub mod tenants;
pub mod unheard;
pub mod watches;

pub use config::{DatabaseConfig, DatabaseConfigError};
pub use error::StoreError;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, Postgres, Transaction};
use std::time::Duration;

/// The migrations, in order; `rhyzome migrate` runs them.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// Back to the server's own planning, until the transaction ends.
const SURVEY: &str = "SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL enable_seqscan = on; SET LOCAL enable_bitmapscan = on;
    SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on; SET LOCAL enable_material = on";

/// Of a transaction that reads much: see [`session`].
pub(crate) async fn plan_as_survey(tx: &mut Transaction<'_, Postgres>) -> Result<(), StoreError> {
    sqlx::raw_sql(SURVEY).execute(&mut **tx).await?;
    Ok(())
}

/// Every connection is tested when it is given back; so soon after that it is taken as it is, and a round trip is saved.
const FRESH: Duration = Duration::from_secs(1);

fn pool_of(max_connections: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(Duration::from_secs(10))
        .test_before_acquire(false)
        .before_acquire(|connection, since| {
            Box::pin(async move {
                if since.idle_for < FRESH {
                    return Ok(true);
                }
                // One that the server has closed since, or that is a standby's by now, isn't used: another is made.
                let standby = sqlx::query_scalar::<_, bool>("SELECT pg_is_in_recovery()");
                Ok(matches!(standby.fetch_one(connection).await, Ok(false)))
            })
        })
}

/// A pool of connections to the one database.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) pool: PgPool,
}

impl Store {
    /// Connects; fails at once where the database can't be reached, and says why: the pool would try for a while, and say only that.
    pub async fn connect(options: PgConnectOptions, max_connections: u32) -> Result<Self, StoreError> {
        let options = session::of(options);
        PgConnection::connect_with(&options).await?.close().await?;
        let pool = pool_of(max_connections).connect_with(options).await?;
        Ok(Self { pool })
    }

    /// A pool that connects when it is first used: for processes that start before their database.
    pub fn connect_lazy(options: PgConnectOptions, max_connections: u32) -> Self {
        let pool = pool_of(max_connections).connect_lazy_with(session::of(options));
        Self { pool }
    }

    /// Around a pool that is there already.
    pub fn from_pool(pool: PgPool) -> Self {
        Self { pool }
    }

    /// The pool, for tests that look at rows.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Begins what reads much: its plans follow what is there.
    pub(crate) async fn begin_survey(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        let mut tx = self.pool.begin().await?;
        plan_as_survey(&mut tx).await?;
        Ok(tx)
    }

    /// Runs the migrations that are missing.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        sqlx::raw_sql(session::PATIENT).execute(&mut *connection).await?;
        let done = MIGRATIONS.run(&mut *connection).await;
        // The connection is as no other: it goes.
        connection.close_on_drop();
        done.map_err(StoreError::from)
    }

    /// Whether the database answers and has every migration; `Err` says what is missing.
    pub async fn ready(&self) -> Result<(), StoreError> {
        let known = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0);
        let applied: Option<i64> =
            sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
                .fetch_one(&self.pool)
                .await?;
        match applied {
            Some(version) if version >= known => Ok(()),
            other => Err(StoreError::NotMigrated {
                known,
                applied: other.unwrap_or(0),
            }),
        }
    }
}
