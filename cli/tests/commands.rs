//! Commands that need no server, run as a person would.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::path::Path;
use std::process::{Command, Output};

fn rhyzome(dir: &Path, arguments: &[&str]) -> Output {
    command(dir, arguments).output().unwrap()
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rhyzome"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RHYZOME_")) {
        command.env_remove(name);
    }
    command.current_dir(dir).args(arguments);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn refused(dir: &Path, arguments: &[&str]) -> String {
    let output = rhyzome(dir, arguments);
    assert!(!output.status.success(), "{arguments:?}");
    said(&output)
}

fn done(dir: &Path, arguments: &[&str]) -> String {
    let output = rhyzome(dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_variable_of_ours_that_nobody_reads_is_refused_by_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str], name: &str| {
        let mut command = command(dir.path(), arguments);
        command.env(name, "5m").output().unwrap()
    };
    let commands = [
        vec!["pki", "init"],
        vec!["scheduler", "--name", "scheduler-1"],
        vec!["up"],
        vec!["token"],
    ];
    for arguments in &commands {
        for (name, meant) in [
            (
                "RHYZOME_SCHEDULR__JOB_DEADLINE",
                "RHYZOME_SCHEDULER__JOB_DEADLINE",
            ),
            (
                "RHYZOME_SCHEDULER_JOB_DEADLINE",
                "RHYZOME_SCHEDULER__JOB_DEADLINE",
            ),
            ("RHYZOME_POSTGRESBIN", "RHYZOME_POSTGRES_BIN"),
        ] {
            let output = run(arguments, name);
            assert!(!output.status.success(), "{arguments:?} {name}");
            let said = said(&output);
            assert!(
                said.contains(name) && said.contains(&format!("{meant}?")),
                "{said}"
            );
        }
    }
    for (folder, name) in [
        ("a", "RHYZOME_SCHEDULER__JOB_DEADLINE"),
        ("b", "RHYZOME_AGENT__LABELS__ZONE"),
        ("c", "RHYZOME_API_PORT"),
    ] {
        let output = run(&["pki", "init", "--pki", folder], name);
        assert!(output.status.success(), "{name}: {}", said(&output));
    }
}

#[test]
fn a_certificate_authority() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert!(refused(dir, &["pki", "issue", "worker", "w-1", "--pki", "p"]).contains("pki init"));
    done(dir, &["pki", "init", "--pki", "p"]);
    done(dir, &["pki", "issue", "worker", "w-1", "--pki", "p"]);
    done(
        dir,
        &["pki", "issue", "agent", "host-7", "--pki", "p", "--days", "2"],
    );
    assert!(refused(dir, &["pki", "issue", "worker", "w-1", "--pki", "p"]).contains("--force"));
    done(dir, &["pki", "issue", "worker", "w-1", "--pki", "p", "--force"]);
    assert!(refused(dir, &["pki", "issue", "king", "w-1", "--pki", "p"]).contains("scheduler"));
    let shown: serde_json::Value =
        serde_json::from_str(&done(dir, &["pki", "show", "--pki", "p", "-o", "json"])).unwrap();
    let names: Vec<(&str, &str)> = shown
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["role"].as_str().unwrap(), row["name"].as_str().unwrap()))
        .collect();
    assert_eq!(
        names,
        [("agent", "host-7"), ("ca", "CN=Rhyzome CA"), ("worker", "w-1")]
    );
    assert!(shown[0]["expires_at"].as_str().unwrap() < shown[2]["expires_at"].as_str().unwrap());
    let table = done(dir, &["pki", "show", "--pki", "p"]);
    assert!(table.contains("EXPIRES") && table.contains("host-7"), "{table}");
    // The folder can also come from the configuration.
    std::fs::write(dir.join("rhyzome.toml"), "[tls]\npki = \"p\"\n").unwrap();
    assert!(done(dir, &["pki", "show"]).contains("host-7"));
}

#[test]
fn a_wrong_configuration_names_itself_and_where_it_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("rhyzome.toml"), "[scheduler]\njob_deadline = 30\n").unwrap();
    let error = refused(dir, &["worker", "--name", "w-1"]);
    assert!(
        error.contains("scheduler.job_deadline") && error.contains("rhyzome.toml"),
        "{error}"
    );
    std::fs::write(dir.join("rhyzome.toml"), "[scheduller]\nx = 1\n").unwrap();
    let error = refused(dir, &["worker", "--name", "w-1"]);
    assert!(
        error.contains("scheduller") && error.contains("rhyzome.toml") && error.contains("`scheduler`"),
        "{error}"
    );
    std::fs::remove_file(dir.join("rhyzome.toml")).unwrap();
    let error = refused(dir, &["worker", "--name", "w-1", "--set", "worker.slots=many"]);
    assert!(
        error.contains("worker.slots") && error.contains("--set"),
        "{error}"
    );
    let error = refused(dir, &["worker", "--name", "w-1", "--set", "worker.slotz=1"]);
    assert!(
        error.contains("worker.slotz") && error.contains("slots"),
        "{error}"
    );
    let error = refused(
        dir,
        &["worker", "--name", "w-1", "--set", "database.password=hunter2"],
    );
    assert!(
        error.contains("database.password_file") && !error.contains("hunter2"),
        "{error}"
    );
    let error = refused(dir, &["worker", "--name", "w-1"]);
    assert!(error.contains("tls.cert") || error.contains("tls.ca"), "{error}");
    let error = refused(dir, &["worker", "--name", "w-1", "--config", "nowhere.toml"]);
    assert!(error.contains("nowhere.toml"), "{error}");
}

#[test]
fn without_a_stack_it_is_said_which_command_makes_one() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [&["token"][..], &["admin", "host", "list", "--data", ".rhyzome"]] {
        assert!(
            refused(dir.path(), arguments).contains("rhyzome up"),
            "{arguments:?}"
        );
    }
    assert!(done(dir.path(), &["down"]).contains("no stack"));
    let error = refused(dir.path(), &["dev-issuer", "--listen", "0.0.0.0:0"]);
    assert!(error.contains("loopback"), "{error}");
}
