//! Runs other programs.
//!
//! A program that is not there is an error that names the command that gets it, and one that fails is an error with
//! the end of what it wrote. Programs are also looked for in the `sbin` folders, which a user's `PATH` often lacks.

use std::collections::VecDeque;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};

use crate::show::Progress;
use crate::tools;

/// How many of a failed program's last lines its error shows.
const TAIL: usize = 20;

/// A command for `name`, with the `sbin` folders in its `PATH`.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    let found = find(name.as_ref()).map_or_else(|| name.as_ref().to_owned(), PathBuf::into_os_string);
    let mut command = Command::new(found);
    command.env("PATH", search_path());
    command
}

/// Where `name` is, on `PATH` or in an `sbin` folder.
pub(crate) fn find(name: impl AsRef<Path>) -> Option<PathBuf> {
    let name = name.as_ref();
    if name.components().count() > 1 {
        return name.is_file().then(|| name.to_path_buf());
    }
    env::split_paths(&search_path())
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

fn search_path() -> OsString {
    let mut folders: Vec<PathBuf> = env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default();
    for extra in ["/usr/local/sbin", "/usr/sbin", "/sbin"] {
        if !folders.iter().any(|folder| folder == Path::new(extra)) {
            folders.push(extra.into());
        }
    }
    env::join_paths(folders).unwrap_or_else(|_| env::var_os("PATH").unwrap_or_default())
}

/// Runs to the end and gives what it wrote to its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| start_error(command, error))?;
    if !done.status.success() {
        bail!(failure(
            command,
            done.status,
            &String::from_utf8_lossy(&done.stderr)
        ));
    }
    String::from_utf8(done.stdout).with_context(|| format!("{} wrote no UTF-8", name(command)))
}

/// Runs to the end with this terminal as its own.
pub(crate) fn loud(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| start_error(command, error))?;
    if status.success() {
        Ok(())
    } else {
        Err(anyhow!(failure(command, status, "")))
    }
}

/// Runs to the end and shows its lines as movement.
pub(crate) fn moving(command: &mut Command, progress: &Progress) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| start_error(command, error))?;
    let (sender, lines) = mpsc::channel();
    let streams: [Option<Box<dyn io::Read + Send>>; 2] = [
        child.stdout.take().map(|stream| Box::new(stream) as _),
        child.stderr.take().map(|stream| Box::new(stream) as _),
    ];
    for stream in streams.into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                if sender
                    .send(String::from_utf8_lossy(&line).trim_end().to_owned())
                    .is_err()
                {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut tail = VecDeque::with_capacity(TAIL);
    for line in lines {
        progress.line(&line);
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    let status = child
        .wait()
        .with_context(|| format!("waiting for {}", name(command)))?;
    if status.success() {
        Ok(())
    } else {
        Err(anyhow!(failure(command, status, &Vec::from(tail).join("\n"))))
    }
}

/// The error of a program that did not start, with the command that gets it where it is missing.
pub(crate) fn start_error(command: &Command, error: io::Error) -> anyhow::Error {
    let name = name(command);
    if error.kind() == io::ErrorKind::NotFound {
        tools::missing(&name)
    } else {
        anyhow::Error::new(error).context(format!("starting {name}"))
    }
}

fn name(command: &Command) -> String {
    Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program())
        .to_string_lossy()
        .into_owned()
}

fn failure(command: &Command, status: ExitStatus, said: &str) -> String {
    let said = said.trim();
    let lines: Vec<&str> = said.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
    if tail.is_empty() {
        format!("{} ended with {status}", name(command))
    } else {
        format!("{} ended with {status}:\n{tail}", name(command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_the_command_that_gets_it() {
        let error = output(&mut program("no-such-program")).unwrap_err().to_string();
        assert!(error.contains("no-such-program"), "{error}");
        let error = start_error(&Command::new("qemu-img"), io::ErrorKind::NotFound.into()).to_string();
        assert!(error.contains("apt-get install qemu-utils"), "{error}");
    }

    #[test]
    fn a_failure_shows_the_end_of_what_was_written() {
        let error = output(program("sh").args(["-c", "echo first >&2; echo last >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().ends_with("first\nlast"), "{error}");
    }
}
