//! The effects of simulated hosts as their agent wrote them, all of them: an agent begins its file anew at each start, so the file is
//! linked under another name as soon as it is there.
//!
//! A frame is `length u32 | sequence u64 | CRC-32 u32 | JSON`, little-endian (agent/src/ledger/frame.rs).

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::task::JoinHandle;

const HEADER: usize = 16;
const LOOK: Duration = Duration::from_millis(50);

/// An effect.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) host: String,
    pub(crate) job: String,
    pub(crate) action: String,
}

/// Keeps a link to every file that there was.
#[derive(Debug)]
pub(crate) struct History {
    folder: PathBuf,
    task: JoinHandle<()>,
    /// Files, by inode, that tell what was told already.
    copies: Arc<Mutex<BTreeSet<u64>>>,
}

impl History {
    pub(crate) fn follow(state: &Path, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).context("making a folder for effects")?;
        let (file, kept) = (state.join("effects"), folder.to_path_buf());
        let copies = Arc::new(Mutex::new(BTreeSet::new()));
        let known = Arc::clone(&copies);
        let task = tokio::spawn(async move {
            let mut last = 0;
            let mut count = 0;
            loop {
                if let Ok(metadata) = std::fs::metadata(&file)
                    && metadata.ino() != last
                {
                    last = metadata.ino();
                    if !lock(&known).contains(&last) {
                        count += 1;
                        // Renamed away in between, it is linked at the next look.
                        let _ = std::fs::hard_link(&file, kept.join(format!("{count:05}")));
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(Self {
            folder: folder.to_path_buf(),
            task,
            copies,
        })
    }

    /// This file is a copy of what was seen before.
    pub(crate) fn leave_out(&self, copy: &Path) -> Result<()> {
        let inode = std::fs::metadata(copy)
            .context("looking at a copy of effects")?
            .ino();
        lock(&self.copies).insert(inode);
        Ok(())
    }

    /// Every effect, in order.
    pub(crate) fn all(&self) -> Result<Vec<Made>> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(&self.folder)?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.sort();
        let mut all = Vec::new();
        for file in files {
            read(&std::fs::read(&file)?, &mut all);
        }
        Ok(all)
    }
}

fn lock(copies: &Mutex<BTreeSet<u64>>) -> MutexGuard<'_, BTreeSet<u64>> {
    copies.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for History {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A torn tail is an effect that wasn't made.
fn read(bytes: &[u8], all: &mut Vec<Made>) {
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + HEADER) {
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let Some(payload) = bytes.get(at + HEADER..at + HEADER + length) else {
            return;
        };
        if let Ok(entry) = serde_json::from_slice::<Value>(payload)
            && let Some(made) = entry.get("made")
        {
            let text = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
            all.push(Made {
                host: text("host"),
                job: text("job"),
                action: made["action"].to_string(),
            });
        }
        at += HEADER + length;
    }
}

/// Jobs and the resource that each changes.
pub(crate) type Resources = BTreeMap<String, String>;

/// What is wrong with a history: effects of no job, and effects of two jobs on one resource that overlap.
pub(crate) fn faults(all: &[Made], resources: &Resources) -> Vec<(u8, String)> {
    let mut faults = Vec::new();
    let mut current: BTreeMap<&str, &str> = BTreeMap::new();
    let mut over: BTreeSet<&str> = BTreeSet::new();
    for made in all {
        let Some(resource) = resources.get(&made.job) else {
            faults.push((
                3,
                format!(
                    "an effect on {} of a job that isn't there: {}",
                    made.host, made.job
                ),
            ));
            continue;
        };
        if over.contains(made.job.as_str()) {
            let what = format!(
                "job {} made {} on {} after a later job had changed {resource}",
                made.job, made.action, made.host
            );
            faults.push((5, what));
            continue;
        }
        if let Some(before) = current.insert(resource, &made.job)
            && before != made.job
        {
            over.insert(before);
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(job: &str) -> Made {
        Made {
            host: "sim-1".into(),
            job: job.into(),
            action: String::new(),
        }
    }

    #[test]
    fn a_job_that_comes_back_after_another_is_found_and_so_is_a_stranger() {
        let resources: Resources = [("a", "r"), ("b", "r"), ("c", "s")]
            .map(|(job, resource)| (job.to_owned(), resource.to_owned()))
            .into();
        let good: Vec<Made> = ["a", "c", "a", "b", "c", "b"].map(made).into();
        assert_eq!(faults(&good, &resources), []);
        let bad: Vec<Made> = ["a", "b", "a"].map(made).into();
        assert_eq!(
            faults(&bad, &resources).iter().map(|f| f.0).collect::<Vec<_>>(),
            [5]
        );
        assert_eq!(faults(&[made("x")], &resources)[0].0, 3);
    }
}
