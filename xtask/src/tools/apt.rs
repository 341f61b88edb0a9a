//! Debian and Ubuntu packages: installing them, and unpacking one into the cache without installing it.
//!
//! An install never removes a package. Where the plain request cannot be met because packages of the same source are
//! installed at another version (backports, say), they are asked for at the distribution's version, all together.

use std::fs;
use std::io::{IsTerminal, stdin};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::Uid;

use crate::show::{Progress, say};
use crate::{fetch, paths, run};

/// Read when PostgreSQL's server packages are installed; they would make and start a cluster otherwise.
const CREATE_CLUSTER: &str = "/etc/postgresql-common/createcluster.conf";

/// How a command becomes root's.
#[derive(Debug, Clone, Copy)]
enum Root {
    Already,
    Sudo,
}

/// A package that `apt-get download` can get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archive {
    /// The file's name, which bears the version.
    pub(crate) file: String,
    /// SHA-256 in hexadecimal, from the distribution's signed index.
    sha256: Option<String>,
}

/// Installs `packages`.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let by_hand = format!(
        "sudo apt-get update && sudo apt-get install -y {}",
        packages.join(" ")
    );
    if run::find("apt-get").is_none() {
        bail!(
            "missing here: {}. These are the names of Debian packages; install what holds the same programs",
            packages.join(", ")
        );
    }
    let root = become_root()
        .ok_or_else(|| anyhow!("missing here: {}. Get it with:\n  {by_hand}", packages.join(", ")))?;
    update(root)?;
    let (postgres, others): (Vec<&str>, Vec<&str>) =
        packages.iter().partition(|package| **package == "postgresql");
    if !others.is_empty() {
        install_resolved(root, &others).with_context(|| format!("by hand: {by_hand}"))?;
    }
    if !postgres.is_empty() {
        install_postgres(root).with_context(|| format!("by hand: {by_hand}"))?;
    }
    Ok(())
}

fn become_root() -> Option<Root> {
    if Uid::effective().is_root() {
        return Some(Root::Already);
    }
    run::find("sudo")?;
    if run::output(run::program("sudo").args(["-n", "true"])).is_ok() {
        return Some(Root::Sudo);
    }
    if !stdin().is_terminal() {
        return None;
    }
    say("Packages have to be installed; sudo asks for your password.");
    run::loud(run::program("sudo").arg("-v"))
        .is_ok()
        .then_some(Root::Sudo)
}

fn as_root(root: Root, program: &str) -> Command {
    match root {
        Root::Already => run::program(program),
        Root::Sudo => {
            let mut command = run::program("sudo");
            command.args(["-n", program]);
            command
        }
    }
}

fn apt_get(root: Root) -> Command {
    let mut command = as_root(root, "env");
    command.args([
        "DEBIAN_FRONTEND=noninteractive",
        "LC_ALL=C.UTF-8",
        "apt-get",
        "-o",
        "DPkg::Lock::Timeout=300",
    ]);
    command
}

fn update(root: Root) -> Result<()> {
    let progress = Progress::start("reading the package lists");
    run::moving(apt_get(root).arg("update"), &progress)?;
    progress.done("done");
    Ok(())
}

fn install_resolved(root: Root, packages: &[&str]) -> Result<()> {
    let progress = Progress::start(format!("installing {}", packages.join(" ")));
    let plain: Vec<String> = packages.iter().map(|package| (*package).to_owned()).collect();
    if let Err(refused) = run::moving(&mut install_command(root, &plain), &progress) {
        let Some(request) = with_siblings(packages)? else {
            return Err(refused);
        };
        progress.line("not possible as it is; asking for the distribution's versions together");
        run::moving(&mut install_command(root, &request), &progress)?;
    }
    progress.done("done");
    Ok(())
}

