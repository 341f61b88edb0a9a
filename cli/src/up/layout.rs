//! What lies where in a stack's data folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ring::digest::{SHA256, digest};

/// The configuration that all parts read.
pub(crate) const CONFIG: &str = "rhyzome.toml";
/// This machine, as a host.
pub(crate) const LOCAL_HOST: &str = "host-1";
/// Simulated hosts are `sim-1` to `sim-N`.
pub(crate) const SIMULATED: &str = "sim";

/// A data folder, by its absolute path.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Of a folder that is there.
    pub(crate) fn of(data: &Path) -> Result<Self> {
        let root = data
            .canonicalize()
            .with_context(|| format!("the data folder {}", data.display()))?;
        Ok(Self { root })
    }

    /// Makes the folder and those in it.
    pub(crate) fn make(data: &Path) -> Result<Self> {
        std::fs::create_dir_all(data).with_context(|| format!("making {}", data.display()))?;
        let layout = Self::of(data)?;
        for dir in [layout.logs(), layout.run(), layout.agents(), layout.nats()] {
            std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        Ok(layout)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.root.join(CONFIG)
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(crate) fn log(&self, part: &str) -> PathBuf {
        self.logs().join(format!("{part}.log"))
    }

    /// Ready files, and what `down` asks.
    pub(crate) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    pub(crate) fn ready(&self, part: &str) -> PathBuf {
        self.run().join(format!("{part}.json"))
    }

    /// There while `down` wants guests to stay.
    pub(crate) fn keep_guests(&self) -> PathBuf {
        self.run().join("keep-guests")
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    pub(crate) fn agents(&self) -> PathBuf {
        self.root.join("agents")
    }

    pub(crate) fn agent(&self, name: &str) -> PathBuf {
        self.agents().join(name)
    }

    pub(crate) fn faults(&self) -> PathBuf {
        self.root.join("faults.toml")
    }

    pub(crate) fn nats(&self) -> PathBuf {
        self.root.join("nats")
    }

    pub(crate) fn jetstream(&self) -> PathBuf {
        self.nats().join("jetstream")
    }

    pub(crate) fn postgres(&self) -> PathBuf {
        self.root.join("postgres")
    }

    pub(crate) fn password(&self) -> PathBuf {
        self.root.join("postgres.password")
    }

    /// Held for as long as a stack runs here.
    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// 12 hex digits that tell this folder from others, for names outside of it.
    pub(crate) fn tag(&self) -> String {
        let digest = digest(&SHA256, self.root.as_os_str().as_encoded_bytes());
        digest
            .as_ref()
            .iter()
            .take(6)
            .fold(String::new(), |tag, byte| format!("{tag}{byte:02x}"))
    }

    /// Removes all that a stack made here; what else lies in the folder stays, the faults that somebody wrote too.
    pub(crate) fn wipe(&self) -> Result<()> {
        let made = [
            self.config(),
            self.run(),
            self.pki(),
            self.agents(),
            self.nats(),
            self.password(),
            self.root.join("issuer"),
            self.root.join(super::stack::FILE),
            self.root.join(super::record::FILE),
        ];
        for path in made {
            remove(&path)?;
        }
        // The log that this process may be writing stays.
        let own = self.log("up");
        for entry in
            std::fs::read_dir(self.logs()).with_context(|| format!("reading {}", self.logs().display()))?
        {
            let path = entry?.path();
            if path != own {
                remove(&path)?;
            }
        }
        super::postgres::wipe(self)
    }
}

/// Removes a file or a folder with all that is in it; nothing where there is nothing.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.with_context(|| format!("removing {}", path.display()))
}
