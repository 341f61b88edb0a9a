//! `cargo xtask sqlx`: writes the query data in `.sqlx` from a database with our migrations, without sqlx-cli.
//!
//! Source of how: sqlx's query macros write each query's data into `SQLX_OFFLINE_DIR` when they are expanded with
//! `DATABASE_URL` set.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::private_postgres::PrivatePostgres;
use crate::show::{Progress, say};
use crate::{paths, run, tools};

/// Options of `sqlx`.
#[derive(Debug, Args)]
pub(crate) struct SqlxArgs {
    /// Change nothing; fail where the committed data are not what the queries and migrations give.
    #[arg(long)]
    check: bool,
}

/// Query data by file name.
type Queries = BTreeMap<String, Vec<u8>>;

/// `cargo xtask sqlx`.
pub(crate) fn command(args: &SqlxArgs) -> Result<()> {
    if args.check { check() } else { rewrite() }
}

/// Fails where `.sqlx` is not what the queries and the migrations give.
pub(crate) fn check() -> Result<()> {
    let committed = read(&committed_folder()?)?;
    let changes = differences(&committed, &current()?);
    if changes.is_empty() {
        say(format!(
            ".sqlx is as the queries and migrations give it ({} queries)",
            committed.len()
        ));
        return Ok(());
    }
    bail!(
        ".sqlx is not current; run `cargo xtask sqlx` and commit it:\n  {}",
        changes.join("\n  ")
    )
}

fn rewrite() -> Result<()> {
    let folder = committed_folder()?;
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let before = read(&folder)?;
    let now = current()?;
    for name in before.keys().filter(|name| !now.contains_key(*name)) {
        fs::remove_file(folder.join(name)).with_context(|| format!("removing {name}"))?;
    }
    for (name, data) in &now {
        if before.get(name) != Some(data) {
            fs::write(folder.join(name), data).with_context(|| format!("writing {name}"))?;
        }
    }
    say(format!(
        ".sqlx: {} queries, {} changes",
        now.len(),
        differences(&before, &now).len()
    ));
    Ok(())
}

fn committed_folder() -> Result<PathBuf> {
    Ok(paths::workspace()?.join(".sqlx"))
}

/// The data that the queries give against a database with all migrations.
fn current() -> Result<Queries> {
    let workspace = paths::workspace()?;
    let postgres = PrivatePostgres::start(&tools::ensure()?.postgres_bin)?;
    for migration in migrations(&workspace.join("migrations"))? {
        postgres.run_file(&migration)?;
    }
    let folder = paths::target()?.join("sqlx-data");
    if folder.is_dir() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let mut touched = Vec::new();
    touch_all(&workspace.join("store"), &mut touched)?;
    let progress = Progress::start("checking the store's queries against it");
    let checked = run::moving(
        paths::cargo()?
            .args(["check", "--locked", "-p", "rhyzome-store", "--all-targets"])
            .env("DATABASE_URL", postgres.url())
            .env("SQLX_OFFLINE", "false")
            .env("SQLX_OFFLINE_DIR", &folder),
        &progress,
    );
    put_times_back(touched)?;
    checked?;
    progress.done("done");
    read(&folder)
}

/// The migrations that go forward, in the order of their versions.
fn migrations(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry.context("reading the migrations")?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let version = name
            .split('_')
            .next()
            .and_then(|version| version.parse::<u64>().ok());
        if let Some(version) = version
            && path.extension().is_some_and(|ending| ending == "sql")
            && !name.contains(".down.")
        {
            found.push((version, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// A file, and when it was written.
type Touched = (PathBuf, SystemTime);

/// Makes cargo expand the macros again: it goes by the times of the files. Says what they were.
fn touch_all(folder: &Path, touched: &mut Vec<Touched>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry.context("reading the store's sources")?;
        let path = entry.path();
        if path.is_dir() {
            touch_all(&path, touched)?;
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let written = entry.metadata().and_then(|file| file.modified());
            let written = written.with_context(|| format!("reading the time of {}", path.display()))?;
            touched.push((path.clone(), written));
            set_time(&path, SystemTime::now())?;
        }
    }
    Ok(())
}

/// So that other builds need not make anew all that uses the store.
fn put_times_back(touched: Vec<Touched>) -> Result<()> {
    touched
        .into_iter()
        .try_for_each(|(path, written)| set_time(&path, written))
}

fn set_time(path: &Path, time: SystemTime) -> Result<()> {
    fs::File::options()
        .append(true)
        .open(path)
        .and_then(|file| file.set_modified(time))
        .with_context(|| format!("touching {}", path.display()))
}

fn read(folder: &Path) -> Result<Queries> {
    let mut queries = Queries::new();
    if !folder.is_dir() {
        return Ok(queries);
    }
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry.context("reading query data")?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with("query-") && path.extension().is_some_and(|ending| ending == "json") {
            queries.insert(
                name,
                fs::read(&path).with_context(|| format!("reading {}", path.display()))?,
            );
        }
    }
    Ok(queries)
}

fn differences(before: &Queries, now: &Queries) -> Vec<String> {
    let gone = before
        .keys()
        .filter(|name| !now.contains_key(*name))
        .map(|name| format!("{name}: no longer used"));
    let other = now.iter().filter_map(|(name, data)| match before.get(name) {
        None => Some(format!("{name}: new")),
        Some(old) if old != data => Some(format!("{name}: changed")),
        Some(_) => None,
    });
    gone.chain(other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_each_file() {
        let before = Queries::from([
            ("a".into(), vec![1]),
            ("b".into(), vec![1]),
            ("c".into(), vec![1]),
        ]);
        let now = Queries::from([
            ("b".into(), vec![1]),
            ("c".into(), vec![2]),
            ("d".into(), vec![1]),
        ]);
        assert_eq!(
            differences(&before, &now),
            ["a: no longer used", "c: changed", "d: new"]
        );
    }

    #[test]
    fn migrations_go_forward_by_number() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["10_b.sql", "9_a.up.sql", "9_a.down.sql", "README.md"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let found = migrations(folder.path()).unwrap();
        assert_eq!(
            found,
            [folder.path().join("9_a.up.sql"), folder.path().join("10_b.sql")]
        );
    }
}
