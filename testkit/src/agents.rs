//! Simulated hosts started by hand against a running stack, as `stack.md` says: a certificate, an agent, `admin host add`.
//!
//! They bear the label `test=NAME`, so that a test's instances go to them and nobody else's do, and read faults of their own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::faults::FaultsFile;
use crate::patience::{eventually, eventually_blocking};
use crate::stack::Stack;
use crate::{guard, tools};

/// Waits until the schedulers hear all of these hosts.
pub async fn hosts_up(stack: &Stack, hosts: &[String]) {
    let operator = &stack.operator();
    for host in hosts {
        let path = &format!("/v1/hosts/{host}");
        eventually(&format!("{host} to be up"), || async move {
            (operator.get(path).await.body["state"] == "up").then_some(())
        })
        .await;
    }
}

/// What each host has.
#[derive(Clone, Copy, Debug)]
pub struct AgentSize {
    /// Virtual processors, before overcommit.
    pub vcpus: u32,
    /// MiB.
    pub memory_mib: u64,
    /// GiB.
    pub disk_gib: u64,
}

impl Default for AgentSize {
    fn default() -> Self {
        Self {
            vcpus: 8,
            memory_mib: 16_384,
            disk_gib: 500,
        }
    }
}

/// A running agent with its simulated hosts; it ends with the value.
#[derive(Debug)]
pub struct Agent {
    name: String,
    label: String,
    hosts: u32,
    size: AgentSize,
    folder: PathBuf,
    stack_folder: PathBuf,
    data: PathBuf,
    environment: Vec<(String, String)>,
    address: Option<String>,
    child: Option<Child>,
}

impl Agent {
    /// Starts an agent that serves `NAME-1` to `NAME-hosts`, and adds them to the stack.
    ///
    /// # Panics
    /// Where something of it fails.
    pub fn start(stack: &Stack, name: &str, hosts: u32, size: AgentSize) -> Self {
        Self::start_labelled(stack, name, name, hosts, size)
    }

    /// As [`Agent::start`], with the label `test=LABEL` instead of `test=NAME`.
    ///
    /// # Panics
    /// Where something of it fails.
    pub fn start_labelled(stack: &Stack, name: &str, label: &str, hosts: u32, size: AgentSize) -> Self {
        Self::start_in(stack, name, label, hosts, size, Vec::new())
    }

    /// As [`Agent::start_labelled`], with variables of the environment of its process.
    ///
    /// # Panics
    /// Where something of it fails.
    pub fn start_in(
        stack: &Stack,
        name: &str,
        label: &str,
        hosts: u32,
        size: AgentSize,
        environment: Vec<(String, String)>,
    ) -> Self {
        let folder = stack.folder().join(format!("agent-{name}"));
        if let Err(error) = std::fs::create_dir_all(&folder) {
            panic!("making {}: {error}", folder.display());
        }
        let mut agent = Self {
            name: name.to_owned(),
            label: label.to_owned(),
            hosts,
            size,
            folder,
            stack_folder: stack.folder().to_path_buf(),
            data: stack.data(),
            environment,
            address: None,
            child: None,
        };
        agent.faults().clear();
        for host in agent.hosts() {
            stack.run(&["pki", "issue", "agent", &host]);
        }
        agent.run();
        for host in agent.hosts() {
            stack.run(&["admin", "host", "add", &host, "--address", agent.address()]);
        }
        agent
    }

    /// The value of its hosts' label `test`.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its hosts' names.
    pub fn hosts(&self) -> Vec<String> {
        (1..=self.hosts).map(|n| format!("{}-{n}", self.name)).collect()
    }

    /// Its own faults.
    pub fn faults(&self) -> FaultsFile {
        FaultsFile::in_folder(&self.folder)
    }

    /// Where it keeps its ledger and objects.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// What it keeps of its hosts' objects: a file.
    ///
    /// # Panics
    /// Where there is none.
    pub fn effects(&self) -> PathBuf {
        match find(&self.state(), "effects") {
            Some(path) => path,
            None => panic!("{} keeps no effects", self.name),
        }
    }

    /// What it answered, and to which orders: a file.
    ///
    /// # Panics
    /// Where there is none.
    pub fn ledger(&self) -> PathBuf {
        match find(&self.state(), "ledger") {
            Some(path) => path,
            None => panic!("{} has no ledger", self.name),
        }
    }

