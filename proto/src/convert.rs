//! Between the wire's words and the model's. What a newer sender says that this version doesn't know is an error, never a default.

use crate::{event, job};
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::job::{ErrorClass, Mode, Verdict};
use rhyzome_model::problem::JobError;
use rhyzome_model::step::Step;
use uuid::Uuid;

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// From a newer sender: another receiver may know it.
    #[error("message version {0} is newer than {known}", known = crate::VERSION)]
    Newer(u32),
    /// It can't be read by anyone.
    #[error("broken message: {0}")]
    Broken(String),
}

/// An id of 16 bytes.
pub fn uuid(bytes: &[u8]) -> Result<Uuid, WireError> {
    Uuid::from_slice(bytes).map_err(|e| WireError::Broken(format!("id of {} bytes: {e}", bytes.len())))
}

/// Bytes of an id, as on the wire.
pub fn bytes(id: Uuid) -> Vec<u8> {
    id.as_bytes().to_vec()
}

/// Refuses what is newer than this.
pub fn check_version(version: u32) -> Result<(), WireError> {
    match version {
        0 => Err(WireError::Broken("message without a version".into())),
        v if v > crate::VERSION => Err(WireError::Newer(v)),
        _ => Ok(()),
    }
}

impl job::Order {
    /// The job's id.
    pub fn job_id(&self) -> Result<JobId, WireError> {
        uuid(&self.job).map(JobId)
    }

    /// The resource's id.
    pub fn resource_id(&self) -> Result<ResourceId, WireError> {
        uuid(&self.resource).map(ResourceId)
    }

    /// Which way.
    pub fn model_mode(&self) -> Result<Mode, WireError> {
        match self.mode() {
            job::Mode::Forward => Ok(Mode::Forward),
            job::Mode::Undo => Ok(Mode::Undo),
            job::Mode::Unspecified => Err(WireError::Broken(format!("mode {}", self.mode))),
        }
    }

    /// Why the undo; none in a forward order.
    pub fn model_verdict(&self) -> Option<Verdict> {
        match self.verdict() {
            job::Verdict::Unspecified => None,
            job::Verdict::Failed => Some(Verdict::Failed),
            job::Verdict::Cancelled => Some(Verdict::Cancelled),
            job::Verdict::Deadline => Some(Verdict::Deadline),
            job::Verdict::Released => Some(Verdict::Released),
        }
    }

    /// The frozen steps. An action that this version doesn't know makes the whole order one of a newer version.
    pub fn model_steps(&self) -> Result<Vec<Step>, WireError> {
        self.steps
            .iter()
            .map(|s| serde_json::from_slice(s).map_err(|e| WireError::Broken(format!("step: {e}"))))
            .collect()
    }

    /// What led to the undo.
    pub fn model_cause(&self) -> Result<Option<JobError>, WireError> {
        error_of(&self.cause)
    }
}

/// A problem as JSON bytes, empty for none.
pub fn error_of(json: &[u8]) -> Result<Option<JobError>, WireError> {
    if json.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(json)
        .map(Some)
        .map_err(|e| WireError::Broken(format!("error: {e}")))
}

/// A problem's JSON bytes, as on the wire.
pub fn error_bytes(error: Option<&JobError>) -> Vec<u8> {
    error.map_or_else(Vec::new, |e| serde_json::to_vec(e).unwrap_or_default())
}

impl From<Mode> for job::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Forward => Self::Forward,
            Mode::Undo => Self::Undo,
        }
    }
}

impl From<Verdict> for job::Verdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Failed => Self::Failed,
            Verdict::Cancelled => Self::Cancelled,
            Verdict::Deadline => Self::Deadline,
            Verdict::Released => Self::Released,
        }
    }
}

impl From<ErrorClass> for event::ErrorClass {
    fn from(class: ErrorClass) -> Self {
        match class {
            ErrorClass::Unavailable => Self::Unavailable,
            ErrorClass::Busy => Self::Busy,
            ErrorClass::Timeout => Self::Timeout,
            ErrorClass::NoRoom => Self::NoRoom,
            ErrorClass::Permanent => Self::Permanent,
            ErrorClass::NotHere => Self::NotHere,
            ErrorClass::NotHereNow => Self::NotHereNow,
        }
    }
}

impl event::Outcome {
    /// The class of its error, if it has one.
    pub fn model_class(&self) -> Option<ErrorClass> {
        match self.class() {
            event::ErrorClass::Unspecified => None,
            event::ErrorClass::Unavailable => Some(ErrorClass::Unavailable),
            event::ErrorClass::Busy => Some(ErrorClass::Busy),
            event::ErrorClass::Timeout => Some(ErrorClass::Timeout),
            event::ErrorClass::NoRoom => Some(ErrorClass::NoRoom),
            event::ErrorClass::Permanent => Some(ErrorClass::Permanent),
            event::ErrorClass::NotHere => Some(ErrorClass::NotHere),
            event::ErrorClass::NotHereNow => Some(ErrorClass::NotHereNow),
        }
    }

    /// Its error.
    pub fn model_error(&self) -> Result<Option<JobError>, WireError> {
        error_of(&self.error)
    }
}
