//! The command line and `stack.json`, as stack.md says.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::process::Command;

use rhyzome_testkit::rest::unique;
use rhyzome_testkit::{Stack, tools};
use serde_json::{Value, json};

fn names(list: &Value, key: &str) -> Vec<String> {
    let items = list.as_array().unwrap_or_else(|| panic!("a list: {list}"));
    items
        .iter()
        .filter_map(|item| Some(item[key].as_str()?.to_owned()))
        .collect()
}

#[test]
fn stack_json_says_what_runs() {
    let stack = Stack::shared();
    let text = std::fs::read_to_string(stack.data().join("stack.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    for pointer in [
        "/api_url",
        "/data_dir",
        "/log_dir",
        "/pki_dir",
        "/issuer_url",
        "/postgres/url",
        "/nats/url",
        "/nats/jetstream_dir",
    ] {
        assert!(
            file.pointer(pointer).is_some_and(Value::is_string),
            "no {pointer}: {file:#}"
        );
    }
    let api = file["api_url"].as_str().unwrap();
    assert!(
        api.starts_with("http://127.0.0.1:") && !api.ends_with("/v1") && !api.ends_with('/'),
        "{api}"
    );
    assert_eq!(names(&file["agents"], "host"), ["sim-1", "sim-2", "sim-3"]);
    let stack = stack.file();
    for (role, count) in [
        ("api", 1),
        ("scheduler", 1),
        ("worker", 2),
        ("agent", 1),
        ("dev-issuer", 1),
        ("postgres", 1),
        ("nats", 1),
    ] {
        let of_role: Vec<_> = stack
            .processes
            .iter()
            .filter(|process| process.role == role)
            .collect();
        assert_eq!(of_role.len(), count, "{role}: {of_role:?}");
        for process in of_role {
            assert!(rhyzome_testkit::processes::is_alive(process.pid), "{process:?}");
        }
    }
    assert!(
        stack.log_dir.is_dir() && stack.pki_dir.join("ca.crt").is_file() && stack.nats.jetstream_dir.is_dir()
    );
    assert!(
        !text.contains("password") && !stack.postgres.url.contains("postgres:postgres@"),
        "{text}"
    );
}

#[test]
fn tenants_are_made_listed_shown_changed_and_deleted() {
    let stack = Stack::shared();
    let id = unique("t").replace('-', "");
    stack.run(&[
        "admin",
        "tenant",
        "create",
        &id,
        "--issuer",
        "http://127.0.0.1:9/x",
        "--audience",
        "aud",
        "--property",
        "plan=gold",
    ]);
    let listed = names(&stack.run_json(&["admin", "tenant", "list"]), "id");
    for tenant in ["demo", "other", id.as_str()] {
        assert!(
            listed.iter().any(|listed| listed == tenant),
            "{tenant}: {listed:?}"
        );
    }
    let shown = stack.run_json(&["admin", "tenant", "show", &id]);
    assert_eq!(shown["properties"]["plan"], "gold", "{shown:#}");
    assert!(shown.to_string().contains("http://127.0.0.1:9/x"), "{shown:#}");
    let again = stack.try_run(&[
        "admin",
        "tenant",
        "create",
        &id,
        "--issuer",
        "http://127.0.0.1:9/y",
        "--audience",
        "aud",
    ]);
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains(&id));
    stack.run(&["admin", "tenant", "update", &id, "--property", "plan=iron"]);
    assert_eq!(
        stack.run_json(&["admin", "tenant", "show", &id])["properties"]["plan"],
        "iron"
    );
    stack.run(&["admin", "tenant", "delete", &id]);
    assert!(!stack.try_run(&["admin", "tenant", "show", &id]).status.success());
}

#[test]
fn quotas_are_set_shown_taken_away_and_a_wrong_one_names_itself() {
    let stack = Stack::shared();
    let id = unique("t").replace('-', "");
    let tenant = |task: &str, more: &[&str]| {
        let arguments = [&["admin", "tenant", task, id.as_str()], more].concat();
        stack.try_run(&arguments)
    };
    let issuer = ["--issuer", "http://127.0.0.1:9/q", "--audience", "aud"];
    let made = tenant("create", &[&issuer[..], &["--quota", "instances=3"]].concat());
    assert!(made.status.success(), "{made:?}");
    let more = ["--quota", "instances=2", "--quota", "vcpus=8"];
    assert!(tenant("update", &more).status.success());
    let quotas = || stack.run_json(&["admin", "tenant", "show", &id])["quotas"].clone();
    assert_eq!(
        quotas(),
        json!({ "instances": { "limit": 2, "used": 0 }, "vcpus": { "limit": 8, "used": 0 } })
    );
    assert!(
        tenant("update", &["--remove-quota", "instances"])
            .status
            .success()
    );
    assert_eq!(quotas(), json!({ "vcpus": { "limit": 8, "used": 0 } }));
    for (wrong, says) in [
        ("cpus=3", ["cpus", "vcpus"]),
        ("vcpus=-1", ["-1", "whole number"]),
        ("vcpus=many", ["many", "whole number"]),
        ("vcpus", ["vcpus", "WHAT=NUMBER"]),
    ] {
        let refused = tenant("update", &["--quota", wrong]);
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && says.iter().all(|word| error.contains(word)),
            "{wrong}: {error}"
        );
    }
    assert_eq!(quotas(), json!({ "vcpus": { "limit": 8, "used": 0 } }));
    assert!(tenant("delete", &[]).status.success());
}

