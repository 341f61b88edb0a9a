//! One run: a stack, its load, its scenarios; after each scenario heal, come to rest, check.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rhyzome_runtime::fault::{MUTANT, Mutant, POINTS_FILE};
use rhyzome_testkit::{LocalHost, Options, Stack};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Row};

use crate::client::Client;
use crate::clock::Clock;
use crate::control::{Points, continue_all};
use crate::effects::History;
use crate::followers::Followers;
use crate::journal::Journal;
use crate::real::{self, Real};
use crate::scenarios::Scenario;
use crate::summary::{self, Summary};
use crate::{CAP, check, load, logs, watcher};

/// How long everything may take to end once nothing is broken any more.
const REST_WITHIN: Duration = Duration::from_mins(2);
/// How long hosts may take to be heard again.
const HEAL_WITHIN: Duration = Duration::from_secs(90);
/// How long workers have an order before others get it.
pub(crate) const ACK_WAIT: Duration = Duration::from_secs(3);
/// How long the schedulers may take to look at all hosts, and to check the books.
const LOOKED_WITHIN: Duration = Duration::from_secs(30);
const HOSTS: u32 = 4;
/// The label `test` of simulated hosts: where the load goes, and where guests aren't real.
pub(crate) const SIMULATED: &str = "simulated";

/// Whether the data and logs of a run that found something stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// For whoever looks for the cause.
    WhereBroken,
    /// It was meant to find something.
    Never,
}

/// See the module.
pub(crate) struct Run {
    pub(crate) stack: Arc<Stack>,
    pub(crate) points: Points,
    pub(crate) db: PgPool,
    pub(crate) clients: Vec<Client>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) dice: StdRng,
    seed: u64,
    control: PathBuf,
    pub(crate) history: History,
    /// Where the machine can have them.
    pub(crate) real: Option<Real>,
    pub(crate) clock: Option<Clock>,
    watcher: tokio::task::JoinHandle<()>,
    followers: Followers,
    round: u32,
    began: Instant,
    played: BTreeMap<String, u64>,
}

