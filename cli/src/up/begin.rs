//! Everything in order until all is ready, then until it is to end.

use std::fs::File;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rhyzome_store::Store;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::keep::{Kept, Restart, say};
use super::layout::Layout;
use super::parts::{Kind, Part, Plan};
use super::record::Record;
use super::{bootstrap, image, stop};
use crate::args::{Configured, UpArgs};
use crate::limits;
use crate::settings::Layers;

/// How long all together may take to be ready.
const READY_WITHIN: Duration = Duration::from_mins(3);
/// How long hosts may take to be watched before `up` goes on without them.
const WATCHED_WITHIN: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);
/// Its name among the ready files: written when all is ready.
pub(crate) const READY: &str = "up";

/// Runs a stack from its beginning to its end.
pub(crate) async fn run(configured: &Configured, args: &UpArgs) -> Result<()> {
    let ending = signals()?;
    let layout = Layout::make(&args.data)?;
    let _lock = lock(&layout)?;
    let earlier = stop::left_over(&layout).await?;
    let earlier = if args.fresh {
        afresh(&layout).await?
    } else {
        earlier
    };
    limits::raise_open_files()?;
    let plan = Arc::new(Plan::new(layout.clone(), args, &configured.set)?);
    bootstrap::write_config(&plan, configured, None, None)?;
    check(configured, &plan)?;
    for former in [
        layout.root().join(super::stack::FILE),
        layout.keep_guests(),
        layout.ready(READY),
    ] {
        super::layout::remove(&former)?;
    }
    let board = Board::new(&plan.layout, earlier)?;
    let restart = if args.no_restart {
        Restart::Never
    } else {
        Restart::Always
    };
    let mut stack = Starting {
        plan: Arc::clone(&plan),
        board: board.clone(),
        restart,
        kept: Vec::new(),
    };
    let started = tokio::select! {
        started = tokio::time::timeout(READY_WITHIN, stack.start(configured)) => {
            started.unwrap_or_else(|_| bail!("the stack wasn't ready within {} s; the logs are in {}",
                READY_WITHIN.as_secs(), plan.layout.logs().display()))
        }
        () = ending.cancelled() => Ok(()),
    };
    if started.is_ok() && !ending.is_cancelled() {
        let data = plan.layout.root().display();
        say(&format!(
            "ready; `rhyzome token --data {data}` prints a token, `rhyzome down --data {data}` ends it"
        ));
        std::fs::write(plan.layout.ready(READY), "{}\n").context("saying that all is ready")?;
        ending.cancelled().await;
    }
    say("stopping");
    stop::all(&plan.layout, stack.kept).await?;
    board.over()?;
    say("stopped");
    started
}

fn signals() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        let mut signals = signal(kind).context("listening for signals")?;
        let token = token.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                token.cancel();
            }
        });
    }
    Ok(token)
}

