//! Sections `[scheduler]` and `[instance]` of the configuration.

use rhyzome_runtime::Span;
use serde::{Deserialize, Serialize};

/// `[scheduler]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerConfig {
    /// How long a job may go forward, where the request doesn't say.
    pub job_deadline: Span,
    /// Jobs of one tenant that may run at once.
    pub tenant_running_cap: i32,
    /// Orders that may be out to one host at once.
    pub host_orders_cap: i32,
    /// How long the checks must have found something amiss on a host before it is mended; doubled with each try that didn't mend it.
    pub repair_after: Span,
    /// How long what a host holds and shall not stays in quarantine before it is removed.
    pub quarantine_grace: Span,
    /// Jobs that one transaction dispatches at most.
    pub dispatch_batch: i64,
    /// First wait before something is tried again; doubled each time, with full jitter.
    pub retry_first: Span,
    /// No wait is longer.
    pub retry_most: Span,
    /// How long a host that refused a job is left out for it, at first; doubled each time, to four times that.
    pub exclusion: Span,
    /// An order without a word for so long is looked for in the stream.
    pub quiet: Span,
    /// How often what waits for capacity is judged anew even if nothing changed.
    pub capacity_recheck: Span,
    /// A watch of a host is lost when it isn't renewed for so long.
    pub watch_lease: Span,
    /// A host that says nothing for so long is unreachable.
    pub host_silence: Span,
    /// Hosts that one scheduler takes under watch at a time.
    pub watch_take: i64,
    /// How often the books are checked, by one of the schedulers.
    pub check_interval: Span,
    /// How long what changed is kept for those who watch: who was away for longer has to read anew.
    pub changes_kept: Span,
    /// Connections to the database.
    pub database_connections: u32,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            job_deadline: Span::hours(1),
            tenant_running_cap: 64,
            host_orders_cap: 64,
            repair_after: Span::minutes(10),
            quarantine_grace: Span::hours(24),
            dispatch_batch: 200,
            retry_first: Span::millis(500),
            retry_most: Span::minutes(1),
            exclusion: Span::seconds(5),
            quiet: Span::seconds(5),
            capacity_recheck: Span::seconds(15),
            watch_lease: Span::seconds(10),
            host_silence: Span::seconds(8),
            watch_take: 200,
            check_interval: Span::minutes(5),
            changes_kept: Span::hours(24),
            database_connections: 6,
        }
    }
}

/// `[instance]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InstanceConfig {
    /// How long a guest may take to end on the ACPI button before it is cut off.
    pub stop_timeout: Span,
}

impl Default for InstanceConfig {
    fn default() -> Self {
        Self {
            stop_timeout: Span::seconds(60),
        }
    }
}