fn install_command(root: Root, request: &[String]) -> Command {
    let mut command = apt_get(root);
    command
        .args([
            "install",
            "-y",
            "--no-install-recommends",
            "--no-remove",
            "--allow-downgrades",
        ])
        .args(request);
    command
}

/// The request in which every package of the same source is asked for at one version; none, where that is no change.
fn with_siblings(packages: &[&str]) -> Result<Option<Vec<String>>> {
    let installed = run::output(run::program("dpkg-query").args([
        "-W",
        "-f",
        "${db:Status-Status}\t${source:Package}\t${Package}\t${Version}\n",
    ]))?;
    let mut request = Vec::new();
    let mut changed = false;
    for package in packages {
        let shown = run::output(run::program("apt-cache").args(["show", "--no-all-versions", package]))?;
        let (Some(version), source) = (
            field(&shown, "Version"),
            field(&shown, "Source").unwrap_or(package),
        ) else {
            request.push((*package).to_owned());
            continue;
        };
        let source = source.split(' ').next().unwrap_or(source);
        request.push(format!("{package}={version}"));
        for sibling in siblings(&installed, source, version) {
            let offered = run::output(run::program("apt-cache").args(["madison", sibling]))?;
            if offers(&offered, version) {
                request.push(format!("{sibling}={version}"));
                changed = true;
            }
        }
    }
    Ok(changed.then_some(request))
}

/// Installed packages of `source` at another version than `version`.
fn siblings<'a>(installed: &'a str, source: &str, version: &str) -> Vec<&'a str> {
    installed
        .lines()
        .filter_map(|line| {
            let mut columns = line.split('\t');
            let row = (columns.next()?, columns.next()?, columns.next()?, columns.next()?);
            (row.0 == "installed" && row.1 == source && row.3 != version).then_some(row.2)
        })
        .collect()
}

/// Whether `apt-cache madison`'s answer has `version`.
fn offers(madison: &str, version: &str) -> bool {
    madison.lines().any(|line| {
        line.split('|')
            .nth(1)
            .is_some_and(|column| column.trim() == version)
    })
}

/// The first value of `name` in a package's record.
fn field<'a>(record: &'a str, name: &str) -> Option<&'a str> {
    record
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}

/// The server's programs only: no cluster is made or started, and the setting that says so is put back.
fn install_postgres(root: Root) -> Result<()> {
    install_resolved(root, &["postgresql-common"])?;
    let before = fs::read_to_string(CREATE_CLUSTER).unwrap_or_default();
    let scratch = paths::cache_folder("work")?.join("createcluster.conf");
    let put = |text: &str| -> Result<()> {
        fs::write(&scratch, text).with_context(|| format!("writing {}", scratch.display()))?;
        run::output(as_root(root, "cp").arg(&scratch).arg(CREATE_CLUSTER)).map(drop)
    };
    put(&format!("{before}\ncreate_main_cluster = false\n"))?;
    let installed = install_resolved(root, &["postgresql"]);
    put(&before)?;
    installed
}

/// The archive that `package` would be got from. Reads the package lists first where they are missing.
pub(crate) fn archive(package: &str) -> Result<Archive> {
    if let Ok(archive) = print_uris(package) {
        return Ok(archive);
    }
    refresh()?;
    print_uris(package)
}

/// Reads the package lists anew.
pub(crate) fn refresh() -> Result<()> {
    let root =
        become_root().context("the package lists are missing or old; get them with: sudo apt-get update")?;
    update(root)
}

fn print_uris(package: &str) -> Result<Archive> {
    let said = run::output(run::program("apt-get").args(["download", "--print-uris", package]))
        .with_context(|| format!("asking where the package {package} is"))?;
    parse_uris(&said).with_context(|| format!("apt-get names no archive for {package}: {said}"))
}

