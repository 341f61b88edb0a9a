//! The effects on disk, so that they outlive the process: a file of actions that were made so, one frame each.
//!
//! At the start the file is read, replayed and written anew as a snapshot; so too whenever it has grown much. A torn tail is an
//! effect that never counted as made. No sync: a simulated host's power loss loses the machine's memory as well.

use super::world::World;
use crate::ledger::frame::{self, Found};
use rhyzome_model::ids::{HostName, JobId};
use rhyzome_model::step::Action;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The file is compacted when it is larger than this, and than four times its last snapshot.
const COMPACT_FROM: u64 = 64 << 20;

/// Why the effects can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum EffectsError {
    /// The system refuses.
    #[error("effects of simulated hosts {path}: {doing}: {source}")]
    Io {
        /// Of the file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// What was written can't be understood.
    #[error("effects of simulated hosts {path}: {detail}")]
    Unreadable {
        /// Of the file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Entry<'a> {
    Made {
        host: Cow<'a, HostName>,
        job: JobId,
        action: Cow<'a, Action>,
    },
    Is {
        host: Cow<'a, HostName>,
        world: Cow<'a, World>,
    },
}

/// The file, open for appending.
#[derive(Debug)]
pub(super) struct EffectsLog {
    path: PathBuf,
    file: File,
    sequence: u64,
    length: u64,
    compact_at: u64,
    buffer: Vec<u8>,
}

impl EffectsLog {
    /// Reads what was made, and begins anew with a snapshot of it.
    pub(super) fn open(dir: &Path) -> Result<(Self, HashMap<HostName, World>), EffectsError> {
        let path = dir.join("effects");
        let io = |doing| {
            let path = path.clone();
            move |source| EffectsError::Io { path, doing, source }
        };
        std::fs::create_dir_all(dir).map_err(io("making its directory"))?;
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(io("reading")(e)),
        };
        let worlds = replay(&path, &bytes)?;
        let (file, sequence, length) = write_snapshot(&path, worlds.iter())?;
        let compact_at = COMPACT_FROM.max(length * 4);
        Ok((
            Self {
                path,
                file,
                sequence,
                length,
                compact_at,
                buffer: Vec::new(),
            },
            worlds,
        ))
    }

    /// Writes that an action is being made so. The effect counts once this returned.
    pub(super) fn made(&mut self, host: &HostName, job: JobId, action: &Action) -> Result<(), EffectsError> {
        let entry = Entry::Made {
            host: Cow::Borrowed(host),
            job,
            action: Cow::Borrowed(action),
        };
        let payload = to_json(&self.path, &entry)?;
        self.buffer.clear();
        frame::push(&mut self.buffer, self.sequence + 1, &payload);
        if let Err(source) = self.file.write_all(&self.buffer) {
            self.cut().map_err(|source| self.failed("cutting", source))?;
            return Err(self.failed("writing", source));
        }
        self.sequence += 1;
        self.length += self.buffer.len() as u64;
        Ok(())
    }

    /// Takes away what may be there of an effect that wasn't written whole: the next would stand behind a broken frame, or behind a hole.
    fn cut(&mut self) -> std::io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length)).map(|_| ())
    }

    fn failed(&self, doing: &'static str, source: std::io::Error) -> EffectsError {
        EffectsError::Io {
            path: self.path.clone(),
            doing,
            source,
        }
    }

    /// Whether it has grown enough to be compacted.
    pub(super) fn has_grown(&self) -> bool {
        self.length > self.compact_at
    }

    /// Begins anew with a snapshot. Nobody may change a world meanwhile.
    pub(super) fn compact<'a>(
        &mut self,
        worlds: impl Iterator<Item = (&'a HostName, &'a World)>,
    ) -> Result<(), EffectsError> {
        let (file, sequence, length) = write_snapshot(&self.path, worlds)?;
        (self.file, self.sequence, self.length) = (file, sequence, length);
        self.compact_at = COMPACT_FROM.max(length * 4);
        Ok(())
    }
}

fn to_json(path: &Path, entry: &Entry<'_>) -> Result<Vec<u8>, EffectsError> {
    serde_json::to_vec(entry).map_err(|e| EffectsError::Unreadable {
        path: path.to_owned(),
        detail: format!("writing an effect: {e}"),
    })
}

