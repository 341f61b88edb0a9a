//! Guests' processes that no record names: somebody removed a guest's folder, or all of the host's, while it ran.
//!
//! They are found by what they were started with and in: QEMU's argument with the instance's id, and the folder, which the kernel goes on
//! calling by its name, with ` (deleted)` behind it, once it is gone.

use super::files::storage;
use super::guests::{Guests, QUITS_WITHIN};
use super::process::{self, ProcessId, unless_gone};
use super::qemu;
use crate::driver::StepError;
use rhyzome_model::ids::ResourceId;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Behind the name of a folder that is gone, in proc(5)'s `cwd`.
const DELETED: &str = " (deleted)";

/// Every guest's process that runs in a folder below `instances`, there or gone. An error where not all processes could be looked at: one
/// that isn't seen may be started once more.
pub(in crate::objects) fn running(
    instances: &Path,
) -> Result<BTreeMap<ResourceId, Vec<ProcessId>>, StepError> {
    let look = || -> io::Result<_> {
        let mut all: BTreeMap<ResourceId, Vec<ProcessId>> = BTreeMap::new();
        let instances = absolute(instances);
        for pid in process::all()? {
            if let Some((id, process)) = guest_of(pid, &instances)? {
                all.entry(id).or_default().push(process);
            }
        }
        Ok(all)
    };
    look().map_err(|e| storage("looking at the processes", Path::new("/proc"), &e))
}

/// With the links that lead to it resolved, whether it is there or not.
fn absolute(folder: &Path) -> PathBuf {
    let whole = folder.canonicalize().ok();
    let by_parent = || {
        let parent = folder.parent()?.canonicalize().ok()?;
        Some(parent.join(folder.file_name()?))
    };
    whole.or_else(by_parent).unwrap_or_else(|| folder.to_owned())
}

fn guest_of(pid: i32, instances: &Path) -> io::Result<Option<(ResourceId, ProcessId)>> {
    let Some(id) = whose_folder(pid, instances) else {
        return Ok(None);
    };
    let Some(process) = ProcessId::of(pid)? else {
        return Ok(None);
    };
    let arguments = unless_gone(fs::read(process.proc("cmdline")))?.unwrap_or_default();
    let name = qemu::guest_name(id);
    let is_its_own = arguments.split(|b| *b == 0).any(|a| a == name.as_bytes());
    Ok(is_its_own.then_some((id, process)))
}

/// Of the instance whose folder a process works in.
fn whose_folder(pid: i32, instances: &Path) -> Option<ResourceId> {
    // One that can't be asked where it works is somebody else's, or none any more.
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    let cwd = cwd.to_str()?;
    let folder = Path::new(cwd.strip_suffix(DELETED).unwrap_or(cwd));
    let first = folder.strip_prefix(instances).ok()?.components().next()?;
    first.as_os_str().to_str()?.parse().ok()
}

impl Guests {
    /// What runs of this host's guests, in folders that are there or gone.
    pub(super) fn running(&self) -> Result<BTreeMap<ResourceId, Vec<ProcessId>>, StepError> {
        running(&self.layout.instances())
    }

    /// Whether a guest of this instance runs, in a record or not.
    pub(super) fn runs_anywhere(&self, id: ResourceId) -> Result<bool, StepError> {
        Ok(self.running()?.contains_key(&id))
    }

    /// Ends every process of a guest but this one. The instance's lock is held.
    pub(super) async fn end_strays(
        &self,
        id: ResourceId,
        but_for: Option<&ProcessId>,
    ) -> Result<(), StepError> {
        for process in self.running()?.remove(&id).unwrap_or_default() {
            if but_for == Some(&process) {
                continue;
            }
            tracing::warn!(instance = %id, pid = process.pid, "a guest that no record names runs: it is ended");
            process
                .end(QUITS_WITHIN)
                .await
                .map_err(|e| storage("ending a guest", &self.run_folder(id), &e))?;
            self.held().retain(|_, live| live.process != process);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::{Child, Command, Stdio};

    /// A shell in the folder with this for an argument. It has said a word: before its program has begun, the kernel shows no arguments.
    fn shell(folder: &Path, argument: &str) -> Child {
        let mut shell = Command::new("sh")
            .args(["-c", "echo; read line", "sh", argument])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        shell
    }

    #[test]
    fn a_process_is_found_by_its_folder_there_and_gone() {
        let dir = tempfile::tempdir().unwrap();
        let instances = dir.path().join("instances");
        let id = ResourceId::new();
        let run = instances.join(id.to_string()).join("run");
        fs::create_dir_all(&run).unwrap();
        let mut guest = shell(&run, &qemu::guest_name(id));
        let mut other = shell(&run, "somebody else's");
        let pids = |found: &BTreeMap<ResourceId, Vec<ProcessId>>| -> Vec<u32> {
            found
                .values()
                .flatten()
                .map(|p| u32::try_from(p.pid).unwrap())
                .collect()
        };
        assert_eq!(pids(&running(&instances).unwrap()), [guest.id()]);
        fs::remove_dir_all(&instances).unwrap();
        let found = running(&instances).unwrap();
        assert_eq!(pids(&found), [guest.id()]);
        assert!(found.contains_key(&id));
        for child in [&mut guest, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(running(&instances).unwrap().is_empty());
    }
}
