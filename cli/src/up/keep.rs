//! One task owns each part: it starts it, sees it ready, starts it again when it dies, and stops it.
//!
//!     starting ──ready──▶ running ──dies──▶ pausing ──▶ starting      (with --no-restart: dead)
//!         any of them ──asked to stop──▶ stopped

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use rhyzome_runtime::part;
use rhyzome_runtime::ready::{self, Ready};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::bootstrap;
use super::parts::{Kind, Part, Plan, free_port, is_free};
use super::record::Ports;

/// The first pause before a part is started again; doubled up to [`PAUSE_MOST`].
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MOST: Duration = Duration::from_secs(10);
/// Who ran so long has a first pause again.
const STEADY: Duration = Duration::from_secs(20);
/// How long a part may take to end before it is killed; more than a role's grace.
const END_WITHIN: Duration = Duration::from_secs(30);
/// Deaths before a part was ever ready that make `up` give up.
const TRIES: u32 = 3;
const LOOK: Duration = Duration::from_millis(20);

/// What is done when a part dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    /// It is started again.
    Always,
    /// Nothing.
    Never,
}

/// How a part is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// On its way.
    Starting,
    /// It serves.
    Ready,
    /// Dead, and it stays so; why.
    Dead(String),
}

/// A part with its task.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) part: Part,
    stop: CancellationToken,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl Kept {
    /// Starts a part.
    pub(crate) fn start(plan: &Arc<Plan>, board: &Board, part: Part, restart: Restart) -> Self {
        let stop = CancellationToken::new();
        let (told, state) = watch::channel(State::Starting);
        let hosts = plan.hosts(&part);
        let (address, addresses) = watch::channel(None);
        if part.kind.is_agent() {
            let keeping = bootstrap::keep_hosts(plan.layout.clone(), hosts, addresses, stop.clone());
            tokio::spawn(keeping);
        }
        let owner = Owner {
            plan: Arc::clone(plan),
            board: board.clone(),
            part: part.clone(),
            restart,
            stop: stop.clone(),
            state: told,
            address,
        };
        Self {
            part,
            stop,
            state,
            // Without it the part would stay dead, and nobody would know.
            task: part::spawn("the owner of a part", owner.run()),
        }
    }

    /// Returns once it serves.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        let state = self.state.wait_for(|state| *state != State::Starting).await;
        match state.context("its task ended")?.clone() {
            State::Ready | State::Starting => Ok(()),
            State::Dead(why) => bail!("{} doesn't start: {why}", self.part.name),
        }
    }

    /// Stops it; returns once it is gone.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            say(&format!("{}: its task ended badly: {error}", self.part.name));
        }
    }
}

/// A line for who looks.
pub(crate) fn say(line: &str) {
    println!("{line}");
}

struct Owner {
    plan: Arc<Plan>,
    board: Board,
    part: Part,
    restart: Restart,
    stop: CancellationToken,
    state: watch::Sender<State>,
    /// Where an agent serves, for the rows of its hosts.
    address: watch::Sender<Option<SocketAddr>>,
}

/// How one process of a part ended.
enum Ended {
    Asked,
    Died { why: String, after: Duration, was: Was },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Was {
    Ready,
    NotReady,
}

impl Owner {
    async fn run(self) {
        let mut pause = PAUSE_FIRST;
        let mut tries = 0;
        loop {
            let ended = match self.live().await {
                Ok(ended) => ended,
                Err(error) => Ended::Died {
                    why: format!("{error:#}"),
                    after: Duration::ZERO,
                    was: Was::NotReady,
                },
            };
            let Ended::Died { why, after, was } = ended else {
                return;
            };
            tries = if was == Was::Ready { 0 } else { tries + 1 };
            let first_start = *self.state.borrow() == State::Starting;
            if self.restart == Restart::Never || (first_start && tries >= TRIES) {
                say(&format!(
                    "{} {why}, and stays dead; its log: {}",
                    self.part.name,
                    self.log()
                ));
                self.state.send_replace(State::Dead(why));
                return;
            }
            if after >= STEADY {
                pause = PAUSE_FIRST;
            }
            say(&format!(
                "{} {why}; again in {:.1} s (its log: {})",
                self.part.name,
                pause.as_secs_f64(),
                self.log()
            ));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => return,
            }
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }

    fn log(&self) -> String {
        self.plan.layout.log(&self.part.name).display().to_string()
    }

    async fn live(&self) -> Result<Ended> {
        let ports = self.ports()?;
        super::layout::remove(&self.plan.layout.ready(&self.part.name))?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.plan.layout.log(&self.part.name))
            .context("opening its log")?;
        let command = tokio::select! {
            command = self.plan.command(&self.part, ports) => command,
            () = self.stop.cancelled() => return Ok(Ended::Asked),
        };
        let mut command: Command = command?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", self.part.name))?;
        let ended = self.attend(&mut child, ports).await;
        if ended.is_err() {
            // Another is started in its place: it must not be there beside that.
            self.end(&mut child).await?;
        }
        self.board.ended(&self.part)?;
        ended
    }

    /// A process of the part, from its start to its end.
    async fn attend(&self, child: &mut Child, ports: Ports) -> Result<Ended> {
        let began = Instant::now();
        let pid = pid(child).context("it has no id")?;
        self.board.started(&self.part, pid.as_raw())?;
        self.watch(child, pid.as_raw(), ports, began).await
    }

    async fn watch(&self, child: &mut Child, pid: i32, ports: Ports, began: Instant) -> Result<Ended> {
        let mut was = Was::NotReady;
        loop {
            let look = async {
                if was == Was::Ready {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(LOOK).await;
            };
            tokio::select! {
                status = child.wait() => {
                    let why = match status {
                        Ok(status) => format!("ended ({status})"),
                        Err(error) => format!("can't be watched ({error})"),
                    };
                    return Ok(Ended::Died { why, after: began.elapsed(), was });
                }
                () = self.stop.cancelled() => {
                    self.end(child).await?;
                    return Ok(Ended::Asked);
                }
                () = look => {
                    if let Some(ready) = self.look(pid, ports).await? {
                        was = Was::Ready;
                        self.serving(ready)?;
                    }
                }
            }
        }
    }

    /// The ports that it had, where they are free; those that others know it by in any case.
    fn ports(&self) -> Result<Ports> {
        let had = self.board.ports(&self.part.name);
        let again = *self.state.borrow() == State::Ready && self.part.kind.port_is_known();
        let own = had.own.filter(|port| again || is_free(*port));
        let own = match (self.part.kind, own) {
            (Kind::Postgres, None) => Some(free_port()?),
            (_, own) => own,
        };
        Ok(Ports {
            own,
            metrics: had.metrics.filter(|port| is_free(*port)),
        })
    }

    async fn look(&self, pid: i32, ports: Ports) -> Result<Option<Ready>> {
        let at = |port: u16| Ready {
            address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            metrics_address: None,
        };
        match self.part.kind {
            Kind::Postgres => match ports.own {
                Some(port) if self.plan.postgres.accepts(port).await? => Ok(Some(at(port))),
                Some(_) | None => Ok(None),
            },
            Kind::Nats => Ok(super::nats::port(&self.plan.layout, pid)?.map(at)),
            Kind::DevIssuer
            | Kind::Api
            | Kind::Scheduler
            | Kind::Worker
            | Kind::LocalAgent
            | Kind::SimulatedAgent => {
                ready::read(&self.plan.layout.ready(&self.part.name)).context("reading its ready file")
            }
        }
    }

    fn serving(&self, ready: Ready) -> Result<()> {
        let address = ready.address;
        self.board.ready(&self.plan, &self.part, ready)?;
        if let (true, Some(address)) = (self.part.kind.is_agent(), address) {
            self.address.send_replace(Some(address));
        }
        if self.state.send_replace(State::Ready) == State::Ready {
            say(&format!("{} serves again", self.part.name));
        }
        Ok(())
    }

    async fn end(&self, child: &mut Child) -> Result<()> {
        // One that is reaped has no id any more, and its number may be another's.
        let Some(running) = pid(child) else { return Ok(()) };
        let told = kill(running, self.part.kind.end_signal()).is_ok();
        if told && tokio::time::timeout(END_WITHIN, child.wait()).await.is_ok() {
            return Ok(());
        }
        say(&format!("{} doesn't end: it is killed", self.part.name));
        child
            .kill()
            .await
            .with_context(|| format!("killing {}", self.part.name))
    }
}

fn pid(child: &Child) -> Option<Pid> {
    child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .map(Pid::from_raw)
}