fn replay(path: &Path, bytes: &[u8]) -> Result<HashMap<HostName, World>, EffectsError> {
    let unreadable = |detail: String| EffectsError::Unreadable {
        path: path.to_owned(),
        detail,
    };
    let mut worlds: HashMap<HostName, World> = HashMap::new();
    let (mut at, mut sequence) = (0, 1);
    loop {
        match frame::read(bytes, at, sequence) {
            Found::Frame { payload, next } => {
                let entry = serde_json::from_slice(payload);
                match entry.map_err(|e| unreadable(format!("effect at byte {at}: {e}")))? {
                    Entry::Made { host, job, action } => {
                        worlds.entry(host.into_owned()).or_default().apply(job, &action);
                    }
                    Entry::Is { host, world } => {
                        worlds.insert(host.into_owned(), world.into_owned());
                    }
                }
                (at, sequence) = (next, sequence + 1);
            }
            Found::End => return Ok(worlds),
            Found::Torn => {
                tracing::warn!(path = %path.display(), bytes = bytes.len() - at, "the last effect was torn: it wasn't made");
                return Ok(worlds);
            }
            Found::Damaged { later } => {
                return Err(unreadable(format!(
                    "damaged at byte {at}, with whole effects from byte {later} on"
                )));
            }
        }
    }
}

fn write_snapshot<'a>(
    path: &Path,
    worlds: impl Iterator<Item = (&'a HostName, &'a World)>,
) -> Result<(File, u64, u64), EffectsError> {
    let io = |doing| {
        move |source| EffectsError::Io {
            path: path.to_owned(),
            doing,
            source,
        }
    };
    let fresh = path.with_extension("new");
    let mut bytes = Vec::new();
    let mut sequence = 0;
    for (host, world) in worlds {
        sequence += 1;
        let entry = Entry::Is {
            host: Cow::Borrowed(host),
            world: Cow::Borrowed(world),
        };
        frame::push(&mut bytes, sequence, &to_json(path, &entry)?);
    }
    let mut file = File::create(&fresh).map_err(io("making its successor"))?;
    file.write_all(&bytes).map_err(io("writing its successor"))?;
    std::fs::rename(&fresh, path).map_err(io("renaming its successor"))?;
    Ok((file, sequence, bytes.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhyzome_model::ids::ResourceId;
    use rhyzome_model::kinds::{ImageFormat, ImageSource};
    use rhyzome_model::step::EnsureImage;

    fn image() -> Action {
        Action::EnsureImage(EnsureImage {
            image: ResourceId::new(),
            source: ImageSource::File("tiny.qcow2".into()),
            format: ImageFormat::Qcow2,
            sha256: None,
            holder: ResourceId::new(),
        })
    }

    fn hosts() -> [HostName; 2] {
        ["sim-1".into(), "sim-2".into()]
    }

    #[test]
    fn every_cut_replays_what_was_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, mut worlds) = EffectsLog::open(dir.path()).unwrap();
        let mut after = vec![(0, worlds.clone())];
        for i in 0..6 {
            let (host, job, action) = (&hosts()[i % 2], JobId::new(), image());
            log.made(host, job, &action).unwrap();
            worlds.entry(host.clone()).or_default().apply(job, &action);
            after.push((log.length as usize, worlds.clone()));
        }
        let path = dir.path().join("effects");
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            let wanted = after.iter().rev().find(|(length, _)| *length <= cut).unwrap();
            assert_eq!(replay(&path, &bytes[..cut]).unwrap(), wanted.1, "cut at {cut}");
        }
    }

    #[test]
    fn what_comes_after_a_write_that_failed_stands_where_that_began() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, mut worlds) = EffectsLog::open(dir.path()).unwrap();
        for _ in 0..3 {
            // As much of it as the disk had room for.
            log.file.write_all(b"a part of a frame").unwrap();
            log.cut().unwrap();
            let (job, action) = (JobId::new(), image());
            log.made(&hosts()[0], job, &action).unwrap();
            worlds.entry(hosts()[0].clone()).or_default().apply(job, &action);
        }
        let bytes = std::fs::read(dir.path().join("effects")).unwrap();
        assert_eq!(bytes.len() as u64, log.length);
        drop(log);
        assert_eq!(EffectsLog::open(dir.path()).unwrap().1, worlds);
    }

    #[test]
    fn a_start_compacts_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, mut worlds) = EffectsLog::open(dir.path()).unwrap();
        for _ in 0..3 {
            let (job, action) = (JobId::new(), image());
            log.made(&hosts()[0], job, &action).unwrap();
            worlds.entry(hosts()[0].clone()).or_default().apply(job, &action);
            drop(log);
            let opened = EffectsLog::open(dir.path()).unwrap();
            assert_eq!(opened.1, worlds);
            log = opened.0;
        }
    }
}
