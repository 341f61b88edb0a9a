//! Job states and their legal transitions; order modes, verdicts and error classes.
//!
//! ```text
//! blocked ─▶ queued ─▶ running ─▶ succeeded
//!    │         │ ▲        │
//!    │         │ └────────┤ re-attempt
//!    │         │          ▼
//!    └─────────┴──▶    undoing ─▶ failed | cancelled
//! ```
//!
//! Terminal states absorb. A job that was never dispatched may end at once; any other ends on the agent's word.

use serde::{Deserialize, Serialize};

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:tt),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant),+
        }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As stored and shown.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The value of a text.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use text_enum;

text_enum! {
    /// Where a job is.
    JobState {
        /// Waits for an earlier job or a reference. Shown as queued.
        Blocked = "blocked",
        /// Ready, or waiting for its next attempt.
        Queued = "queued",
        /// An order is out.
        Running = "running",
        /// What was done is being taken back.
        Undoing = "undoing",
        /// Done as asked.
        Succeeded = "succeeded",
        /// Ended, nothing left behind.
        Failed = "failed",
        /// Ended on the user's word, nothing left behind.
        Cancelled = "cancelled",
    }
}

impl JobState {
    /// Terminal.
    pub fn is_done(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
            Self::Blocked | Self::Queued | Self::Running | Self::Undoing => false,
        }
    }

    /// What a user reads: blocked is shown as queued.
    #[must_use]
    pub fn shown(self) -> Self {
        match self {
            Self::Blocked => Self::Queued,
            Self::Queued
            | Self::Running
            | Self::Undoing
            | Self::Succeeded
            | Self::Failed
            | Self::Cancelled => self,
        }
    }

    /// Whether the page allows this change of state.
    pub fn may_become(self, next: Self) -> bool {
        use JobState::{Blocked, Cancelled, Failed, Queued, Running, Succeeded, Undoing};
        match self {
            Blocked => matches!(next, Queued | Undoing | Failed | Cancelled),
            Queued => matches!(next, Running | Undoing | Succeeded | Failed | Cancelled | Blocked),
            Running => matches!(next, Queued | Undoing | Succeeded | Failed | Cancelled),
            // Back to queued only on `released`: nothing is left, and it is placed anew.
            Undoing => matches!(next, Queued | Succeeded | Failed | Cancelled),
            Succeeded | Failed | Cancelled => false,
        }
    }
}

text_enum! {
    /// What is done to a resource.
    Action {
        /// Make it.
        Create = "create",
        /// Change it.
        Update = "update",
        /// Remove it.
        Delete = "delete",
        /// Power on.
        Start = "start",
        /// Power off.
        Stop = "stop",
        /// Restart once.
        Reboot = "reboot",
        /// Make what is applied so again.
        Repair = "repair",
    }
}

impl Action {
    /// A delete only goes forward: no deadline, no cancel once dispatched.
    pub fn forward_only(self) -> bool {
        match self {
            Self::Delete => true,
            Self::Create | Self::Update | Self::Start | Self::Stop | Self::Reboot | Self::Repair => false,
        }
    }
}

text_enum! {
    /// Which way an order goes.
    Mode {
        /// Steps in order.
        Forward = "forward",
        /// Undo in reverse, unknown steps included.
        Undo = "undo",
    }
}

text_enum! {
    /// Why an undo was decided, and so what it ends in.
    Verdict {
        /// A step can't succeed.
        Failed = "failed",
        /// The user asked.
        Cancelled = "cancelled",
        /// It took longer than it may: ends as failed.
        Deadline = "deadline",
        /// Not on this host after all (no room, no image): nothing is left, placed anew.
        Released = "released",
    }
}

text_enum! {
    /// What an error of a step means for what comes next.
    ErrorClass {
        /// The host or a part of it can't be reached now: again.
        Unavailable = "unavailable",
        /// Something else holds it: again.
        Busy = "busy",
        /// Unknown whether it happened: ask again with the same key.
        Timeout = "timeout",
        /// No room on this host after all.
        NoRoom = "no_room",
        /// Can't succeed.
        Permanent = "permanent",
        /// Can't succeed on this host; it did on another.
        NotHere = "not_here",
        /// This host doesn't get what another has: again, and where that doesn't help, elsewhere.
        NotHereNow = "not_here_now",
    }
}

#[cfg(test)]
mod tests {
    use super::JobState;

    #[test]
    fn terminal_states_absorb() {
        for &from in JobState::ALL {
            for &to in JobState::ALL {
                if from.is_done() {
                    assert!(!from.may_become(to), "{from} -> {to}");
                }
            }
        }
    }

    #[test]
    fn every_open_state_can_end() {
        for &from in JobState::ALL {
            if !from.is_done() {
                assert!(
                    from.may_become(JobState::Failed) && from.may_become(JobState::Cancelled),
                    "{from}"
                );
            }
        }
    }
}
