//! The stack's own Postgres: a private cluster, on a Unix socket and a free port of loopback, with a password from a file.
//!
//! `initdb` and `postgres` refuse root, so that they run as `postgres` or `nobody` where this process is root's. That user must reach
//! the cluster: where the data folder lies behind closed doors (as under `/root`) it is kept in `/var/tmp`, with a link in its place. There
//! anybody may put things: what isn't ours alone is refused ([`private`]).

mod former;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::{Uid, User};
use rand::Rng;
use rand::distr::Alphanumeric;
use tokio::process::Command;

use super::layout::{Layout, remove};
use super::private;

/// The database and its owner.
pub(crate) const NAME: &str = "rhyzome";
/// A socket's path must fit into 108 bytes (unix(7)); `/.s.PGSQL.65535.lock` comes after.
const SOCKET_FOLDER_MAX: usize = 80;

/// Where the programs are and as whom they run.
#[derive(Debug, Clone)]
pub(crate) struct Postgres {
    bin: PathBuf,
    home: PathBuf,
    sockets: PathBuf,
    user: Option<User>,
}

impl Postgres {
    /// Finds programs and user; makes nothing.
    pub(crate) fn find(layout: &Layout, bin: Option<&Path>) -> Result<Self> {
        let bin = match bin {
            Some(bin) => bin.to_owned(),
            None => newest_bin()?,
        };
        for program in ["initdb", "postgres", "createdb", "pg_isready"] {
            if !bin.join(program).is_file() {
                bail!(
                    "there is no {program} in {}: `apt-get install postgresql` gets it, --postgres-bin says where it is",
                    bin.display()
                );
            }
        }
        let user = other_than_root()?;
        let home = home(layout, user.as_ref())?;
        let sockets = if home.as_os_str().len() <= SOCKET_FOLDER_MAX {
            home.clone()
        } else {
            std::env::temp_dir().join(format!("rhyzome-{}", layout.tag()))
        };
        Ok(Self {
            bin,
            home,
            sockets,
            user,
        })
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// Makes the cluster if there is none.
    pub(crate) async fn ensure(&self, layout: &Layout) -> Result<()> {
        for folder in [&self.home, &self.sockets] {
            private::folder(folder, self.user.as_ref())?;
        }
        let link = layout.postgres();
        if link != self.home && !link.is_symlink() {
            symlink(&self.home, &link).with_context(|| format!("making the link {}", link.display()))?;
        }
        if self.data().join("PG_VERSION").is_file() && layout.password().is_file() {
            return Ok(());
        }
        remove(&self.data())?;
        let password: String = rand::rng()
            .sample_iter(Alphanumeric)
            .take(32)
            .map(char::from)
            .collect();
        let for_initdb = self.home.join("password.tmp");
        // Of a start that was broken off.
        remove(&for_initdb)?;
        private::file(&for_initdb, &password, self.user.as_ref())?;
        let mut initdb = self.command("initdb", "SIGKILL", &[])?;
        initdb
            .arg("-D")
            .arg(self.data())
            .args([
                "-U",
                NAME,
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--pwfile",
            ])
            .arg(&for_initdb);
        let made = run(&mut initdb, "initdb").await;
        remove(&for_initdb)?;
        made?;
        write_secret(&layout.password(), &password)
    }

    /// The server on a port.
    pub(crate) async fn server(&self, port: u16) -> Result<Command> {
        former::wait_for_former(&self.data()).await?;
        remove_stale_socket(&self.sockets, port)?;
        let mut settings: Vec<OsString> = Vec::new();
        for setting in [
            "listen_addresses=127.0.0.1",
            "max_connections=200",
            "shared_buffers=64MB",
            "wal_level=minimal",
            "max_wal_senders=0",
            "max_wal_size=2GB",
            "checkpoint_timeout=15min",
            "jit=off",
            "log_min_duration_statement=2000",
            // What is bound to a statement is users' own: their `user_data`, the replies to their requests.
            "log_parameter_max_length=0",
            "log_parameter_max_length_on_error=0",
        ] {
            settings.extend(["-c".into(), setting.into()]);
        }
        let mut command = self.command("postgres", "SIGINT", &settings)?;
        command
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(&self.sockets)
            .arg("-p")
            .arg(port.to_string());
        Ok(command)
    }

    /// Whether the server on a port takes connections.
    pub(crate) async fn accepts(&self, port: u16) -> Result<bool> {
        let status = Command::new(self.bin.join("pg_isready"))
            .args(["-q", "-t", "2", "-d", "postgres", "-U", NAME, "-p"])
            .arg(port.to_string())
            .arg("-h")
            .arg(&self.sockets)
            .stdin(std::process::Stdio::null())
            .status()
            .await
            .context("starting pg_isready")?;
        Ok(status.success())
    }

    /// Makes the database if there is none.
    pub(crate) async fn ensure_database(&self, layout: &Layout, port: u16) -> Result<()> {
        let done = self.home.join("database-made");
        if done.exists() {
            return Ok(());
        }
        let mut createdb = Command::new(self.bin.join("createdb"));
        createdb
            .env("PGPASSWORD", read_secret(&layout.password())?)
            .args(["-w", "-U", NAME, "-p"])
            .arg(port.to_string())
            .arg("-h")
            .arg(&self.sockets)
            .arg(NAME);
        match run(&mut createdb, "createdb").await {
            Err(error) if !error.to_string().contains("already exists") => return Err(error),
            Ok(()) | Err(_) => {}
        }
        private::file(&done, "", None)
    }

    /// How parts reach it: by the socket, the password from its file.
    pub(crate) fn url(&self, port: u16) -> String {
        format!(
            "postgres://{NAME}@localhost:{port}/{NAME}?host={}",
            escaped(&self.sockets)
        )
    }

    /// How scripts reach it.
    pub(crate) fn url_with_password(layout: &Layout, port: u16) -> Result<String> {
        Ok(format!(
            "postgres://{NAME}:{}@127.0.0.1:{port}/{NAME}",
            read_secret(&layout.password())?
        ))
    }

    fn command(&self, program: &str, signal: &str, arguments: &[OsString]) -> Result<Command> {
        let mut command = under(signal)?;
        if let Some(user) = &self.user {
            command.arg("--user").arg(&user.name);
        }
        command
            .arg("--")
            .arg(self.bin.join(program))
            .args(arguments)
            .current_dir("/");
        Ok(command)
    }
}

/// `rhyzome under`, as a child of this process.
pub(crate) fn under(signal: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command
        .args(["under", "--signal", signal, "--parent"])
        .arg(std::process::id().to_string());
    Ok(command)
}

/// Removes the cluster, the link to it, and its sockets' folder.
pub(crate) fn wipe(layout: &Layout) -> Result<()> {
    remove(&layout.postgres())?;
    remove(&outside(layout))?;
    remove(&std::env::temp_dir().join(format!("rhyzome-{}", layout.tag())))
}

fn outside(layout: &Layout) -> PathBuf {
    Path::new("/var/tmp").join(format!("rhyzome-postgres-{}", layout.tag()))
}

/// In the data folder, or where its user reaches it. Where it was before, in any case: the link to it lies in a folder of ours.
fn home(layout: &Layout, user: Option<&User>) -> Result<PathBuf> {
    if let Ok(there) = std::fs::read_link(layout.postgres()) {
        return Ok(layout.root().join(there));
    }
    if user.is_none() {
        return Ok(layout.postgres());
    }
    for folder in layout.root().ancestors() {
        let meta = std::fs::metadata(folder).with_context(|| format!("looking at {}", folder.display()))?;
        let owned = user.is_some_and(|user| user.uid.as_raw() == meta.uid());
        let open = if owned { 0o100 } else { 0o001 };
        if meta.permissions().mode() & open == 0 {
            return Ok(outside(layout));
        }
    }
    Ok(layout.postgres())
}

fn other_than_root() -> Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name).with_context(|| format!("looking up the user {name}"))? {
            return Ok(Some(user));
        }
    }
    bail!("Postgres doesn't run as root, and there is no user postgres or nobody")
}

