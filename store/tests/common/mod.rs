//! A database for each test: on the server that `RHYZOME_TEST_DATABASE_URL` names, or on a private one, one per test process, that is
//! started from `RHYZOME_POSTGRES_BIN` (or the newest under `/usr/lib/postgresql`) and ends with it.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod make;
pub mod reads;

use rhyzome_store::Store;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

struct Server {
    admin: PgConnectOptions,
    template: String,
    /// Its standard input is a pipe that this process holds: when it closes, the server ends and its folder goes.
    _guard: Option<Child>,
}

/// A store on a database of its own, migrated.
pub async fn store() -> Store {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let server = server();
    let name = format!(
        "rz_test_{}_{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    let mut admin = PgConnection::connect_with(&server.admin).await.unwrap();
    sql(
        &mut admin,
        format!("CREATE DATABASE {name} TEMPLATE {}", server.template),
    )
    .await;
    let pool = PgPoolOptions::new()
        .max_connections(16)
        .acquire_timeout(Duration::from_mins(1))
        .connect_with(server.admin.clone().database(&name))
        .await
        .unwrap();
    Store::from_pool(pool)
}

async fn sql(connection: &mut PgConnection, text: String) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(text))
        .execute(connection)
        .await
        .unwrap();
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        // A runtime of its own: the one of the test that comes first ends with it.
        std::thread::spawn(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(begin())
        })
        .join()
        .unwrap()
    })
}

async fn begin() -> Server {
    let (admin, guard) = match std::env::var("RHYZOME_TEST_DATABASE_URL") {
        Ok(url) => (PgConnectOptions::from_str(&url).unwrap(), None),
        Err(_) => private().await,
    };
    let admin = admin.disable_statement_logging();
    let template = format!("rz_template_{}", std::process::id());
    let mut connection = PgConnection::connect_with(&admin).await.unwrap();
    sql(&mut connection, format!("CREATE DATABASE {template}")).await;
    let store = Store::connect(admin.clone().database(&template), 1)
        .await
        .unwrap();
    store.migrate().await.unwrap();
    store.pool().close().await;
    Server {
        admin,
        template,
        _guard: guard,
    }
}

fn bin() -> PathBuf {
    if let Some(bin) = std::env::var_os("RHYZOME_POSTGRES_BIN") {
        return bin.into();
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|d| {
            d.filter_map(|e| Some(e.ok()?.path().join("bin")))
                .filter(|b| b.join("initdb").exists())
                .collect()
        })
        .unwrap_or_default();
    found.sort();
    found
        .pop()
        .expect("no PostgreSQL: set RHYZOME_POSTGRES_BIN or RHYZOME_TEST_DATABASE_URL")
}

async fn private() -> (PgConnectOptions, Option<Child>) {
    let folder = tempfile::Builder::new()
        .prefix("rz")
        .tempdir_in("/tmp")
        .unwrap()
        .keep();
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|o| o.stdout.trim_ascii() == b"0");
    if root {
        // initdb refuses to run as root.
        assert!(
            Command::new("chown")
                .arg("postgres")
                .arg(&folder)
                .status()
                .unwrap()
                .success()
        );
    }
    let script = r#"
        trap '' INT TERM
        as=; if [ "$ROOT" = 1 ]; then as="setpriv --reuid postgres --regid postgres --init-groups"; fi
        cd "$DIR"
        $as "$BIN/initdb" -D "$DIR/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 -N >"$DIR/log" 2>&1 || exit 1
        $as "$BIN/postgres" -D "$DIR/data" -k "$DIR" -h '' -c fsync=off -c max_connections=300 -c deadlock_timeout=200ms >>"$DIR/log" 2>&1 &
        server=$!
        cat >/dev/null
        kill -INT $server
        wait $server
        rm -rf "$DIR"
    "#;
    let guard = Command::new("sh")
        .args(["-c", script])
        .env("DIR", &folder)
        .env("BIN", bin())
        .env("ROOT", if root { "1" } else { "0" })
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let options = PgConnectOptions::new_without_pgpass()
        .socket(&folder)
        .username("postgres")
        .database("postgres");
    answers(&options, &folder).await;
    (options, Some(guard))
}

async fn answers(options: &PgConnectOptions, folder: &Path) {
    let begun = Instant::now();
    loop {
        match PgConnection::connect_with(options).await {
            Ok(_) => return,
            Err(error) if begun.elapsed() > Duration::from_mins(2) => {
                let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
                panic!("PostgreSQL did not start: {error}\n{log}");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
