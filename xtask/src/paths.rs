//! Where things are: the workspace, its target folder, and the cache of what was downloaded and built.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::run;

/// The workspace's root folder.
pub(crate) fn workspace() -> Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_path_buf)
        .context("xtask's folder has no parent")
}

/// `cargo`, run in the workspace's root.
///
/// It doesn't inherit what the cargo that runs this program says of this package: ring's build script looks at these variables,
/// and half of the workspace would be built anew whenever builds with and without `xtask` take turns.
pub(crate) fn cargo() -> Result<Command> {
    let mut command = run::program(env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    command.current_dir(workspace()?);
    for (name, _) in env::vars_os() {
        let of_package = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_")
                || name.starts_with("CARGO_MANIFEST_")
                || name.starts_with("CARGO_BIN_")
        });
        if of_package {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// Cargo's target folder, as configured.
pub(crate) fn target() -> Result<PathBuf> {
    let text = run::output(cargo()?.args(["metadata", "--no-deps", "--format-version", "1", "--locked"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("reading cargo's metadata")?;
    metadata["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .ok_or_else(|| anyhow!("cargo's metadata name no target folder"))
}

/// The folder of what is downloaded and built once per user: `$XDG_CACHE_HOME/rhyzome`, or `~/.cache/rhyzome`.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|value| Path::new(value).is_absolute()) {
        Some(folder) => PathBuf::from(folder),
        None => env::home_dir()
            .context("neither XDG_CACHE_HOME nor a home folder is set")?
            .join(".cache"),
    };
    Ok(base.join("rhyzome"))
}

/// A folder of the cache, made if it is not there.
pub(crate) fn cache_folder(name: &str) -> Result<PathBuf> {
    let folder = cache()?.join(name);
    std::fs::create_dir_all(&folder).with_context(|| format!("making the folder {}", folder.display()))?;
    Ok(folder)
}
