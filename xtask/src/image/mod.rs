//! Builds the guest image `tiny`: a bootable qcow2 of Debian's cloud kernel and busybox.
//!
//! - [`kernel`]: the distribution's kernel and the modules that a guest needs, unpacked and not installed;
//! - [`root`]: the guest's whole file system, which stays in memory, as a cpio archive;
//! - [`disk`]: a FAT16 volume without partitions that SYSLINUX boots, as qcow2.
//!
//! No root and no mounts are needed. The image is built anew only when one of its inputs is another one, and replaces
//! the old one at once. What the guest does is said in `rc`, in this folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::show::{Progress, say};
use crate::tools::apt;
use crate::{fetch, paths, run, tools};

mod cpio;
mod disk;
mod kernel;
mod root;

/// Raised when the code that builds the image changes what comes out.
const RECIPE: &str = "1";

/// apt's own folder; a new list is renamed into it.
const PACKAGE_LISTS: &str = "/var/lib/apt/lists";

/// The image, built.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// The folder to give as `--image-dir`; it holds images only.
    pub(crate) folder: PathBuf,
    /// The qcow2 file.
    pub(crate) path: PathBuf,
    /// Its SHA-256, in hexadecimal.
    pub(crate) sha256: String,
}

/// `cargo xtask image`.
pub(crate) fn command() -> Result<()> {
    tools::ensure()?;
    let image = ensure()?;
    println!("{}\nsha256 {}", image.path.display(), image.sha256);
    Ok(())
}

/// Builds the image where it is not there or its inputs have changed.
pub(crate) fn ensure() -> Result<Image> {
    let folder = paths::cache_folder("images")?;
    let path = folder.join("tiny.qcow2");
    let work = paths::cache_folder("work")?;
    // Two builds at once would write the same files.
    let lock = File::create(work.join("image.lock")).context("making the image's lock file")?;
    lock.lock().context("waiting for another build of the image")?;

    if std::env::consts::ARCH != "x86_64" {
        bail!("the image tiny boots by SYSLINUX, which is for x86_64 only");
    }
    let key_file = work.join("tiny.key");
    if !(path.is_file() && is_newer_than_lists(&key_file) && noted(&key_file).starts_with(&recipe_key())) {
        let inputs = Inputs::find()?;
        let key = format!("{} {}", recipe_key(), inputs.name());
        if path.is_file() && noted(&key_file) == key {
            fs::write(&key_file, key).context("noting the image's inputs")?;
            return finished(folder, path);
        }
        let busybox = inputs.busybox.path()?;
        let kernel = inputs.kernel.unpacked()?;
        let progress = Progress::start("building the image tiny");
        let archive = root::archive(&busybox, &kernel, &work, &progress)?;
        let built = disk::build(&kernel.vmlinuz, &archive, &work, &progress)?;
        fs::rename(&built, &path).with_context(|| format!("keeping {}", path.display()))?;
        fs::write(&key_file, key).context("noting the image's inputs")?;
        progress.done(&path.display().to_string());
    }
    finished(folder, path)
}

fn finished(folder: PathBuf, path: PathBuf) -> Result<Image> {
    let sha256 = fetch::sha256_of(&path)?;
    Ok(Image { folder, path, sha256 })
}

/// What the image there is made of; empty where nothing is noted.
fn noted(key_file: &Path) -> String {
    fs::read_to_string(key_file).unwrap_or_default()
}

/// Whether the package lists are still those that the inputs were found in: reading them takes seconds.
fn is_newer_than_lists(key_file: &Path) -> bool {
    let changed = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    match (changed(key_file), changed(Path::new(PACKAGE_LISTS))) {
        (Some(noted), Some(lists)) => noted > lists,
        (Some(_) | None, _) => false,
    }
}

/// Changes whenever something in these sources does that the image is made of.
fn recipe_key() -> String {
    let mut hasher = Sha256::new();
    hasher.update(RECIPE);
    for (name, text) in root::FILES {
        hasher.update(name);
        hasher.update(text);
    }
    for module in kernel::MODULES {
        hasher.update(module);
    }
    hasher.update(disk::SYSLINUX);
    fetch::hex(&hasher.finalize())
}

/// A static busybox: the distribution's, unpacked into the cache.
pub(crate) fn busybox() -> Result<PathBuf> {
    BusyboxSource::find()?.path()
}

/// What the image is made of.
struct Inputs {
    kernel: kernel::Source,
    busybox: BusyboxSource,
}

enum BusyboxSource {
    Package(apt::Archive),
    Installed(PathBuf),
}

impl Inputs {
    fn find() -> Result<Self> {
        Ok(Self {
            kernel: kernel::Source::find()?,
            busybox: BusyboxSource::find()?,
        })
    }

    /// The names of the packages' files, which bear the versions.
    fn name(&self) -> String {
        match &self.busybox {
            BusyboxSource::Package(archive) => format!("{} {}", self.kernel.name(), archive.file),
            BusyboxSource::Installed(path) => format!("{} {}", self.kernel.name(), path.display()),
        }
    }
}

impl BusyboxSource {
    fn find() -> Result<Self> {
        if run::find("apt-get").is_some() {
            return Ok(Self::Package(apt::archive("busybox-static")?));
        }
        let path = run::find("busybox").ok_or_else(|| tools::missing("busybox"))?;
        say(format!(
            "using {} for the guest; it has to be a static one",
            path.display()
        ));
        Ok(Self::Installed(path))
    }

    fn path(&self) -> Result<PathBuf> {
        match self {
            Self::Installed(path) => Ok(path.clone()),
            Self::Package(archive) => {
                let folder = apt::unpacked("busybox-static", archive)?;
                ["bin/busybox", "usr/bin/busybox"]
                    .iter()
                    .map(|path| folder.join(path))
                    .find(|path| path.is_file())
                    .with_context(|| format!("no busybox in {}", archive.file))
            }
        }
    }
}
