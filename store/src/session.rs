//! How our sessions plan, and how long one of them can hold up the others.
//!
//! *Plans.* Every statement here goes by an index from the rows that it is given to those that it touches, is prepared once a connection,
//! and its plan is made once: planning costs more than such a statement does. A plan that followed the statistics would be made while the
//! tables are still empty, when reading one whole looks cheap, and be kept while they grow; so the planner is left nothing but nested
//! loops over indexes. Of two indexes that begin alike it may still take either, for in a small table both cost the same: what can be found by
//! only one of them at a price that does not grow is asked for in that one's order (`ORDER BY … LIMIT`), which the other can't give. What is
//! compared as a whole plans for itself ([`crate::Store`]'s surveys).
//!
//! *Locks.* A process can stop in the middle of a transaction, with rows locked that all others need: paused, swapped out, its machine gone.
//! The server then ends its session, and with it the transaction; nothing is lost by that, since whoever goes on later finds its connection
//! broken and begins anew. And no session waits for a lock without end, so that one row that somebody holds (a person in `psql`) takes away
//! the requests that need it, and not every connection of the pool.

use sqlx::postgres::PgConnectOptions;
use std::time::Duration;

/// A session that says nothing for so long in the middle of a transaction is ended. Between two statements of ours there is no I/O and no
/// wait, so that seconds of silence are a process that stands still; shorter than [`LOCK_WAIT`], so that who waits for it gets its turn.
pub const SILENCE_IN_TRANSACTION: Duration = Duration::from_secs(5);
/// Nobody waits longer for a lock; less than a request waits for a connection of the pool.
pub const LOCK_WAIT: Duration = Duration::from_secs(8);

const SETTINGS: [(&str, &str); 13] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_material", "off"),
    ("enable_memoize", "off"),
    ("jit", "off"),
    // A statement whose client is gone is not carried on: it could wait in line for a lock, and then hold it.
    ("client_connection_check_interval", "2s"),
    // A machine that is gone sends no end of its connections. The last one also ends the session of a process that stands still with an
    // answer half read, which counts as no silence. They do nothing on a Unix socket.
    ("tcp_keepalives_idle", "10s"),
    ("tcp_keepalives_interval", "5s"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "20s"),
];

/// For migrations: they wait for whoever uses a table, and take as long as the table is large.
pub(crate) const PATIENT: &str = "SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0";

/// Options with these settings.
pub(crate) fn of(options: PgConnectOptions) -> PgConnectOptions {
    let milliseconds = |time: Duration| time.as_millis().to_string();
    options.application_name("rhyzome").options(SETTINGS).options([
        (
            "idle_in_transaction_session_timeout",
            milliseconds(SILENCE_IN_TRANSACTION),
        ),
        ("lock_timeout", milliseconds(LOCK_WAIT)),
    ])
}
