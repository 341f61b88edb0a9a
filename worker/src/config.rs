//! The section `[worker]` of the configuration.

use rhyzome_runtime::Span;
use serde::{Deserialize, Serialize};

/// `[worker]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// Orders at a time.
    pub slots: usize,
    /// Further tries within an order when the host, or a part of it, can't be reached or is busy.
    pub quick_tries: u32,
    /// The pause before the first further try; it doubles, with jitter.
    pub quick_pause: Span,
    /// How often it is asked again, with the same key, when it is unknown what became of a call.
    pub unknown_tries: u32,
    /// A call on which nothing is heard for so long is broken off and made again: it joins what runs.
    pub silence: Span,
    /// How long an order that workers may have died of waits to be alone here, before it runs beside others.
    pub alone_wait: Span,
    /// An order that is done sooner is reported once, by its outcome.
    pub progress_after: Span,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            slots: 64,
            quick_tries: 2,
            quick_pause: Span::millis(200),
            unknown_tries: 3,
            silence: Span::minutes(10),
            alone_wait: Span::seconds(30),
            progress_after: Span::millis(250),
        }
    }
}