#[test]
fn hosts_are_added_listed_inventoried_and_removed() {
    let stack = Stack::shared();
    let host = unique("h");
    let listed = names(&stack.run_json(&["admin", "host", "list"]), "name");
    for sim in ["sim-1", "sim-2", "sim-3"] {
        assert!(listed.iter().any(|name| name == sim), "{listed:?}");
    }
    let inventory = stack.inventory("sim-1");
    assert_eq!(inventory.host, "sim-1");
    // An agent that isn't there: the host can be added, and says that it can't be asked.
    stack.run(&["admin", "host", "add", &host, "--address", "127.0.0.1:9"]);
    let asked = stack.try_run(&["admin", "host", "inventory", &host, "-o", "json"]);
    assert!(!asked.status.success() && String::from_utf8_lossy(&asked.stderr).contains(&host));
    stack.run(&["admin", "host", "remove", &host]);
    let listed = names(&stack.run_json(&["admin", "host", "list"]), "name");
    assert!(!listed.contains(&host), "{listed:?}");
    assert!(
        !stack
            .try_run(&["admin", "host", "remove", &host])
            .status
            .success()
    );
    assert!(
        !stack
            .try_run(&["admin", "host", "add", &host, "--address", "nowhere"])
            .status
            .success()
    );
}

#[test]
fn certificates_are_made_and_shown() {
    let stack = Stack::shared();
    let host = unique("h");
    stack.run(&["pki", "issue", "agent", &host]);
    let pki = stack.file().pki_dir;
    assert!(pki.join(format!("agent-{host}.crt")).is_file());
    let key = std::fs::metadata(pki.join(format!("agent-{host}.key"))).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o077,
        0,
        "a key is its owner's"
    );
    let shown = stack.run_json(&["pki", "show"]);
    assert!(names(&shown, "name").contains(&host), "{shown:#}");
    assert!(
        !stack
            .try_run(&["pki", "issue", "agent", "Not A Name"])
            .status
            .success()
    );
}

#[test]
fn a_wrong_value_names_itself_and_where_it_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str], environment: Option<(&str, &str)>| {
        let mut command = Command::new(tools::binary());
        command
            .args(["scheduler", "--name", "scheduler-9"])
            .args(arguments)
            .current_dir(folder.path());
        if let Some((key, value)) = environment {
            command.env(key, value);
        }
        let output = command.output().unwrap();
        assert!(!output.status.success(), "{arguments:?} {environment:?} is taken");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = run(&[], Some(("RHYZOME_SCHEDULER__JOB_DEADLINE", "soon")));
    assert!(
        said.contains("job_deadline")
            && said.contains("RHYZOME_SCHEDULER__JOB_DEADLINE")
            && said.contains("soon"),
        "{said}"
    );
    let said = run(&["--set", "scheduler.tenant_running_cap=many"], None);
    assert!(
        said.contains("tenant_running_cap") && said.contains("--set"),
        "{said}"
    );
    let said = run(&["--set", "scheduler.no_such_key=1"], None);
    assert!(said.contains("no_such_key"), "{said}");
    std::fs::write(
        folder.path().join("rhyzome.toml"),
        "[scheduler]\nquarantine_grace = \"often\"\n",
    )
    .unwrap();
    let said = run(&[], None);
    assert!(
        said.contains("quarantine_grace") && said.contains("rhyzome.toml"),
        "{said}"
    );
}

#[test]
fn help_is_complete() {
    let help = |arguments: &[&str]| {
        let output = Command::new(tools::binary())
            .args(arguments)
            .arg("--help")
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let top = help(&[]);
    for command in [
        "api",
        "scheduler",
        "worker",
        "agent",
        "dev-issuer",
        "migrate",
        "up",
        "token",
        "pki",
        "admin",
    ] {
        assert!(top.contains(command), "{command}: {top}");
    }
    let up = help(&["up"]);
    for option in [
        "--data",
        "--fresh",
        "--workers",
        "--schedulers",
        "--apis",
        "--simulated-hosts",
        "--simulated-size",
        "--simulated-label",
        "--no-local-host",
        "--set",
        "--detach",
        "--no-restart",
    ] {
        assert!(up.contains(option), "{option}: {up}");
    }
    assert!(help(&["down"]).contains("--keep-guests"));
    let agent = help(&["agent"]);
    for option in [
        "--name",
        "--listen",
        "--state",
        "--pki",
        "--driver",
        "--hosts",
        "--vcpus",
        "--memory-mib",
        "--disk-gib",
        "--label",
    ] {
        assert!(agent.contains(option), "{option}: {agent}");
    }
}

#[test]
fn tokens_are_for_whom_they_were_asked_for() {
    use base64::Engine;
    let stack = Stack::shared();
    let claims = |arguments: &[&str]| -> Value {
        let token = stack.token(arguments);
        let body = token.split('.').nth(1).unwrap();
        let body = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(body)
            .unwrap();
        serde_json::from_slice(&body).unwrap()
    };
    let issuer = stack.file().issuer_url;
    assert!(claims(&[])["iss"].as_str().unwrap().starts_with(&issuer));
    assert_ne!(
        claims(&[])["iss"],
        claims(&["--tenant", "other"])["iss"],
        "an issuer of its own for each tenant"
    );
    assert_ne!(claims(&[])["iss"], claims(&["--operator"])["iss"]);
    assert_eq!(claims(&["--scope", "instance:read"])["scope"], "instance:read");
    let nobody = stack.try_run(&["token", "--tenant", "NoSuch Tenant"]);
    assert!(!nobody.status.success());
}
