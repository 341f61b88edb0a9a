//! A network's namespace, bridge, way out and filter, by `ip` and `nft`: the one file that knows these two programs.
//!
//! ```text
//! guests ── taps ── br0 (gateway's address) ─ forward, masquerade ─ up0 ══ veth ══ rzv… ─ forward, masquerade ── outside
//!            └────────── namespace rz-… ──────────────────────────────┘     └──────── the machine ────────┘
//! ```
//!
//! Guests of a network reach each other, dnsmasq in their namespace, and what lies outside the machine: not another network, not
//! the machine's own services, not link-local addresses outside. Rules are replaced as a whole, atomically, and each network has a
//! table of its own in the machine's namespace, so that it goes without a trace.

mod rules;
mod tap;

pub(crate) use tap::{attach_tap, make_tap, remove_tap, remove_taps};

use super::names::{NAMES, Names, TRANSFER_PREFIX, Wanted, choose_transfer};
use super::process::ProcessId;
use super::spawn::{self, Surroundings, argv};
use crate::driver::StepError;
use ipnet::Ipv4Net;
use rhyzome_model::job::ErrorClass;
use serde::Deserialize;
use serde_json::Value;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The bridge, inside.
pub(crate) const BRIDGE: &str = "br0";
/// The way out, inside.
pub(crate) const UPLINK: &str = "up0";
/// Longest that a call of `ip` or `nft` may take.
const WITHIN: Duration = Duration::from_secs(20);

#[derive(Deserialize)]
struct Link {
    #[serde(default)]
    ifname: String,
    #[serde(default)]
    flags: Vec<String>,
    /// The bridge that it is on.
    #[serde(default)]
    master: Option<String>,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(default)]
    family: String,
    #[serde(default)]
    local: String,
    #[serde(default)]
    prefixlen: u8,
}

impl Link {
    fn is_up(&self) -> bool {
        self.flags.iter().any(|f| f == "UP")
    }

    fn addresses(&self) -> impl Iterator<Item = String> + '_ {
        self.addr_info
            .iter()
            .filter(|a| a.family == "inet")
            .map(|a| format!("{}/{}", a.local, a.prefixlen))
    }
}

async fn ip(args: Vec<String>) -> Result<Vec<u8>, StepError> {
    spawn::must("ip", &args, None, Surroundings::default(), WITHIN).await
}

/// Several changes by one process.
async fn ip_batch(namespace: Option<&str>, lines: &[String]) -> Result<(), StepError> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut args = Vec::new();
    if let Some(namespace) = namespace {
        args.extend(argv!["-n", namespace]);
    }
    args.extend(argv!["-batch", "-"]);
    let input = format!("{}\n", lines.join("\n")).into_bytes();
    spawn::must("ip", &args, Some(input), Surroundings::default(), WITHIN)
        .await
        .map(drop)
        .map_err(|e| {
            let said = e.inside.clone().unwrap_or_default();
            e.inside(format_args!("{said} [{}]", lines.join("; ")))
        })
}

async fn links(namespace: Option<&str>) -> Result<Vec<Link>, StepError> {
    let mut args = Vec::new();
    if let Some(namespace) = namespace {
        args.extend(argv!["-n", namespace]);
    }
    args.extend(argv!["-j", "addr", "show"]);
    parse(&ip(args).await?)
}

fn parse<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<Vec<T>, StepError> {
    if json.iter().all(u8::is_ascii_whitespace) {
        return Ok(Vec::new());
    }
    serde_json::from_slice(json).map_err(|e| {
        StepError::new(
            ErrorClass::Unavailable,
            "TOOL_FAILED",
            "ip answered what can't be read",
        )
        .inside(e)
    })
}

/// Whether the namespace is there and holds a network of ours, wholly set up.
pub(crate) async fn is_so(names: &Names, wanted: &Wanted) -> Result<bool, StepError> {
    if !is_there(names) {
        return Ok(false);
    }
    let inside = links(Some(&names.namespace)).await?;
    let has = |name: &str, address: &str| {
        let is = |l: &Link| l.ifname == name && l.is_up() && l.addresses().any(|a| a == address);
        inside.iter().any(is)
    };
    let (_, near) = wanted.transfer_ends();
    let linked = has(BRIDGE, &wanted.gateway_net()) && has(UPLINK, &format!("{near}/{TRANSFER_PREFIX}"));
    Ok(linked && !inside.iter().any(tap::is_loose) && rules::are_there(names, wanted).await)
}

/// Whether its bridge is there.
pub(crate) async fn has_bridge(names: &Names) -> Result<bool, StepError> {
    Ok(is_there(names) && tap::has_link(names, BRIDGE).await?)
}

