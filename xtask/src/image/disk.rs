//! The guest's disk: a FAT16 volume that fills it, SYSLINUX in front, kernel and file system inside, as qcow2.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;
use crate::show::Progress;

/// SYSLINUX's configuration.
pub(super) const SYSLINUX: &str = include_str!("syslinux.cfg");

/// Heads and sectors of the geometry that SYSLINUX and the BIOS agree on; a cylinder is a megabyte.
const HEADS: u64 = 64;
const SECTORS: u64 = 32;
const CYLINDER: u64 = HEADS * SECTORS * 512;

/// The time that mtools, which syslinux calls too, gives every file (2020-01-01): equal inputs make an equal image.
const EPOCH: (&str, &str) = ("SOURCE_DATE_EPOCH", "1577836800");

/// FAT16 has at least 4,085 clusters: 16 MiB at 2 KiB each is safely more.
const LEAST_CYLINDERS: u64 = 16;

/// Builds the image in `work`, and gives its path.
pub(super) fn build(vmlinuz: &Path, initrd: &Path, work: &Path, progress: &Progress) -> Result<PathBuf> {
    let raw = work.join("tiny.raw");
    let qcow2 = work.join("tiny.qcow2");
    let config = work.join("syslinux.cfg");
    fs::write(&config, SYSLINUX).with_context(|| format!("writing {}", config.display()))?;
    let mut contents = 0;
    for path in [vmlinuz, initrd] {
        contents += fs::metadata(path)
            .with_context(|| format!("looking at {}", path.display()))?
            .len();
    }
    let cylinders = (contents.div_ceil(CYLINDER) + 4).max(LEAST_CYLINDERS);
    let disk = File::create(&raw).with_context(|| format!("making {}", raw.display()))?;
    disk.set_len(cylinders * CYLINDER)
        .with_context(|| format!("sizing {}", raw.display()))?;
    drop(disk);

    progress.line("writing the boot volume");
    run::output(
        mtools("mformat", &raw)
            .args(["-v", "TINY", "-N", "74696e79", "-c", "4", "-H", "0"])
            .args(["-h", &HEADS.to_string(), "-s", &SECTORS.to_string()])
            .args(["-T", &(cylinders * CYLINDER / 512).to_string(), "::"]),
    )?;
    for (path, name) in [
        (vmlinuz, "::vmlinuz"),
        (initrd, "::initrd"),
        (config.as_path(), "::syslinux.cfg"),
    ] {
        run::output(mtools("mcopy", &raw).arg(path).arg(name))?;
    }
    run::output(
        run::program("syslinux")
            .env(EPOCH.0, EPOCH.1)
            .arg("--install")
            .arg(&raw),
    )?;
    progress.line("converting it to qcow2");
    run::output(
        run::program("qemu-img")
            .args(["convert", "-f", "raw", "-O", "qcow2"])
            .arg(&raw)
            .arg(&qcow2),
    )?;
    Ok(qcow2)
}

fn mtools(program: &str, image: &Path) -> Command {
    let mut command = run::program(program);
    command.env(EPOCH.0, EPOCH.1).arg("-i").arg(image);
    command
}
