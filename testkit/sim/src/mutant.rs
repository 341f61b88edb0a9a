//! Rules that can be taken away, to see that the simulation notices.

/// A rule of the protocol that doesn't hold. Where the rule lives in product code that can't be switched, what it guards against
/// is brought about from outside; each says how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// An agent does what a lower fence asks for: every order comes to it with a higher fence than the last, and no floor is told.
    NoFenceCheck,
    /// A job that is to be undone ends without its undo: undoing has no effect, and says that it had.
    NoUndo,
    /// A create that is to be tried again gives its host and its reservation back: the settlement is exchanged.
    ReservationFreedEarly,
    /// What a step's undo came to stays after it: a second undo of the same step skips what the first took back.
    ResultsKept,
    /// An event is acked before what it says is committed.
    EventAckedFirst,
    /// The sweep looks for no lost orders.
    SweepSleeps,
    /// What the checks find amiss is mended by nobody.
    NothingMended,
    /// An agent whose ledger is older than what it answered keeps its epoch.
    PutBackUnnoticed,
}

impl Mutant {
    /// All.
    pub const ALL: [Self; 8] = [
        Self::NoFenceCheck,
        Self::NoUndo,
        Self::ReservationFreedEarly,
        Self::ResultsKept,
        Self::EventAckedFirst,
        Self::SweepSleeps,
        Self::NothingMended,
        Self::PutBackUnnoticed,
    ];

    /// On the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoFenceCheck => "no_fence_check",
            Self::NoUndo => "no_undo",
            Self::ReservationFreedEarly => "reservation_freed_early",
            Self::ResultsKept => "results_kept",
            Self::EventAckedFirst => "event_acked_first",
            Self::SweepSleeps => "sweep_sleeps",
            Self::NothingMended => "nothing_mended",
            Self::PutBackUnnoticed => "put_back_unnoticed",
        }
    }

    /// From the command line.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| mutant.as_str() == text)
    }
}
