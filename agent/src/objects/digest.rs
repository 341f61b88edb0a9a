//! The SHA-256 of a file that is here. It is read piece by piece, beside all else that runs, and stops when it is told to.

use super::fetch::{Fetched, cancelled, hex};
use super::files::storage;
use crate::driver::StepError;
use sha2::{Digest, Sha256};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// Of a piece, bytes.
const PIECE: usize = 256 * 1024;

/// Whether a file's name is a digest as images' files are called by.
pub(crate) fn is_one(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What a file is; none where there is none.
pub(crate) async fn of_file(path: &Path, cancel: &CancellationToken) -> Result<Option<Fetched>, StepError> {
    let (file, stop) = (path.to_owned(), cancel.clone());
    let read = tokio::task::spawn_blocking(move || read(&file, &stop)).await;
    match read.map_err(io::Error::other).flatten() {
        Ok(_) if cancel.is_cancelled() => Err(cancelled()),
        Ok(is) => Ok(Some(is)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(storage("reading an image", path, &e)),
    }
}

fn read(path: &PathBuf, cancel: &CancellationToken) -> io::Result<Fetched> {
    let mut file = std::fs::File::open(path)?;
    let (mut hash, mut size, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
    while !cancel.is_cancelled() {
        let n = file.read(&mut piece)?;
        if n == 0 {
            break;
        }
        hash.update(&piece[..n]);
        size += n as u64;
    }
    Ok(Fetched {
        sha256: hex(&hash.finalize()),
        size,
    })
}