    /// Puts back what it kept of its hosts' objects at another time, while it is not running.
    ///
    /// # Panics
    /// Where that can't be written.
    pub fn put_back(&mut self, effects: &[u8]) {
        self.put_back_file(&self.effects(), effects);
    }

    /// Puts back the ledger of another time, while it is not running.
    ///
    /// # Panics
    /// Where that can't be written.
    pub fn put_back_ledger(&mut self, ledger: &[u8]) {
        self.put_back_file(&self.ledger(), ledger);
    }

    fn put_back_file(&mut self, path: &Path, bytes: &[u8]) {
        self.kill();
        if let Err(error) = std::fs::write(path, bytes) {
            panic!("{}: {error}", path.display());
        }
        self.restart();
    }

    /// Where it listens.
    ///
    /// # Panics
    /// Before it does.
    pub fn address(&self) -> &str {
        match &self.address {
            Some(address) => address,
            None => panic!("the agent {} listens nowhere", self.name),
        }
    }

    /// SIGKILL, as a crash is.
    ///
    /// # Panics
    /// Where it doesn't run.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else {
            panic!("the agent {} doesn't run", self.name)
        };
        if let Err(error) = child.kill().and_then(|()| child.wait().map(|_| ())) {
            panic!("killing the agent {}: {error}", self.name);
        }
    }

    /// Waits until it ends by itself, by a fault that says so.
    ///
    /// # Panics
    /// Where it doesn't.
    pub fn wait_crashed(&mut self) {
        let Some(mut child) = self.child.take() else {
            panic!("the agent {} doesn't run", self.name)
        };
        eventually_blocking(&format!("the agent {} to crash", self.name), || {
            matches!(child.try_wait(), Ok(Some(_))).then_some(())
        });
    }

    /// Starts it again at the address and with the state that it had.
    pub fn restart(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
        self.run();
    }

    fn run(&mut self) {
        let said = self.folder.join("agent.out");
        let (out, err) = match (
            std::fs::File::create(&said),
            std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.folder.join("agent.log")),
        ) {
            (Ok(out), Ok(err)) => (out, err),
            (Err(error), _) | (_, Err(error)) => panic!("writing into {}: {error}", self.folder.display()),
        };
        let mut command = Command::new(tools::binary());
        command
            .args(["agent", "--name", &self.name])
            .args(["--listen", self.address.as_deref().unwrap_or("127.0.0.1:0")])
            .arg("--state")
            .arg(self.state())
            .arg("--pki")
            .arg(self.data.join("pki"))
            .args(["--driver", "simulated"])
            .args(["--hosts", &self.hosts.to_string()])
            .args(["--vcpus", &self.size.vcpus.to_string()])
            .args(["--memory-mib", &self.size.memory_mib.to_string()])
            .args(["--disk-gib", &self.size.disk_gib.to_string()])
            .args(["--label", &format!("test={}", self.label)])
            .arg("--faults")
            .arg(self.faults().path())
            .env(guard::MARK, &self.stack_folder)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err);
        match command.spawn() {
            Ok(child) => self.child = Some(child),
            Err(error) => panic!("starting {}: {error}", tools::binary().display()),
        }
        let address = eventually_blocking(
            &format!("the agent {} to say where it listens", self.name),
            || {
                if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                    panic!("the agent {} ended ({status}):\n{}", self.name, self.log());
                }
                address_in(&said)
            },
        );
        self.address = Some(address);
    }

    /// What it logged.
    pub fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        read("agent.out") + &read("agent.log")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- agent {}\n{}",
                self.name,
                lines[lines.len().saturating_sub(30)..].join("\n")
            );
        }
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The first `127.0.0.1:PORT` that was printed.
fn address_in(file: &Path) -> Option<String> {
    let lines = BufReader::new(std::fs::File::open(file).ok()?).lines();
    lines.map_while(Result::ok).find_map(|line| {
        let (_, port) = line.split_once("127.0.0.1:")?;
        let port: String = port.chars().take_while(char::is_ascii_digit).collect();
        (!port.is_empty() && port != "0").then(|| format!("127.0.0.1:{port}"))
    })
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            find(&path, name)
        } else {
            (path.file_name()? == name).then_some(path)
        }
    })
}
