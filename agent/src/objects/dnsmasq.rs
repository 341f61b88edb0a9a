//! A network's dnsmasq: DHCP for the hosts it is told of and for no other, DNS for its guests. A process inside the namespace, on
//! the bridge alone, not root once it listens, and not the agent's child in any way that counts: an agent that restarts adopts it.
//!
//! Its hosts are read again on SIGHUP; what can't change in a running one (range, router, servers) starts another. Its folder appears
//! to it as `/tmp`, as the state folder may lie where its user can't pass.

use super::files;
use super::logs;
use super::names::Names;
use super::netns::{self, BRIDGE};
use super::process::ProcessId;
use super::spawn::{self, Privileges, Streams, Surroundings, WhenDropped};
use crate::driver::StepError;
use ipnet::Ipv4Net;
use nix::sys::signal::Signal;
use rhyzome_model::job::ErrorClass;
use rhyzome_model::step::HostLease;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long it may take to listen.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// What a network asks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service<'a> {
    pub(crate) cidr: Ipv4Net,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) dns: &'a [Ipv4Addr],
    pub(crate) leases: Vec<&'a HostLease>,
}

#[derive(Serialize, Deserialize)]
struct Running {
    process: ProcessId,
    args: Vec<String>,
}

fn record(folder: &Path) -> PathBuf {
    folder.join("dnsmasq.json")
}

/// The machine's name servers, and those that systemd-resolved, at whose address on the loopback the first file points, asks itself
/// (systemd-resolved.service(8), `/etc/resolv.conf`).
const SERVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// The name servers that a namespace can reach: those of the first file that names any.
fn upstream() -> Vec<IpAddr> {
    upstream_in(&SERVERS.map(Path::new))
}

fn upstream_in(files: &[&Path]) -> Vec<IpAddr> {
    let texts = files.iter().map(|path| match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "the machine's name servers can't be read");
            String::new()
        }
    });
    texts
        .map(|text| reachable(&text))
        .find(|servers| !servers.is_empty())
        .unwrap_or_default()
}

/// Pure: those of a resolv.conf(5) that aren't on the machine's loopback. There is no IPv6 inside.
fn reachable(text: &str) -> Vec<IpAddr> {
    let servers = text.lines().filter_map(|l| {
        let mut words = l.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next()?.parse::<IpAddr>().ok())?
    });
    servers.filter(|a| a.is_ipv4() && !a.is_loopback()).collect()
}

/// What it says.
pub(crate) fn log(folder: &Path) -> PathBuf {
    folder.join("dnsmasq.log")
}

/// The user that it becomes.
fn user() -> &'static str {
    let has = |name: &str| matches!(nix::unistd::User::from_name(name), Ok(Some(_)));
    if has("dnsmasq") { "dnsmasq" } else { "nobody" }
}

fn args(service: &Service<'_>, upstream: &[IpAddr]) -> Vec<String> {
    let gateway = service.gateway;
    let dns = if service.dns.is_empty() {
        vec![gateway]
    } else {
        service.dns.to_vec()
    };
    let dns: Vec<String> = dns.iter().map(Ipv4Addr::to_string).collect();
    let mut args = vec![
        "--keep-in-foreground".to_owned(),
        "--conf-file=/dev/null".to_owned(),
        "--pid-file=".to_owned(),
        format!("--user={}", user()),
        format!("--interface={BRIDGE}"),
        "--except-interface=lo".to_owned(),
        "--bind-interfaces".to_owned(),
        "--no-hosts".to_owned(),
        "--no-ping".to_owned(),
        "--no-resolv".to_owned(),
        "--quiet-dhcp".to_owned(),
        "--log-facility=-".to_owned(),
        "--dhcp-authoritative".to_owned(),
        "--dhcp-hostsfile=/tmp/hosts".to_owned(),
        "--addn-hosts=/tmp/names".to_owned(),
        "--dhcp-leasefile=/tmp/leases".to_owned(),
        "--dhcp-lease-max=65536".to_owned(),
        "--dhcp-ignore=tag:!known".to_owned(),
        format!(
            "--dhcp-range={},static,{},infinite",
            service.cidr.network(),
            service.cidr.netmask()
        ),
        format!("--dhcp-option=option:router,{gateway}"),
        format!("--dhcp-option=option:dns-server,{}", dns.join(",")),
    ];
    args.extend(upstream.iter().map(|a| format!("--server={a}")));
    args
}

/// One line each, as `--dhcp-hostsfile` takes them (dnsmasq(8)).
fn hosts(leases: &[&HostLease]) -> String {
    let mut text = String::new();
    for lease in leases {
        let name = lease
            .hostname
            .as_deref()
            .map(|n| format!(",{n}"))
            .unwrap_or_default();
        writeln!(text, "{},{}{name},infinite", lease.mac, lease.ip).unwrap_or_default();
    }
    text
}

