//! A private PostgreSQL for one task: its own data, a Unix socket in a folder of its own, no network.
//!
//! It ends, and its data go, when the value is dropped. `initdb` refuses root, so root runs it as another user.

use std::env;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result, anyhow};
use nix::unistd::{Uid, User};

use crate::run;
use crate::show::{Progress, say};

/// A running server.
pub(crate) struct PrivatePostgres {
    bin: PathBuf,
    folder: PathBuf,
    user: Option<User>,
}

impl PrivatePostgres {
    /// Makes and starts a server with the programs in `bin`, and a database `rhyzome` in it.
    pub(crate) fn start(bin: &Path) -> Result<Self> {
        let progress = Progress::start("starting a private PostgreSQL");
        let folder = env::temp_dir().join(format!("rhyzome-postgres-{}", process::id()));
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))
            .context("closing the server's folder")?;
        let server = Self {
            bin: bin.to_path_buf(),
            folder,
            user: other_than_root()?,
        };
        if let Some(user) = &server.user {
            chown(&server.folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .with_context(|| format!("giving the server's folder to {}", user.name))?;
        }
        run::output(server.program("initdb").args(["-D"]).arg(server.data()).args([
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]))?;
        let settings = format!(
            "-c listen_addresses= -c fsync=off -c unix_socket_directories={}",
            server.folder.display()
        );
        // The server keeps its standard output open: a pipe would never end.
        run::loud(
            server
                .program("pg_ctl")
                .args(["start", "--wait", "--silent", "-o", &settings, "-l"])
                .arg(server.folder.join("log"))
                .arg("-D")
                .arg(server.data()),
        )?;
        run::output(
            server
                .program("createdb")
                .args(["-U", "postgres", "-h"])
                .arg(&server.folder)
                .arg("rhyzome"),
        )?;
        progress.done("done");
        Ok(server)
    }

    /// How sqlx reaches the database.
    pub(crate) fn url(&self) -> String {
        format!(
            "postgres://postgres@localhost/rhyzome?host={}",
            self.folder.display()
        )
    }

    /// Runs the statements of a file.
    pub(crate) fn run_file(&self, path: &Path) -> Result<()> {
        let text = fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let done = self
            .program("psql")
            .args([
                "-q",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                "postgres",
                "-d",
                "rhyzome",
                "-h",
            ])
            .arg(&self.folder)
            .stdin(text)
            .output()
            .context("starting psql")?;
        if done.status.success() {
            Ok(())
        } else {
            Err(anyhow!(
                "{}: {}",
                path.display(),
                String::from_utf8_lossy(&done.stderr).trim()
            ))
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = run::program(self.bin.join(name));
        command.current_dir(&self.folder);
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        let data = self.data();
        if data.join("postmaster.pid").exists()
            && let Err(error) = run::output(
                self.program("pg_ctl")
                    .args(["stop", "--wait", "-m", "immediate", "-D"])
                    .arg(&data),
            )
        {
            say(format!(
                "the private PostgreSQL in {} did not stop: {error:#}",
                data.display()
            ));
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            say(format!("{} could not be removed: {error}", self.folder.display()));
        }
    }
}

/// The user who runs the server where this process is root's.
fn other_than_root() -> Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name).with_context(|| format!("looking up the user {name}"))? {
            return Ok(Some(user));
        }
    }
    Err(anyhow!(
        "PostgreSQL does not run as root, and there is no user postgres or nobody"
    ))
}
