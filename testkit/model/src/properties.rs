//! The invariants of the job protocol that a model can state, by their numbers there, and what a run must have reached.
//!
//! Guarantees that invariants are `always` properties: a discovery of one is a counterexample. `sometimes` properties show
//! that a configuration isn't vacuous.

use stateright::Property;

use crate::agent::Agent;
use crate::config::{Action, Config, HOSTS, HostIx, JobIx, Network, RESOURCES};
use crate::postgres::{ResourceRow, Status};
use crate::state::{Misdeed, Reached, State};

/// Invariant 1: where nothing more happens by itself, every accepted job has ended.
pub const ENDS: &str = "1 at rest every accepted job has ended";
/// Invariant 3.
pub const NO_PHANTOM: &str = "3 every call names a committed job";
/// Invariant 4.
pub const SETTLED_ONCE: &str = "4 a job ends once";
/// What invariant 4 rests on: the agent's decision lasts until it is settled.
pub const DECIDED_ONCE: &str = "4 an agent decides a job once";
/// Invariant 5, its first half.
pub const FENCES: &str = "5 accepted fences never decrease";
/// Invariant 5, its second half.
pub const NO_OVERLAP: &str = "5 effects on a resource never overlap";
/// Invariant 6.
pub const NOTHING_LEFT: &str = "6 a failed or cancelled create, and a delete, leave nothing";
/// Invariant 7, at any time.
pub const RESERVED: &str = "7 nothing is on a host that doesn't hold its reservation";
/// Invariant 7, at rest.
pub const AGREEMENT: &str = "7 at rest hosts hold what is applied";
/// Invariant 7 for what is shared.
pub const NETWORK_WHOLE: &str = "7 a network is on one host";
/// Invariant 7, at any time.
pub const ONE_HOST: &str = "7 an instance is made on one host only";
/// What invariant 7 rests on: reconcile does no harm.
pub const STRAYS_ONLY: &str = "7 what is removed as a stray doesn't live there";
/// What invariant 7 rests on: reconcile goes by what is so.
pub const FOR_CAUSE: &str = "7 nothing is mended that isn't amiss";
/// Claims: what lives has what it claims.
pub const NETWORK_THERE: &str = "claims: an instance has its network";
/// Claims: what nobody claims is gone.
pub const NETWORK_GONE: &str = "claims: at rest a network is there only for an instance";
/// Invariant 8.
pub const CAPACITY: &str = "8 capacity is never exceeded";
/// Invariant 9 for orders.
pub const ORDER_ACK: &str = "9 an order is acked after its outcome's publish";
/// Invariant 9 for events.
pub const EVENT_ACK: &str = "9 an event is acked after its commit";

/// Reached: a success.
pub const SUCCEEDS: &str = "reached: succeeded";
/// Reached: a failure.
pub const FAILS: &str = "reached: failed";
/// Reached: a cancel that came in time.
pub const CANCELS: &str = "reached: cancelled";
/// Reached: a cancel that came too late.
pub const TOO_LATE: &str = "reached: succeeded after all hosts were asked to undo it";
/// Reached: an instance on the second host.
pub const SECOND_HOST: &str = "reached: applied on the second host";
/// Reached: a delete.
pub const DELETES: &str = "reached: deleted";
/// Reached: what an abandoned job may have left was seen gone.
pub const FORGOTTEN: &str = "reached: what was abandoned is gone";
/// Reached: an update.
pub const UPDATES: &str = "reached: updated";
/// Reached: an update that was taken back.
pub const STAYS: &str = "reached: an update cancelled or failed, and all as applied";
/// Reached: what a host had lost was made again.
pub const REPAIRED: &str = "reached: repaired";
/// Reached: what a host held too much was removed.
pub const STRAY_REMOVED: &str = "reached: stray removed";
/// Reached: a ledger that knows too little.
pub const PUT_BACK_NOTICED: &str = "reached: put back noticed";
/// Reached: a delete that didn't wait for an undo.
pub const UNDO_ABANDONED: &str = "reached: undo abandoned by a delete";
/// Reached: two instances on one network.
pub const SHARES: &str = "reached: two instances share a network";

