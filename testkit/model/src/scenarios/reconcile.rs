//! Hosts that lose something, or go back to an older copy, and what mends them; deletes that don't wait for an undo.

use super::{BASE, NO_FAULTS, Scenario, create, delete, update};
use crate::config::{Action, Asked, Choice, Config, Faults, JobSpec, Network};
use crate::properties as p;

const fn mends(resource: u8, action: Action) -> JobSpec {
    JobSpec {
        action,
        resource,
        asked: Asked::Reconcile,
    }
}

const fn repair(resource: u8) -> JobSpec {
    mends(resource, Action::Repair)
}

const fn clear(resource: u8) -> JobSpec {
    mends(resource, Action::Clear)
}

const fn retry(resource: u8) -> JobSpec {
    JobSpec {
        asked: Asked::AnyTime,
        ..create(resource)
    }
}

/// A host goes back to an older copy, with what was made since; a worker may hold an old order.
pub const PUT_BACK: Scenario = Scenario {
    config: Config {
        name: "put back",
        jobs: &[create(0), repair(0), repair(0)],
        hosts: 1,
        prune: true,
        network: Network::Shared,
        faults: Faults {
            put_back: 1,
            redeliver: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::REPAIRED, p::PUT_BACK_NOTICED],
};

/// What went back was changed since, and doesn't show it.
pub const PUT_BACK_UPDATED: Scenario = Scenario {
    config: Config {
        name: "put back, updated",
        jobs: &[create(0), update(0), repair(0), repair(0)],
        hosts: 1,
        faults: Faults {
            put_back: 1,
            redeliver: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::UPDATES, p::REPAIRED, p::PUT_BACK_NOTICED],
};

/// What was deleted comes back with an older copy.
pub const STRAY: Scenario = Scenario {
    config: Config {
        name: "put back, deleted",
        jobs: &[create(0), delete(0), clear(0), repair(0)],
        hosts: 1,
        prune: true,
        network: Network::Shared,
        faults: Faults {
            put_back: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::DELETES, p::STRAY_REMOVED, p::PUT_BACK_NOTICED],
};

/// A create that came to nothing, of which an older copy has something, is tried again, on either host.
pub const RETRIED: Scenario = Scenario {
    config: Config {
        name: "put back, create again",
        jobs: &[create(0), retry(0), clear(0), repair(0)],
        network: Network::Shared,
        choice: Choice::Any,
        faults: Faults {
            put_back: 1,
            cancel: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::CANCELS, p::STRAY_REMOVED, p::PUT_BACK_NOTICED],
};

/// An instance is lost, or only not seen; its repair may be cancelled, and it may be deleted.
pub const BLIND: Scenario = Scenario {
    config: Config {
        name: "lost, or not seen",
        jobs: &[create(0), delete(0), repair(0)],
        prune: true,
        network: Network::Shared,
        faults: Faults {
            vanish: 1,
            blind: 1,
            cancel: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::DELETES, p::REPAIRED],
};

/// An update that can't be taken back; its resource may be deleted.
pub const STUCK: Scenario = Scenario {
    config: Config {
        name: "undo that doesn't work",
        jobs: &[create(0), update(0), delete(0)],
        hosts: 1,
        prune: true,
        faults: Faults {
            stuck: 1,
            cancel: 1,
            ..NO_FAULTS
        },
        ..BASE
    },
    reaches: &[p::SUCCEEDS, p::UPDATES, p::DELETES, p::UNDO_ABANDONED],
};

/// Wider ones, for the binary.
pub const WIDE: &[Scenario] = &[
    Scenario {
        config: Config {
            name: "wide: put back, updated",
            network: Network::Shared,
            prune: true,
            faults: Faults {
                put_back: 1,
                redeliver: 1,
                ..NO_FAULTS
            },
            ..PUT_BACK_UPDATED.config
        },
        ..PUT_BACK_UPDATED
    },
    Scenario {
        config: Config {
            name: "wide: put back, deleted",
            faults: Faults {
                put_back: 1,
                redeliver: 1,
                ..NO_FAULTS
            },
            ..STRAY.config
        },
        ..STRAY
    },
    Scenario {
        config: Config {
            name: "wide: put back, create again",
            prune: true,
            faults: Faults {
                put_back: 1,
                cancel: 2,
                ..NO_FAULTS
            },
            ..RETRIED.config
        },
        ..RETRIED
    },
    Scenario {
        config: Config {
            name: "wide: put back twice",
            jobs: &[create(0), update(0), repair(0), repair(0)],
            faults: Faults {
                put_back: 2,
                ..NO_FAULTS
            },
            ..PUT_BACK_UPDATED.config
        },
        ..PUT_BACK_UPDATED
    },
    Scenario {
        config: Config {
            name: "wide: lost, or not seen",
            faults: Faults {
                vanish: 1,
                blind: 1,
                cancel: 1,
                redeliver: 1,
                ..NO_FAULTS
            },
            ..BLIND.config
        },
        ..BLIND
    },
    Scenario {
        config: Config {
            name: "wide: undo that doesn't work",
            faults: Faults {
                stuck: 1,
                broken: 1,
                redeliver: 1,
                ..NO_FAULTS
            },
            ..STUCK.config
        },
        ..STUCK
    },
];