/// Reads `'URL' FILE SIZE HASH`, as apt-get's manual describes `--print-uris`.
fn parse_uris(said: &str) -> Option<Archive> {
    let line = said.lines().find(|line| line.starts_with('\''))?;
    let mut columns = line.split(' ').skip(1);
    let file = columns.next()?.to_owned();
    let sha256 = columns
        .nth(1)
        .and_then(|hash| hash.strip_prefix("SHA256:"))
        .map(str::to_owned);
    Some(Archive { file, sha256 })
}

/// Unpacks `package` into a folder of the cache, and gives the folder. Nothing is installed.
pub(crate) fn unpacked(package: &str, archive: &Archive) -> Result<PathBuf> {
    let downloads = paths::cache_folder("downloads")?;
    let folder = paths::cache_folder("unpacked")?.join(archive.file.trim_end_matches(".deb"));
    if folder.is_dir() {
        return Ok(folder);
    }
    let path = downloads.join(&archive.file);
    if !is_whole(&path, archive)? {
        let progress = Progress::start(format!("downloading {}", archive.file));
        // Root's apt drops to a user of its own, who may not write here.
        run::moving(
            run::program("apt-get")
                .args(["-o", "APT::Sandbox::User=root", "download", package])
                .current_dir(&downloads),
            &progress,
        )?;
        progress.done("done");
    }
    let partial = folder.with_extension("partial");
    if partial.is_dir() {
        fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))?;
    }
    run::output(run::program("dpkg-deb").arg("-x").arg(&path).arg(&partial))?;
    fs::rename(&partial, &folder).with_context(|| format!("keeping {}", folder.display()))?;
    Ok(folder)
}

fn is_whole(path: &Path, archive: &Archive) -> Result<bool> {
    match &archive.sha256 {
        Some(expected) if path.is_file() => Ok(fetch::sha256_of(path)? == *expected),
        Some(_) | None => Ok(false),
    }
}

/// What `package` depends on, without versions; nothing for a package that the lists don't have.
pub(crate) fn depends(package: &str) -> Result<Vec<String>> {
    let known = run::output(run::program("apt-cache").args(["pkgnames", package]))?;
    if !known.lines().any(|name| name == package) {
        return Ok(Vec::new());
    }
    let shown = run::output(run::program("apt-cache").args(["show", "--no-all-versions", package]))?;
    Ok(parse_depends(&shown))
}

fn parse_depends(record: &str) -> Vec<String> {
    field(record, "Depends")
        .unwrap_or_default()
        .split([',', '|'])
        .filter_map(|one| one.split_whitespace().next().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_are_the_installed_packages_of_the_source_at_another_version() {
        let installed = "installed\tqemu\tqemu-utils\t1:10\ninstalled\tqemu\tqemu-block-extra\t1:7\n\
                         config-files\tqemu\tqemu-guest-agent\t1:9\ninstalled\tbash\tbash\t5\n";
        assert_eq!(siblings(installed, "qemu", "1:7"), ["qemu-utils"]);
    }

    #[test]
    fn madison_is_read_by_column() {
        let madison = " qemu-utils | 1:7.2+b3 | http://deb.debian.org/debian bookworm/main amd64 Packages\n";
        assert!(offers(madison, "1:7.2+b3"));
        assert!(!offers(madison, "1:7.2"));
    }

    #[test]
    fn uris_give_the_file_and_its_digest() {
        let said = "'http://deb.debian.org/x/busybox-static_1%3a1.35_amd64.deb' busybox-static_1%3a1.35_amd64.deb 9 SHA256:ab\n";
        let archive = parse_uris(said).unwrap();
        assert_eq!(archive.file, "busybox-static_1%3a1.35_amd64.deb");
        assert_eq!(archive.sha256.as_deref(), Some("ab"));
    }

    #[test]
    fn dependencies_lose_their_versions() {
        let record = "Package: linux-image-cloud-amd64\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), a | b\n";
        assert_eq!(
            parse_depends(record),
            ["linux-image-6.1.0-56-cloud-amd64", "a", "b"]
        );
    }
}
