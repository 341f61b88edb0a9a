//! Which user a guest's process runs as: one of its own for each guest, so that a guest that breaks out of QEMU finds neither the
//! machine's files nor another guest's. Numbers without names, from a range that nobody else uses; `nobody` where a container has no
//! such numbers, and the agent's own user where it isn't root.
//!
//! A guest's number begins as a hash of its id, and is the next free one where another guest of the host has that, or a process of the
//! machine runs as it. From then on it is recorded, and the guest's for as long as there is anything of the guest on the host. Where the
//! record is lost, or was never written, the guest's process tells it, or its files do.

mod signs;

use super::files::{self, Layout, storage};
use super::names::short_hash;
use super::process;
use super::spawn::Identity;
use crate::driver::StepError;
use rhyzome_model::ids::ResourceId;
use rhyzome_model::job::ErrorClass;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// First number of the range: above what systemd, containers and directories give out (systemd's UIDS-GIDS.md), below 2³¹. It is no guest's.
const FIRST: u32 = 0x7000_0000;
/// How many guests' numbers there are.
const COUNT: u32 = 1 << 24;
const GUESTS: RangeInclusive<u32> = FIRST + 1..=FIRST + COUNT;
/// Conventional on Linux.
const NOBODY: u32 = 65534;

/// How users are chosen here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// The agent isn't root: its own.
    TheAgents,
    /// One for each guest.
    OnePerGuest,
    /// One for all.
    Nobody,
}

impl Choice {
    /// Tries on a file in `root`.
    fn probe(root: &Path) -> Self {
        if !nix::unistd::geteuid().is_root() {
            return Self::TheAgents;
        }
        let tried = tempfile::NamedTempFile::new_in(root)
            .and_then(|file| std::os::unix::fs::chown(file.path(), Some(FIRST), Some(FIRST)));
        match tried {
            Ok(()) => Self::OnePerGuest,
            Err(error) => {
                tracing::info!(%error, "no numbers for users of guests: all run as nobody");
                Self::Nobody
            }
        }
    }
}

/// A guest's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Has {
    uid: u32,
    /// Whether its record says so.
    recorded: bool,
}

/// The users of a host's guests.
pub(crate) struct Users {
    choice: Choice,
    layout: Layout,
    owner: String,
    /// Never two with one number.
    guests: Mutex<BTreeMap<ResourceId, Has>>,
}

fn user(uid: u32) -> Identity {
    Identity { uid, gid: uid }
}

impl Users {
    /// Finds out how users are chosen here, and which guest has which. `owner` tells this state folder and host from every other.
    pub(crate) fn open(layout: Layout, owner: &str) -> Result<Self, StepError> {
        let choice = Choice::probe(layout.root());
        let guests = match choice {
            Choice::OnePerGuest => signs::found(&layout)?,
            Choice::TheAgents | Choice::Nobody => BTreeMap::new(),
        };
        Ok(Self {
            choice,
            layout,
            owner: owner.to_owned(),
            guests: Mutex::new(guests),
        })
    }

    fn guests(&self) -> MutexGuard<'_, BTreeMap<ResourceId, Has>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The user of a guest, from now on until [`Self::let_go`]. An error where none is free, or the record can't be written.
    pub(crate) fn of(&self, instance: ResourceId) -> Result<Option<Identity>, StepError> {
        match self.choice {
            Choice::TheAgents => return Ok(None),
            Choice::Nobody => return Ok(Some(user(NOBODY))),
            Choice::OnePerGuest => {}
        }
        let has = self.has(instance)?;
        if !has.recorded {
            files::write_record(&self.layout.user_record(instance), &has.uid)?;
            self.guests().insert(
                instance,
                Has {
                    recorded: true,
                    ..has
                },
            );
        }
        Ok(Some(user(has.uid)))
    }

    /// What a guest has, or is given now.
    fn has(&self, instance: ResourceId) -> Result<Has, StepError> {
        let mut guests = self.guests();
        if let Some(has) = guests.get(&instance) {
            return Ok(*has);
        }
        let mut taken =
            running_as().map_err(|e| storage("looking at the processes", Path::new("/proc"), &e))?;
        taken.extend(guests.values().map(|has| has.uid));
        let uid = choose(self.hashed(instance), |uid| taken.contains(&uid)).ok_or_else(|| {
            StepError::new(
                ErrorClass::NoRoom,
                "NO_USER",
                "the host has no user left for another guest",
            )
        })?;
        let has = Has { uid, recorded: false };
        guests.insert(instance, has);
        Ok(has)
    }

    /// Where the search for a free number begins.
    fn hashed(&self, instance: ResourceId) -> u32 {
        u32::from_str_radix(&short_hash(&self.owner, instance)[..6], 16).unwrap_or_default()
    }

    /// Gives a guest's user back, once neither its folder nor its disk is here.
    pub(crate) fn let_go(&self, instance: ResourceId) -> Result<(), StepError> {
        if self.choice != Choice::OnePerGuest || signs::is_here(&self.layout, instance)? {
            return Ok(());
        }
        files::remove_file(&self.layout.user_record(instance))?;
        self.guests().remove(&instance);
        Ok(())
    }

    /// The user that looks at what isn't trusted yet, and owns nothing.
    pub(crate) fn of_nobody(&self) -> Option<Identity> {
        match self.choice {
            Choice::TheAgents => None,
            Choice::OnePerGuest => Some(user(FIRST)),
            Choice::Nobody => Some(user(NOBODY)),
        }
    }
}

/// Pure: the first free number, beginning at a place of the guest's own.
fn choose(hash: u32, is_taken: impl Fn(u32) -> bool) -> Option<u32> {
    (0..COUNT)
        .map(|i| FIRST + 1 + (hash % COUNT + i) % COUNT)
        .find(|uid| !is_taken(*uid))
}

/// The guests' users that processes of this machine run as, whoever started them.
fn running_as() -> io::Result<HashSet<u32>> {
    let mut all = HashSet::new();
    for pid in process::all()? {
        all.extend(process::user_of(pid)?.filter(|uid| GUESTS.contains(uid)));
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
