//! Dead letters: what nobody could read or do, kept in the stream `DEAD` with the reason in its subject and headers.

use crate::error::NatsError;
use crate::publish::{Outgoing, Stored};
use crate::{Connection, subjects};
use bytes::Bytes;

/// Header with a sentence why.
pub const WHY: &str = "Rhyzome-Why";
/// Header with the subject that it was published to.
pub const SUBJECT: &str = "Rhyzome-Subject";

/// Why a message is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No one can read it.
    Broken,
    /// Its workers die of it.
    Poisoned,
}

impl Reason {
    /// As in the subject.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Poisoned => "poisoned",
        }
    }
}

/// Keeps a message that came as `subject`, with its place in its stream.
pub async fn publish(
    connection: &Connection,
    reason: Reason,
    subject: &str,
    sequence: u64,
    payload: Bytes,
    why: &str,
) -> Result<Stored, NatsError> {
    // A subject's last token: of an order and of an event, the job.
    let id = subject
        .rsplit('.')
        .next()
        .filter(|id| !id.is_empty())
        .unwrap_or("unknown");
    let mut letter = Outgoing::new(
        subjects::dead(reason.as_str(), id),
        format!("{}:{subject}:{sequence}", reason.as_str()),
        payload,
    );
    // Header values are lines.
    let why: String = why.chars().filter(|c| !c.is_control()).take(500).collect();
    letter.headers = vec![(WHY, why), (SUBJECT, subject.to_owned())];
    connection.publish(&letter).await
}
