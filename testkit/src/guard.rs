//! Ends what a test process started, however that ends: by the end of its last test, a panic, or SIGKILL.
//!
//! A guard is a process of its own that waits until its owner is gone, runs a last command, kills whatever still bears the owner's mark (an
//! environment variable that children inherit) or names its folder, and removes the folder. It is a shell script, since a test process has
//! no code that surely runs at its end.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The environment variable that marks what belongs to a folder; its value is the folder.
pub const MARK: &str = "TESTKIT_FOLDER";

/// Set to anything, folders of tests are left for whoever wants to look at the logs.
const KEEP: &str = "TESTKIT_KEEP";

const SCRIPT: &str = r#"
while [ -d "$GUARDED" ] && kill -0 "$OWNER" 2>/dev/null; do sleep 0.2; done
[ -d "$GUARDED" ] || exit 0
"$@" >>"$GUARDED/guard.log" 2>&1
for process in /proc/[0-9]*; do
  pid=${process#/proc/}
  [ "$pid" = "$$" ] && continue
  if tr '\0' '\n' <"$process/environ" 2>/dev/null | grep -qx "$WORD=$GUARDED" ||
     tr '\0' '\n' <"$process/cmdline" 2>/dev/null | grep -qF "$GUARDED/" ||
     readlink "$process/cwd" | grep -qF "$GUARDED/" ||
     { grep -qx dnsmasq "$process/comm" && grep -qF "$GUARDED/" "$process/mountinfo"; } 2>/dev/null; then
    kill -9 "$pid" 2>/dev/null
  fi
done
rm -f "$GUARDED.lock"
[ -n "$LEFT" ] || rm -rf "$GUARDED"
"#;

/// Whether folders are kept.
pub fn keeps() -> bool {
    std::env::var_os(KEEP).is_some()
}

/// Makes a folder with a short name (Unix sockets have paths of at most 107 bytes) that other users may enter, as Postgres does.
///
/// # Panics
/// Where the temporary folder can't be written.
pub fn folder(prefix: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let made = tempfile::Builder::new()
        .prefix(prefix)
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir();
    match made {
        Ok(folder) => folder.keep(),
        Err(error) => panic!("making a temporary folder: {error}"),
    }
}

/// Starts a guard over `folder` that waits for the end of `owner`, and then runs `last`.
///
/// # Panics
/// Where no shell can be started.
pub fn watch(folder: &Path, owner: u32, last: &[OsString]) {
    let mut command = Command::new("sh");
    command.arg("-c").arg(SCRIPT).arg("guard");
    if last.is_empty() {
        command.arg("true");
    } else {
        command.args(last);
    }
    command
        .env("GUARDED", folder)
        .env("OWNER", owner.to_string())
        .env("WORD", MARK)
        .env("LEFT", if keeps() { "1" } else { "" })
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    if let Err(error) = command.spawn() {
        panic!("starting sh: {error}");
    }
}

/// A process that belongs to a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// Its id.
    pub pid: i32,
    /// Its program and arguments, with spaces between.
    pub command: String,
}

/// All processes that bear the folder's mark, name a file in it or work in it; never the caller's own, nor one that has ended and waits to be collected.
pub fn marked(folder: &Path) -> Vec<Marked> {
    let mark = format!("{MARK}={}", folder.display()).into_bytes();
    let inside = format!("{}/", folder.display());
    let own = std::process::id().cast_signed();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command)
                .replace('\0', " ")
                .trim()
                .to_owned();
            let belongs = bears(&entry.path(), &mark)
                || command.contains(&inside)
                || works_in(&entry.path(), folder)
                || serves_in(&entry.path(), &inside);
            (pid != own && !command.is_empty() && !command.starts_with("sh -c") && belongs)
                .then_some(Marked { pid, command })
        })
        .collect()
}

fn bears(process: &Path, mark: &[u8]) -> bool {
    let environment = std::fs::read(process.join("environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|entry| entry == mark)
}

/// A guest has a clean environment and names its files from the folder that it works in.
fn works_in(process: &Path, folder: &Path) -> bool {
    std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
}

/// A network's dnsmasq sees nothing but mounts of the folder's files.
fn serves_in(process: &Path, inside: &str) -> bool {
    let read = |name: &str| std::fs::read_to_string(process.join(name)).unwrap_or_default();
    read("comm").trim_end() == "dnsmasq" && read("mountinfo").contains(inside)
}

/// SIGKILL to all that belongs to the folder, until nothing is left.
pub fn kill_marked(folder: &Path) {
    for _ in 0..100 {
        let left = marked(folder);
        if left.is_empty() {
            return;
        }
        for process in left {
            // It may have ended by itself meanwhile.
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
