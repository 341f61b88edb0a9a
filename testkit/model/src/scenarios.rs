//! The configurations that are explored: each restricts the jobs and the faults, so that the rest can be exhausted.
//!
//! Guarantees that every fault and every action of the model is allowed in at least one of them.

mod reconcile;
mod wide;

pub use reconcile::{BLIND, PUT_BACK, PUT_BACK_UPDATED, RETRIED, STRAY, STUCK, WIDE as WIDE_RECONCILE};
pub use wide::WIDE;

use crate::config::{Action, Asked, Choice, Config, Faults, Grain, JobSpec, Network};
use crate::properties as p;
use crate::rules::Rules;

const fn create(resource: u8) -> JobSpec {
    JobSpec {
        action: Action::Create,
        resource,
        asked: Asked::AtFirst,
    }
}

const fn delete(resource: u8) -> JobSpec {
    JobSpec {
        action: Action::Delete,
        resource,
        asked: Asked::AnyTime,
    }
}

const fn update(resource: u8) -> JobSpec {
    JobSpec {
        action: Action::Update,
        resource,
        asked: Asked::AnyTime,
    }
}

const NO_FAULTS: Faults = Faults {
    redeliver: 0,
    lose: 0,
    wipe: 0,
    repeat: 0,
    worker_crash: 0,
    scheduler_crash: 0,
    agent_crash: 0,
    suspend: 0,
    refuse: 0,
    broken: 0,
    cancel: 0,
    deadline: 0,
    early_floor: 0,
    poison: 0,
    abandon: 0,
    ledger_loss: 0,
    put_back: 0,
    vanish: 0,
    blind: 0,
    stuck: 0,
};

const BASE: Config = Config {
    name: "",
    rules: Rules::ALL,
    jobs: &[create(0)],
    hosts: 2,
    capacity: 1,
    network: Network::None,
    choice: Choice::First,
    grain: Grain::Together,
    prune: false,
    faults: NO_FAULTS,
};

/// A configuration, and what it must reach to mean anything.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What is explored.
    pub config: Config,
    /// `sometimes` properties that it must reach.
    pub reaches: &'static [&'static str],
}

