//! The ledger's file: recovery, append, compaction.
//!
//! A batch is appended as one frame and synced before the next. Compaction writes all of the state to a new file, syncs it,
//! renames it over the old one and syncs the directory, so that one of both is there, whole, at any instant. A torn tail is cut
//! off with a warning (nobody was told of it); a damaged middle is an error, since what it said can't be guessed.

use super::codec::{self, RecordError};
use super::frame::{self, Found};
use super::state::State;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const NAME: &str = "ledger";
const MAGIC: &[u8; 8] = b"RZLEDG1\n";

/// Why the ledger can't be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process has it.
    #[error("ledger {path}: another agent uses it")]
    Locked {
        /// Of the lock.
        path: PathBuf,
    },
    /// It was damaged.
    #[error(
        "ledger {path}: damaged at byte {at}, with whole records from byte {later} on; it can't be used as it is"
    )]
    Damaged {
        /// Of the file.
        path: PathBuf,
        /// Where the first broken frame is.
        at: usize,
        /// Where a whole one is behind it.
        later: usize,
    },
    /// It isn't a ledger, or of another version.
    #[error("ledger {path}: {detail}")]
    Unreadable {
        /// Of the file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Reading or writing failed. After a failed write nothing more is accepted: what is on the disk is unknown.
    #[error("ledger {path}: {doing}: {detail}")]
    Io {
        /// Of the file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system says.
        detail: String,
    },
    /// The ledger is closed.
    #[error("the ledger is closed")]
    Closed,
}

/// The file, open for appending.
#[derive(Debug)]
pub(super) struct LedgerFile {
    path: PathBuf,
    file: File,
    sequence: u64,
    length: u64,
    frame: Vec<u8>,
    _lock: File,
}

fn io(path: &Path, doing: &'static str) -> impl Fn(std::io::Error) -> LedgerError {
    move |e| LedgerError::Io {
        path: path.to_owned(),
        doing,
        detail: e.to_string(),
    }
}

impl LedgerFile {
    /// Opens or makes the ledger of a directory and recovers its state.
    pub(super) fn open(dir: &Path) -> Result<(Self, State), LedgerError> {
        std::fs::create_dir_all(dir).map_err(io(dir, "making its directory"))?;
        let lock = lock(dir)?;
        let path = dir.join(NAME);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io(&path, "opening"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io(&path, "reading"))?;
        let Recovered {
            state,
            sequence,
            length,
        } = recover(&path, &bytes)?;
        let torn = bytes.len() - length;
        if torn > 0 {
            tracing::warn!(path = %path.display(), bytes = torn, "the ledger's last write was torn by a crash; it is cut off");
        }
        let mut ledger = Self {
            path,
            file,
            sequence,
            length: length as u64,
            frame: Vec::new(),
            _lock: lock,
        };
        if length == 0 {
            ledger.begin_anew(dir)?;
        } else if torn > 0 {
            ledger
                .file
                .set_len(length as u64)
                .map_err(io(&ledger.path, "cutting its torn end"))?;
            ledger.file.sync_all().map_err(io(&ledger.path, "syncing"))?;
        }
        ledger
            .file
            .seek(SeekFrom::End(0))
            .map_err(io(&ledger.path, "seeking"))?;
        Ok((ledger, state))
    }

    fn begin_anew(&mut self, dir: &Path) -> Result<(), LedgerError> {
        self.file.set_len(0).map_err(io(&self.path, "emptying"))?;
        self.file
            .seek(SeekFrom::Start(0))
            .map_err(io(&self.path, "seeking"))?;
        self.file.write_all(MAGIC).map_err(io(&self.path, "writing"))?;
        self.file.sync_all().map_err(io(&self.path, "syncing"))?;
        sync_dir(dir)?;
        self.length = MAGIC.len() as u64;
        Ok(())
    }

    /// Appends a batch and syncs.
    pub(super) fn append(&mut self, batch: &[u8]) -> Result<(), LedgerError> {
        self.sequence += 1;
        self.frame.clear();
        frame::push(&mut self.frame, self.sequence, batch);
        self.file
            .write_all(&self.frame)
            .map_err(io(&self.path, "writing"))?;
        self.file.sync_data().map_err(io(&self.path, "syncing"))?;
        self.length += self.frame.len() as u64;
        Ok(())
    }

    /// Bytes of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Writes a snapshot (see [`snapshot`]) in the file's place.
    pub(super) fn replace(&mut self, snapshot: &[Vec<u8>]) -> Result<(), LedgerError> {
        let fresh = self.path.with_extension("new");
        let mut bytes = MAGIC.to_vec();
        let mut sequence = 0;
        for batch in snapshot {
            sequence += 1;
            frame::push(&mut bytes, sequence, batch);
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&fresh)
            .map_err(io(&fresh, "opening"))?;
        file.write_all(&bytes).map_err(io(&fresh, "writing"))?;
        file.sync_all().map_err(io(&fresh, "syncing"))?;
        std::fs::rename(&fresh, &self.path).map_err(io(&fresh, "renaming"))?;
        if let Some(dir) = self.path.parent() {
            sync_dir(dir)?;
        }
        self.file = file;
        self.sequence = sequence;
        self.length = bytes.len() as u64;
        Ok(())
    }
}

fn lock(dir: &Path) -> Result<File, LedgerError> {
    let path = dir.join("ledger.lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io(&path, "opening"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LedgerError::Locked { path }),
        Err(TryLockError::Error(e)) => Err(io(&path, "locking")(e)),
    }
}

fn sync_dir(dir: &Path) -> Result<(), LedgerError> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(io(dir, "syncing its directory"))
}

struct Recovered {
    state: State,
    sequence: u64,
    length: usize,
}

fn recover(path: &Path, bytes: &[u8]) -> Result<Recovered, LedgerError> {
    let unreadable = |detail: String| LedgerError::Unreadable {
        path: path.to_owned(),
        detail,
    };
    let mut recovered = Recovered {
        state: State::default(),
        sequence: 0,
        length: 0,
    };
    if bytes.len() < MAGIC.len() && MAGIC.starts_with(bytes) {
        return Ok(recovered);
    }
    if !bytes.starts_with(MAGIC) {
        return Err(unreadable("it doesn't begin as a ledger of this version".into()));
    }
    recovered.length = MAGIC.len();
    loop {
        match frame::read(bytes, recovered.length, recovered.sequence + 1) {
            Found::Frame { payload, next } => {
                let told = |e: RecordError| unreadable(format!("record at byte {}: {e}", recovered.length));
                for (host, change) in codec::decode(payload).map_err(told)? {
                    recovered.state.apply(&host, &change);
                }
                recovered.length = next;
                recovered.sequence += 1;
            }
            Found::End | Found::Torn => return Ok(recovered),
            Found::Damaged { later } => {
                return Err(LedgerError::Damaged {
                    path: path.to_owned(),
                    at: recovered.length,
                    later,
                });
            }
        }
    }
}

/// All of the state as batches of about a MiB.
pub(super) fn snapshot(state: &State) -> Vec<Vec<u8>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    for (host, of) in &state.hosts {
        codec::encode_whole(&mut batch, host, of);
        if batch.len() > 1 << 20 {
            batches.push(std::mem::take(&mut batch));
        }
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

#[cfg(test)]
mod tests;
