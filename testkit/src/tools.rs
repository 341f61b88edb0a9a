//! Where a test finds the programs and files that it needs: the environment that `cargo xtask test` sets, else the usual places.
//!
//! What is missing ends the test with a sentence that names the command which gets it.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// How whoever reads the panic gets what is missing.
const HOW: &str = "`cargo xtask test` gets and builds all that the tests need, and tells them where it is";

/// The built `rhyzome`: `RHYZOME_BIN`, else beside the folder that the test itself was built into.
pub fn binary() -> PathBuf {
    given("RHYZOME_BIN")
        .or_else(|| {
            let test = env::current_exe().ok()?;
            test.ancestors()
                .skip(1)
                .take(2)
                .map(|folder| folder.join("rhyzome"))
                .find(|path| path.is_file())
        })
        .unwrap_or_else(|| missing("the binary rhyzome", "RHYZOME_BIN"))
}

/// The program nats-server: `RHYZOME_NATS_SERVER`, else on PATH.
pub fn nats_server() -> PathBuf {
    given("RHYZOME_NATS_SERVER")
        .or_else(|| on_path("nats-server"))
        .or_else(newest_cached_nats)
        .unwrap_or_else(|| missing("nats-server", "RHYZOME_NATS_SERVER"))
}

/// The folder with `initdb` and `postgres`: `RHYZOME_POSTGRES_BIN`, else Debian's place, else where PATH has it.
pub fn postgres_bin() -> PathBuf {
    given("RHYZOME_POSTGRES_BIN")
        .or_else(|| {
            let versions = children(Path::new("/usr/lib/postgresql"));
            versions
                .into_iter()
                .map(|version| version.join("bin"))
                .rfind(|bin| bin.join("initdb").is_file())
        })
        .or_else(|| on_path("initdb").and_then(|initdb| initdb.parent().map(Path::to_path_buf)))
        .unwrap_or_else(|| missing("PostgreSQL's programs (initdb)", "RHYZOME_POSTGRES_BIN"))
}

/// The operator's folder of images, with `tiny.qcow2` in it: `RHYZOME_IMAGE_DIR`, else the user's cache.
pub fn image_dir() -> PathBuf {
    image_dir_if_any().unwrap_or_else(|| missing("the image tiny.qcow2", "RHYZOME_IMAGE_DIR"))
}

/// As [`image_dir`], for tests that do without.
pub fn image_dir_if_any() -> Option<PathBuf> {
    given("RHYZOME_IMAGE_DIR")
        .or_else(|| cache().map(|cache| cache.join("images")))
        .filter(|folder| folder.join("tiny.qcow2").is_file())
}

/// Why no real guest can be tried here, if so.
pub fn why_no_guests() -> Option<&'static str> {
    if env::var_os("RHYZOME_SKIP_REAL").is_some() {
        Some("RHYZOME_SKIP_REAL is set")
    } else if !nix::unistd::Uid::effective().is_root() {
        Some("not root")
    } else if image_dir_if_any().is_none() {
        Some("there is no image tiny.qcow2")
    } else {
        None
    }
}

fn given(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// A program on PATH.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// The user's cache, as `xtask` has it; what is downloaded once is kept there.
pub fn cache() -> Option<PathBuf> {
    given("XDG_CACHE_HOME")
        .or_else(|| given("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("rhyzome"))
}

fn newest_cached_nats() -> Option<PathBuf> {
    children(&cache()?.join("tools"))
        .into_iter()
        .filter(|folder| {
            folder
                .file_name()
                .and_then(OsStr::to_str)
                .is_some_and(|name| name.starts_with("nats-server"))
        })
        .map(|folder| folder.join("nats-server"))
        .rfind(|program| program.is_file())
}

/// What is in a folder, by name; nothing where there is none.
fn children(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    found.sort();
    found
}

fn missing(what: &str, variable: &str) -> ! {
    panic!("{what} is not here, and {variable} doesn't say where it is: {HOW}")
}
