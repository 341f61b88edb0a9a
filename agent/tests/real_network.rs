//! Networks of a real host: the same range twice, walls between them and the machine, the way out, and what becomes of them.

#![allow(clippy::unwrap_used)]

mod real_support;

use nix::sched::{CloneFlags, setns, unshare};
use real_support::waiting::{kill, pid_of_dnsmasq, until};
use real_support::{Host, Plan, can_be_real, name, run};
use rhyzome_agent::driver::{Driver, Seen};
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::step::{Action, EnsureNetwork};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

#[tokio::test(flavor = "multi_thread")]
async fn two_networks_with_one_range_are_apart_and_a_guest_may_be_in_both() {
    if !can_be_real() {
        return;
    }
    let host = Host::new().await;
    let (red, blue, image) = (ResourceId::new(), ResourceId::new(), ResourceId::new());
    let in_red = Plan::new(red, image, 21);
    let in_blue = Plan::new(blue, image, 21);
    let in_both = Plan {
        more: vec![(blue, Ipv4Addr::new(10, 20, 0, 23))],
        ..Plan::new(red, image, 22)
    };
    for plan in [&in_red, &in_blue, &in_both] {
        plan.create(&host).await;
    }
    for plan in [&in_red, &in_blue, &in_both] {
        host.says(plan.instance, &plan.greeting()).await;
    }
    host.says(in_both.instance, "name=web-22 address=10.20.0.23")
        .await;
    assert_ne!(host.namespace(red).await, host.namespace(blue).await);
    assert!(host.page(red, in_red.ip).await.contains("10.20.0.21"));
    assert!(host.page(blue, in_blue.ip).await.contains("10.20.0.21"));
    in_blue.delete(&host).await;
    assert!(
        host.page(red, in_red.ip).await.contains("10.20.0.21"),
        "red's guest isn't blue's"
    );
    let (blue_stays, _) = run("ip", &["netns", "exec", &host.namespace(blue).await, "true"]);
    assert!(blue_stays, "the guest in both claims it");
    in_red.delete(&host).await;
    in_both.delete(&host).await;
    assert!(host.driver().inventory(&name()).await.unwrap().is_empty());
}

/// A listener in a namespace of its own, beyond the machine as a guest sees it; it greets whoever comes.
struct Outside {
    namespace: String,
    address: SocketAddr,
}

impl Outside {
    fn new() -> Self {
        let namespace = format!("rzt-{}", std::process::id());
        let veth = format!("rzt{}", std::process::id());
        for command in [
            format!("netns add {namespace}"),
            format!("link add name {veth} type veth peer name out0 netns {namespace}"),
            format!("addr add 203.0.113.1/30 dev {veth}"),
            format!("link set dev {veth} up"),
            format!("-n {namespace} addr add 203.0.113.2/30 dev out0"),
            format!("-n {namespace} link set dev out0 up"),
        ] {
            let args: Vec<&str> = command.split(' ').collect();
            let (ok, said) = run("ip", &args);
            assert!(ok, "{command}: {said}");
        }
        let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
        let listener = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_FS).unwrap();
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            TcpListener::bind("203.0.113.2:0").unwrap()
        });
        let listener = listener.join().unwrap();
        let address = listener.local_addr().unwrap();
        greet(listener);
        Self { namespace, address }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        run("ip", &["netns", "del", &self.namespace]);
    }
}

fn greet(listener: TcpListener) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let who = stream.peer_addr().unwrap().ip();
            let body = format!("hello {who}\n");
            let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            drop(stream.write_all(format!("{head}{body}").as_bytes()));
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reaches_the_outside_by_nat_and_neither_the_machine_nor_other_networks() {
    if !can_be_real() {
        return;
    }
    let host = Host::new().await;
    let outside = Outside::new();
    let on_machine = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = on_machine.local_addr().unwrap().port();
    greet(on_machine);
    let plan = Plan::new(ResourceId::new(), ResourceId::new(), 31);
    let other = Plan::new(ResourceId::new(), ResourceId::new(), 32);
    for plan in [&plan, &other] {
        host.must(plan.ensure_network()).await;
    }
    let card = Card::plug(&host.namespace(plan.network).await, "10.20.0.31/24");
    let far = other_end(&host.namespace(plan.network).await);
    let other_far = other_end(&host.namespace(other.network).await);
    let (ok, said) = card.ask(&format!("http://{}/", outside.address));
    assert!(ok && said == "hello 203.0.113.1\n", "{said}");
    for machine in ["203.0.113.1", &far, &other_far] {
        let (ok, said) = card.ask(&format!("http://{machine}:{port}/"));
        assert!(!ok, "{machine} answered {said}");
    }
    assert_eq!(
        card.resolve("web-31"),
        Some(Ipv4Addr::new(10, 20, 0, 31)),
        "dnsmasq answers on the gateway's address"
    );
    drop(card);
    for action in plan.drop_networks().into_iter().chain(other.drop_networks()) {
        host.must(action).await;
    }
}

