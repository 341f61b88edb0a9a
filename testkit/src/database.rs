//! A private Postgres for a crate's own tests: one cluster for a test process, a fresh database for each test.
//!
//! It listens on a Unix socket in a folder of its own and on no network, syncs nothing to disk, and ends with the process. A fresh database is
//! a copy of a template in which the migrations were run once.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::{Uid, User};
use rhyzome_store::Store;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::OnceCell;

use crate::{guard, tools};

const TEMPLATE: &str = "template_migrated";
static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(1);

/// The cluster of this test process.
#[derive(Debug)]
struct Cluster {
    folder: PathBuf,
}

/// A database of one test.
#[derive(Clone, Debug)]
pub struct Database {
    url: String,
}

impl Database {
    /// A fresh database with all migrations applied.
    ///
    /// # Panics
    /// Where Postgres can't be started or refuses.
    pub async fn fresh() -> Self {
        let cluster = CLUSTER.get_or_init(Cluster::start).await;
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        cluster
            .run(&format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
            .await;
        Self {
            url: cluster.url(&name),
        }
    }

    /// How it is reached.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// As the driver takes it.
    ///
    /// # Panics
    /// Never: the URL is our own.
    pub fn options(&self) -> PgConnectOptions {
        options(&self.url)
    }

    /// Runs statements on it: what another role would have written.
    ///
    /// # Panics
    /// Where Postgres refuses one.
    pub async fn execute(&self, statements: &str) {
        let done = async {
            let mut connection = PgConnection::connect_with(&self.options()).await?;
            connection.execute(AssertSqlSafe(statements)).await?;
            connection.close().await
        };
        if let Err(error) = done.await {
            panic!("{statements}: {error}");
        }
    }

    /// A store on it with so many connections.
    ///
    /// # Panics
    /// Where it can't be reached.
    pub async fn store(&self, connections: u32) -> Store {
        match Store::connect(self.options(), connections).await {
            Ok(store) => store,
            Err(error) => panic!("connecting to {}: {error}", self.url),
        }
    }
}

fn options(url: &str) -> PgConnectOptions {
    match PgConnectOptions::from_str(url) {
        Ok(options) => options,
        Err(error) => panic!("{url}: {error}"),
    }
}

impl Cluster {
    async fn start() -> Self {
        let folder = guard::folder("rz-pg-");
        let cluster = Self { folder };
        let user = other_than_root();
        if let Some(user) = &user
            && let Err(error) = chown(&cluster.folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        {
            panic!("giving {} to {}: {error}", cluster.folder.display(), user.name);
        }
        let data = cluster.folder.join("data");
        guard::watch(&cluster.folder, std::process::id(), &[]);
        cluster.program(
            user.as_ref(),
            "initdb",
            &[
                "-U",
                "postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "-D",
            ],
            &data,
        );
        let settings = format!(
            "-c listen_addresses= -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=200 \
             -c unix_socket_directories={}",
            cluster.folder.display()
        );
        let log = cluster.folder.join("log").display().to_string();
        cluster.program(
            user.as_ref(),
            "pg_ctl",
            &["start", "--wait", "--silent", "-o", &settings, "-l", &log, "-D"],
            &data,
        );
        cluster.run(&format!("CREATE DATABASE {TEMPLATE}")).await;
        let store = Database {
            url: cluster.url(TEMPLATE),
        }
        .store(1)
        .await;
        if let Err(error) = store.migrate().await {
            panic!("running the migrations: {error}");
        }
        // A template with a connection to it can't be copied.
        store.pool().close().await;
        cluster
    }

    fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@localhost/{database}?host={}",
            self.folder.display()
        )
    }

    async fn run(&self, statement: &str) {
        let done = async {
            let mut connection = PgConnection::connect_with(&options(&self.url("postgres"))).await?;
            connection.execute(AssertSqlSafe(statement)).await?;
            connection.close().await
        };
        if let Err(error) = done.await {
            panic!("{statement}: {error}");
        }
    }

    /// Runs one of Postgres' programs on a data folder.
    fn program(&self, user: Option<&User>, name: &str, arguments: &[&str], data: &Path) {
        let mut command = Command::new(tools::postgres_bin().join(name));
        command
            .args(arguments)
            .arg(data)
            .env(guard::MARK, &self.folder)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(user) = user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        match command.status() {
            Ok(status) if status.success() => {}
            other => panic!(
                "{name}: {other:?}\n{}",
                std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
            ),
        }
    }
}

/// The user who runs the server where this process is root's: Postgres refuses root.
fn other_than_root() -> Option<User> {
    if !Uid::effective().is_root() {
        return None;
    }
    let found = ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| User::from_name(name).ok().flatten());
    assert!(
        found.is_some(),
        "PostgreSQL doesn't run as root, and there is no user postgres or nobody"
    );
    found
}
