//! The ready file: a process says where it serves, once it does, so that ports need not be fixed.
//!
//! The file appears whole or not at all.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What a process that serves says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Where the role's own listener is bound; none for a role without one.
    pub address: Option<SocketAddr>,
    /// Where `/metrics` is.
    pub metrics_address: Option<SocketAddr>,
}

/// Writes `ready` as JSON to `path`, atomically. Nothing where `path` is none.
///
/// # Errors
/// The file can't be written.
pub fn write(path: Option<&Path>, ready: &Ready) -> io::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let bytes = serde_json::to_vec(ready).map_err(io::Error::other)?;
    write_atomically(path, &bytes)
}

/// Reads a ready file; none where there is none yet.
///
/// # Errors
/// The file can't be read or holds something else.
pub fn read(path: &Path) -> io::Result<Option<Ready>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file whole or not at all: a neighbour is written and renamed over it.
///
/// # Errors
/// The file or its neighbour can't be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut neighbour = path.as_os_str().to_owned();
    neighbour.push(format!(".{}.tmp", std::process::id()));
    std::fs::write(&neighbour, bytes)?;
    std::fs::rename(&neighbour, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready.json");
        assert_eq!(read(&path).unwrap(), None);
        let ready = Ready {
            address: Some("127.0.0.1:4000".parse().unwrap()),
            metrics_address: None,
        };
        write(Some(&path), &ready).unwrap();
        assert_eq!(read(&path).unwrap(), Some(ready));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
