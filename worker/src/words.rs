//! The errors that reports carry when the worker itself has something to say. `detail` is for users and names no host.

use rhyzome_model::problem::JobError;
use rhyzome_proto::convert::error_bytes;
use rhyzome_proto::event::{ErrorClass, Outcome, OutcomeKind};

/// What a worker says in an outcome of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The agent can't be reached.
    Unreachable,
    /// It isn't known what became of the call.
    Unknown,
    /// The agent answered that it can't take calls now.
    Busy,
    /// The agent refused the call as such.
    Refused,
    /// The agent answered what this worker can't make sense of.
    Nonsense,
    /// The order's time was over before it was begun, or between tries.
    Expired,
    /// The order is of a newer version.
    Newer,
    /// The worker ends.
    Stopped,
    /// The worker runs another order alone.
    Alone,
    /// The order's phase at the agent is another than that of the job.
    Turned,
}

impl Word {
    /// As an error of a job on this host.
    pub(crate) fn error(self, host: &str) -> JobError {
        let (code, detail) = match self {
            Self::Unreachable => ("HOST_UNREACHABLE", "The host can't be reached at the moment."),
            Self::Unknown => ("HOST_NO_ANSWER", "The host didn't answer in time."),
            Self::Busy => ("HOST_BUSY", "The host is busy at the moment."),
            Self::Refused => ("HOST_REFUSED", "The host refused the call; operators are told."),
            Self::Nonsense => ("HOST_ANSWER_UNKNOWN", "The host's answer can't be understood."),
            Self::Expired => (
                "EXPIRED",
                "The time for this job was over before this part of it was begun.",
            ),
            Self::Newer => ("NEWER_VERSION", "A worker of a newer version is waited for."),
            Self::Stopped => ("WORKER_STOPPED", "The worker was stopped; another goes on."),
            // The same code: no failure either, and due at once.
            Self::Alone => (
                "WORKER_STOPPED",
                "The worker is busy with another job alone; another goes on.",
            ),
            Self::Turned => ("UNDOING", "What was done is being taken back."),
        };
        JobError {
            host: Some(host.to_owned()),
            retryable: true,
            ..JobError::new(code, detail)
        }
    }

    fn class(self) -> ErrorClass {
        match self {
            Self::Unreachable => ErrorClass::Unavailable,
            Self::Unknown | Self::Nonsense => ErrorClass::Timeout,
            Self::Busy => ErrorClass::Busy,
            Self::Refused | Self::Expired | Self::Newer | Self::Stopped | Self::Alone | Self::Turned => {
                ErrorClass::Unspecified
            }
        }
    }

    /// The outcome "try again later, because of this".
    pub(crate) fn suspended(self, host: &str) -> Outcome {
        Outcome {
            kind: OutcomeKind::Suspended.into(),
            error: error_bytes(Some(&self.error(host))),
            class: self.class().into(),
        }
    }
}
