//! The guest's file system: busybox, the kernel's modules, and the scripts of this folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::kernel::{Kernel, MODULES};
use crate::run;
use crate::show::Progress;

/// The scripts, by their path in the guest.
pub(super) const FILES: &[(&str, &str)] = &[
    ("etc/inittab", include_str!("inittab")),
    ("etc/rc", include_str!("rc")),
    ("etc/lease", include_str!("lease")),
    ("etc/user-data", include_str!("user-data")),
    ("etc/acpi/PWRF/00000080", include_str!("power-button")),
];

const FOLDERS: &[&str] = &[
    "bin",
    "dev",
    "etc",
    "etc/acpi",
    "etc/acpi/PWRF",
    "lib",
    "lib/modules",
    "proc",
    "root",
    "run",
    "sys",
    "usr",
    "var",
    "www",
];

const LINKS: &[(&str, &str)] = &[
    ("init", "bin/busybox"),
    ("sbin", "bin"),
    ("bin/sh", "busybox"),
    ("usr/bin", "../bin"),
    ("usr/sbin", "../bin"),
    ("var/run", "../run"),
];

/// Writes the archive into `work`, and gives its path.
pub(super) fn archive(busybox: &Path, kernel: &Kernel, work: &Path, progress: &Progress) -> Result<PathBuf> {
    let mut archive = Archive::default();
    for folder in FOLDERS {
        archive.folder(folder, 0o755);
    }
    archive.folder("tmp", 0o1777);
    let program = fs::read(busybox).with_context(|| format!("reading {}", busybox.display()))?;
    archive.file("bin/busybox", 0o755, &program);
    for (path, target) in LINKS {
        archive.link(path, target);
    }
    for (path, text) in FILES {
        archive.file(
            path,
            if *path == "etc/inittab" { 0o644 } else { 0o755 },
            text.as_bytes(),
        );
    }
    progress.line("adding the kernel's modules");
    add_modules(&mut archive, busybox, kernel, work)?;
    let path = work.join("initrd");
    fs::write(&path, archive.finish()).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

fn add_modules(archive: &mut Archive, busybox: &Path, kernel: &Kernel, work: &Path) -> Result<()> {
    let inside = format!("lib/modules/{}", kernel.version);
    let base = work.join("modules");
    let folder = base.join(&inside);
    if base.is_dir() {
        fs::remove_dir_all(&base).with_context(|| format!("removing {}", base.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    archive.folder(&inside, 0o755);
    let modules = kernel.modules()?;
    for module in &modules {
        let contents = module.contents()?;
        let file = format!("{}.ko", module.name);
        fs::write(folder.join(&file), &contents).with_context(|| format!("writing {file}"))?;
        archive.file(&format!("{inside}/{file}"), 0o644, &contents);
    }
    run::output(
        run::program(busybox)
            .args(["depmod", "-b"])
            .arg(&base)
            .arg(&kernel.version),
    )?;
    for index in ["modules.dep", "modules.alias", "modules.symbols"] {
        let path = folder.join(index);
        if path.is_file() {
            let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            archive.file(&format!("{inside}/{index}"), 0o644, &text);
        }
    }
    let loaded: Vec<&str> = MODULES
        .iter()
        .copied()
        .filter(|name| modules.iter().any(|module| module.name == *name))
        .collect();
    archive.file(
        "etc/modules",
        0o644,
        format!("{}\n", loaded.join("\n")).as_bytes(),
    );
    Ok(())
}
