//! Stacks that many tests share, across test binaries too: starting one takes seconds, and most tests need no more than names of their own.
//!
//! Under `cargo test` and `cargo nextest` the run's stacks belong to cargo, the parent of all test processes, and end with it; a test binary
//! that was started by hand has stacks of its own. The first test that needs one starts it, the others wait at a lock meanwhile.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::fcntl::{Flock, FlockArg};

use super::{Ending, Options, Stack, down_command};
use crate::{guard, logs};

static STARTING: Mutex<()> = Mutex::new(());

impl Stack {
    /// The stack for tests that break nothing: three simulated hosts that stay as they are.
    ///
    /// # Panics
    /// Where it can't be started.
    pub fn shared() -> Self {
        // A test may add a host that isn't there, or ends before it is removed.
        Self::shared_as("calm", Options::simulated(3).expecting(&["watch broke off"]))
    }

    /// The stack for tests that bring hosts of their own, with faults of their own, and keep away from the others by a label.
    ///
    /// # Panics
    /// Where it can't be started.
    pub fn shared_for_hosts() -> Self {
        let options = Options::simulated(1).set("nats.ack_wait", "3s");
        // Each test's agent goes with it.
        Self::shared_as("hosts", options.expecting(&["watch broke off"]))
    }

    fn shared_as(name: &str, options: Options) -> Self {
        let owner = owner();
        let folder = std::env::temp_dir().join(format!("rz-{name}-{owner}"));
        let _here = STARTING.lock();
        let _everywhere = lock(&folder.with_extension("lock"));
        let mut stack = Self {
            folder,
            options,
            ending: Ending::WithTheRun,
            begun: logs::Lengths::default(),
        };
        if !stack.folder.join("up").is_file() {
            start(&stack, owner);
        }
        let folder = stack.data().join("logs");
        stack.begun = match logs::lengths(&folder) {
            Ok(lengths) => lengths,
            Err(error) => panic!("reading {}: {error}", folder.display()),
        };
        stack
    }
}

fn start(stack: &Stack, owner: u32) {
    guard::kill_marked(&stack.folder);
    // What a run before with the same process id left.
    let _ = std::fs::remove_dir_all(&stack.folder);
    if let Err(error) = make(&stack.folder) {
        panic!("making {}: {error}", stack.folder.display());
    }
    guard::watch(&stack.folder, owner, &down_command(&stack.folder));
    stack.up();
    if let Err(error) = std::fs::write(stack.folder.join("up"), "") {
        panic!("writing into {}: {error}", stack.folder.display());
    }
}

/// Other users may enter: Postgres doesn't run as root.
fn make(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
}

fn lock(path: &PathBuf) -> Flock<File> {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path);
    match file {
        Ok(file) => match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => lock,
            Err((_, error)) => panic!("locking {}: {error}", path.display()),
        },
        Err(error) => panic!("opening {}: {error}", path.display()),
    }
}

/// The process whose end is the end of the run.
fn owner() -> u32 {
    let parent = std::os::unix::process::parent_id();
    let name = std::fs::read_to_string(format!("/proc/{parent}/comm")).unwrap_or_default();
    if name.trim_end().starts_with("cargo") {
        parent
    } else {
        std::process::id()
    }
}