/// Names for DNS, as in hosts(5): a guest is found by its name before it took its lease, too.
fn names_of(leases: &[&HostLease]) -> String {
    let named = leases.iter().filter_map(|l| Some((l.ip, l.hostname.as_deref()?)));
    named.fold(String::new(), |mut text, (ip, name)| {
        writeln!(text, "{ip} {name}").unwrap_or_default();
        text
    })
}

/// The files that it reads, and what shall be in them.
fn lists(service: &Service<'_>) -> [(&'static str, String); 2] {
    [
        ("hosts", hosts(&service.leases)),
        ("names", names_of(&service.leases)),
    ]
}

fn holds(folder: &Path, file: &str, text: &str) -> bool {
    fs::read(folder.join(file)).is_ok_and(|t| t == text.as_bytes())
}

/// Makes it run and know these hosts.
pub(crate) async fn ensure(names: &Names, folder: &Path, service: &Service<'_>) -> Result<(), StepError> {
    for (file, text) in lists(service) {
        if !holds(folder, file, &text) {
            files::write_atomic(&folder.join(file), text.as_bytes(), 0o644)?;
        }
    }
    let upstream = upstream();
    let args = args(service, &upstream);
    let running: Option<Running> = files::read_or_lost(&record(folder))?;
    match running {
        // Addresses of who is gone are free only for one that begins anew: what was leased for ever it never forgets.
        Some(running)
            if running.process.is_alive() && running.args == args && !leased_to_others(folder, service) =>
        {
            // Told even if the file was as it should be: an earlier try may have ended between writing and telling.
            running.process.signal(Signal::SIGHUP).map_err(|e| not_told(&e))
        }
        Some(_) | None => {
            if upstream.is_empty() {
                tracing::warn!(
                    namespace = names.namespace,
                    "the machine names no name server that a network can reach: its guests resolve each other's names alone"
                );
            }
            stop(names, folder).await?;
            launch(names, folder, args).await
        }
    }
}

/// Whether it has leased an address to a machine that isn't, or is no longer, to have it. Its lease file has a line `EXPIRY MAC IP NAME ID`
/// for each lease (dnsmasq(8), `--dhcp-leasefile`).
fn leased_to_others(folder: &Path, service: &Service<'_>) -> bool {
    let text = fs::read_to_string(leases(folder)).unwrap_or_default();
    let mut leased = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?, words.next()?.parse::<Ipv4Addr>().ok()?))
    });
    leased.any(|(mac, ip)| {
        !service
            .leases
            .iter()
            .any(|l| l.ip == ip && l.mac.eq_ignore_ascii_case(mac))
    })
}

fn leases(folder: &Path) -> PathBuf {
    folder.join("leases")
}

fn not_told(error: &std::io::Error) -> StepError {
    StepError::new(
        ErrorClass::Unavailable,
        "DHCP_FAILED",
        "the network's DHCP server couldn't be told of a change",
    )
    .inside(error)
}

