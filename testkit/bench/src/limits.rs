//! What this machine can do at all, measured in the same run and with the same Postgres, NATS, agent and disk as the stack has.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::stream::{FuturesUnordered, StreamExt};
use rhyzome_nats::{Connection, NatsConfig, Outgoing, Role as NatsRole, connect, subjects};
use rhyzome_proto::agent::InventoryRequest;
use rhyzome_proto::agent::agent_client::AgentClient;
use rhyzome_runtime::tls::{TlsConfig, client_config, connect_agent};
use rhyzome_runtime::{Identity, Role};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tonic::transport::Channel;
use url::Url;

use crate::stack::StackFile;

const EACH: Duration = Duration::from_secs(3);
/// Past this nothing is gained (job-protocol.md).
const CALLS_IN_FLIGHT: usize = 64;
/// Connections of pgbench: about as many as the roles use.
const CLIENTS: u32 = 16;
const DATABASE: &str = "rhyzome_bench";
/// About what an order or an event has.
const MESSAGE: usize = 600;
const MESSAGES: usize = 10_000;

/// All a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Transactions of one inserted row.
    pub(crate) pgbench_commits: f64,
    /// Publishes to a stream on disk whose ack was awaited, 256 in flight.
    pub(crate) jetstream_publishes: f64,
    /// `GetInventory` of an empty simulated host, 64 in flight on one channel.
    pub(crate) mtls_calls: f64,
    /// Half a KiB appended, then `fdatasync`.
    pub(crate) fdatasyncs: f64,
}

/// Measures all.
pub(crate) async fn measure(stack: &StackFile, postgres_bin: Option<&Path>) -> Result<Limits> {
    eprintln!("this machine's limits");
    Ok(Limits {
        pgbench_commits: pgbench(&stack.postgres.url, postgres_bin)
            .await
            .context("pgbench")?,
        jetstream_publishes: jetstream(stack).await.context("JetStream")?,
        mtls_calls: calls(stack).await.context("calls of an agent")?,
        fdatasyncs: syncs(&stack.data_dir).context("fdatasync")?,
    })
}

/// A database of its own on the stack's server, gone afterwards.
async fn pgbench(url: &str, bin: Option<&Path>) -> Result<f64> {
    let server = Server {
        url: Url::parse(url).context("the database's URL")?,
        bin,
    };
    server
        .sql("postgres", &format!("DROP DATABASE IF EXISTS {DATABASE}"))
        .await?;
    server
        .sql("postgres", &format!("CREATE DATABASE {DATABASE}"))
        .await?;
    let measured = server.commits().await;
    server
        .sql("postgres", &format!("DROP DATABASE {DATABASE} WITH (FORCE)"))
        .await?;
    measured
}

struct Server<'a> {
    url: Url,
    bin: Option<&'a Path>,
}

impl Server<'_> {
    async fn commits(&self) -> Result<f64> {
        self.sql(
            DATABASE,
            "CREATE TABLE one (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)",
        )
        .await?;
        let script = tempfile::NamedTempFile::new().context("a script for pgbench")?;
        writeln!(
            script.as_file(),
            "INSERT INTO one (body) VALUES (repeat('x', 200));"
        )
        .context("writing the script")?;
        let mut command = self.program("pgbench", DATABASE);
        command.args(["--no-vacuum", "--protocol=prepared", "--jobs=1"]);
        command
            .arg(format!("--client={CLIENTS}"))
            .arg(format!("--time={}", EACH.as_secs()));
        command.arg("--file").arg(script.path());
        let said = run(&mut command, "").await?;
        tps(&said).with_context(|| format!("pgbench told no tps: {said}"))
    }

    async fn sql(&self, database: &str, statement: &str) -> Result<()> {
        let mut command = self.program("psql", database);
        command.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file=-"]);
        run(&mut command, statement).await.map(drop)
    }

    /// The password goes through the environment.
    fn program(&self, name: &str, database: &str) -> Command {
        let mut command = Command::new(self.bin.map_or_else(|| name.into(), |bin| bin.join(name)));
        command
            .env("PGPASSWORD", self.url.password().unwrap_or_default())
            .env("PGDATABASE", database)
            .env("PGUSER", self.url.username())
            .env("PGHOST", self.url.host_str().unwrap_or("127.0.0.1"))
            .env("PGPORT", self.url.port().unwrap_or(5432).to_string())
            .env("PGOPTIONS", "-c client_min_messages=warning");
        command
    }
}