impl Run {
    /// Starts a stack, with a rule taken away where a mutant is named.
    pub(crate) async fn start(seed: u64, mutant: Option<Mutant>) -> Result<Self> {
        // A mutant is looked for by one exact scenario on simulated hosts.
        let real = match real::why_not() {
            None if mutant.is_none() => LocalHost::Yes,
            None => LocalHost::No,
            Some(why) => {
                println!("without real guests: {why}");
                LocalHost::No
            }
        };
        let control = rhyzome_testkit::guard::folder("rzc-");
        let points = Points::in_folder(&control)?;
        let mut environment = vec![(POINTS_FILE.to_owned(), points.path().display().to_string())];
        environment.extend(mutant.map(|mutant| (MUTANT.to_owned(), mutant.as_str().to_owned())));
        let options = Options {
            workers: Some(3),
            schedulers: Some(2),
            apis: Some(2),
            environment,
            // Room for what an hour leaves: a job that waits for capacity would count as one that never ends.
            simulated_size: Some("64,262144,4096".to_owned()),
            local_host: real,
            // Judged with the reasons that faults give.
            logs: rhyzome_testkit::stack::Logs::Left,
            simulated_labels: vec![("test".to_owned(), SIMULATED.to_owned())],
            ..Options::simulated(HOSTS)
        }
        .set("nats.ack_wait", &format!("{}s", ACK_WAIT.as_secs()))
        .set("scheduler.tenant_running_cap", &CAP.to_string())
        .set("scheduler.exclusion", "200ms")
        .set("scheduler.retry_most", "5s")
        .set("scheduler.capacity_recheck", "3s")
        .set("scheduler.check_interval", "2s")
        .set("scheduler.repair_after", "3s")
        .set("scheduler.quarantine_grace", "6s")
        .set("agent.disk_reserve_gib", "1");
        // It waits for its processes.
        let stack = tokio::task::spawn_blocking(|| Stack::start(options)).await?;
        let stack = Arc::new(stack);
        let history = History::follow(&stack.data().join("agents/sim"), &stack.folder().join("effects"))?;
        let db = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(20))
            .connect(&stack.file().postgres.url)
            .await
            .context("connecting to the stack's Postgres")?;
        let journal = Arc::new(Journal::default());
        let clients = ["demo", "other"]
            .into_iter()
            .map(|tenant| Client::new(&stack, tenant))
            .collect::<Result<Vec<_>>>()?;
        let clock = if mutant.is_some() {
            None
        } else {
            Clock::start(&stack)?
        };
        let real = match real {
            LocalHost::Yes => Some(Real::start(&stack, &db, &clients[0], &journal).await?),
            LocalHost::No => None,
        };
        let followers = Followers::start(&stack, &journal).await?;
        Ok(Self {
            followers,
            real,
            clock,
            watcher: watcher::start(db.clone(), Arc::clone(&journal)),
            stack,
            points,
            db,
            clients,
            journal,
            dice: StdRng::seed_from_u64(seed),
            seed,
            control,
            history,
            round: 0,
            began: Instant::now(),
            played: BTreeMap::new(),
        })
    }

    /// One scenario with its load, healed, at rest and checked.
    pub(crate) async fn scenario(&mut self, scenario: Scenario, time: Duration) -> Result<()> {
        self.round += 1;
        *self.played.entry(scenario.as_str().to_owned()).or_default() += 1;
        let began = Instant::now();
        let stop = Arc::new(AtomicBool::new(false));
        let actors = if scenario.wants_load() {
            load::start(&self.clients, 2, self.seed, self.round, &self.journal, &stop)
        } else {
            Vec::new()
        };
        let played = scenario.play(self, Instant::now() + time).await;
        let healed = self.heal().await;
        stop.store(true, Ordering::Relaxed);
        for actor in actors {
            match actor.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self
                    .journal
                    .broken(1, &format!("a request is never answered: {error:#}")),
                Err(error) => self.journal.broken(0, &format!("an actor died: {error}")),
            }
        }
        healed?;
        played?;
        self.rest().await?;
        let before = self.journal.all_broken().len();
        let mut histories = vec![self.history.all()?];
        if let Some(clock) = &self.clock {
            histories.push(clock.history.all()?);
        }
        check::all(&self.stack, &self.db, &self.journal, &histories).await?;
        self.followers.check(&self.db, &self.journal).await?;
        if let Some(real) = &mut self.real {
            real.check(&self.stack, &self.journal)?;
        }
        println!(
            "{:<14} {:>4} s, {} jobs so far{}",
            scenario.as_str(),
            began.elapsed().as_secs(),
            self.journal.all_accepted().len(),
            if self.journal.all_broken().len() > before {
                ", BROKEN"
            } else {
                ""
            }
        );
        Ok(())
    }

    /// Whether no scenario came before.
    pub(crate) fn is_first(&self) -> bool {
        self.round == 1
    }

    /// Nothing is broken from here on.
    async fn heal(&self) -> Result<()> {
        self.points.arm(&[])?;
        if let Some(clock) = &self.clock {
            clock.is_off_by(0)?;
        }
        self.stack.faults().clear();
        continue_all(&self.stack);
        let until = Instant::now() + HEAL_WITHIN;
        let mut why = String::new();
        while Instant::now() < until {
            match sqlx::query("SELECT name FROM hosts WHERE NOT watch_up OR watch_until < now()")
                .fetch_all(&self.db)
                .await
            {
                Ok(rows) if rows.is_empty() => return Ok(()),
                Ok(rows) => why = format!("{} hosts aren't heard", rows.len()),
                Err(error) => why = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        bail!("{HEAL_WITHIN:?} after the faults the stack isn't whole: {why}")
    }

    /// Waits until every job has ended, and until the schedulers have looked at every host since and found nothing to mend.
    async fn rest(&self) -> Result<()> {
        let until = Instant::now() + REST_WITHIN;
        loop {
            self.jobs_end(until).await?;
            match self.nothing_amiss().await {
                Ok(true) => return Ok(()),
                Ok(false) if Instant::now() > until => {
                    self.journal.broken(7, "what is amiss on hosts is not mended");
                    return Ok(());
                }
                Err(error) if Instant::now() > until => return Err(error),
                Ok(false) | Err(_) => {}
            }
        }
    }

    /// Whether two checks in a row, by inventories that are younger than this call, leave nothing amiss.
    async fn nothing_amiss(&self) -> Result<bool> {
        let now = "SELECT extract(epoch FROM now())::float8";
        let mut after: f64 = sqlx::query_scalar(now).fetch_one(&self.db).await?;
        let looked = "SELECT NOT EXISTS (SELECT FROM hosts WHERE coalesce(inventory_asked_at, '-infinity') <= to_timestamp($1))";
        let checks = "SELECT coalesce(checked_at > to_timestamp($1), false) FROM check_runs";
        for (statement, times) in [(looked, 1), (checks, 2)] {
            for _ in 0..times {
                let patience = Instant::now() + LOOKED_WITHIN;
                while !sqlx::query_scalar::<_, bool>(statement)
                    .bind(after)
                    .fetch_one(&self.db)
                    .await?
                {
                    if Instant::now() > patience {
                        return Ok(false);
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                after = sqlx::query_scalar(now).fetch_one(&self.db).await?;
            }
        }
        let amiss = "SELECT EXISTS (SELECT FROM amiss) OR EXISTS (SELECT FROM jobs WHERE ended_at IS NULL)";
        Ok(!sqlx::query_scalar::<_, bool>(amiss).fetch_one(&self.db).await?)
    }

    /// Waits until every job has ended; names those that don't.
    async fn jobs_end(&self, until: Instant) -> Result<()> {
        loop {
            let asked = sqlx::query(
                "SELECT id::text || ' ' || kind || '.' || action || ' ' || state || ' attempt ' || attempt || ' fence ' || coalesce(fence, 0)
                        || ' on ' || coalesce(host, '-') || CASE WHEN dispatched_at IS NULL THEN '' ELSE ', order out' END
                        || ', due ' || coalesce(due::text, 'never') || ', waits: ' || coalesce(waiting->>'reason', '-') || ' '
                        || coalesce(waiting->>'detail', '')
                 FROM jobs WHERE ended_at IS NULL ORDER BY id",
            )
            .fetch_all(&self.db)
            .await;
            let rows = match asked {
                Ok(rows) => rows,
                // A connection from before Postgres crashed.
                Err(_) if Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
                Err(error) => return Err(error).context("looking for jobs that didn't end"),
            };
            if rows.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                for row in rows {
                    self.journal
                        .broken(1, &format!("stuck: {}", row.try_get::<String, _>(0)?));
                }
                bail!("not at rest {REST_WITHIN:?} after the faults");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// A run of all scenarios that never met a side of an act has not shown that it is harmless there.
    pub(crate) fn every_point_was_hit(&self) {
        let counts = summary::points(&self.points.hits());
        for (at, _) in counts.iter().filter(|(_, count)| **count == 0) {
            self.journal
                .broken(0, &format!("the fault point {at} was never hit"));
        }
    }

    /// Says what was hit, reads the logs, and ends the stack; its folder is kept where something is broken.
    pub(crate) async fn end(self, played: Result<()>, keep: Keep, json: Option<&Path>) -> Result<()> {
        self.watcher.abort();
        let put_back = self.played.contains_key(Scenario::PutBack.as_str());
        let logs = logs::read(&self.stack.file().log_dir, put_back)?;
        for error in &logs.errors {
            self.journal
                .broken(0, &format!("an ERROR that nobody expects: {error}"));
        }
        let summary = Summary {
            seed: self.seed,
            took: self.began.elapsed(),
            scenarios: self.played.clone(),
            ended_early: played.as_ref().err().map(|error| format!("{error:#}")),
            journal: &self.journal,
            hits: self.points.hits(),
            logs: &logs,
            outcomes: summary::outcomes(&self.db).await,
        };
        summary.print();
        if let Some(path) = json {
            summary.write(path)?;
        }
        let broken = self.journal.all_broken();
        let whole = played.is_ok() && broken.is_empty();
        self.db.close().await;
        drop(self.history);
        drop(self.clock);
        drop(self.clients);
        self.followers.stop().await;
        if let Err(error) = &played {
            eprintln!("error: {error:#}");
        }
        let stack = Arc::into_inner(self.stack).ok_or_else(|| anyhow!("the stack is still in use"))?;
        if whole || keep == Keep::Never {
            tokio::task::spawn_blocking(move || drop(stack)).await?;
        } else {
            let place =
                std::env::temp_dir().join(format!("rhyzome-chaos-{}-{}", self.seed, std::process::id()));
            let kept = place.clone();
            tokio::task::spawn_blocking(move || stack.keep_as(&kept)).await??;
            println!("the data and logs are kept in {}", place.display());
        }
        std::fs::remove_dir_all(&self.control).context("removing the control folder")?;
        played?;
        if !broken.is_empty() {
            bail!(
                "{} broken, seed {}:\n{}",
                broken.len(),
                self.seed,
                broken.join("\n")
            );
        }
        Ok(())
    }
}