/// All of them.
pub(crate) fn all() -> Vec<Property<Config>> {
    vec![
        Property::always(ENDS, |config, state| {
            !is_at_rest(config, state)
                || jobs(config, state)
                    .all(|(job, _, status)| settled(status) || waits_for_good(config, state, job))
        }),
        Property::always(NO_PHANTOM, |_, state: &State| !state.seen.has(Misdeed::Phantom)),
        Property::always(SETTLED_ONCE, |_, state: &State| {
            !state.seen.has(Misdeed::EndedTwice)
        }),
        Property::always(DECIDED_ONCE, |_, state: &State| {
            !state.seen.has(Misdeed::DecidedTwice)
        }),
        Property::always(FENCES, |_, state: &State| !state.seen.has(Misdeed::FenceWentBack)),
        Property::always(NO_OVERLAP, |_, state| {
            (0..RESOURCES).all(|resource| effects(state, resource) <= 1)
        }),
        Property::always(NOTHING_LEFT, nothing_is_left),
        Property::always(RESERVED, everything_is_reserved),
        Property::always(AGREEMENT, |config, state| {
            !is_at_rest(config, state) || agrees(config, state)
        }),
        Property::always(NETWORK_WHOLE, |_, state: &State| {
            let made = |agent: &&Agent| agent.network && !agent.held.iter().any(|held| held.revived);
            state.agents.iter().filter(made).count() <= 1
        }),
        Property::always(ONE_HOST, |_, state: &State| {
            (0..RESOURCES).all(|resource| {
                let held = state.agents.iter().map(|agent| agent.held[resource]);
                held.filter(|held| held.instance && !held.revived).count() <= 1
            })
        }),
        Property::always(STRAYS_ONLY, |_, state: &State| {
            !state.seen.has(Misdeed::RemovedAtHome)
        }),
        Property::always(FOR_CAUSE, |_, state: &State| {
            !state.seen.has(Misdeed::MendedInVain)
        }),
        Property::always(NETWORK_THERE, |config, state: &State| {
            config.network == Network::None
                || state
                    .agents
                    .iter()
                    .all(|agent| agent.network || agent.held.iter().all(|held| !held.instance))
        }),
        Property::always(NETWORK_GONE, |config, state| {
            !is_at_rest(config, state)
                || state.agents.iter().enumerate().all(|(host, agent)| {
                    // What lives there, and isn't there, has its claim, and so has what is still to be removed.
                    let claims = |ix: usize, row: &ResourceRow| {
                        row.applied == Some(host as HostIx) || taken_back(config, state, ix)
                    };
                    let mut held = agent.held.iter().zip(&state.postgres.resources).enumerate();
                    !agent.network
                        || held.any(|(ix, (held, row))| held.instance || held.claim && claims(ix, row))
                })
        }),
        Property::always(CAPACITY, |config: &Config, state: &State| {
            (0..HOSTS).all(|host| {
                let there = state.agents[host]
                    .held
                    .iter()
                    .filter(|held| held.instance && !held.revived)
                    .count();
                there.max(reserved(state, host as HostIx)) <= usize::from(config.capacity)
            })
        }),
        Property::always(ORDER_ACK, |_, state: &State| {
            !state.seen.has(Misdeed::OrderAckedEarly)
        }),
        Property::always(EVENT_ACK, |_, state: &State| {
            !state.seen.has(Misdeed::EventAckedEarly)
        }),
        Property::sometimes(SUCCEEDS, |config, state| {
            created(config, state, Status::Succeeded)
        }),
        Property::sometimes(FAILS, |config, state| created(config, state, Status::Failed)),
        Property::sometimes(CANCELS, |config, state| created(config, state, Status::Cancelled)),
        Property::sometimes(TOO_LATE, |config: &Config, state: &State| {
            config.faults.cancel > state.faults.cancel
                && jobs(config, state)
                    .all(|(_, action, status)| action == Action::Create && status == Status::Succeeded)
        }),
        Property::sometimes(SECOND_HOST, |_, state: &State| {
            state.postgres.resources.iter().any(|row| row.applied == Some(1))
        }),
        Property::sometimes(DELETES, |config, state| {
            jobs(config, state)
                .any(|(_, action, status)| action == Action::Delete && status == Status::Succeeded)
        }),
        Property::sometimes(FORGOTTEN, |_, state: &State| {
            state.postgres.resources.iter().any(|row| row.forgotten)
        }),
        Property::sometimes(UPDATES, |_, state: &State| {
            state.postgres.resources.iter().any(|row| row.version == 2)
        }),
        Property::sometimes(STAYS, |config, state: &State| {
            let taken_back = |(_, action, status): (JobIx, Action, Status)| {
                action == Action::Update && matches!(status, Status::Cancelled | Status::Failed)
            };
            jobs(config, state).any(taken_back) && state.agents.iter().any(|agent| agent.held[0].version == 1)
        }),
        Property::sometimes(REPAIRED, |config, state: &State| {
            state.seen.reached(Reached::MadeAgain)
                && jobs(config, state)
                    .any(|(_, action, status)| action == Action::Repair && status == Status::Succeeded)
        }),
        Property::sometimes(STRAY_REMOVED, |_, state: &State| {
            state.seen.reached(Reached::StrayRemoved)
        }),
        Property::sometimes(PUT_BACK_NOTICED, |_, state: &State| {
            state.seen.reached(Reached::PutBackNoticed)
        }),
        Property::sometimes(UNDO_ABANDONED, |_, state: &State| {
            state.seen.reached(Reached::UndoAbandoned)
        }),
        Property::sometimes(SHARES, |_, state: &State| {
            state
                .agents
                .iter()
                .any(|agent| agent.network && agent.held.iter().all(|held| held.instance))
        }),
    ]
}

