//! A stack by `rhyzome up`: a test's own, which ends with it, or one that many tests share.
//!
//! What is here uses `stack.md` alone: the command line, `stack.json`, tokens. Whatever a stack started is gone when it has ended, whether its
//! `down` did that or not.

mod shared;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::Deserialize;

use crate::faults::FaultsFile;
use crate::guard::{self, Marked};
use crate::rest::Rest;
use crate::tools;

/// Whether this machine is a host of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalHost {
    /// With an agent for it.
    Yes,
    /// Simulated hosts alone.
    No,
}

/// What happens to a part that dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// It is started again.
    Yes,
    /// It stays dead.
    No,
}

/// How a stack is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many simulated hosts: `sim-1` and so on.
    pub simulated_hosts: u32,
    /// `VCPUS,MEMORY_MIB,DISK_GIB` of each; `up`'s own where left out.
    pub simulated_size: Option<String>,
    /// Labels of the simulated hosts.
    pub simulated_labels: Vec<(String, String)>,
    /// How many workers; `up`'s own number where left out.
    pub workers: Option<u32>,
    /// How many schedulers; `up`'s own number where left out.
    pub schedulers: Option<u32>,
    /// How many API servers; `up`'s own number where left out.
    pub apis: Option<u32>,
    /// Variables of the environment of all its processes.
    pub environment: Vec<(String, String)>,
    /// Whether this machine is a host.
    pub local_host: LocalHost,
    /// What happens to a part that dies.
    pub restart: Restart,
    /// Configuration keys and values.
    pub settings: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            simulated_hosts: 3,
            simulated_size: None,
            simulated_labels: Vec::new(),
            workers: None,
            schedulers: None,
            apis: None,
            environment: Vec::new(),
            local_host: LocalHost::No,
            restart: Restart::Yes,
            settings: Vec::new(),
        }
    }
}

impl Options {
    /// Simulated hosts alone, this many.
    pub fn simulated(hosts: u32) -> Self {
        Self {
            simulated_hosts: hosts,
            ..Self::default()
        }
    }

    /// With a configuration key.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![
            "--simulated-hosts".into(),
            self.simulated_hosts.to_string().into(),
        ];
        if let Some(size) = &self.simulated_size {
            arguments.extend(["--simulated-size".into(), size.into()]);
        }
        for (key, value) in &self.simulated_labels {
            arguments.extend(["--simulated-label".into(), format!("{key}={value}").into()]);
        }
        for (count, flag) in [
            (self.workers, "--workers"),
            (self.schedulers, "--schedulers"),
            (self.apis, "--apis"),
        ] {
            if let Some(count) = count {
                arguments.extend([flag.into(), count.to_string().into()]);
            }
        }
        if self.local_host == LocalHost::No {
            arguments.push("--no-local-host".into());
        }
        if self.restart == Restart::No {
            arguments.push("--no-restart".into());
        }
        for (key, value) in &self.settings {
            arguments.extend(["--set".into(), format!("{key}={value}").into()]);
        }
        arguments
    }
}

/// `stack.json`; what it says beside this is left out.
#[derive(Clone, Debug, Deserialize)]
pub struct StackFile {
    /// Without `/v1`.
    pub api_url: String,
    /// The data folder.
    pub data_dir: PathBuf,
    /// Logs of all processes.
    pub log_dir: PathBuf,
    /// Certificates.
    pub pki_dir: PathBuf,
    /// Of the development issuer.
    pub issuer_url: String,
    /// The database.
    pub postgres: PostgresEntry,
    /// The message bus.
    pub nats: NatsEntry,
    /// Agents of hosts.
    pub agents: Vec<AgentEntry>,
    /// What runs.
    pub processes: Vec<ProcessEntry>,
}

/// See [`StackFile`].
#[derive(Clone, Debug, Deserialize)]
pub struct PostgresEntry {
    /// How it is reached.
    pub url: String,
}

/// See [`StackFile`].
#[derive(Clone, Debug, Deserialize)]
pub struct NatsEntry {
    /// How it is reached.
    pub url: String,
    /// Where JetStream keeps its streams.
    pub jetstream_dir: PathBuf,
}

/// See [`StackFile`].
#[derive(Clone, Debug, Deserialize)]
pub struct AgentEntry {
    /// The host's name.
    pub host: String,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

/// See [`StackFile`].
#[derive(Clone, Debug, Deserialize)]
pub struct ProcessEntry {
    /// `api`, `scheduler`, `worker`, `agent`, `dev-issuer`, `postgres`, `nats`.
    pub role: String,
    /// As in its certificate.
    pub name: String,
    /// Its id.
    pub pid: i32,
    /// Its metrics, where it has any.
    pub metrics_url: Option<String>,
}

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
            .map_or_else(|| self.data().join("log"), |file| file.log_dir);
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
            Ending::WithTheRun => {}
            Ending::WithThis => {
                if std::thread::panicking() {
                    eprintln!("{}", self.logs());
                }
                let output = self.try_run(&["down"]);
                if !output.status.success() {
                    eprintln!("rhyzome down: {}", String::from_utf8_lossy(&output.stderr));
                }
                guard::kill_marked(&self.folder);
                if !guard::keeps() {
                    // The guard tries again when this process has ended.
                    let _ = std::fs::remove_dir_all(&self.folder);
                }
            }
        }
    }
}

/// What an agent says that it holds.
#[derive(Clone, Debug, Deserialize)]
pub struct Inventory {
    /// The host.
    pub host: String,
    /// Its epoch.
    pub epoch: i64,
    /// What is there.
    pub objects: Vec<Held>,
    /// The highest fence of each resource.
    pub resources: Vec<Fenced>,
    /// Jobs that the ledger knows.
    pub jobs: Vec<LedgerJob>,
}

/// See [`Inventory`].
#[derive(Clone, Debug, Deserialize)]
pub struct Held {
    /// `network`, `image`, `disk`, `instance`.
    pub kind: String,
    /// The resource that it is for, or the shared object's own.
    pub id: String,
    /// As the agent sees it.
    pub state: String,
    /// Who claims a shared object.
    pub claims: Vec<String>,
}

/// See [`Inventory`].
#[derive(Clone, Debug, Deserialize)]
pub struct Fenced {
    /// The resource.
    pub id: String,
    /// Its highest fence.
    pub fence: i64,
}

/// See [`Inventory`].
#[derive(Clone, Debug, Deserialize)]
pub struct LedgerJob {
    /// The job.
    pub id: String,
    /// `forward`, `undoing`, `finished`.
    pub phase: String,
}

impl Inventory {
    /// Everything that there is of a resource: objects for it and claims by it.
    pub fn traces_of(&self, resource: &str) -> Vec<&Held> {
        self.objects
            .iter()
            .filter(|held| held.id == resource || held.claims.iter().any(|claim| claim == resource))
            .collect()
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