/// Debian's place, the newest version first.
fn newest_bin() -> Result<PathBuf> {
    let versions = Path::new("/usr/lib/postgresql");
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    if let Ok(entries) = std::fs::read_dir(versions) {
        for entry in entries.flatten() {
            if let Ok(version) = entry.file_name().to_string_lossy().parse() {
                found.push((version, entry.path().join("bin")));
            }
        }
    }
    found.sort();
    if let Some((_, bin)) = found.pop() {
        return Ok(bin);
    }
    std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).find(|folder| folder.join("initdb").is_file()))
        .context("no Postgres here: `apt-get install postgresql` gets it, --postgres-bin says where it is")
}

/// A server that was killed leaves its socket and its lock file.
fn remove_stale_socket(sockets: &Path, port: u16) -> Result<()> {
    let socket = sockets.join(format!(".s.PGSQL.{port}"));
    if std::os::unix::net::UnixStream::connect(&socket).is_err() {
        remove(&socket)?;
        remove(&sockets.join(format!(".s.PGSQL.{port}.lock")))?;
    }
    Ok(())
}

fn write_secret(path: &Path, secret: &str) -> Result<()> {
    let written = || -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?
            .write_all(secret.as_bytes())
    };
    written().with_context(|| format!("writing {}", path.display()))
}

fn read_secret(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.trim_end().to_owned())
}

async fn run(command: &mut Command, name: &str) -> Result<()> {
    let limit = Duration::from_mins(2);
    let output = tokio::time::timeout(
        limit,
        command
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output(),
    )
    .await
    .with_context(|| format!("{name} took more than two minutes"))?
    .with_context(|| format!("starting {name}"))?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "{name} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )
}

/// A path in a URL's query.
fn escaped(path: &Path) -> String {
    url::form_urlencoded::byte_serialize(path.as_os_str().as_encoded_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn a_folder_that_somebody_else_made_is_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let (home, victim) = (dir.path().join("guessed"), dir.path().join("victim"));
        fs::create_dir(&home).unwrap();
        fs::set_permissions(&home, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(&victim, "kept").unwrap();
        symlink(&victim, home.join("password.tmp")).unwrap();
        let postgres = Postgres {
            bin: dir.path().join("none"),
            sockets: home.clone(),
            home: home.clone(),
            user: None,
        };
        let layout = Layout::make(&dir.path().join("data")).unwrap();
        let error = postgres.ensure(&layout).await.unwrap_err().to_string();
        assert!(error.contains("must be ours"), "{error}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
        assert!(home.join("password.tmp").is_symlink() && !layout.postgres().exists());
    }
    #[test]
    fn a_cluster_stays_where_its_link_says() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::make(dir.path()).unwrap();
        assert_eq!(home(&layout, None).unwrap(), layout.postgres());
        symlink(outside(&layout), layout.postgres()).unwrap();
        assert_eq!(home(&layout, None).unwrap(), outside(&layout));
    }
}
