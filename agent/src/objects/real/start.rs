//! What the driver does around its objects: the folder's lock, the host's identity, a look at what nobody tells of.

use super::Parts;
use crate::driver::StepError;
use crate::objects::files::{self, Layout, storage};
use crate::objects::{console, dnsmasq, logs, qemu};
use nix::fcntl::{Flock, FlockArg};
use rhyzome_model::ids::HostName;
use rhyzome_model::job::ErrorClass;
use rhyzome_model::step::ObjectKind;
use std::fs::{File, OpenOptions};
use std::sync::atomic::Ordering;

/// Looks after which one network is looked at as a whole, by programs.
const WHOLE_EVERY: usize = 3;

/// One look, the `turn`th; what went wrong.
pub(super) async fn look(parts: &Parts, turn: usize) -> Vec<StepError> {
    let (layout, locks) = (&parts.guests.layout, &parts.guests.locks);
    let mut errors = Vec::new();
    let instances = or_told(files::ids_in(&layout.instances(), ""), &mut errors);
    let networks = or_told(parts.networks.ids(), &mut errors).unwrap_or_default();
    for folder in instances.into_iter().flatten().map(|id| layout.instance(id)) {
        errors.extend(
            console::limit(&folder)
                .map_err(|e| storage("limiting a console's log", &folder, &e))
                .err(),
        );
        errors.extend(logs::limit_errors(&qemu::log(&folder)).err());
    }
    for id in &networks {
        errors.extend(logs::limit_errors(&dnsmasq::log(&layout.network(*id))).err());
    }
    if !parts.guests.told.load(Ordering::Acquire) {
        return errors;
    }
    let whole = turn
        .is_multiple_of(WHOLE_EVERY)
        .then(|| networks.get((turn / WHOLE_EVERY) % networks.len().max(1)))
        .flatten();
    for id in networks.iter().copied() {
        if whole == Some(&id) || or_told(parts.networks.lost_half(id), &mut errors) == Some(true) {
            let _lock = locks.take(ObjectKind::Network, id).await;
            errors.extend(parts.networks.revive(id).await.err());
        }
    }
    errors
}

fn or_told<T>(found: Result<T, StepError>, errors: &mut Vec<StepError>) -> Option<T> {
    found.map_err(|error| errors.push(error)).ok()
}

/// Only one agent uses a state folder.
pub(super) fn lock_folder(layout: &Layout) -> Result<Flock<File>, StepError> {
    let path = layout.root().join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = file.map_err(|e| storage("opening the lock", &path, &e))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| {
        StepError::new(
            ErrorClass::Permanent,
            "STATE_IN_USE",
            "another agent uses this state folder",
        )
        .inside(e)
    })
}

/// What tells this host's names from those of every other agent on the machine: made once, kept in the state folder.
pub(super) fn identity(layout: &Layout, host: &HostName) -> Result<String, StepError> {
    let path = layout.root().join("identity.json");
    let kept: Option<uuid::Uuid> = files::read_record(&path)?;
    let id = if let Some(id) = kept {
        id
    } else {
        let id = uuid::Uuid::new_v4();
        files::write_record(&path, &id)?;
        id
    };
    Ok(format!("{id}/{host}"))
}
