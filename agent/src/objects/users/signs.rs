//! What tells at an agent's start which guest has which user.

use super::{GUESTS, Has};
use crate::driver::StepError;
use crate::objects::files::{self, Layout, storage};
use crate::objects::process;
use crate::objects::qemu::{CONSOLE_LOG, SEED};
use crate::objects::strays;
use rhyzome_model::ids::ResourceId;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Of one guest: numbers in the guests' range alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Signs {
    /// What its process runs as.
    pub(super) process: Option<u32>,
    pub(super) record: Option<u32>,
    /// Whose its files are.
    pub(super) files: Option<u32>,
}

/// Who has which user. Records of guests of which nothing else is here go.
pub(super) fn found(layout: &Layout) -> Result<BTreeMap<ResourceId, Has>, StepError> {
    let recorded: BTreeSet<ResourceId> = files::ids_in(&layout.users(), ".json")?.into_iter().collect();
    let processes = strays::running(&layout.instances())?;
    let mut here: BTreeSet<ResourceId> = files::ids_in(&layout.instances(), "")?.into_iter().collect();
    here.extend(files::ids_in(&layout.disks(), ".qcow2")?);
    here.extend(processes.keys());
    for gone in recorded.difference(&here) {
        files::remove_file(&layout.user_record(*gone))?;
    }
    let mut all = BTreeMap::new();
    for id in here {
        let process = processes.get(&id).and_then(|all| all.first());
        let process = process.map(|p| process::user_of(p.pid)).transpose();
        let process = process.map_err(|e| storage("looking at the processes", Path::new("/proc"), &e))?;
        let signs = Signs {
            process: in_range(process.flatten()),
            record: in_range(files::read_or_lost(&layout.user_record(id))?),
            files: owner_of_files(layout, id)?,
        };
        all.insert(id, signs);
    }
    let decided = decide(&all);
    for (id, signs) in &all {
        let has = decided.get(id).map(|has| has.uid);
        if signs.process.is_some() && signs.process != has {
            tracing::warn!(
                instance = %id, uid = signs.process,
                "a guest runs as the user of another: it gets one of its own with its next start"
            );
        }
    }
    Ok(decided)
}

/// The signs that count, the first most.
const BY: [fn(&Signs) -> Option<u32>; 4] = [
    |s| s.process.filter(|uid| s.record == Some(*uid)),
    |s| s.process,
    |s| s.record,
    |s| s.files,
];

/// Pure: each of them at most one number, and no number twice. What runs keeps what it runs as; then records count, and then files.
pub(super) fn decide(all: &BTreeMap<ResourceId, Signs>) -> BTreeMap<ResourceId, Has> {
    let (mut decided, mut taken) = (BTreeMap::new(), HashSet::new());
    for sign in BY {
        for (id, signs) in all {
            if let Some(uid) = sign(signs).filter(|uid| !decided.contains_key(id) && !taken.contains(uid)) {
                let recorded = signs.record == Some(uid);
                decided.insert(*id, Has { uid, recorded });
                taken.insert(uid);
            }
        }
    }
    decided
}

fn in_range(uid: Option<u32>) -> Option<u32> {
    uid.filter(|uid| GUESTS.contains(uid))
}

/// The first of a guest's files that is a guest's: whoever put files back need not have known whose they are.
fn owner_of_files(layout: &Layout, id: ResourceId) -> Result<Option<u32>, StepError> {
    let folder = layout.instance(id);
    let files = [
        layout.disk(id),
        folder.join("run"),
        folder.join(SEED),
        folder.join(CONSOLE_LOG),
    ];
    for file in files {
        match fs::symlink_metadata(&file) {
            Ok(meta) if GUESTS.contains(&meta.uid()) => return Ok(Some(meta.uid())),
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(storage("looking whose a file is", &file, &e));
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(None)
}

/// Whether there is a folder or a disk of a guest.
pub(super) fn is_here(layout: &Layout, id: ResourceId) -> Result<bool, StepError> {
    for path in [layout.instance(id), layout.disk(id)] {
        match path.try_exists() {
            Ok(false) => {}
            Ok(true) => return Ok(true),
            Err(e) => return Err(storage("looking for what is left of a guest", &path, &e)),
        }
    }
    Ok(false)
}
