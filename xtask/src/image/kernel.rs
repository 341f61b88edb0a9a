//! The guest's kernel: the distribution's own, for virtual machines, downloaded and unpacked into the cache.
//!
//! Debian has it in one package; Ubuntu has the modules in a second one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run;
use crate::tools::apt;

/// The packages that stand for the newest kernel for guests, in Debian and in Ubuntu.
const NEWEST: &[&str] = &[
    "linux-image-cloud-amd64",
    "linux-image-virtual",
    "linux-image-kvm",
];

/// What the guest loads: its disk, its card, randomness, the power button and the button's events, the seed's formats.
pub(super) const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "button",
    "evdev",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859_1",
    "isofs",
];

/// Where the kernel comes from.
pub(super) struct Source {
    packages: Vec<(String, apt::Archive)>,
}

/// The kernel, unpacked.
pub(super) struct Kernel {
    pub(super) vmlinuz: PathBuf,
    /// As in `/lib/modules/VERSION`.
    pub(super) version: String,
    /// The folder with that name.
    modules: PathBuf,
}

/// One module's file and how it is compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) name: String,
    path: PathBuf,
}

impl Source {
    /// Asks the distribution for its newest kernel.
    pub(super) fn find() -> Result<Self> {
        if run::find("apt-get").is_none() {
            bail!("the guest's kernel is got with apt-get: build the image on Debian or Ubuntu, and copy it");
        }
        let mut newest = newest_image()?;
        if newest.is_none() {
            apt::refresh().context("looking for the guest's kernel")?;
            newest = newest_image()?;
        }
        let image = newest.with_context(|| format!("the distribution has none of {}", NEWEST.join(", ")))?;
        let mut packages = vec![(image.clone(), apt::archive(&image)?)];
        if let Some(modules) = apt::depends(&image)?
            .into_iter()
            .find(|name| name.starts_with("linux-modules-"))
        {
            let archive = apt::archive(&modules)?;
            packages.push((modules, archive));
        }
        Ok(Self { packages })
    }

    /// The archives' names, which bear the versions.
    pub(super) fn name(&self) -> String {
        self.packages
            .iter()
            .map(|(_, archive)| archive.file.as_str())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Downloads and unpacks what is not in the cache.
    pub(super) fn unpacked(&self) -> Result<Kernel> {
        let mut vmlinuz = None;
        let mut modules = None;
        for (package, archive) in &self.packages {
            let folder = apt::unpacked(package, archive)?;
            vmlinuz = vmlinuz.or_else(|| first_child(&folder.join("boot"), "vmlinuz-"));
            for base in ["lib/modules", "usr/lib/modules"] {
                modules = modules.or_else(|| first_child(&folder.join(base), ""));
            }
        }
        let vmlinuz = vmlinuz.with_context(|| format!("no kernel in {}", self.name()))?;
        let modules = modules.with_context(|| format!("no modules in {}", self.name()))?;
        let version = modules
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Ok(Kernel {
            vmlinuz,
            version,
            modules,
        })
    }
}

/// The newest kernel's real package.
fn newest_image() -> Result<Option<String>> {
    for newest in NEWEST {
        let mut name = (*newest).to_owned();
        while let Some(next) = kernel_that(&name)? {
            if next["linux-image-".len()..].starts_with(|first: char| first.is_ascii_digit()) {
                return Ok(Some(next));
            }
            name = next;
        }
    }
    Ok(None)
}

/// The kernel's package that the package `name` stands for.
fn kernel_that(name: &str) -> Result<Option<String>> {
    Ok(apt::depends(name)?
        .into_iter()
        .find(|other| other.starts_with("linux-image-") && other != name))
}

fn first_child(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let mut children: Vec<PathBuf> = fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    children.sort();
    children.into_iter().find(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    })
}

impl Kernel {
    /// The files of [`MODULES`] and of what they need, without those that are part of the kernel itself.
    pub(super) fn modules(&self) -> Result<Vec<Module>> {
        let mut all = Vec::new();
        collect(&self.modules.join("kernel"), &mut all)?;
        let builtin = fs::read_to_string(self.modules.join("modules.builtin")).unwrap_or_default();
        let builtin: Vec<String> = builtin
            .lines()
            .filter_map(|line| module_name(Path::new(line)))
            .collect();
        let mut wanted: Vec<String> = MODULES.iter().map(|name| (*name).to_owned()).collect();
        let mut chosen: Vec<Module> = Vec::new();
        while let Some(name) = wanted.pop() {
            if builtin.contains(&name) || chosen.iter().any(|module| module.name == name) {
                continue;
            }
            let module = all
                .iter()
                .find(|module| module.name == name)
                .with_context(|| format!("the kernel {} has no module {name}", self.version))?;
            wanted.extend(needs(&module.contents()?));
            chosen.push(module.clone());
        }
        chosen.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(chosen)
    }
}

impl Module {
    /// The module itself, not compressed.
    pub(super) fn contents(&self) -> Result<Vec<u8>> {
        let decompress = match self.path.extension().and_then(|ending| ending.to_str()) {
            Some("xz") => Some(("xz", "-dc")),
            Some("zst") => Some(("zstd", "-dcq")),
            Some("gz") => Some(("gzip", "-dc")),
            Some(_) | None => None,
        };
        let Some((program, option)) = decompress else {
            return fs::read(&self.path).with_context(|| format!("reading {}", self.path.display()));
        };
        let mut command = run::program(program);
        let done = command
            .arg(option)
            .arg(&self.path)
            .output()
            .map_err(|error| run::start_error(&command, error))?;
        if !done.status.success() {
            bail!(
                "{program} could not unpack {}: {}",
                self.path.display(),
                String::from_utf8_lossy(&done.stderr)
            );
        }
        Ok(done.stdout)
    }
}

fn collect(folder: &Path, into: &mut Vec<Module>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else if let Some(name) = module_name(&path) {
            into.push(Module { name, path });
        }
    }
    Ok(())
}

/// The name that the kernel knows a module's file by: a dash is an underscore.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, _) = file.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

/// The modules that this one names in its `depends=` field (the section `.modinfo`, strings that end in a zero byte).
fn needs(module: &[u8]) -> Vec<String> {
    module
        .split(|byte| *byte == 0)
        .find_map(|text| std::str::from_utf8(text).ok()?.strip_prefix("depends="))
        .unwrap_or_default()
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_needs() {
        assert_eq!(
            needs(b"\x7fELF\0license=GPL\0depends=virtio,virtio-ring\0name=x\0"),
            ["virtio", "virtio_ring"]
        );
        assert!(needs(b"depends=\0").is_empty());
    }

    #[test]
    fn names_are_the_kernels() {
        assert_eq!(
            module_name(Path::new("a/virtio-rng.ko.xz")).unwrap(),
            "virtio_rng"
        );
        assert_eq!(module_name(Path::new("kernel/fs/ext4.ko")).unwrap(), "ext4");
        assert_eq!(module_name(Path::new("modules.order")), None);
    }
}
