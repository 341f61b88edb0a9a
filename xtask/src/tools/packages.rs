//! Which programs are needed, which Debian package each comes from, and getting those that are missing.

use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};

use super::{apt, postgres};
use crate::run;

/// When a program is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needed {
    /// By everyone who runs the stack or the tests.
    Always,
    /// By everyone on x86_64, where the guest image is built.
    OnX86,
    /// For networks of bridges and namespaces, which only root makes.
    AsRoot,
    /// Only by some tasks, which say so when they come to it.
    Sometimes,
}

struct Program {
    name: &'static str,
    package: &'static str,
    needed: Needed,
}

const fn program(name: &'static str, package: &'static str, needed: Needed) -> Program {
    Program {
        name,
        package,
        needed,
    }
}

/// The same names in Debian and Ubuntu.
const PROGRAMS: &[Program] = &[
    program("curl", "curl", Needed::Always),
    program("qemu-system-x86_64", "qemu-system-x86", Needed::Always),
    program("qemu-img", "qemu-utils", Needed::Always),
    program("mformat", "mtools", Needed::Always),
    program("mcopy", "mtools", Needed::Always),
    program("syslinux", "syslinux", Needed::OnX86),
    program("ip", "iproute2", Needed::AsRoot),
    program("nft", "nftables", Needed::AsRoot),
    program("dnsmasq", "dnsmasq-base", Needed::AsRoot),
    program("busybox", "busybox-static", Needed::Sometimes),
    program("initdb", "postgresql", Needed::Sometimes),
    program("psql", "postgresql", Needed::Sometimes),
    program("zstd", "zstd", Needed::Sometimes),
    program("apt-get", "apt", Needed::Sometimes),
    program("dpkg-deb", "dpkg", Needed::Sometimes),
];

fn needed_now(program: &Program) -> bool {
    match program.needed {
        Needed::Always => true,
        Needed::OnX86 => std::env::consts::ARCH == "x86_64",
        Needed::AsRoot => nix::unistd::Uid::effective().is_root(),
        Needed::Sometimes => false,
    }
}

/// Installs the packages of the programs that are missing.
pub(super) fn ensure() -> Result<()> {
    let mut packages: Vec<&str> = PROGRAMS
        .iter()
        .filter(|program| needed_now(program) && run::find(program.name).is_none())
        .map(|program| program.package)
        .collect();
    if packages.contains(&"curl") {
        packages.push("ca-certificates");
    }
    if postgres::bin_folder().is_err() {
        packages.push("postgresql");
    }
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    apt::install(&packages)?;
    for program in PROGRAMS.iter().filter(|program| needed_now(program)) {
        if run::find(program.name).is_none() {
            bail!(
                "the package {} is installed, but {} is not on PATH",
                program.package,
                program.name
            );
        }
    }
    Ok(())
}

/// The needed programs and where they are.
pub(super) fn found() -> Vec<(&'static str, PathBuf)> {
    PROGRAMS
        .iter()
        .filter_map(|program| Some((program.name, run::find(program.name)?)))
        .collect()
}

/// The error of a program that is not there.
pub(crate) fn missing(name: &str) -> anyhow::Error {
    match PROGRAMS.iter().find(|program| program.name == name) {
        Some(program) => {
            anyhow!(
                "{name} is not installed; on Debian or Ubuntu: sudo apt-get install {}",
                program.package
            )
        }
        None => anyhow!("{name} is not installed, or not on PATH"),
    }
}
