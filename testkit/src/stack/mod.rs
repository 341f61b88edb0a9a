//! A stack by `rhyzome up`: a test's own, which ends with it, or one that many tests share.
//!
//! What is here uses `stack.md` alone: the command line, `stack.json`, tokens. Whatever a stack started is gone when it has ended, whether its
//! `down` did that or not.

mod file;
mod judge;
mod options;
mod shared;

pub use file::{
    AgentEntry, Fenced, Held, Inventory, LedgerJob, NatsEntry, PostgresEntry, ProcessEntry, StackFile,
};
pub use options::{LocalHost, Logs, Options, Restart};

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::faults::FaultsFile;
use crate::guard::{self, Marked};
use crate::rest::Rest;
use crate::tools;

/// Who ends a stack.
#[derive(Debug)]
enum Ending {
    /// This value, when it is dropped.
    WithThis,
    /// The guard, when the test run is over.
    WithTheRun,
}

/// A running stack.
#[derive(Debug)]
pub struct Stack {
    folder: PathBuf,
    options: Options,
    ending: Ending,
    /// How long its logs were when the test began.
    begun: crate::logs::Lengths,
}

impl Stack {
    /// Starts a stack of the caller's own; it ends when the value is dropped.
    ///
    /// # Panics
    /// Where it doesn't start, with what it and its parts said.
    pub fn start(options: Options) -> Self {
        let folder = guard::folder("rz-");
        guard::watch(&folder, std::process::id(), &down_command(&folder));
        let stack = Self {
            folder,
            options,
            ending: Ending::WithThis,
            begun: crate::logs::Lengths::default(),
        };
        stack.up();
        stack
    }

