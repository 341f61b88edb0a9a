//! The folder of PostgreSQL's server programs, 15 or newer. Debian keeps them off `PATH`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{run, tools};

/// Debian's and Ubuntu's place, one folder for each major version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// The oldest major version that the migrations are written for.
const OLDEST: u32 = 15;

/// The newest server that is installed.
pub(super) fn bin_folder() -> Result<PathBuf> {
    if let Some(folder) = newest_in(Path::new(DEBIAN)) {
        return Ok(folder);
    }
    let initdb = run::find("initdb").ok_or_else(|| tools::missing("initdb"))?;
    let initdb = fs::canonicalize(&initdb).with_context(|| format!("following {}", initdb.display()))?;
    let folder = initdb.parent().context("initdb is in no folder")?;
    Ok(folder.to_path_buf())
}

fn newest_in(base: &Path) -> Option<PathBuf> {
    fs::read_dir(base)
        .ok()?
        .filter_map(Result::ok)
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse::<u32>().ok()?,
                entry.path().join("bin"),
            ))
        })
        .filter(|(major, bin)| {
            *major >= OLDEST && bin.join("initdb").is_file() && bin.join("postgres").is_file()
        })
        .max()
        .map(|(_, bin)| bin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_server_counts() {
        let base = tempfile::tempdir().unwrap();
        for (major, programs) in [("14", 2), ("15", 2), ("17", 2), ("18", 1)] {
            let bin = base.path().join(major).join("bin");
            fs::create_dir_all(&bin).unwrap();
            for program in ["initdb", "postgres"].iter().take(programs) {
                fs::write(bin.join(program), "").unwrap();
            }
        }
        assert_eq!(newest_in(base.path()), Some(base.path().join("17/bin")));
    }
}
