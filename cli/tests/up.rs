//! A whole stack, through the death of its parts and of its supervisor. Needs Postgres, and nats-server (`RHYZOME_NATS_SERVER`, or on
//! `PATH`): `cargo xtask test` gets both.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        drop(rhyzome(self.0, &["down"]).output());
    }
}

fn rhyzome(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rhyzome"));
    command
        .args(arguments)
        .arg("--data")
        .arg(data)
        .env_remove("RHYZOME_IMAGE_DIR");
    command
}

fn done(data: &Path, arguments: &[&str]) -> String {
    let output = rhyzome(data, arguments).output().unwrap();
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{arguments:?}: {out}\n{error}");
    out.into_owned()
}

fn stack(data: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(data.join("stack.json")).unwrap()).unwrap()
}

fn pids(data: &Path) -> BTreeMap<String, i32> {
    stack(data)["processes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|process| {
            (
                process["name"].as_str().unwrap().to_owned(),
                i32::try_from(process["pid"].as_i64().unwrap()).unwrap(),
            )
        })
        .collect()
}

fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !so() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// None where the database isn't reached, as while it starts.
fn hosts_up(data: &Path) -> Option<usize> {
    let output = rhyzome(data, &["admin", "host", "list", "-o", "json"])
        .output()
        .unwrap();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("database out of reach"), "{error}");
        return None;
    }
    let hosts: Value = serde_json::from_slice(&output.stdout).unwrap();
    Some(
        hosts
            .as_array()
            .unwrap()
            .iter()
            .filter(|host| host["up"] == true)
            .count(),
    )
}

const UP: [&str; 7] = [
    "up",
    "--detach",
    "--no-local-host",
    "--simulated-hosts",
    "2",
    "--set",
    "worker.slots=8",
];

#[test]
fn a_stack_lives_through_deaths_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Postgres' own user must get there.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let data = &dir.path().join("data");
    let _down = Down(data);
    done(data, &UP);
    let again = rhyzome(data, &UP).output().unwrap();
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("rhyzome down"),
        "a second stack was not refused"
    );

    let first = pids(data);
    let names: Vec<&str> = first.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "api-1",
            "dev-issuer",
            "nats",
            "postgres",
            "scheduler-1",
            "sim",
            "worker-1",
            "worker-2"
        ]
    );
    assert_eq!(hosts_up(data), Some(2));
    assert_eq!(stack(data)["agents"].as_array().unwrap().len(), 2);
    assert_eq!(
        done(data, &["token", "--tenant", "other"])
            .trim()
            .split('.')
            .count(),
        3
    );
    let tenants = done(data, &["admin", "tenant", "list"]);
    assert!(tenants.contains("demo") && tenants.contains("other"), "{tenants}");

    // Every part comes back at its place.
    let before = stack(data);
    for name in [
        "worker-1",
        "api-1",
        "sim",
        "nats",
        "postgres",
        "dev-issuer",
        "scheduler-1",
    ] {
        kill(first[name]);
        until(name, || {
            pids(data)
                .get(name)
                .is_some_and(|pid| *pid != first[name] && runs(*pid))
        });
    }
    until("hosts are watched", || hosts_up(data) == Some(2));
    let after = stack(data);
    for key in ["api_url", "issuer_url", "postgres", "nats"] {
        assert_eq!(before[key], after[key], "{key}");
    }

    // The supervisor is killed: no part outlives it but what the next one ends.
    let second = pids(data);
    let record: Value =
        serde_json::from_slice(&std::fs::read(data.join("supervisor.json")).unwrap()).unwrap();
    let supervisor = i32::try_from(record["supervisor"]["pid"].as_i64().unwrap()).unwrap();
    kill(supervisor);
    until("the supervisor is gone", || !runs(supervisor));
    done(data, &UP);
    for (name, pid) in &second {
        assert!(!runs(*pid), "{name} of the killed stack still runs");
    }
    let third = pids(data);
    assert_eq!(third.len(), second.len());
    assert_eq!(hosts_up(data), Some(2));

    assert!(done(data, &["down"]).contains("is down"));
    for (name, pid) in &third {
        assert!(!runs(*pid), "{name} still runs after down");
    }
    assert_eq!(stack(data)["processes"], Value::Array(Vec::new()));
    assert!(done(data, &["down"]).contains("no stack runs"));
}

/// Processes that were started as this part of the stack, whoever started them.
fn processes_of(data: &Path, part: &str) -> Vec<i32> {
    let ready = data.join("run").join(format!("{part}.json"));
    let is_of = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0)
            .any(|word| word == ready.as_os_str().as_encoded_bytes())
    };
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_of)
        .collect()
}

#[test]
fn a_part_that_could_not_be_written_down_is_not_there_twice() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let data = &dir.path().canonicalize().unwrap().join("data");
    let _down = Down(data);
    done(data, &UP);
    let first = pids(data)["worker-1"];
    assert_eq!(processes_of(data, "worker-1"), [first]);
    // Nothing can be written down: what is written first is in the way.
    let in_the_way = data.join("supervisor.json.new");
    std::fs::create_dir(&in_the_way).unwrap();
    kill(first);
    let said = || std::fs::read_to_string(data.join("logs/up.log")).unwrap();
    until("it was started in vain, twice", || {
        said().matches("worker-1 writing").count() >= 2
    });
    std::fs::remove_dir(&in_the_way).unwrap();
    until("it is there again", || {
        pids(data)
            .get("worker-1")
            .is_some_and(|pid| *pid != first && runs(*pid))
    });
    assert_eq!(processes_of(data, "worker-1"), [pids(data)["worker-1"]]);
}

#[test]
fn a_wrong_key_is_found_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let output = rhyzome(dir.path(), &["up", "--set", "scheduler.job_deadlin=1h"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && error.contains("scheduler.job_deadlin") && error.contains("job_deadline"),
        "{error}"
    );
    assert!(!dir.path().join("stack.json").exists());
}
