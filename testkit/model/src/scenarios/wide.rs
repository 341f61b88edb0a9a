//! Configurations for the binary: minutes, and memory for millions of states.

use super::{
    ABANDONED, CAPACITY, CRASHES, DELETED, LOST_LEDGER, NO_FAULTS, PAUSED_WORKER, SPLIT, Scenario, UPDATED,
    WIPED_BUS, create, delete, update,
};
use crate::config::{Config, Faults, Network};
use crate::properties as p;

/// Wider ones, for the binary: minutes, and memory for millions of states.
pub const WIDE: &[Scenario] = &[
    Scenario {
        config: Config {
            name: "wide: updated, deleted",
            jobs: &[create(0), update(0), delete(0)],
            ..UPDATED.config
        },
        reaches: &[p::SUCCEEDS, p::CANCELS, p::DELETES, p::UPDATES, p::STAYS],
    },
    Scenario {
        config: Config {
            name: "wide: lost ledger",
            jobs: &[create(0), delete(0)],
            faults: Faults {
                ledger_loss: 1,
                redeliver: 1,
                agent_crash: 1,
                cancel: 1,
                ..NO_FAULTS
            },
            ..LOST_LEDGER.config
        },
        reaches: &[p::SUCCEEDS, p::CANCELS, p::DELETES],
    },
    Scenario {
        config: Config {
            name: "wide: poisoned, abandoned",
            jobs: &[create(0), delete(0)],
            network: Network::Shared,
            faults: Faults {
                poison: 1,
                abandon: 1,
                redeliver: 1,
                suspend: 1,
                ..NO_FAULTS
            },
            ..ABANDONED.config
        },
        reaches: &[p::SUCCEEDS, p::FAILS, p::DELETES, p::FORGOTTEN],
    },
    Scenario {
        config: Config {
            name: "wide: paused worker",
            network: Network::Shared,
            faults: Faults {
                redeliver: 2,
                refuse: 2,
                suspend: 1,
                ..PAUSED_WORKER.config.faults
            },
            ..PAUSED_WORKER.config
        },
        ..PAUSED_WORKER
    },
    Scenario {
        config: Config {
            name: "wide: delete at any time",
            faults: Faults {
                suspend: 1,
                ..DELETED.config.faults
            },
            ..DELETED.config
        },
        ..DELETED
    },
    Scenario {
        config: Config {
            name: "wide: bus lost, schedulers crash",
            jobs: &[create(0), delete(0)],
            faults: Faults {
                wipe: 1,
                lose: 1,
                repeat: 1,
                scheduler_crash: 1,
                ..NO_FAULTS
            },
            ..WIPED_BUS.config
        },
        reaches: &[p::SUCCEEDS, p::CANCELS, p::DELETES],
    },
    Scenario {
        config: Config {
            name: "wide: crashes",
            jobs: &[create(0), delete(0)],
            prune: true,
            faults: Faults {
                worker_crash: 1,
                agent_crash: 2,
                refuse: 2,
                redeliver: 1,
                ..NO_FAULTS
            },
            ..CRASHES.config
        },
        ..CRASHES
    },
    Scenario {
        config: Config {
            name: "wide: shared network, two hosts",
            jobs: &[create(0), create(1), delete(0)],
            faults: Faults {
                refuse: 2,
                agent_crash: 1,
                ..NO_FAULTS
            },
            ..SPLIT.config
        },
        ..SPLIT
    },
    Scenario {
        config: Config {
            name: "wide: two instances, little room",
            jobs: &[create(0), create(1), delete(0)],
            faults: Faults {
                cancel: 1,
                suspend: 1,
                broken: 1,
                redeliver: 1,
                ..NO_FAULTS
            },
            ..CAPACITY.config
        },
        ..CAPACITY
    },
];