    /// `rhyzome up --detach` on this stack's data: at the start, and again after everything was killed.
    ///
    /// # Panics
    /// Where it doesn't start, with what it and its parts said.
    pub fn up(&self) {
        let said = self.folder.join("up.log");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&said)
            .and_then(|file| Ok((file.try_clone()?, file)));
        let (out, err) = match log {
            Ok(files) => files,
            Err(error) => panic!("writing {}: {error}", said.display()),
        };
        let mut command = self.command("up");
        command
            .arg("--detach")
            .args(self.options.arguments())
            .arg("--nats-server")
            .arg(tools::nats_server())
            .arg("--postgres-bin")
            .arg(tools::postgres_bin());
        if let Some(images) = tools::image_dir_if_any() {
            command.arg("--image-dir").arg(images);
        }
        let status = command.stdin(Stdio::null()).stdout(out).stderr(err).status();
        assert!(
            matches!(&status, Ok(status) if status.success()),
            "rhyzome up: {status:?}\n{}\n{}",
            std::fs::read_to_string(&said).unwrap_or_default(),
            self.logs()
        );
    }

    /// The end of each log.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let folder = self
            .try_file()
            .map_or_else(|| self.data().join("logs"), |file| file.log_dir);
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let log = std::fs::read(entry.path()).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(15)..];
            text.push_str("--- ");
            text.push_str(&entry.path().display().to_string());
            text.push('\n');
            text.push_str(&tail.join("\n"));
            text.push('\n');
        }
        text
    }

    /// A command of the binary with `--data` of this stack.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(tools::binary());
        command
            .arg(name)
            .arg("--data")
            .arg(self.data())
            .env(guard::MARK, &self.folder);
        // A configuration or a secret of whoever runs the tests is no part of them.
        for (key, _) in std::env::vars_os() {
            if key.to_str().is_some_and(|key| {
                key.starts_with("RHYZOME_") && (key.contains("__") || key == "RHYZOME_CONFIG")
            }) {
                command.env_remove(key);
            }
        }
        let environment = self.options.environment.iter();
        command.envs(environment.map(|(name, value)| (name, value)));
        command.current_dir(&self.folder);
        command
    }

    /// Runs a command of the binary to its end, and gives what it printed.
    ///
    /// # Panics
    /// Where it fails.
    pub fn run(&self, words: &[&str]) -> String {
        let output = self.try_run(words);
        assert!(
            output.status.success(),
            "rhyzome {words:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// As [`Stack::run`], whatever comes of it. The first word is the command.
    ///
    /// # Panics
    /// Where it can't be started.
    pub fn try_run(&self, words: &[&str]) -> Output {
        let Some((command, arguments)) = words.split_first() else {
            panic!("no command")
        };
        let mut command = self.command(command);
        match command.args(arguments).stdin(Stdio::null()).output() {
            Ok(output) => output,
            Err(error) => panic!("starting {}: {error}", tools::binary().display()),
        }
    }

    /// `rhyzome … -o json`, parsed.
    ///
    /// # Panics
    /// Where it fails or prints no JSON.
    pub fn run_json(&self, words: &[&str]) -> serde_json::Value {
        let text = self.run(&[words, &["-o", "json"]].concat());
        match serde_json::from_str(&text) {
            Ok(value) => value,
            Err(error) => panic!("rhyzome {words:?} printed no JSON ({error}): {text}"),
        }
    }

    /// `DIR`.
    pub fn data(&self) -> PathBuf {
        data_of(&self.folder)
    }

    /// What else belongs to the stack may be kept here; it goes with the stack.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `DIR/faults.toml`.
    pub fn faults(&self) -> FaultsFile {
        FaultsFile::in_folder(&self.data())
    }

    /// `DIR/stack.json`, as it is now.
    ///
    /// # Panics
    /// Where it isn't as `stack.md` says.
    pub fn file(&self) -> StackFile {
        let path = self.data().join("stack.json");
        let text = std::fs::read_to_string(&path);
        match text.map(|text| serde_json::from_str(&text)) {
            Ok(Ok(file)) => file,
            Ok(Err(error)) => panic!("{}: {error}", path.display()),
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }

    fn try_file(&self) -> Option<StackFile> {
        let text = std::fs::read_to_string(self.data().join("stack.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// A token by `rhyzome token`, with further arguments.
    pub fn token(&self, arguments: &[&str]) -> String {
        self.run(&[&["token"], arguments].concat()).trim().to_owned()
    }

    /// `rhyzome admin tenant create`: a tenant with an issuer of the test's own.
    pub fn add_tenant(&self, tenant: &str, issuer: &str, audience: &str) {
        self.run(&[
            "admin",
            "tenant",
            "create",
            tenant,
            "--issuer",
            issuer,
            "--audience",
            audience,
        ]);
    }

    /// A client that may do all in a tenant.
    pub fn tenant(&self, tenant: &str) -> Rest {
        self.with_token(self.token(&["--tenant", tenant]))
    }

    /// A client of the tenant `demo` that may do all.
    pub fn demo(&self) -> Rest {
        self.tenant("demo")
    }

    /// A client of the tenant `demo` with this scope.
    pub fn scoped(&self, scope: &str) -> Rest {
        self.with_token(self.token(&["--tenant", "demo", "--scope", scope]))
    }

    /// A client for operators.
    pub fn operator(&self) -> Rest {
        self.with_token(self.token(&["--operator"]))
    }

    /// A client with a token.
    pub fn with_token(&self, token: String) -> Rest {
        Rest::new(&self.file().api_url, Some(token))
    }

    /// What a host's agent says that it holds.
    pub fn inventory(&self, host: &str) -> Inventory {
        let value = self.run_json(&["admin", "host", "inventory", host]);
        match serde_json::from_value(value.clone()) {
            Ok(inventory) => inventory,
            Err(error) => panic!("the inventory of {host} isn't as stack.md says ({error}): {value}"),
        }
    }

    /// `rhyzome admin check -o json`: how it ended, and what it printed.
    ///
    /// # Panics
    /// Where it prints no JSON.
    pub fn check(&self) -> (Option<i32>, serde_json::Value) {
        let output = self.try_run(&["admin", "check", "-o", "json"]);
        let text = String::from_utf8_lossy(&output.stdout);
        match serde_json::from_str(&text) {
            Ok(value) => (output.status.code(), value),
            Err(error) => panic!(
                "admin check: {error}: {text}\n{}",
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }

    /// What all agents in `stack.json` say that they hold, by host.
    pub fn inventories(&self) -> BTreeMap<String, Inventory> {
        self.file()
            .agents
            .into_iter()
            .map(|agent| (agent.host.clone(), self.inventory(&agent.host)))
            .collect()
    }

    /// `HOST:PORT` of every API server that serves now, from the files in which they say so.
    pub fn apis(&self) -> Vec<String> {
        let processes = self.try_file().map_or_else(Vec::new, |file| file.processes);
        let apis = processes.into_iter().filter(|process| process.role == "api");
        apis.filter_map(|api| {
            let ready = self.data().join("run").join(format!("{}.json", api.name));
            let ready: serde_json::Value =
                serde_json::from_str(&std::fs::read_to_string(ready).ok()?).ok()?;
            Some(ready.get("address")?.as_str()?.to_owned())
        })
        .collect()
    }

    /// Brings the stack down and leaves its folder, under this name.
    ///
    /// # Errors
    /// The folder can't be renamed.
    pub fn keep_as(mut self, place: &Path) -> std::io::Result<()> {
        let output = self.try_run(&["down"]);
        if !output.status.success() {
            eprintln!("rhyzome down: {}", String::from_utf8_lossy(&output.stderr));
        }
        guard::kill_marked(&self.folder);
        // Nothing is left to do when the value is dropped.
        self.ending = Ending::WithTheRun;
        std::fs::rename(&self.folder, place)
    }

    /// All processes that belong to the stack, those that `stack.json` doesn't know included.
    pub fn marked(&self) -> Vec<Marked> {
        guard::marked(&self.folder)
    }

    /// `rhyzome down` with further arguments, and what is left of the stack's processes after it.
    ///
    /// # Panics
    /// Where `down` fails.
    pub fn down(&self, arguments: &[&str]) -> Vec<Marked> {
        self.run(&[&["down"], arguments].concat());
        self.marked()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        match self.ending {
            Ending::WithTheRun => self.judge_logs(),
            Ending::WithThis => {
                if std::thread::panicking() {
                    eprintln!("{}", self.logs());
                }
                let output = self.try_run(&["down"]);
                if !output.status.success() {
                    eprintln!("rhyzome down: {}", String::from_utf8_lossy(&output.stderr));
                }
                guard::kill_marked(&self.folder);
                // Before the folder goes; a panic ends the test after it went.
                let said = self.unexpected();
                if !guard::keeps() {
                    // The guard tries again when this process has ended.
                    let _ = std::fs::remove_dir_all(&self.folder);
                }
                judge::fail_on(&said);
            }
        }
    }
}

fn data_of(folder: &Path) -> PathBuf {
    folder.join("data")
}

fn down_command(folder: &Path) -> Vec<OsString> {
    vec![
        tools::binary().into(),
        "down".into(),
        "--data".into(),
        data_of(folder).into(),
    ]
}
