//! The protocol's rules, each of which can be left out.
//!
//! Guarantees that exactly one rule at most is missing: a failing property then names the rule it rests on.

/// One rule of the job protocol that the model can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// An agent refuses a call below the resource's highest fence, or below the host's floor.
    Fence,
    /// A forward call of a job that is undoing or finished is answered so, and starts nothing.
    Phase,
    /// A job is placed anew only after its agent reported it `released`.
    ReleasedFirst,
    /// Undoing a step deletes its stored result.
    ResultsDeleted,
    /// A shared object is held by (object, claiming resource), not by a count.
    ClaimsAreASet,
    /// A shared object is held at all: undo and delete look whether somebody else holds it.
    ClaimsHold,
    /// Whether a claim was the last is judged, and acted on, under the object's lock.
    ObjectLocked,
    /// A reservation stays until the agent's word, also when the job is cancelled.
    ReservationKept,
    /// An order is acked only after its outcome's publish ack.
    OrderAckedLast,
    /// An event is acked only after its commit.
    EventAckedLast,
    /// Settle takes a report only of the job's own fence, and only while the job is out.
    SettleGuard,
    /// After a restart an agent deals with the effects of open intents before it answers for the resource.
    ProbeFirst,
    /// An undo stops the running effect and waits until it is gone, before it undoes.
    UndoWaits,
    /// A shared network stays on the host of those who hold it, by reservation.
    NetworkHome,
    /// Sweep publishes an order again that is neither in the stream nor answered.
    SweepRepublishes,
    /// A floor is the lowest *first* fence of the jobs that a host still has, not the lowest of their newest orders.
    FloorByFirstFence,
    /// A floor doesn't pass a dispatch that has drawn its fence and isn't committed yet.
    FloorLocked,
    /// A stale answer to an order of Postgres' own fence makes it dispatch anew. (Its absence is explored with floors
    /// that come too early, which are what it is for.)
    StaleDispatchedAnew,
    /// Postgres raises a job that it marked with an undo order of a higher fence.
    CancelByOrder,
    /// An agent refuses an order of another epoch than the one that it was told after it began.
    Epoch,
    /// A job whose order's workers died is undone by an order, and ends on the agent's word.
    PoisonByOrder,
    /// What an abandoned job has reserved stays reserved.
    AbandonedKept,
    /// What an abandoned job left counts as gone only when its agent has heard of the undo, or has begun a new epoch.
    ForgottenByFence,
    /// A start of an agent begins a new epoch: what it was sent before is refused from then on.
    StartBeginsEpoch,
    /// A ledger that has recorded less than its agent has answered shows that its host was put back.
    PutBackNoticed,
    /// An end that was decided before an agent's start, and is settled after it, shows the same where its record isn't there.
    LateEndNoticed,
    /// All that lives on a host that was put back is made so again, whether or not anything shows.
    DoubtRepaired,
    /// Nothing is said of what moved between the look at its host and the reading of Postgres.
    Still,
    /// A mending is accepted only where no job is open on its resource.
    NothingOpen,
    /// A mending is accepted only where no job ended on its resource since the host was looked at.
    NothingSince,
    /// A mending is accepted only where each of several looks found the same.
    FoundTwice,
    /// A repair goes where its resource lives, and nowhere else.
    RepairAtHome,
    /// What removes a stray goes to the host that has it.
    Pinned,
    /// What removes a stray changes nothing of its resource.
    ClearChangesNothing,
    /// A delete abandons the undo of a change that failed once.
    DeleteAbandonsUndo,
    /// Only a delete does.
    AbandonedForDelete,
}

impl Rule {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Fence,
        Self::Phase,
        Self::ReleasedFirst,
        Self::ResultsDeleted,
        Self::ClaimsAreASet,
        Self::ClaimsHold,
        Self::ObjectLocked,
        Self::ReservationKept,
        Self::OrderAckedLast,
        Self::EventAckedLast,
        Self::SettleGuard,
        Self::ProbeFirst,
        Self::UndoWaits,
        Self::NetworkHome,
        Self::SweepRepublishes,
        Self::FloorByFirstFence,
        Self::FloorLocked,
        Self::StaleDispatchedAnew,
        Self::CancelByOrder,
        Self::Epoch,
        Self::PoisonByOrder,
        Self::AbandonedKept,
        Self::ForgottenByFence,
        Self::StartBeginsEpoch,
        Self::PutBackNoticed,
        Self::LateEndNoticed,
        Self::DoubtRepaired,
        Self::Still,
        Self::NothingOpen,
        Self::NothingSince,
        Self::FoundTwice,
        Self::RepairAtHome,
        Self::Pinned,
        Self::ClearChangesNothing,
        Self::DeleteAbandonsUndo,
        Self::AbandonedForDelete,
    ];
}

/// Which rules hold in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Rules {
    left_out: Option<Rule>,
}

impl Rules {
    /// The whole protocol.
    pub const ALL: Self = Self { left_out: None };

    /// The protocol without one of its rules.
    pub const fn without(rule: Rule) -> Self {
        Self { left_out: Some(rule) }
    }

    /// Whether a rule is followed.
    #[must_use]
    pub fn has(self, rule: Rule) -> bool {
        self.left_out != Some(rule)
    }
}
