//! How a stack is to be.

use std::ffi::OsString;

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

/// Who judges what a stack's components log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logs {
    /// The stack, when its test ends: each WARN or ERROR line that begins with nothing of what is expected fails the test.
    Judged,
    /// Whoever started it.
    Left,
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
    /// Who judges its logs.
    pub logs: Logs,
    /// How WARN and ERROR lines begin that the test brings about.
    pub expected: Vec<&'static str>,
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
            logs: Logs::Judged,
            expected: Vec::new(),
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

    /// WARN and ERROR lines that begin so are what the test is about, or follow from it.
    #[must_use]
    pub fn expecting(mut self, lines: &[&'static str]) -> Self {
        self.expected.extend(lines);
        self
    }

    pub(super) fn arguments(&self) -> Vec<OsString> {
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