async fn launch(names: &Names, folder: &Path, args: Vec<String>) -> Result<(), StepError> {
    // All addresses are given by its list of hosts: nothing that it gave out before is to be remembered.
    let leases = leases(folder);
    files::remove_file(&leases)?;
    if let Ok(Some(user)) = nix::unistd::User::from_name(user()) {
        let file = File::options().create(true).append(true).open(&leases);
        file.map_err(|e| files::storage("making the lease file", &leases, &e))?;
        std::os::unix::fs::chown(&leases, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .map_err(|e| files::storage("giving the lease file to dnsmasq's user", &leases, &e))?;
    }
    let log_path = log(folder);
    let log = logs::begin(&log_path)?;
    let around = Surroundings {
        as_tmp: Some(folder.to_owned()),
        privileges: Privileges::AsTheAgents,
        ..names.inside()
    };
    let mut child = spawn::start(
        "dnsmasq",
        &args,
        around,
        Streams::errors_to(log),
        WhenDropped::GoesOn,
    )
    .await?;
    let failed = |why: String| {
        let said = fs::read_to_string(&log_path).unwrap_or_default();
        StepError::new(
            ErrorClass::Unavailable,
            "DHCP_FAILED",
            "the network's DHCP server didn't start on the host",
        )
        .inside(format_args!("{why}: {}", said.trim()))
    };
    let process = ProcessId::of_child(&child).map_err(|e| failed(e.to_string()))?;
    files::write_record(
        &record(folder),
        &Running {
            process: process.clone(),
            args,
        },
    )?;
    let until = tokio::time::Instant::now() + READY_WITHIN;
    while !listens(&process) {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(failed(status.to_string()));
        }
        if tokio::time::Instant::now() > until {
            return Err(failed("it doesn't listen".to_owned()));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Waited for, so that its end leaves no zombie while this agent lives.
    tokio::spawn(async move {
        let ended = child.wait().await;
        tracing::debug!(?ended, "a dnsmasq has ended");
    });
    Ok(())
}

/// Whether UDP port 67 (hex 43) is bound in the process's namespace.
fn listens(process: &ProcessId) -> bool {
    fs::read_to_string(process.proc("net/udp")).is_ok_and(|t| {
        t.lines()
            .filter_map(|l| l.split_whitespace().nth(1))
            .any(|a| a.ends_with(":0043"))
    })
}

/// Whether it runs and has been given these hosts.
pub(crate) fn is_so(folder: &Path, service: &Service<'_>) -> Result<bool, StepError> {
    let running: Option<Running> = files::read_or_lost(&record(folder))?;
    let known = lists(service)
        .iter()
        .all(|(file, text)| holds(folder, file, text));
    Ok(known && running.is_some_and(|r| r.process.is_alive() && r.args == args(service, &upstream())))
}

/// Its process, while it runs.
pub(crate) fn process(folder: &Path) -> Option<ProcessId> {
    let running = files::read_or_lost::<Running>(&record(folder)).ok().flatten()?;
    running.process.is_alive().then_some(running.process)
}

/// Whether it runs.
pub(crate) fn is_alive(folder: &Path) -> bool {
    process(folder).is_some()
}

/// Ends it, and any other dnsmasq inside this namespace of ours (one that was started and not yet recorded).
pub(crate) async fn stop(names: &Names, folder: &Path) -> Result<(), StepError> {
    let mut ours: Vec<ProcessId> = Vec::new();
    if let Some(running) = files::read_or_lost::<Running>(&record(folder))? {
        ours.push(running.process);
    }
    for pid in netns::processes(names).await? {
        let process = ProcessId::of(pid).map_err(|e| not_told(&e))?;
        ours.extend(process.filter(|p| p.command().as_deref() == Some("dnsmasq")));
    }
    for process in ours {
        process
            .end(Duration::from_secs(2))
            .await
            .map_err(|e| not_told(&e))?;
    }
    files::remove_file(&record(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_lines_of_mac_address_and_name() {
        let named = HostLease {
            mac: "02:00:00:00:00:01".into(),
            ip: "10.0.0.5".parse().unwrap(),
            hostname: Some("web-1".into()),
        };
        let bare = HostLease {
            hostname: None,
            mac: "02:00:00:00:00:02".into(),
            ip: "10.0.0.6".parse().unwrap(),
        };
        assert_eq!(
            hosts(&[&named, &bare]),
            "02:00:00:00:00:01,10.0.0.5,web-1,infinite\n02:00:00:00:00:02,10.0.0.6,infinite\n"
        );
    }

    #[test]
    fn name_servers_are_those_that_a_namespace_can_reach() {
        let servers = |text| reachable(text).iter().map(IpAddr::to_string).collect::<Vec<_>>();
        let of_resolved = "# by systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n";
        assert!(servers(of_resolved).is_empty());
        let its_own =
            "nameserver 192.0.2.1\nnameserver\t192.0.2.2 # second\nnameserver 2001:db8::1\nnameserver ::1\n";
        assert_eq!(servers(its_own), ["192.0.2.1", "192.0.2.2"]);
        assert!(servers("nameserver\nnameservers 192.0.2.1\n#nameserver 192.0.2.1\n").is_empty());

        let dir = tempfile::tempdir().unwrap();
        let [main, resolved] = ["main", "resolved"].map(|n| dir.path().join(n));
        fs::write(&main, of_resolved).unwrap();
        let first = || {
            upstream_in(&[main.as_path(), resolved.as_path()])
                .into_iter()
                .next()
        };
        assert_eq!(first(), None);
        fs::write(&resolved, its_own).unwrap();
        assert_eq!(first(), "192.0.2.1".parse().ok());
        fs::write(&main, "nameserver 192.0.2.9\n").unwrap();
        assert_eq!(first(), "192.0.2.9".parse().ok());
    }

    #[test]
    fn the_gateway_answers_for_names_where_no_server_is_given() {
        let service = Service {
            cidr: "10.1.2.0/24".parse().unwrap(),
            gateway: "10.1.2.1".parse().unwrap(),
            dns: &[],
            leases: vec![],
        };
        let args = args(&service, &["9.9.9.9".parse().unwrap()]);
        assert!(args.contains(&"--dhcp-option=option:dns-server,10.1.2.1".to_owned()));
        assert!(args.contains(&"--dhcp-range=10.1.2.0,static,255.255.255.0,infinite".to_owned()));
        assert!(args.contains(&"--server=9.9.9.9".to_owned()));
    }
}
