//! Problem details (RFC 9457): what a refused request is told.
//!
//! Guarantees: every [`Code`] has one status and one title; a 500 says nothing of the inside; `request_id` and `instance` are filled in
//! where the response leaves ([`crate::observe`]), so that no handler can forget them.

mod faults;

pub use self::faults::FAULTS_MAX;
pub(crate) use self::faults::shortened;
use self::faults::{bounded, summary};
use axum::response::{IntoResponse, Response};
use http::header::{HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use rhyzome_model::problem::FieldError;
use rhyzome_model::quota::Exceeded;
use rhyzome_store::StoreError;
use serde::Serialize;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $status:literal, $title:literal, $retry:ident;)+) => {
        /// What is wrong. Its text is stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $($(#[$doc])* $variant),+
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// `UPPER_SNAKE`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// HTTP status.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status),+ }
            }

            /// A few words, the same for each occurrence.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),+ }
            }

            /// Whether the same request can succeed another time.
            pub fn retryable(self) -> bool {
                match self { $(Self::$variant => $retry),+ }
            }
        }
    };
}

codes! {
    /// Not JSON.
    MalformedJson = "MALFORMED_JSON", 400, "The body is not JSON", false;
    /// The document, a query parameter or a header isn't understood.
    InvalidRequest = "INVALID_REQUEST", 400, "The request is not understood", false;
    /// No good token.
    Unauthenticated = "UNAUTHENTICATED", 401, "A good bearer token is needed", false;
    /// A scope is missing.
    ScopeMissing = "SCOPE_MISSING", 403, "The token does not allow this", false;
    /// A limit of the tenant.
    QuotaExceeded = "QUOTA_EXCEEDED", 403, "The quota is used up", false;
    /// Nothing that the caller may know of.
    NotFound = "NOT_FOUND", 404, "There is no such thing", false;
    /// The path exists, for other methods.
    MethodNotAllowed = "METHOD_NOT_ALLOWED", 405, "The path has no such method", false;
    /// It took too long.
    Timeout = "TIMEOUT", 503, "The request took too long", true;
    /// The name is another's.
    NameTaken = "NAME_TAKEN", 409, "The name is taken", false;
    /// The address or MAC is another's.
    AddressTaken = "ADDRESS_TAKEN", 409, "The address is taken", false;
    /// The network has no free address.
    RangeUsedUp = "RANGE_USED_UP", 409, "The network has no free address", true;
    /// Others need it.
    HasDependants = "HAS_DEPENDANTS", 409, "Other resources need it", false;
    /// Its delete was accepted.
    Deleting = "DELETING", 409, "It is being deleted", false;
    /// Its create failed.
    ResourceFailed = "RESOURCE_FAILED", 409, "It could not be made", false;
    /// It stands in for what a host holds and nobody owns.
    Quarantined = "QUARANTINED", 409, "It is in quarantine", false;
    /// Somebody changed it at the same time.
    Moved = "CONFLICT", 409, "It was changed at the same time", true;
    /// The job has ended.
    JobDone = "JOB_DONE", 409, "The job has ended", false;
    /// The job only goes forward.
    NotCancellable = "NOT_CANCELLABLE", 409, "The job can not be cancelled", false;
    /// The job can't be tried again.
    NotRetryable = "NOT_RETRYABLE", 409, "The job can not be tried again", false;
    /// `If-Match` names another state of it.
    PreconditionFailed = "PRECONDITION_FAILED", 412, "It is not as If-Match says", false;
    /// Larger than allowed.
    BodyTooLarge = "BODY_TOO_LARGE", 413, "The body is too large", false;
    /// Not a media type that is read here.
    UnsupportedMediaType = "UNSUPPORTED_MEDIA_TYPE", 415, "The media type is not read here", false;
    /// Understood, and can't be.
    ValidationFailed = "VALIDATION_FAILED", 422, "The request can not be fulfilled as it is", false;
    /// Refers to nothing.
    ReferenceNotFound = "REFERENCE_NOT_FOUND", 422, "It refers to nothing", false;
    /// Refers to what failed.
    ReferenceFailed = "REFERENCE_FAILED", 422, "It refers to what failed", false;
    /// Refers to what is being deleted.
    ReferenceDeleting = "REFERENCE_DELETING", 422, "It refers to what is being deleted", false;
    /// The key was used with another body.
    KeyReused = "IDEMPOTENCY_KEY_REUSED", 422, "The idempotency key was used with another body", false;
    /// What changed since then is not kept any more.
    EventsGone = "EVENTS_GONE", 410, "The events are no longer kept", false;
    /// The tenant watches too often at once.
    TooManyStreams = "TOO_MANY_STREAMS", 429, "Too many streams are open", true;
    /// This server has as many watchers as it may.
    StreamsUsedUp = "STREAMS_USED_UP", 503, "The server has no stream left", true;
    /// Over the rate.
    RateLimited = "RATE_LIMITED", 429, "Too many requests", true;
    /// A bug.
    Internal = "INTERNAL", 500, "Something went wrong here", false;
    /// It is of a kind, or in a state, that this version doesn't know.
    LaterVersion = "LATER_VERSION", 503, "A later version than this server's is needed", true;
    /// A part that is needed can't be reached.
    Unavailable = "UNAVAILABLE", 503, "A part that is needed can not be reached", true;
}

impl Code {
    /// `urn:rhyzome:problem:name-taken`.
    pub fn type_uri(self) -> String {
        type_uri(self.as_str())
    }
}