/// Whether nothing happens any more, unless a user asks or something breaks.
pub fn is_at_rest(config: &Config, state: &State) -> bool {
    let mut steps = Vec::new();
    config.own_steps(state, &mut steps);
    steps.is_empty()
}

fn jobs(config: &Config, state: &State) -> impl Iterator<Item = (JobIx, Action, Status)> {
    let specs = config.jobs.iter().zip(&state.postgres.jobs).enumerate();
    specs.map(|(ix, (spec, row))| (ix as JobIx, spec.action, row.status))
}

fn created(config: &Config, state: &State, end: Status) -> bool {
    jobs(config, state).any(|(_, action, status)| action == Action::Create && status == end)
}

fn settled(status: Status) -> bool {
    status == Status::Absent || status.is_final()
}

/// Whether taking a change back can't succeed, and nothing that is to come needs it: an operator is told of it.
fn waits_for_good(config: &Config, state: &State, job: JobIx) -> bool {
    let row = state.postgres.jobs[usize::from(job)];
    let resource = config.resource(job);
    let deleting = jobs(config, state).any(|(other, action, status)| {
        config.resource(other) == resource && action == Action::Delete && !settled(status)
    });
    row.in_vain
        && !deleting
        && state
            .agents
            .iter()
            .any(|agent| agent.held[usize::from(resource)].stuck)
}

/// Effects that run for a resource on all hosts, and those that outlived what began them.
fn effects(state: &State, resource: usize) -> usize {
    let held = state.agents.iter().map(|agent| agent.held[resource]);
    held.map(|held| usize::from(held.run.is_some()) + usize::from(held.stray.is_some()))
        .sum()
}

/// Whether the last job of a resource that has ended means that nothing of it is left, and nothing is.
fn nothing_is_left(config: &Config, state: &State) -> bool {
    (0..RESOURCES).all(|resource| {
        let of = |(job, _, _): &(JobIx, Action, Status)| usize::from(config.resource(*job)) == resource;
        let ended = jobs(config, state)
            .filter(of)
            .filter(|(_, action, status)| {
                status.is_final() && matches!(action, Action::Create | Action::Delete)
            })
            .last();
        // A second create may be on its way.
        let coming = jobs(config, state)
            .filter(of)
            .any(|(_, action, status)| action == Action::Create && !settled(status));
        let gone = match ended {
            Some((_, Action::Create, status)) => status != Status::Succeeded,
            Some((_, Action::Delete, _)) => true,
            Some((_, Action::Update | Action::Repair | Action::Clear, _)) | None => false,
        };
        // What an operator gave up may be there, and keeps what it holds.
        let given_up = state.postgres.resources[resource].left.is_some();
        // What came with an older copy of a host goes later, and what removes it may run.
        let nothing = |agent: &Agent| {
            let held = agent.held[resource];
            let clears = held
                .run
                .is_some_and(|run| config.action(run.job) == Action::Clear);
            held.revived || clears || agent.has_nothing_of(resource as u8)
        };
        !gone || given_up || coming || state.agents.iter().all(nothing)
    })
}

fn everything_is_reserved(config: &Config, state: &State) -> bool {
    state.agents.iter().enumerate().all(|(host, agent)| {
        agent
            .held
            .iter()
            .zip(&state.postgres.resources)
            .all(|(held, row)| {
                let runs = held
                    .run
                    .is_some_and(|run| config.action(run.job) != Action::Clear);
                let made = (held.instance || held.claim) && !held.revived;
                let there = made || runs || held.stray.is_some();
                !there || row.reservation == Some(host as HostIx)
            })
    })
}

/// Whether what would have mended a resource was taken back: it is asked for again, but not so often here.
fn taken_back(config: &Config, state: &State, resource: usize) -> bool {
    jobs(config, state).any(|(job, action, status)| {
        matches!(action, Action::Repair | Action::Clear)
            && usize::from(config.resource(job)) == resource
            && matches!(status, Status::Failed | Status::Cancelled)
    })
}

fn agrees(config: &Config, state: &State) -> bool {
    let stuck = |resource: usize| {
        jobs(config, state).any(|(job, _, _)| {
            usize::from(config.resource(job)) == resource && waits_for_good(config, state, job)
        })
    };
    state.agents.iter().enumerate().all(|(host, agent)| {
        agent
            .held
            .iter()
            .zip(&state.postgres.resources)
            .enumerate()
            .filter(|(ix, (_, row))| row.left.is_none() && !taken_back(config, state, *ix) && !stuck(*ix))
            .all(|(_, (held, row))| {
                let applied = row.applied == Some(host as HostIx);
                held.instance == applied
                    && (!held.claim || applied)
                    && (!applied || held.version == row.version)
            })
    }) && state
        .postgres
        .resources
        .iter()
        .all(|row| row.left.is_some() || row.reservation == row.applied)
}

fn reserved(state: &State, host: HostIx) -> usize {
    state
        .postgres
        .resources
        .iter()
        .filter(|row| row.reservation == Some(host))
        .count()
}
