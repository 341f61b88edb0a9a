//! How often entries with `times` were used, in the agent's own folder: a crash that shall happen once happens once, however often the
//! agent is started again.
//!
//! The counts are of one version of `faults.toml`, told by when it was changed and how long it is; with another they begin anew. They
//! outlive the process, and need not outlive the machine: nothing is synced.

use super::Stamp;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The file that keeps the counts.
#[derive(Debug)]
pub(super) struct Used(PathBuf);

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    modified_ns: u64,
    length: u64,
    /// By the place of the entry in the file; 0 for entries without `times`.
    used: Vec<u64>,
}

impl Used {
    /// In a folder, which is there.
    pub(super) fn within(folder: &Path) -> Self {
        Self(folder.join("faults-used.json"))
    }

    /// How often each entry was used; none for another version of the file.
    ///
    /// # Errors
    /// The counts can't be read, or aren't counts.
    pub(super) fn of(&self, stamp: &Stamp) -> io::Result<Vec<u64>> {
        let bytes = match std::fs::read(&self.0) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let counts: Counts = serde_json::from_slice(&bytes)?;
        let same = version(stamp) == Some((counts.modified_ns, counts.length));
        Ok(if same { counts.used } else { Vec::new() })
    }

    /// Keeps them.
    ///
    /// # Errors
    /// They can't be written.
    pub(super) fn keep(&self, stamp: &Stamp, used: Vec<u64>) -> io::Result<()> {
        let Some((modified_ns, length)) = version(stamp) else {
            return Ok(());
        };
        let counts = Counts {
            modified_ns,
            length,
            used,
        };
        let coming = self.0.with_extension("coming");
        std::fs::write(&coming, serde_json::to_vec(&counts)?)?;
        std::fs::rename(&coming, &self.0)
    }
}

fn version(stamp: &Stamp) -> Option<(u64, u64)> {
    let (modified, length) = stamp.0?;
    let since = modified.duration_since(UNIX_EPOCH).ok()?;
    Some((u64::try_from(since.as_nanos()).ok()?, length))
}
