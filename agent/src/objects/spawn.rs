//! Starting programs: no shell, a small environment, and for those that need it another user, network namespace and view of the
//! file system.
//!
//! Namespaces belong to a thread on Linux: a fresh thread enters them, starts the program, and ends. So nothing else in the agent
//! is ever in another namespace, and nothing runs between fork and exec that isn't the standard library's.

use crate::driver::StepError;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rhyzome_model::job::ErrorClass;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// Where programs are looked for: an agent started by a service manager may have no `sbin` in its path.
const SEARCH: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// A user that a program runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What a program sees of the machine, where it isn't what the agent sees.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    /// File of a network namespace (`/run/netns/NAME`).
    pub(crate) netns: Option<PathBuf>,
    /// User and group; no further groups.
    pub(crate) identity: Option<Identity>,
    /// Working folder. Entered before the user changes: it may lie where the user can't pass.
    pub(crate) folder: Option<PathBuf>,
    /// A folder that appears to the program as `/tmp`, wherever it lies.
    pub(crate) as_tmp: Option<PathBuf>,
    /// Character devices that the program's user may use though the machine's own nodes don't let it.
    pub(crate) devices: Vec<PathBuf>,
    /// Whether it may gain rights by what it executes (a program that drops its own user needs no more than it has).
    pub(crate) privileges: Privileges,
}

/// Whether a program may gain rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Privileges {
    /// No set-uid bit counts from here on.
    #[default]
    NeverMore,
    /// As the agent's own.
    AsTheAgents,
}

/// A program's file, by its name.
pub(crate) fn find_tool(name: &str) -> Result<PathBuf, StepError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SEARCH.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| fs::metadata(file).is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0))
        .ok_or_else(|| {
            StepError::new(
                ErrorClass::Unavailable,
                "TOOL_MISSING",
                format!("the host lacks the program {name}"),
            )
        })
}

/// A command with nothing of the agent's environment but what programs need.
fn command(program: &Path, args: &[String]) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .env("PATH", SEARCH.join(":"))
        .env("LC_ALL", "C");
    command
}

/// What a started program's standard streams are.
pub(crate) struct Streams {
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
}

impl Streams {
    fn captured(stdin: Stdio) -> Self {
        Self {
            stdin,
            stdout: Stdio::piped(),
            stderr: Stdio::piped(),
        }
    }

    /// Nothing in, nothing out, errors to a file.
    pub(crate) fn errors_to(file: File) -> Self {
        Self {
            stdin: Stdio::null(),
            stdout: Stdio::null(),
            stderr: file.into(),
        }
    }
}

/// What happens to a program when its handle is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenDropped {
    /// It goes on.
    GoesOn,
    /// It is killed.
    Killed,
}

/// Starts a program in its surroundings.
pub(crate) async fn start(
    program: &str,
    args: &[String],
    around: Surroundings,
    streams: Streams,
    when_dropped: WhenDropped,
) -> Result<Child, StepError> {
    let file = find_tool(program)?;
    let mut command = command(&file, args);
    command
        .stdin(streams.stdin)
        .stdout(streams.stdout)
        .stderr(streams.stderr);
    command.kill_on_drop(when_dropped == WhenDropped::Killed);
    if let Some(identity) = around.identity {
        command.uid(identity.uid).gid(identity.gid);
    }
    let runtime = tokio::runtime::Handle::current();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name(format!("start-{program}"))
        .spawn(move || {
            let _context = runtime.enter();
            let started = enter(&around).and_then(|()| command.spawn());
            if let Err(Ok(mut child)) = sender.send(started) {
                tracing::debug!(error = ?child.start_kill(), "nobody waited for a program that was started");
            }
        })
        .map_err(|e| not_started(program, &e))?;
    receiver
        .await
        .map_err(|e| not_started(program, &io::Error::other(e)))?
        .map_err(|e| not_started(program, &e))
}

fn not_started(program: &str, error: &io::Error) -> StepError {
    StepError::new(
        ErrorClass::Unavailable,
        "TOOL_NOT_STARTED",
        format!("the host couldn't start {program}"),
    )
    .inside(error)
}

/// Changes this thread's surroundings; a thread that did that is used for nothing else.
fn enter(around: &Surroundings) -> io::Result<()> {
    unshare(CloneFlags::CLONE_FS)?;
    if let Some(netns) = &around.netns {
        setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
    }
    let blocked: Vec<&PathBuf> = around.devices.iter().filter(|d| !usable_by_all(d)).collect();
    let own_view = around.as_tmp.is_some() || (around.identity.is_some() && !blocked.is_empty());
    if own_view {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_SLAVE,
            None::<&str>,
        )?;
    }
    if let Some(folder) = &around.as_tmp {
        mount(Some(folder), "/tmp", None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    }
    if let Some(folder) = &around.folder {
        nix::unistd::chdir(folder)?;
    }
    if own_view && let Some(identity) = around.identity {
        open_devices(&blocked, identity)?;
    }
    if around.privileges == Privileges::NeverMore {
        nix::sys::prctl::set_no_new_privs()?;
    }
    Ok(())
}

