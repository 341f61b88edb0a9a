//! Metrics of a worker: `rhyzome_agent_calls_total{method,code}`, there from the start at 0.

use tonic::Code;

/// The one method that workers call.
const METHOD: &str = "Apply";

const CODES: [Code; 17] = [
    Code::Ok,
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

/// As gRPC's documents write it (<https://grpc.io/docs/guides/status-codes/>).
fn label(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Makes the counters, at 0; once, after the recorder is installed. [`crate::run`] does it too.
pub fn register_metrics() {
    for code in CODES {
        metrics::counter!("rhyzome_agent_calls_total", "method" => METHOD, "code" => label(code))
            .increment(0);
    }
}

/// Counts a call that ended.
pub(crate) fn called(code: Code) {
    metrics::counter!("rhyzome_agent_calls_total", "method" => METHOD, "code" => label(code)).increment(1);
}