/// One create whose order comes twice, is refused and cancelled; ledgers are pruned.
pub const PAUSED_WORKER: Scenario = Scenario {
    config: Config {
        name: "paused worker",
        prune: true,
        faults: Faults {
            redeliver: 1,
            refuse: 1,
            cancel: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::CANCELS, p::TOO_LATE, p::SECOND_HOST],
};

/// A create and its delete at any time, the order twice, ledgers pruned.
pub const DELETED: Scenario = Scenario {
    config: Config {
        name: "delete at any time",
        jobs: &[create(0), delete(0)],
        prune: true,
        network: Network::Shared,
        faults: Faults {
            redeliver: 1,
            refuse: 1,
            broken: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::FAILS, p::CANCELS, p::DELETES, p::SECOND_HOST],
};

/// The bus loses everything, once; schedulers are paused, and one dies between a commit and what follows.
pub const WIPED_BUS: Scenario = Scenario {
    config: Config {
        name: "bus wiped, scheduler crash",
        grain: Grain::Apart,
        faults: Faults {
            wipe: 1,
            scheduler_crash: 1,
            cancel: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::CANCELS, p::TOO_LATE],
};

/// The bus loses one message, and a publish is repeated, of a create that may be cancelled.
pub const LOSSY_BUS: Scenario = Scenario {
    config: Config {
        name: "bus loses and repeats",
        grain: Grain::Apart,
        faults: Faults {
            lose: 1,
            repeat: 1,
            cancel: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::CANCELS],
};

/// Workers and agents die; effects outlive their agent.
pub const CRASHES: Scenario = Scenario {
    config: Config {
        name: "worker and agent crash",
        network: Network::Shared,
        faults: Faults {
            worker_crash: 1,
            agent_crash: 1,
            refuse: 1,
            cancel: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::CANCELS, p::SECOND_HOST],
};

/// Two instances of one network, one of them refused and deleted, on one host with room for both.
pub const SHARED_NETWORK: Scenario = Scenario {
    config: Config {
        name: "shared network, refused",
        jobs: &[create(0), create(1), delete(1)],
        hosts: 1,
        capacity: 2,
        network: Network::Shared,
        faults: Faults {
            refuse: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::DELETES, p::SHARES],
};

/// Two instances of one network, with an agent that dies between an effect and its record.
pub const SHARED_CRASH: Scenario = Scenario {
    config: Config {
        name: "shared network, agent crash",
        jobs: &[create(0), create(1), delete(0)],
        hosts: 1,
        capacity: 2,
        network: Network::Shared,
        faults: Faults {
            agent_crash: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::DELETES, p::SHARES, p::CANCELS],
};

/// Two hosts, two instances of one network, no room on the first: a network must not be split.
pub const SPLIT: Scenario = Scenario {
    config: Config {
        name: "shared network, two hosts",
        jobs: &[create(0), create(1)],
        capacity: 2,
        network: Network::Shared,
        choice: Choice::Any,
        faults: Faults {
            refuse: 1,
            cancel: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::CANCELS, p::SHARES, p::SECOND_HOST],
};

/// Two instances compete for room.
pub const CAPACITY: Scenario = Scenario {
    config: Config {
        name: "two instances, little room",
        jobs: &[create(0), create(1)],
        hosts: 1,
        faults: Faults {
            cancel: 1,
            suspend: 1,
            broken: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::FAILS, p::CANCELS],
};

/// Floors, deadlines, orders given back while the agent goes on.
pub const FLOORS: Scenario = Scenario {
    config: Config {
        name: "floors and deadlines",
        prune: true,
        network: Network::Shared,
        faults: Faults {
            redeliver: 1,
            deadline: 1,
            early_floor: 1,
            suspend: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::FAILS],
};

/// A ledger is lost at any time, before and after an end, while a worker holds an old order.
pub const LOST_LEDGER: Scenario = Scenario {
    config: Config {
        name: "lost ledger",
        hosts: 1,
        prune: true,
        network: Network::Shared,
        faults: Faults {
            ledger_loss: 1,
            redeliver: 1,
            cancel: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::CANCELS, p::TOO_LATE],
};

/// An order whose workers die of it, of a create that may be cancelled.
pub const POISONED: Scenario = Scenario {
    config: Config {
        name: "poisoned order",
        network: Network::Shared,
        faults: Faults {
            poison: 1,
            redeliver: 1,
            cancel: 1,
            refuse: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::FAILS, p::CANCELS, p::SECOND_HOST],
};

/// An undo that an operator gives up, with old orders about; what it left is forgotten when it is seen gone, or deleted.
pub const ABANDONED: Scenario = Scenario {
    config: Config {
        name: "abandoned undo",
        jobs: &[create(0), delete(0)],
        hosts: 1,
        prune: true,
        faults: Faults {
            abandon: 1,
            redeliver: 1,
            cancel: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::CANCELS, p::DELETES, p::FORGOTTEN],
};

/// A change of what is there, its order twice, or without room for it, cancelled.
pub const UPDATED: Scenario = Scenario {
    config: Config {
        name: "updated",
        jobs: &[create(0), update(0)],
        hosts: 1,
        prune: true,
        faults: Faults {
            redeliver: 1,
            refuse: 1,
            cancel: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::CANCELS, p::UPDATES, p::STAYS],
};

/// An update's agent dies, and its ledger may be lost.
pub const UPDATED_CRASH: Scenario = Scenario {
    config: Config {
        name: "updated, agent crash, lost ledger",
        jobs: &[create(0), update(0)],
        hosts: 1,
        faults: Faults {
            agent_crash: 1,
            ledger_loss: 1,
            cancel: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::CANCELS, p::UPDATES, p::STAYS],
};

/// Those that a test run explores.
pub const ALL: &[Scenario] = &[
    PAUSED_WORKER,
    DELETED,
    WIPED_BUS,
    LOSSY_BUS,
    CRASHES,
    SHARED_NETWORK,
    SHARED_CRASH,
    SPLIT,
    CAPACITY,
    FLOORS,
    LOST_LEDGER,
    POISONED,
    ABANDONED,
    UPDATED,
    UPDATED_CRASH,
    PUT_BACK,
    PUT_BACK_UPDATED,
    STRAY,
    RETRIED,
    BLIND,
    STUCK,
];
