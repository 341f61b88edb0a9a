//! What a user reads when something is wrong: faults of a document, and the problem (RFC 9457) of a refused request or a
//! failed job. Text for users and text for operators are separate fields.

use crate::ids::JobId;
use serde::{Deserialize, Serialize};

/// One fault of a request's document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FieldError {
    /// JSON Pointer (RFC 6901) into the body, or `?name` for a query parameter.
    pub pointer: String,
    /// Stable, `UPPER_SNAKE`.
    pub code: String,
    /// A sentence with the value and what would be right.
    pub detail: String,
}

impl FieldError {
    /// A fault at a pointer.
    pub fn new(pointer: impl Into<String>, code: &str, detail: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            code: code.to_owned(),
            detail: detail.into(),
        }
    }
}

/// Why a job failed: what the API shows as `job.error`, and as `reason` of the resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// Stable, `UPPER_SNAKE`.
    pub code: String,
    /// A sentence that a user can act on; names no host.
    pub detail: String,
    /// The step that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Shown to operators only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Whether the same request can succeed another time.
    pub retryable: bool,
}

impl JobError {
    /// An error that isn't about one step.
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            detail: detail.into(),
            step: None,
            host: None,
            retryable: false,
        }
    }

    /// As the `reason` of the resource that the job was about: `{code, detail, job}`.
    pub fn reason(&self, job: JobId) -> serde_json::Value {
        serde_json::json!({ "code": self.code, "detail": self.detail, "job": job })
    }
}