/// Whether the namespace has a name (its file may be left over from before the machine restarted: then it is a plain file).
pub(crate) fn is_there(names: &Names) -> bool {
    nix::sys::statfs::statfs(&names.file())
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

/// Gives the namespace that a process of ours runs in its name, where there is none of that name: somebody deleted that, and what runs
/// inside goes on.
pub(crate) async fn name_again(names: &Names, process: &ProcessId) -> Result<(), StepError> {
    let of = |path: PathBuf| std::fs::read_link(path).ok();
    let its = of(process.proc("ns/net"));
    if its.is_none() || its == of("/proc/self/ns/net".into()) {
        return Ok(());
    }
    super::files::remove_file(&names.file())?;
    ip(argv!["netns", "attach", names.namespace, process.pid])
        .await
        .map(drop)
}

/// Makes it so, whatever half of it is there.
pub(crate) async fn ensure(names: &Names, wanted: &Wanted) -> Result<(), StepError> {
    if !is_there(names) {
        if names.file().exists() {
            super::files::remove_file(&names.file())?;
        }
        ip(argv!["netns", "add", names.namespace]).await?;
    }
    quiet_inside(names).await?;
    rules::inside(names, wanted).await?;
    connect(names).await?;
    let inside = links(Some(&names.namespace)).await?;
    ip_batch(Some(&names.namespace), &changes_inside(&inside, wanted)).await?;
    let outside: Vec<Link> = links(None)
        .await?
        .into_iter()
        .filter(|l| l.ifname == names.veth)
        .collect();
    ip_batch(None, &changes_outside(&outside, names, wanted)).await?;
    rules::outside(names, wanted).await?;
    forward_outside()
}

fn kernel_setting(what: &str, error: &io::Error) -> StepError {
    StepError::new(
        ErrorClass::Unavailable,
        "NETWORK_SETTING",
        format!("the host's kernel refused a setting of a network: {what}"),
    )
    .inside(error)
}

/// No IPv6 inside (there are no rules for it), forwarding, and nothing that answers for another's address.
async fn quiet_inside(names: &Names) -> Result<(), StepError> {
    let settings = [
        ("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"),
        ("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"),
        ("/proc/sys/net/ipv4/ip_forward", "1"),
    ];
    spawn::inside(names.file(), move || {
        for (path, value) in settings {
            match std::fs::write(path, value) {
                // A kernel without IPv6 has nothing to switch off.
                Err(e) if e.kind() == io::ErrorKind::NotFound && path.contains("ipv6") => {}
                done => done?,
            }
        }
        Ok(())
    })
    .await
    .map_err(|e| kernel_setting("forwarding inside the network", &e))
}

/// The machine must forward, or no guest gets out.
fn forward_outside() -> Result<(), StepError> {
    let path = "/proc/sys/net/ipv4/ip_forward";
    let now = std::fs::read_to_string(path).map_err(|e| kernel_setting("IPv4 forwarding", &e))?;
    if now.trim() == "0" {
        std::fs::write(path, "1").map_err(|e| kernel_setting("IPv4 forwarding", &e))?;
    }
    Ok(())
}

/// One that is gone when its turn comes is gone all the same: with one end of a pair the kernel takes the other, in its own time.
async fn delete_link(namespace: Option<&str>, name: &str) -> Result<(), StepError> {
    match ip_batch(namespace, &[format!("link del dev {name}")]).await {
        Err(error) if links(namespace).await?.iter().any(|l| l.ifname == name) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The pair that leads out. Made anew where one end is missing.
async fn connect(names: &Names) -> Result<(), StepError> {
    let inside = links(Some(&names.namespace))
        .await?
        .iter()
        .any(|l| l.ifname == UPLINK);
    let outside = links(None).await?.iter().any(|l| l.ifname == names.veth);
    if inside && outside {
        return Ok(());
    }
    if outside {
        delete_link(None, &names.veth).await?;
    }
    if inside {
        delete_link(Some(&names.namespace), UPLINK).await?;
    }
    ip_batch(
        None,
        &[format!(
            "link add name {} type veth peer name {UPLINK} netns {}",
            names.veth, names.namespace
        )],
    )
    .await
}

/// Pure: what is to be done inside, given what is there.
fn changes_inside(links: &[Link], wanted: &Wanted) -> Vec<String> {
    let (far, near) = wanted.transfer_ends();
    let find = |name: &str| links.iter().find(|l| l.ifname == name);
    let mut lines = Vec::new();
    if find(BRIDGE).is_none() {
        lines.push(format!(
            "link add name {BRIDGE} type bridge stp_state 0 forward_delay 0"
        ));
    }
    lines.extend(addresses(find(BRIDGE), BRIDGE, &wanted.gateway_net()));
    lines.extend(addresses(
        find(UPLINK),
        UPLINK,
        &format!("{near}/{TRANSFER_PREFIX}"),
    ));
    for name in ["lo", BRIDGE, UPLINK] {
        lines.push(format!("link set dev {name} up"));
    }
    lines.push(format!("route replace default via {far} dev {UPLINK}"));
    lines.extend(links.iter().filter(|l| tap::is_loose(l)).map(tap::onto_bridge));
    lines
}

fn changes_outside(links: &[Link], names: &Names, wanted: &Wanted) -> Vec<String> {
    let (far, _) = wanted.transfer_ends();
    let mut lines = addresses(links.first(), &names.veth, &format!("{far}/{TRANSFER_PREFIX}"));
    lines.push(format!("link set dev {} addrgenmode none", names.veth));
    lines.push(format!("link set dev {} up", names.veth));
    lines
}

/// The one address that a link has; others of ours from before go.
fn addresses(link: Option<&Link>, name: &str, wanted: &str) -> Vec<String> {
    let there: Vec<String> = link.map(|l| l.addresses().collect()).unwrap_or_default();
    let mut lines: Vec<String> = there
        .iter()
        .filter(|a| *a != wanted)
        .map(|a| format!("addr del {a} dev {name}"))
        .collect();
    if !there.iter().any(|a| a == wanted) {
        lines.push(format!("addr add {wanted} dev {name}"));
    }
    lines
}

/// Removes all of it: what is there of it, whoever made it.
pub(crate) async fn remove(names: &Names) -> Result<(), StepError> {
    rules::remove(names).await?;
    if links(None).await?.iter().any(|l| l.ifname == names.veth) {
        delete_link(None, &names.veth).await?;
    }
    if is_there(names) {
        ip(argv!["netns", "del", names.namespace]).await?;
    }
    super::files::remove_file(&names.file())
}

/// The processes inside it.
pub(crate) async fn processes(names: &Names) -> Result<Vec<i32>, StepError> {
    if !is_there(names) {
        return Ok(Vec::new());
    }
    let out = ip(argv!["netns", "pids", names.namespace]).await?;
    Ok(String::from_utf8_lossy(&out)
        .split_whitespace()
        .filter_map(|p| p.parse().ok())
        .collect())
}

/// A transfer net that overlaps neither the tenant's range nor anything that the machine knows a way to.
pub(crate) async fn free_transfer(names: &Names, cidr: Ipv4Net) -> Result<Ipv4Net, StepError> {
    let mut taken: Vec<Ipv4Net> = vec![cidr.trunc()];
    for link in links(None).await?.iter().filter(|l| l.ifname != names.veth) {
        taken.extend(link.addresses().filter_map(|a| a.parse::<Ipv4Net>().ok()));
    }
    let routes: Vec<Value> = parse(&ip(argv!["-j", "-4", "route", "show", "table", "all"]).await?)?;
    taken.extend(
        routes
            .iter()
            .filter(|r| r["dev"] != names.veth.as_str())
            .filter_map(|r| net_of(r["dst"].as_str()?)),
    );
    choose_transfer(names.hash, &taken).ok_or_else(|| {
        StepError::new(
            ErrorClass::NoRoom,
            "NO_TRANSFER_NET",
            "the host has no free range left for another network",
        )
    })
}

fn net_of(text: &str) -> Option<Ipv4Net> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<Ipv4Addr>().ok().map(Ipv4Net::from))
}

/// Whether this process can make networks at all: tried, not guessed.
pub(crate) async fn can_make_networks() -> Result<(), StepError> {
    let name = format!("rz-try-{}", std::process::id());
    let file = Path::new(NAMES).join(&name);
    // Of an agent that was killed as it tried, and had the same process id.
    if file.exists() {
        ip(argv!["netns", "del", name]).await?;
    }
    ip(argv!["netns", "add", name]).await?;
    let around = Surroundings {
        netns: Some(file),
        ..Surroundings::default()
    };
    let tried = async {
        ip_batch(
            Some(&name),
            &[
                format!("link add name {BRIDGE} type bridge"),
                "tuntap add dev t0 mode tap".to_owned(),
            ],
        )
        .await?;
        rules::nft(
            "table inet try { chain c { type nat hook postrouting priority srcnat; masquerade; }; }\n"
                .to_owned(),
            around,
        )
        .await
    }
    .await;
    ip(argv!["netns", "del", name]).await?;
    tried
}

#[cfg(test)]
mod tests;
