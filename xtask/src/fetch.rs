//! Downloads by `curl`, checked by SHA-256.
//!
//! A file is in the cache only whole and with the digest that was asked for; certificates and proxies are those that
//! `curl` is configured with.

use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::run;
use crate::show::Progress;

/// A page's text.
pub(crate) fn text(url: &str) -> Result<String> {
    run::output(run::program("curl").args(["-fsSL", "--retry", "3", "--max-time", "60", url]))
        .with_context(|| format!("reading {url}"))
}

/// Downloads `url` to `path`, unless a file with the digest is there.
pub(crate) fn file(url: &str, path: &Path, sha256: &str) -> Result<()> {
    if path.is_file() && sha256_of(path)? == sha256 {
        return Ok(());
    }
    let partial = path.with_extension("partial");
    let progress = Progress::start(format!("downloading {}", url.rsplit('/').next().unwrap_or(url)));
    run::moving(
        run::program("curl")
            .args(["-fsSL", "--retry", "3", "--connect-timeout", "20", "-o"])
            .arg(&partial)
            .arg(url),
        &progress,
    )
    .with_context(|| format!("downloading {url}"))?;
    let found = sha256_of(&partial)?;
    if found != sha256 {
        fs::remove_file(&partial).context("removing a download with a wrong digest")?;
        bail!("{url} has the SHA-256 {found}, not {sha256}");
    }
    fs::rename(&partial, path).with_context(|| format!("keeping {}", path.display()))?;
    progress.done("done");
    Ok(())
}

/// A file's SHA-256, in lower-case hexadecimal.
pub(crate) fn sha256_of(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file
            .read(&mut buffer)
            .with_context(|| format!("reading {}", path.display()))?;
        if read == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

/// Bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value & 15)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(*byte)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        fs::write(&path, "abc").unwrap();
        assert_eq!(
            sha256_of(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