fn usable_by_all(device: &Path) -> bool {
    fs::metadata(device).is_ok_and(|m| m.mode() & 0o006 == 0o006)
}

/// Puts nodes of the same devices, owned by the program's user, over the machine's own, in this thread's view alone.
fn open_devices(devices: &[&PathBuf], identity: Identity) -> io::Result<()> {
    let stage = Path::new("/dev/shm");
    if devices.is_empty() {
        return Ok(());
    }
    mount(
        Some("rhyzome"),
        stage,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        Some("mode=755,size=64k"),
    )?;
    for (i, device) in devices.iter().enumerate() {
        let Ok(meta) = fs::metadata(device) else { continue };
        let node = stage.join(i.to_string());
        let number = makedev(
            nix::sys::stat::major(meta.rdev()),
            nix::sys::stat::minor(meta.rdev()),
        );
        mknod(&node, SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), number)?;
        fs::set_permissions(&node, Permissions::from_mode(0o600))?;
        std::os::unix::fs::chown(&node, Some(identity.uid), Some(identity.gid))?;
        mount(
            Some(&node),
            device.as_path(),
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
    }
    Ok(())
}

/// Runs a program to its end and gives what it wrote; `within` is how long it may take.
pub(crate) async fn run(
    program: &str,
    args: &[String],
    input: Option<Vec<u8>>,
    around: Surroundings,
    within: Duration,
) -> Result<Output, StepError> {
    let stdin = if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    };
    let mut child = start(
        program,
        args,
        around,
        Streams::captured(stdin),
        WhenDropped::Killed,
    )
    .await?;
    let pipe = child.stdin.take();
    let talk = async {
        if let (Some(mut pipe), Some(input)) = (pipe, input) {
            // A program that ends before it read all says why by its own error.
            let written = pipe.write_all(&input).await;
            tracing::trace!(?written, program, "input given");
        }
        child.wait_with_output().await
    };
    match tokio::time::timeout(within, talk).await {
        Ok(output) => output.map_err(|e| not_started(program, &e)),
        Err(_) => Err(StepError::new(
            ErrorClass::Unavailable,
            "TOOL_TIMEOUT",
            format!(
                "{program} took longer than {} seconds on the host",
                within.as_secs()
            ),
        )),
    }
}

/// Runs a program that must succeed; what it wrote.
pub(crate) async fn must(
    program: &str,
    args: &[String],
    input: Option<Vec<u8>>,
    around: Surroundings,
    within: Duration,
) -> Result<Vec<u8>, StepError> {
    let output = run(program, args, input, around, within).await?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(StepError::new(
        ErrorClass::Unavailable,
        "TOOL_FAILED",
        format!("{program} didn't work on the host"),
    )
    .inside(format_args!(
        "{program} {}: {}: {}",
        args.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

/// Does a piece of work on a thread inside a network namespace (its part of `/proc/sys/net`).
pub(crate) async fn inside<T: Send + 'static>(
    netns: PathBuf,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || {
            let around = Surroundings {
                netns: Some(netns),
                privileges: Privileges::AsTheAgents,
                ..Surroundings::default()
            };
            if sender.send(enter(&around).and_then(|()| work())).is_err() {
                tracing::debug!("nobody waited for work in a namespace");
            }
        })?;
    receiver.await.map_err(io::Error::other)?
}

/// Strings of anything that can be shown, for arguments.
macro_rules! argv {
    ($($arg:expr),* $(,)?) => { vec![$($arg.to_string()),*] };
}
pub(crate) use argv;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_program_wrote_is_given_and_its_failure_is_an_error() {
        let second = Duration::from_secs(10);
        let out = must(
            "cat",
            &[],
            Some(b"hello".to_vec()),
            Surroundings::default(),
            second,
        )
        .await
        .unwrap();
        assert_eq!(out, b"hello");
        let error = must("false", &[], None, Surroundings::default(), second)
            .await
            .unwrap_err();
        assert_eq!(error.code, "TOOL_FAILED");
        let error = must("no-such-program-here", &[], None, Surroundings::default(), second)
            .await
            .unwrap_err();
        assert_eq!(error.code, "TOOL_MISSING");
    }

    #[tokio::test]
    async fn the_working_folder_is_the_programs_alone() {
        let dir = tempfile::tempdir().unwrap();
        let around = Surroundings {
            folder: Some(dir.path().to_owned()),
            ..Surroundings::default()
        };
        let before = std::env::current_dir().unwrap();
        let out = must("pwd", &[], None, around, Duration::from_secs(10))
            .await
            .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap().trim(),
            dir.path().canonicalize().unwrap().to_str().unwrap()
        );
        assert_eq!(std::env::current_dir().unwrap(), before);
    }
}
