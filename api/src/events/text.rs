//! Events as text: `id`, `event`, `data`, and an empty line. JSON holds no line break, so each `data` is one line.

use crate::shapes::job::JobDoc;
use crate::shapes::resource::ResourceDoc;
use chrono::{DateTime, Utc};
use rhyzome_model::change::What;
use rhyzome_model::job::JobState;
use rhyzome_store::changes::Position;
use serde::Serialize;
use std::fmt::Write;
use uuid::Uuid;

/// What changed: `event` is its kind.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct EventDoc<'a> {
    /// `job`, or a resource's kind.
    pub kind: &'static str,
    /// Its id.
    pub id: Uuid,
    /// Whose.
    pub tenant: &'a str,
    /// What happened.
    pub change: What,
    /// When.
    pub changed_at: DateTime<Utc>,
    /// The thing itself.
    #[serde(flatten)]
    pub object: ObjectDoc<'a>,
}

/// A thing that changed, as it is when the event is sent: later than the change, it may have changed again.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(untagged)]
#[allow(
    clippy::large_enum_variant,
    reason = "made, written and dropped one at a time"
)]
pub enum ObjectDoc<'a> {
    /// A job.
    Job {
        /// The state that this change left it in.
        state: JobState,
        /// As it is.
        job: JobDoc<'a>,
    },
    /// A resource.
    Resource {
        /// As it is; null where it is gone.
        #[schema(required)]
        resource: Option<ResourceDoc<'a>>,
    },
}

/// Why a stream ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The token is not good any more.
    Token,
    /// The process ends.
    Shutdown,
    /// The client was so slow that changes were forgotten before it took them.
    Gone,
}

impl End {
    fn reason(self) -> &'static str {
        match self {
            Self::Token => "token_expired",
            Self::Shutdown => "shutting_down",
            Self::Gone => "events_gone",
        }
    }
}

/// The beginning: when to come again, and from where, before anything changed. An id without data makes no event and is kept.
pub(super) fn hello(position: Position) -> String {
    format!("retry: 1000\nid: {position}\n\n")
}

/// Nothing new up to here.
pub(super) fn keep_alive(position: Position) -> String {
    format!(": keep-alive\nid: {position}\n\n")
}

/// The last words; the id stays what it was.
pub(super) fn end(end: End) -> String {
    format!("event: end\ndata: {{\"reason\":\"{}\"}}\n\n", end.reason())
}

/// Appends one event.
pub(super) fn event(
    text: &mut String,
    position: Position,
    document: &EventDoc<'_>,
) -> Result<(), serde_json::Error> {
    let data = serde_json::to_string(document)?;
    // A string takes all that is written to it.
    let _ = write!(text, "id: {position}\nevent: {}\ndata: {data}\n\n", document.kind);
    Ok(())
}
