//! The invariants of the job protocol that a model can state, by their numbers there, and what a run must have reached.
//!
//! Guarantees that invariants are `always` properties: a discovery of one is a counterexample. `sometimes` properties show
//! that a configuration isn't vacuous.

use stateright::Property;

use crate::config::{Action, Config, HOSTS, HostIx, JobIx, Network, RESOURCES};
use crate::postgres::Status;
use crate::state::{Misdeed, State};

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
/// Reached: two instances on one network.
pub const SHARES: &str = "reached: two instances share a network";

/// All of them.
pub(crate) fn all() -> Vec<Property<Config>> {
    vec![
        Property::always(ENDS, |config, state| {
            !is_at_rest(config, state) || jobs(config, state).all(|(_, _, status)| settled(status))
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
            !is_at_rest(config, state) || agrees(state)
        }),
        Property::always(NETWORK_WHOLE, |_, state: &State| {
            state.agents.iter().filter(|agent| agent.network).count() <= 1
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
                || state
                    .agents
                    .iter()
                    .all(|agent| !agent.network || agent.held.iter().any(|held| held.instance))
        }),
        Property::always(CAPACITY, |config: &Config, state: &State| {
            (0..HOSTS).all(|host| {
                let there = state.agents[host]
                    .held
                    .iter()
                    .filter(|held| held.instance)
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
            .filter(|(_, action, status)| status.is_final() && *action != Action::Update)
            .last();
        let gone = match ended {
            Some((_, Action::Create, status)) => status != Status::Succeeded,
            Some((_, Action::Delete, _)) => true,
            Some((_, Action::Update, _)) | None => false,
        };
        // What an operator gave up may be there, and keeps what it holds.
        let given_up = state.postgres.resources[resource].left.is_some();
        !gone
            || given_up
            || state
                .agents
                .iter()
                .all(|agent| agent.has_nothing_of(resource as u8))
    })
}

fn everything_is_reserved(_: &Config, state: &State) -> bool {
    state.agents.iter().enumerate().all(|(host, agent)| {
        agent
            .held
            .iter()
            .zip(&state.postgres.resources)
            .all(|(held, row)| {
                let there = held.instance || held.claim || held.run.is_some() || held.stray.is_some();
                !there || row.reservation == Some(host as HostIx)
            })
    })
}

fn agrees(state: &State) -> bool {
    state.agents.iter().enumerate().all(|(host, agent)| {
        agent
            .held
            .iter()
            .zip(&state.postgres.resources)
            .filter(|(_, row)| row.left.is_none())
            .all(|(held, row)| {
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