/// Held until the process ends, however it ends.
pub(crate) fn lock(layout: &Layout) -> Result<Flock<File>> {
    let path = layout.lock();
    let file = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => {
            bail!(
                "a stack runs in {0} already: `rhyzome down --data {0}` ends it",
                layout.root().display()
            )
        }
        Err((_, error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

async fn afresh(layout: &Layout) -> Result<Record> {
    stop::guests(layout).await?;
    layout.wipe()?;
    Layout::make(layout.root())?;
    Ok(Record::default())
}

/// Finds what is wrong with the configuration now rather than in a part's log.
fn check(configured: &Configured, plan: &Plan) -> Result<()> {
    let of_stack = Configured {
        config: None,
        set: configured.set.clone(),
    };
    Layers::of_data(&of_stack, Some(plan.layout.root()))?
        .load()
        .map(drop)
}

struct Starting {
    plan: Arc<Plan>,
    board: Board,
    restart: Restart,
    kept: Vec<Kept>,
}

impl Starting {
    async fn start(&mut self, configured: &Configured) -> Result<()> {
        say(&format!("data in {}", self.plan.layout.root().display()));
        bootstrap::certificates(&self.plan)?;
        bootstrap::issuer_keys(&self.plan.layout)?;
        self.plan.postgres.ensure(&self.plan.layout).await?;
        self.ready_all(Plan::foundations()).await?;
        let (postgres, nats) = (self.port(Kind::Postgres)?, self.port(Kind::Nats)?);
        self.plan
            .postgres
            .ensure_database(&self.plan.layout, postgres)
            .await?;
        bootstrap::write_config(&self.plan, configured, Some(postgres), Some(nats))?;
        let store = bootstrap::database(&self.plan.layout)?
            .connect()
            .await
            .context("connecting to the database")?;
        let issuer_url = format!("http://127.0.0.1:{}", self.port(Kind::DevIssuer)?);
        bootstrap::tenants(&store, &issuer_url).await?;
        store.watch_release_all().await?;
        let mut roles = self.plan.roles();
        let mut later = Vec::new();
        // A simulated host has no bytes to take a digest of: where this machine is a host, it checks the image first.
        if roles.iter().any(|part| part.kind == Kind::LocalAgent) {
            later = roles
                .extract_if(.., |part| part.kind == Kind::SimulatedAgent)
                .collect();
        }
        let api = roles
            .iter()
            .find(|part| part.kind == Kind::Api)
            .map(|part| part.name.clone());
        self.serve(&store, roles).await?;
        self.board.show()?;
        if let Some(api) = api {
            let address = self.board.address(&api).context("the API has no address")?;
            let api_url = format!("http://{address}");
            api_ready(&api_url).await?;
            self.image(&api_url, &issuer_url).await;
        }
        self.serve(&store, later).await
    }

    /// Starts parts, and waits until the hosts among them are watched.
    async fn serve(&mut self, store: &Store, parts: Vec<Part>) -> Result<()> {
        let hosts: Vec<String> = parts.iter().flat_map(|part| self.plan.hosts(part)).collect();
        self.ready_all(parts).await?;
        within(WATCHED_WITHIN, || async {
            Ok(bootstrap::unwatched(store, &hosts).await?.is_empty())
        })
        .await?;
        let unwatched = bootstrap::unwatched(store, &hosts).await?;
        if let [first, rest @ ..] = unwatched.as_slice() {
            say(&format!(
                "the host {first} and {} others aren't watched by a scheduler yet",
                rest.len()
            ));
        }
        Ok(())
    }

    async fn image(&self, api_url: &str, issuer_url: &str) {
        let there = self
            .plan
            .image_dir()
            .is_some_and(|dir| dir.join(image::FILE).is_file());
        let agents = self.kept.iter().any(|kept| kept.part.kind.is_agent());
        if !there || !agents {
            say("image tiny   not made: it needs a host, and --image-dir with tiny.qcow2 in it");
            return;
        }
        match image::ensure(&self.plan.layout, api_url, issuer_url).await {
            Ok(told) => say(&format!("image tiny   {told}")),
            Err(error) => say(&format!("image tiny   could not be asked for: {error:#}")),
        }
    }

    fn port(&self, kind: Kind) -> Result<u16> {
        self.board
            .address(kind.role())
            .map(|address| address.port())
            .with_context(|| format!("{} is gone", kind.role()))
    }

    /// Starts parts at once, and waits until each serves.
    async fn ready_all(&mut self, parts: Vec<Part>) -> Result<()> {
        let from = self.kept.len();
        for part in parts {
            self.kept
                .push(Kept::start(&self.plan, &self.board, part, self.restart));
        }
        for kept in &mut self.kept[from..] {
            let name = kept.part.name.clone();
            if let Err(error) = kept.ready().await {
                let log = self.plan.layout.log(&name);
                bail!("{error:#}\n{}", tail(&log));
            }
            say(&describe(&self.plan, &self.board, &kept.part));
        }
        Ok(())
    }
}

fn describe(plan: &Plan, board: &Board, part: &Part) -> String {
    let at = board
        .address(&part.name)
        .map_or_else(String::new, |address| match part.kind {
            Kind::Postgres => plan.postgres.url(address.port()),
            Kind::Nats => format!("tls://{address}"),
            Kind::Api | Kind::DevIssuer => format!("http://{address}"),
            Kind::Scheduler | Kind::Worker | Kind::LocalAgent | Kind::SimulatedAgent => address.to_string(),
        });
    let hosts = plan.hosts(part);
    let serves = match (part.kind, hosts.as_slice()) {
        (Kind::SimulatedAgent, [first, .., last]) => format!("  simulated hosts {first} to {last}"),
        (Kind::SimulatedAgent, [only]) => format!("  simulated host {only}"),
        (Kind::LocalAgent, _) => "  this machine".to_owned(),
        _ => String::new(),
    };
    let log = plan.layout.log(&part.name);
    format!(
        "{:<12} {:<10} {at}{serves}  log {}",
        part.name,
        part.kind.role(),
        log.display()
    )
}

/// The last lines of a log.
fn tail(log: &std::path::Path) -> String {
    let text = std::fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(15)..].join("\n");
    format!("the end of {}:\n{last}", log.display())
}

async fn api_ready(api_url: &str) -> Result<()> {
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(5))
        .build()?;
    let url = format!("{api_url}/readyz");
    let ready = within(Duration::from_mins(1), || async {
        Ok(client
            .get(&url)
            .send()
            .await
            .is_ok_and(|reply| reply.status().is_success()))
    });
    if ready.await? {
        return Ok(());
    }
    let said = client.get(&url).send().await?.text().await?;
    bail!("the API isn't ready: {said}")
}

/// Looks until it is so; whether it was within `limit`.
async fn within<F: Future<Output = Result<bool>>>(limit: Duration, look: impl Fn() -> F) -> Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        if look().await? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(LOOK).await;
    }
}