/// The `type` of a code.
pub(crate) fn type_uri(code: &str) -> String {
    format!(
        "urn:rhyzome:problem:{}",
        code.to_ascii_lowercase().replace('_', "-")
    )
}

/// Another resource that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// Its kind, or `job`.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// Its name, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    code: Code,
    detail: String,
    errors: Vec<FieldError>,
    conflicts: Vec<Conflict>,
    quota: Option<Box<Exceeded>>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The document of a problem.
#[derive(Debug, Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
    code: &'static str,
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "<[Conflict]>::is_empty")]
    conflicts: &'a [Conflict],
    #[serde(flatten)]
    quota: Option<&'a Exceeded>,
    retryable: bool,
    request_id: &'a str,
}

impl Problem {
    /// Several problems of one document as one: the first one's code, everybody's faults.
    pub fn several(problems: Vec<Self>) -> Self {
        let mut all = problems.into_iter();
        let Some(mut first) = all.next() else {
            return Self::internal("problem", &"several problems that are none");
        };
        for other in all {
            let more = bounded(other.errors);
            first.errors.extend(more);
            first.errors.truncate(FAULTS_MAX);
            first.conflicts.extend(other.conflicts);
        }
        first
    }

    /// A problem with a sentence for the user.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            conflicts: Vec::new(),
            quota: None,
            headers: Vec::new(),
        }
    }

    /// 400: faults of the document, a header or the query.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        Self::invalid_with_more(errors, 0)
    }

    /// The same, where more faults were found than are listed.
    pub fn invalid_with_more(errors: Vec<FieldError>, unlisted: usize) -> Self {
        Self::new(Code::InvalidRequest, summary(&errors, unlisted)).with_errors(errors)
    }

    /// 422: faults of meaning.
    pub fn validation(errors: Vec<FieldError>) -> Self {
        Self::new(Code::ValidationFailed, summary(&errors, 0)).with_errors(errors)
    }

    /// 404.
    pub fn not_found(kind: &str, id: &str) -> Self {
        Self::new(Code::NotFound, format!("There is no {kind} {id}."))
    }

    /// 500; what happened goes to the log, under the request's id, and nowhere else.
    pub fn internal(doing: &str, error: &(dyn std::fmt::Display + '_)) -> Self {
        tracing::error!(%error, doing, "a request failed");
        Self::new(
            Code::Internal,
            "The request failed by a fault of the service. Its request_id helps to find it.",
        )
    }

    /// 503.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, detail).with_header(RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// 503, of what can't be shown or changed here: during an upgrade another server can.
    pub fn later_version() -> Self {
        Self::new(
            Code::LaterVersion,
            "It was made by a later version than this server's, which doesn't know what it is.",
        )
        .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// 503, of what needs a row that somebody holds for too long.
    pub fn held() -> Self {
        Self::unavailable(
            "Something that the request needs is being changed by somebody else, and that takes long. Try again.",
        )
    }

    /// 401, with the challenge of RFC 6750.
    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(Code::Unauthenticated, detail).with_header(
            WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"rhyzome\", error=\"invalid_token\""),
        )
    }

    /// Adds faults by pointer: [`FAULTS_MAX`] of them.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = bounded(errors);
        self
    }

    /// Adds what is in the way.
    #[must_use]
    pub fn with_conflicts(mut self, conflicts: Vec<Conflict>) -> Self {
        self.conflicts = conflicts;
        self
    }

    /// Adds the limit that would be passed.
    #[must_use]
    pub fn with_quota(mut self, over: Option<Exceeded>) -> Self {
        self.quota = over.map(Box::new);
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Its HTTP status.
    pub fn status(&self) -> u16 {
        self.code.status()
    }

    /// Faults by pointer.
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// Its sentence.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The document as bytes.
    pub fn document(&self, instance: &str, request_id: &str) -> Vec<u8> {
        let document = Document {
            r#type: self.code.type_uri(),
            title: self.code.title(),
            status: self.status(),
            detail: &self.detail,
            instance,
            code: self.code.as_str(),
            errors: &self.errors,
            conflicts: &self.conflicts,
            quota: self.quota.as_deref(),
            retryable: self.code.retryable(),
            request_id,
        };
        // Strings and numbers always serialise.
        serde_json::to_vec(&document).unwrap_or_default()
    }

    fn extra_headers(&self) -> HeaderMap {
        self.headers.iter().cloned().collect()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(axum::body::Body::empty());
        *response.status_mut() =
            StatusCode::from_u16(self.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().extend(self.extra_headers());
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Held(_) => {
                tracing::warn!(%error, "a request needs a row that is held");
                Self::held()
            }
            StoreError::Unreachable(_) | StoreError::Conflict(_) | StoreError::NotMigrated { .. } => {
                tracing::warn!(%error, "the database can't serve a request");
                Self::unavailable("The database can not be reached now.")
            }
            StoreError::LaterVersion { .. } => {
                tracing::warn!(%error, "a request is about something of a later version");
                Self::later_version()
            }
            StoreError::Constraint { .. }
            | StoreError::Migration(_)
            | StoreError::Row { .. }
            | StoreError::Other(_) => Self::internal("database", &error),
        }
    }
}

impl From<rhyzome_model::kinds::PlanError> for Problem {
    fn from(error: rhyzome_model::kinds::PlanError) -> Self {
        Self::internal("plan", &error)
    }
}

#[cfg(test)]
mod tests;
