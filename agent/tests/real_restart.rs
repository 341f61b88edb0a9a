//! A guest that should run is started again, though the host's storage refused its agent for a while.

#![allow(clippy::unwrap_used)]

mod real_support;

use nix::sys::signal::Signal;
use real_support::waiting::{kill, signal, told, until};
use real_support::{Host, PATIENCE, Plan, can_be_real, run};
use rhyzome_agent::driver::{Driver, GuestSeen, SeenPower};
use rhyzome_agent::objects::RealDriver;
use rhyzome_model::ids::ResourceId;
use rhyzome_model::kinds::{Power, RestartPolicy};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::broadcast;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, span};

/// What the agent logs.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<String>>);

impl Visit for Heard {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            let line = format!("{value:?}\n");
            self.0.lock().unwrap().push_str(&line);
        }
    }
}

impl tracing::Subscriber for Heard {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

impl Heard {
    async fn says(&self, what: &str) {
        until(what, || self.0.lock().unwrap().contains(what)).await;
    }
}

/// A folder into which nobody can write, root neither, as on a disk that is full.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn make(folder: &Path) -> Self {
        let path = folder.to_str().unwrap();
        for args in [&["--bind", path, path][..], &["-o", "remount,bind,ro", path]] {
            let (mounted, said) = run("mount", args);
            assert!(mounted, "{said}");
        }
        Self(folder.to_owned())
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let (gone, said) = run("umount", &["-l", self.0.to_str().unwrap()]);
        assert!(gone || std::thread::panicking(), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_comes_back_after_its_host_could_not_write_for_a_while() {
    if !can_be_real() {
        return;
    }
    let heard = Heard::default();
    tracing::subscriber::set_global_default(heard.clone()).unwrap();
    let host = Host::new().await;
    let plan = Plan {
        restart: RestartPolicy::Always,
        ..Plan::new(ResourceId::new(), ResourceId::new(), 18)
    };
    plan.create(&host).await;
    let folder = host
        .dir
        .path()
        .join(format!("objects/instances/{}", plan.instance));

    // Its end can't be noted.
    let first = host.pid(plan.instance).await;
    let full = ReadOnly::make(&folder);
    kill(first);
    heard.says("a guest's end could not be noted").await;
    let mut changes = host.driver().watch_guests();
    drop(full);
    told(&mut changes, SeenPower::On).await;
    let second = host.pid(plan.instance).await;
    assert_ne!(second, first);

    // Its end is noted, and its start can't be: after a pause in which the disk fills up.
    let record = folder.join("run.json");
    let mut run: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    run["restarts"] = 2.into();
    std::fs::write(&record, run.to_string()).unwrap();
    kill(second);
    told(&mut changes, SeenPower::Crashed).await;
    let full = ReadOnly::make(&folder);
    heard.says("a guest that should run could not be started").await;
    drop(full);
    told(&mut changes, SeenPower::On).await;
    assert_ne!(host.pid(plan.instance).await, second);
    plan.delete(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_reboot_is_given_up_half_way_comes_back() {
    if !can_be_real() {
        return;
    }
    let host = Host::new().await;
    let plan = Plan::new(ResourceId::new(), ResourceId::new(), 19);
    plan.create(&host).await;
    let first = host.pid(plan.instance).await;
    let log = host
        .dir
        .path()
        .join(format!("objects/instances/{}/console.log", plan.instance));
    std::fs::remove_file(&log).unwrap();
    std::fs::create_dir(&log).unwrap();
    // It is off by then, and nobody asks again, as after a cancel.
    host.make(plan.reboot()).await.unwrap_err();
    assert_eq!(host.seen(plan.instance).await.power, SeenPower::Off);
    let mut changes = host.driver().watch_guests();
    std::fs::remove_dir(&log).unwrap();
    told(&mut changes, SeenPower::On).await;
    assert_ne!(host.pid(plan.instance).await, first);
    plan.delete(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_its_new_agent_does_not_hear_is_adopted_later() {
    if !can_be_real() {
        return;
    }
    let heard = Heard::default();
    tracing::subscriber::set_global_default(heard.clone()).unwrap();
    let mut host = Host::new().await;
    let plan = Plan {
        restart: RestartPolicy::Always,
        ..Plan::new(ResourceId::new(), ResourceId::new(), 21)
    };
    plan.create(&host).await;
    let first = host.pid(plan.instance).await;
    host.agent_goes().await;
    signal(first, Signal::SIGSTOP);
    host.start().await;
    heard.says("a running guest could not be adopted").await;
    signal(first, Signal::SIGCONT);
    heard.says("a running guest is adopted").await;
    assert_eq!(host.pid(plan.instance).await, first);

    // One that ends before it was heard is started again as one that was watched.
    host.agent_goes().await;
    signal(first, Signal::SIGSTOP);
    host.start().await;
    let mut changes = host.driver().watch_guests();
    kill(first);
    told(&mut changes, SeenPower::On).await;
    assert_ne!(host.pid(plan.instance).await, first);
    plan.delete(&host).await;
}

/// The control groups of a guest's process, where there are any.
fn groups(pid: i32) -> Vec<PathBuf> {
    let of = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let names = of.lines().filter_map(|l| Some(&l[l.find("/rhyzome-")? + 1..]));
    let root = Path::new("/sys/fs/cgroup");
    let folders = ["", "memory", "cpu", "pids"].map(|c| root.join(c));
    let all = names.flat_map(|name| folders.iter().map(move |f| f.join(name)));
    all.filter(|group| group.is_dir()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_ended_unseen_leaves_no_control_group_when_its_host_goes_down() {
    if !can_be_real() {
        return;
    }
    let mut host = Host::new().await;
    let plan = Plan::new(ResourceId::new(), ResourceId::new(), 22);
    plan.create(&host).await;
    let pid = host.pid(plan.instance).await;
    let groups = groups(pid);
    host.agent_goes().await;
    kill(pid);
    until("the guest to be gone", || {
        !Path::new(&format!("/proc/{pid}/ns/net")).exists()
    })
    .await;
    let down = RealDriver::open(host.config()).unwrap();
    assert_eq!(down.stop_guests().await.unwrap(), 0);
    for group in groups {
        assert!(!group.exists(), "{}", group.display());
    }
    host.driver = Some(down);
    plan.delete(&host).await;
}

/// A file system in memory over a folder, of a size that can be changed.
struct Small(PathBuf);

impl Small {
    fn mount(folder: &Path, size: &str) -> Self {
        let path = folder.to_str().unwrap();
        let options = format!("size={size},mode=711");
        let (mounted, said) = run("mount", &["-t", "tmpfs", "-o", &options, "small", path]);
        assert!(mounted, "{said}");
        Self(folder.to_owned())
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        let (done, said) = run("mount", &["-o", &options, self.0.to_str().unwrap()]);
        assert!(done, "{said}");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let (gone, said) = run("umount", &["-l", self.0.to_str().unwrap()]);
        assert!(gone || std::thread::panicking(), "{said}");
    }
}

/// Until the agent says this of a guest that runs, of its own accord.
async fn told_detail(changes: &mut broadcast::Receiver<GuestSeen>, so: fn(&str) -> bool) {
    let heard = async {
        loop {
            let change = changes.recv().await.unwrap();
            if change.power == SeenPower::On && so(&change.detail) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_its_hosts_storage_paused_says_so_and_goes_on_by_itself() {
    if !can_be_real() {
        return;
    }
    let mut host = Host::new().await;
    let small = Small::mount(&host.dir.path().join("objects/disks"), "2m");
    let script = "#!/bin/sh\ndd if=/dev/urandom of=/dev/vda bs=65536 seek=8192 count=128 && sync && echo all of it is written >/dev/console\n";
    let plan = Plan {
        user_data: Some(script.to_owned()),
        ..Plan::new(ResourceId::new(), ResourceId::new(), 23)
    };
    plan.define(&host).await;
    let mut changes = host.driver().watch_guests();
    host.must(plan.power(Power::On)).await;
    let pid = host.pid(plan.instance).await;
    told_detail(&mut changes, |d| d.contains("paused")).await;
    // Another agent finds it so.
    host.agent_goes().await;
    host.start().await;
    let mut changes = host.driver().watch_guests();
    until("the new agent to say so", || {
        futures::executor::block_on(host.seen(plan.instance))
            .detail
            .contains("paused")
    })
    .await;
    small.resize("64m");
    told_detail(&mut changes, str::is_empty).await;
    host.says(plan.instance, "all of it is written").await;
    assert_eq!(host.pid(plan.instance).await, pid);
    plan.delete(&host).await;
}
