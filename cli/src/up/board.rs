//! What the tasks of a stack know together: which process is which, and where it serves. Every change is written down, for
//! scripts (`stack.json`) and for a later `up` or `down` ([`super::record`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use rhyzome_runtime::ready::Ready;

use super::layout::Layout;
use super::parts::{Kind, Part, Plan};
use super::postgres::Postgres;
use super::record::{Known, Ports, Record};
use super::stack::{AgentAt, NatsAt, PostgresAt, ProcessAt, Stack};

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    layout: Layout,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    record: Record,
    running: BTreeMap<String, Running>,
    /// In the order of the first start.
    order: Vec<String>,
    agents: Vec<AgentAt>,
    shown: bool,
}

#[derive(Debug)]
struct Running {
    kind: Kind,
    pid: i32,
    at: Option<Ready>,
}

impl Board {
    /// Of a stack that begins; takes the ports over that an earlier one had.
    pub(crate) fn new(layout: &Layout, earlier: Record) -> Result<Self> {
        let record = Record {
            supervisor: Known::own(),
            ports: earlier.ports,
            ..Record::default()
        };
        record.write(layout.root())?;
        let state = State {
            record,
            ..State::default()
        };
        Ok(Self {
            layout: layout.clone(),
            state: Arc::new(Mutex::new(state)),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ports that a part had last.
    pub(crate) fn ports(&self, name: &str) -> Ports {
        self.state().record.ports.get(name).copied().unwrap_or_default()
    }

    /// Where a part serves, if it does.
    pub(crate) fn address(&self, name: &str) -> Option<SocketAddr> {
        self.state()
            .running
            .get(name)
            .and_then(|running| running.at.as_ref())
            .and_then(|at| at.address)
    }

    /// A part's process was started.
    pub(crate) fn started(&self, part: &Part, pid: i32) -> Result<()> {
        let mut state = self.state();
        state.running.insert(
            part.name.clone(),
            Running {
                kind: part.kind,
                pid,
                at: None,
            },
        );
        if !state.order.contains(&part.name) {
            state.order.push(part.name.clone());
        }
        if let Some(known) = Known::of(pid) {
            state.record.parts.insert(part.name.clone(), known);
        }
        self.written(&state)
    }

    /// It serves.
    pub(crate) fn ready(&self, plan: &Plan, part: &Part, ready: Ready) -> Result<()> {
        let mut state = self.state();
        if let (true, Some(address)) = (part.kind.is_agent(), ready.address) {
            let hosts = plan.hosts(part);
            state.agents.retain(|agent| !hosts.contains(&agent.host));
            state.agents.extend(hosts.into_iter().map(|host| AgentAt {
                host,
                address: address.to_string(),
            }));
        }
        let ports = Ports {
            own: ready.address.map(|address| address.port()),
            metrics: ready.metrics_address.map(|address| address.port()),
        };
        state.record.ports.insert(part.name.clone(), ports);
        if let Some(running) = state.running.get_mut(&part.name) {
            running.at = Some(ready);
        }
        self.written(&state)
    }

    /// It ended.
    pub(crate) fn ended(&self, part: &Part) -> Result<()> {
        let mut state = self.state();
        state.running.remove(&part.name);
        state.record.parts.remove(&part.name);
        self.written(&state)
    }

    /// From now on scripts are told.
    pub(crate) fn show(&self) -> Result<()> {
        let mut state = self.state();
        state.shown = true;
        self.written(&state)
    }

    /// Nothing runs any more.
    pub(crate) fn over(&self) -> Result<()> {
        let mut state = self.state();
        state.record.supervisor = None;
        self.written(&state)
    }

    fn written(&self, state: &State) -> Result<()> {
        state.record.write(self.layout.root())?;
        if state.shown {
            self.stack(state)?.write(self.layout.root())
        } else {
            Ok(())
        }
    }

    fn stack(&self, state: &State) -> Result<Stack> {
        let port = |name: &str| {
            let ports = state.record.ports.get(name).copied().unwrap_or_default();
            ports.own.with_context(|| format!("{name} has no port yet"))
        };
        // The first API server that there is; its port where it is being restarted.
        let api = state
            .order
            .iter()
            .find(|name| name.starts_with("api-"))
            .map_or("api-1", String::as_str);
        Ok(Stack {
            api_url: format!("http://127.0.0.1:{}", port(api)?),
            data_dir: self.layout.root().to_owned(),
            log_dir: self.layout.logs(),
            pki_dir: self.layout.pki(),
            issuer_url: format!("http://127.0.0.1:{}", port(Kind::DevIssuer.role())?),
            postgres: PostgresAt {
                url: Postgres::url_with_password(&self.layout, port(Kind::Postgres.role())?)?,
            },
            nats: NatsAt {
                url: format!("tls://127.0.0.1:{}", port(Kind::Nats.role())?),
                jetstream_dir: self.layout.jetstream(),
            },
            agents: state.agents.clone(),
            processes: state
                .order
                .iter()
                .filter_map(|name| state.running.get(name).map(|running| (name, running)))
                .map(|(name, running)| ProcessAt {
                    role: running.kind.role().to_owned(),
                    name: name.clone(),
                    pid: running.pid,
                    metrics_url: running
                        .at
                        .as_ref()
                        .and_then(|at| at.metrics_address)
                        .map(|address| format!("http://{address}/metrics")),
                })
                .collect(),
        })
    }
}
