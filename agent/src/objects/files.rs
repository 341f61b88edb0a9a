//! Files of a host's objects: where they lie, and how they are written.
//!
//! A record is either wholly there or not at all: it is written beside its place, synced, and renamed. Folders can be passed
//! through by any user (a guest's process is not root) and listed by the agent's alone.

use crate::driver::StepError;
use rhyzome_model::ids::ResourceId;
use rhyzome_model::job::ErrorClass;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Mode of folders: others pass through, and see nothing of what is inside.
const FOLDER_MODE: u32 = 0o711;

/// Where everything of one host lies, below the agent's state folder.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Makes the folders that are not there yet.
    pub(crate) fn open(root: PathBuf) -> Result<Self, StepError> {
        let layout = Self { root };
        for folder in [
            layout.root(),
            &layout.networks(),
            &layout.images(),
            &layout.claims(),
            &layout.disks(),
            &layout.instances(),
            &layout.users(),
        ] {
            make_folder(folder)?;
        }
        Ok(layout)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn networks(&self) -> PathBuf {
        self.root.join("networks")
    }

    pub(crate) fn network(&self, id: ResourceId) -> PathBuf {
        self.networks().join(id.to_string())
    }

    /// Image files by digest.
    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn image_file(&self, sha256: &str) -> PathBuf {
        self.images().join(sha256)
    }

    /// What each image is here, by image id.
    pub(crate) fn claims(&self) -> PathBuf {
        self.root.join("image-claims")
    }

    pub(crate) fn image_record(&self, id: ResourceId) -> PathBuf {
        self.claims().join(format!("{id}.json"))
    }

    pub(crate) fn disks(&self) -> PathBuf {
        self.root.join("disks")
    }

    pub(crate) fn disk(&self, id: ResourceId) -> PathBuf {
        self.disks().join(format!("{id}.qcow2"))
    }

    pub(crate) fn disk_record(&self, id: ResourceId) -> PathBuf {
        self.disks().join(format!("{id}.json"))
    }

    pub(crate) fn instances(&self) -> PathBuf {
        self.root.join("instances")
    }

    pub(crate) fn instance(&self, id: ResourceId) -> PathBuf {
        self.instances().join(id.to_string())
    }

    /// Which user each guest has.
    pub(crate) fn users(&self) -> PathBuf {
        self.root.join("users")
    }

    pub(crate) fn user_record(&self, id: ResourceId) -> PathBuf {
        self.users().join(format!("{id}.json"))
    }
}

/// The error of a file that can't be read or written: the host's trouble, not the user's.
pub(crate) fn storage(what: &str, path: &Path, error: &io::Error) -> StepError {
    let no_room = error.kind() == io::ErrorKind::StorageFull;
    let (class, code) = if no_room {
        (ErrorClass::NoRoom, "NO_ROOM")
    } else {
        (ErrorClass::Unavailable, "STORAGE")
    };
    StepError::new(class, code, format!("the host's storage: {what} didn't work"))
        .inside(format_args!("{what} {}: {error}", path.display()))
}

/// Makes a folder and those above it.
pub(crate) fn make_folder(path: &Path) -> Result<(), StepError> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE)))
        .map_err(|e| storage("making a folder", path, &e))
}

/// Writes bytes so that a reader sees the old or the new, and a crash leaves one of them.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StepError> {
    let write = || -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut temp = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
        temp.write_all(bytes)?;
        temp.as_file().set_permissions(Permissions::from_mode(mode))?;
        temp.as_file().sync_all()?;
        temp.persist(path).map_err(|e| e.error)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|e| storage("writing a file", path, &e))
}

/// Puts a finished file in its place, so that it is there after a loss of power, too.
pub(crate) fn keep(finished: &Path, path: &Path) -> io::Result<()> {
    fs::rename(finished, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Writes a record.
pub(crate) fn write_record<T: Serialize>(path: &Path, record: &T) -> Result<(), StepError> {
    let bytes = serde_json::to_vec_pretty(record)
        .map_err(|e| storage("writing a record", path, &io::Error::other(e)))?;
    write_atomic(path, &bytes, 0o600)
}

fn bytes_of(path: &Path) -> Result<Option<Vec<u8>>, StepError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(storage("reading a record", path, &e)),
    }
}

/// Reads a record; none where there is no file.
pub(crate) fn read_record<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StepError> {
    let Some(bytes) = bytes_of(path)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        storage(
            "reading a record",
            path,
            &io::Error::new(io::ErrorKind::InvalidData, e),
        )
    })
}

/// Reads a record of an object; one that can't be understood is as good as none. So that one record that the file system damaged holds up
/// neither its own object's repair nor all that else is on the host.
pub(crate) fn read_or_lost<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StepError> {
    let Some(bytes) = bytes_of(path)? else {
        return Ok(None);
    };
    match serde_json::from_slice(&bytes) {
        Ok(record) => Ok(Some(record)),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "a record is damaged: it counts as lost");
            Ok(None)
        }
    }
}

/// Removes a file; one that isn't there is no error.
pub(crate) fn remove_file(path: &Path) -> Result<(), StepError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(storage("removing a file", path, &e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes a folder with what is in it; one that isn't there is no error.
pub(crate) fn remove_folder(path: &Path) -> Result<(), StepError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(storage("removing a folder", path, &e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The ids in a folder: each entry's name up to the first dot, where it is an id.
pub(crate) fn ids_in(folder: &Path, suffix: &str) -> Result<Vec<ResourceId>, StepError> {
    let failed = |e| storage("reading a folder", folder, &e);
    let entries: Vec<fs::DirEntry> = fs::read_dir(folder)
        .map_err(failed)?
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    let mut ids: Vec<ResourceId> = entries
        .iter()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(suffix)?.parse().ok())
        .collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Gives a file or folder to a user; nothing where the agent may not.
pub(crate) fn give(path: &Path, owner: Option<super::spawn::Identity>) -> Result<(), StepError> {
    let Some(owner) = owner else { return Ok(()) };
    std::os::unix::fs::chown(path, Some(owner.uid), Some(owner.gid))
        .map_err(|e| storage("giving a file to the guest's user", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_not_there_is_none_and_one_that_is_broken_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        assert_eq!(read_record::<u32>(&path).unwrap(), None);
        write_record(&path, &7u32).unwrap();
        assert_eq!(read_record::<u32>(&path).unwrap(), Some(7));
        fs::write(&path, b"{").unwrap();
        assert_eq!(read_record::<u32>(&path).unwrap_err().code, "STORAGE");
        assert_eq!(read_or_lost::<u32>(&path).unwrap(), None);
    }

    #[test]
    fn a_finished_file_is_kept_in_place_of_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let (finished, path) = (dir.path().join(".new-a"), dir.path().join("a"));
        fs::write(&path, b"old").unwrap();
        fs::write(&finished, b"new").unwrap();
        keep(&finished, &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(!finished.exists());
        assert_eq!(
            keep(&finished, &path).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn removing_what_is_not_there_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        remove_file(&dir.path().join("x")).unwrap();
        remove_folder(&dir.path().join("y")).unwrap();
    }

    #[test]
    fn ids_are_read_from_names() {
        let dir = tempfile::tempdir().unwrap();
        let id = ResourceId::new();
        fs::write(dir.path().join(format!("{id}.json")), b"").unwrap();
        fs::write(dir.path().join(".new-1.json"), b"").unwrap();
        assert_eq!(ids_in(dir.path(), ".json").unwrap(), vec![id]);
    }
}