async fn run(command: &mut Command, input: &str) -> Result<String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin
        .write_all(input.as_bytes())
        .await
        .with_context(|| format!("telling {name} what to do"))?;
    drop(stdin);
    let output = child
        .wait_with_output()
        .await
        .with_context(|| format!("waiting for {name}"))?;
    if !output.status.success() {
        bail!(
            "{name} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("what {name} said"))
}

/// From the line `tps = 123.4 (without initial connection time)`.
fn tps(said: &str) -> Option<f64> {
    said.lines().find_map(|line| {
        line.strip_prefix("tps = ")?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    })
}

fn identity(stack: &StackFile, role: Role, name: &str) -> Result<Identity> {
    let tls = TlsConfig {
        pki: Some(stack.pki_dir.clone()),
        ..TlsConfig::default()
    };
    Identity::load(&tls.files(role, name)?).with_context(|| format!("the certificate of {role} {name}"))
}

/// Into the stream of dead letters, which nobody consumes, under a subject of its own.
async fn jetstream(stack: &StackFile) -> Result<f64> {
    let scheduler = stack
        .of_role("scheduler")
        .next()
        .context("stack.json has no scheduler")?;
    let tls = client_config(&identity(stack, Role::Scheduler, &scheduler.name)?)?;
    let config = NatsConfig {
        url: stack.nats.url.clone(),
        ..NatsConfig::default()
    };
    let nats = connect::connect(&config, NatsRole::Scheduler, "bench", Some(tls)).await?;
    nats.connected().await?;
    publish(&nats, "warm-up", MESSAGES / 10).await?;
    let began = Instant::now();
    publish(&nats, "measured", MESSAGES).await?;
    Ok(MESSAGES as f64 / began.elapsed().as_secs_f64())
}

async fn publish(nats: &Connection, series: &str, count: usize) -> Result<()> {
    let run = uuid::Uuid::new_v4();
    let messages = (0..count)
        .map(|n| {
            Outgoing::new(
                subjects::dead("bench", series),
                format!("{run}:{n}"),
                vec![b'x'; MESSAGE],
            )
        })
        .collect();
    for stored in nats.publish_all(messages).await {
        stored?;
    }
    Ok(())
}

async fn calls(stack: &StackFile) -> Result<f64> {
    let agent = stack.agents.first().context("stack.json has no agent")?;
    let channel = connect_agent(&agent.address, &agent.host, &identity(stack, Role::Admin, "cli")?)?;
    let client = AgentClient::new(channel);
    call(client.clone(), &agent.host).await?;
    let mut under_way: FuturesUnordered<_> = (0..CALLS_IN_FLIGHT)
        .map(|_| call(client.clone(), &agent.host))
        .collect();
    let (began, mut count) = (Instant::now(), 0_u64);
    while began.elapsed() < EACH {
        under_way.next().await.context("no call under way")??;
        count += 1;
        under_way.push(call(client.clone(), &agent.host));
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

async fn call(mut client: AgentClient<Channel>, host: &str) -> Result<()> {
    client
        .get_inventory(InventoryRequest {
            host: host.to_owned(),
        })
        .await
        .context("GetInventory")?;
    Ok(())
}

fn syncs(folder: &Path) -> Result<f64> {
    let mut file = tempfile::tempfile_in(folder).context("a file")?;
    let (began, mut count) = (Instant::now(), 0_u64);
    while began.elapsed() < EACH {
        file.write_all(&[b'x'; 512])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tps_is_read_from_what_pgbench_says() {
        let said = "transaction type: x\nlatency average = 1.2 ms\ntps = 4321.098 (without initial connection time)\n";
        assert_eq!(tps(said), Some(4321.098));
        assert_eq!(tps("nothing"), None);
    }
}