/// The machine's end of a network's way out: its namespace's default gateway.
fn other_end(namespace: &str) -> String {
    let (_, route) = run("ip", &["-n", namespace, "route", "show", "default"]);
    route.split_whitespace().nth(2).unwrap().to_owned()
}

/// A namespace that stands on a network's bridge as a guest would.
struct Card {
    namespace: String,
}

impl Card {
    fn plug(network: &str, address: &str) -> Self {
        let namespace = format!("rzc-{}", std::process::id());
        for command in [
            format!("netns add {namespace}"),
            format!("-n {network} link add name plug0 type veth peer name card0 netns {namespace}"),
            format!("-n {network} link set dev plug0 master br0 up"),
            format!("-n {namespace} addr add {address} dev card0"),
            format!("-n {namespace} link set dev card0 up"),
            format!("-n {namespace} route add default via 10.20.0.1"),
        ] {
            let args: Vec<&str> = command.split(' ').collect();
            let (ok, said) = run("ip", &args);
            assert!(ok, "{command}: {said}");
        }
        Self { namespace }
    }

    /// Asks the gateway for a name's address (RFC 1035).
    fn resolve(&self, name: &str) -> Option<Ipv4Addr> {
        let file = std::fs::File::open(format!("/run/netns/{}", self.namespace)).unwrap();
        let mut query = vec![
            0,
            7,
            1,
            0,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            0,
            u8::try_from(name.len()).unwrap(),
        ];
        query.extend(name.as_bytes());
        query.extend([0, 0, 1, 0, 1]);
        let asked = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_FS).unwrap();
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket
                .set_read_timeout(Some(std::time::Duration::from_secs(5)))
                .unwrap();
            socket.send_to(&query, "10.20.0.1:53").unwrap();
            let mut answer = [0; 512];
            let n = socket.recv(&mut answer).ok()?;
            let last: [u8; 4] = answer[n - 4..n].try_into().unwrap();
            (answer[3].trailing_zeros() >= 4 && answer[7] == 1).then(|| Ipv4Addr::from(last))
        });
        asked.join().unwrap()
    }

    fn ask(&self, url: &str) -> (bool, String) {
        run(
            "ip",
            &[
                "netns",
                "exec",
                &self.namespace,
                "curl",
                "-sS",
                "--noproxy",
                "*",
                "--max-time",
                "4",
                url,
            ],
        )
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        run("ip", &["netns", "del", &self.namespace]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dnsmasq_is_kept_alive_adopted_and_told_of_changes() {
    if !can_be_real() {
        return;
    }
    let mut host = Host::new().await;
    let (one, two) = (
        Plan::new(ResourceId::new(), ResourceId::new(), 41),
        Plan::new(ResourceId::new(), ResourceId::new(), 42),
    );
    let two = Plan {
        network: one.network,
        ..two
    };
    host.must(one.ensure_network()).await;
    let folder = host.dir.path().join(format!("objects/networks/{}", one.network));
    let pid = pid_of_dnsmasq;
    let first = pid(&folder);
    // It listens first, and gives its rights up after that.
    let status = || std::fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    until("dnsmasq not to be root", || !status().contains("Uid:\t0\t")).await;

    host.must(two.ensure_network()).await;
    assert_eq!(pid(&folder), first, "told, not started again");
    let hosts = std::fs::read_to_string(folder.join("hosts")).unwrap();
    assert!(
        hosts.contains("10.20.0.41") && hosts.contains("10.20.0.42"),
        "{hosts}"
    );

    // What guests make it say is cut under it: it appends.
    let log = folder.join("dnsmasq.log");
    let open = std::fs::read_dir(format!("/proc/{first}/fd")).unwrap().flatten();
    let to_log = |fd: &Path| std::fs::read_link(fd).is_ok_and(|to| to.ends_with("dnsmasq.log"));
    let fd = open.map(|e| e.path()).find(|fd| to_log(fd)).unwrap();
    let errors = format!("/proc/{first}/fdinfo/{}", fd.file_name().unwrap().display());
    let errors = std::fs::read_to_string(errors).unwrap();
    let flags = errors
        .lines()
        .find_map(|l| l.strip_prefix("flags:"))
        .unwrap()
        .trim();
    assert_ne!(
        i32::from_str_radix(flags, 8).unwrap() & nix::libc::O_APPEND,
        0,
        "{flags}"
    );
    let mut said = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
    said.write_all(&b"DHCPDECLINE\n".repeat(1 << 17)).unwrap();
    until("the log to be cut", || {
        std::fs::metadata(&log).unwrap().len() < 1 << 20
    })
    .await;

    host.agent_goes().await;
    host.start().await;
    assert_eq!(pid(&folder), first, "adopted");
    kill(first);
    let record = folder.join("dnsmasq.json");
    until("dnsmasq to come back", || {
        record.exists() && pid(&folder) != first
    })
    .await;

    // A record that is damaged is as good as none.
    let second = pid(&folder);
    std::fs::write(&record, "{").unwrap();
    host.must(two.ensure_network()).await;
    assert_ne!(pid(&folder), second);
    let namespace = host.namespace(one.network).await;
    let inside = run("ip", &["netns", "pids", &namespace]).1;
    assert_eq!(inside.trim(), pid(&folder).to_string(), "one, and no more");

    for plan in [&one, &two] {
        for action in plan.drop_networks() {
            host.must(action).await;
        }
    }
    assert!(!folder.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_free_once_its_guest_is_gone_and_guests_keep_their_network() {
    if !can_be_real() {
        return;
    }
    let host = Host::new().await;
    let image = ResourceId::new();
    let stays = Plan::new(ResourceId::new(), image, 71);
    host.must(stays.ensure_network()).await;
    let first = Plan::new(stays.network, image, 72);
    first.create(&host).await;
    host.says(first.instance, &first.greeting()).await;
    first.delete(&host).await;
    let next = Plan::new(stays.network, image, 72);
    next.create(&host).await;
    host.says(next.instance, &next.greeting()).await;

    // Its namespace has neither a name nor a server any more, but a guest.
    let namespace = host.namespace(stays.network).await;
    let file = Path::new("/run/netns").join(&namespace);
    let inode = |file: &Path| std::fs::metadata(file).map(|m| m.ino());
    let was = inode(&file).unwrap();
    let folder = host
        .dir
        .path()
        .join(format!("objects/networks/{}", stays.network));
    let server = pid_of_dnsmasq(&folder);
    kill(server);
    run("ip", &["netns", "del", &namespace]);
    until("the network to be as it was", || {
        let served = folder.join("dnsmasq.json").exists() && pid_of_dnsmasq(&folder) != server;
        served && inode(&file).ok() == Some(was)
    })
    .await;
    next.delete(&host).await;
    for action in stays.drop_networks() {
        host.must(action).await;
    }
    assert!(!file.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_makes_nothing_where_nothing_is_and_a_lost_namespace_is_made_again() {
    if !can_be_real() {
        return;
    }
    let host = Host::new().await;
    let plan = Plan::new(ResourceId::new(), ResourceId::new(), 51);
    let Action::EnsureNetwork(ensure) = plan.ensure_network() else {
        unreachable!()
    };
    let update = |generation: i64, dns: &str| {
        Action::EnsureNetwork(EnsureNetwork {
            generation,
            dns: vec![dns.parse().unwrap()],
            claim: None,
            ..ensure.clone()
        })
    };
    host.must(update(9, "9.9.9.9")).await;
    assert!(host.driver().inventory(&name()).await.unwrap().is_empty());
    host.must(plan.ensure_network()).await;
    host.must(update(5, "5.5.5.5")).await;
    host.must(update(4, "4.4.4.4")).await;
    let args = || {
        std::fs::read_to_string(
            host.dir
                .path()
                .join(format!("objects/networks/{}/dnsmasq.json", plan.network)),
        )
        .unwrap()
    };
    assert!(
        args().contains("5.5.5.5") && !args().contains("4.4.4.4"),
        "a lower generation never overwrites"
    );

    // As after a restart of the machine: namespace and processes are gone, the record is not.
    let namespace = host.namespace(plan.network).await;
    for pid in run("ip", &["netns", "pids", &namespace]).1.split_whitespace() {
        kill(pid.parse().unwrap());
    }
    run("ip", &["netns", "del", &namespace]);
    let job = real_support::context(JobId::new());
    assert_eq!(
        host.driver().observe(&job, &plan.ensure_network()).await.unwrap(),
        Seen::NotSo
    );
    host.must(plan.ensure_network()).await;
    assert_eq!(
        host.driver().observe(&job, &plan.ensure_network()).await.unwrap(),
        Seen::StillSo
    );
    for action in plan.drop_networks() {
        host.must(action).await;
    }
    assert!(!Path::new("/run/netns").join(&namespace).exists());
}
