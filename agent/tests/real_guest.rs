//! A guest's whole life on a real host.

#![allow(clippy::unwrap_used)]

mod real_support;

use real_support::{Host, Plan, can_be_real, run};
use rhyzome_agent::driver::{Driver, Seen, SeenPower};
use rhyzome_agent::objects::{Choice, Networking};
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::kinds::{Power, RestartPolicy};
use rhyzome_model::step::{ImageFacts, ObjectKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_boots_gets_its_address_answers_and_leaves_nothing() {
    if !can_be_real() {
        return;
    }
    let host = Host::new().await;
    let plan = Plan::new(ResourceId::new(), ResourceId::new(), 7);
    plan.create(&host).await;
    host.says(plan.instance, &plan.greeting()).await;
    assert_eq!(host.page(plan.network, plan.ip).await, "web-7\n10.20.0.7\n");

    let seen = host.seen(plan.instance).await;
    assert_eq!(seen.power, SeenPower::On);
    assert!(
        seen.metrics["memory_rss_mib"] > 1.0 && seen.metrics["cpu_seconds"] > 0.0,
        "{seen:?}"
    );
    let pid = host.pid(plan.instance).await;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uid = status
        .lines()
        .find_map(|l| l.strip_prefix("Uid:"))
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned();
    assert_ne!(uid, "0", "QEMU is not root");
    assert!(
        status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"),
        "{status}"
    );

    let namespace = host.namespace(plan.network).await;
    plan.delete(&host).await;
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(!Path::new("/run/netns").join(&namespace).exists());
    let hash = namespace.strip_prefix("rz-").unwrap();
    assert!(!run("ip", &["-j", "link"]).1.contains(hash));
    assert!(!run("nft", &["list", "tables"]).1.contains(hash));
    assert!(
        host.driver()
            .inventory(&real_support::name())
            .await
            .unwrap()
            .is_empty()
    );
    // Doing any of it again is no error.
    plan.delete(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_back_adopts_what_runs() {
    if !can_be_real() {
        return;
    }
    let mut host = Host::new().await;
    let plan = Plan::new(ResourceId::new(), ResourceId::new(), 8);
    plan.create(&host).await;
    let pid = host.pid(plan.instance).await;
    host.says(plan.instance, &plan.greeting()).await;
    host.agent_goes().await;
    assert!(
        Path::new(&format!("/proc/{pid}")).exists(),
        "the guest outlives its agent"
    );
    host.start().await;
    assert_eq!(host.pid(plan.instance).await, pid);
    let job = real_support::context(JobId::new());
    assert_eq!(
        host.driver().observe(&job, &plan.power(Power::On)).await.unwrap(),
        Seen::StillSo
    );
    assert_eq!(host.page(plan.network, plan.ip).await, "web-8\n10.20.0.8\n");

    // The power button works through the adopted monitor: the guest goes off by itself, in order.
    host.must(plan.power(Power::Off)).await;
    assert_eq!(host.seen(plan.instance).await.power, SeenPower::Off);
    assert!(
        host.console(plan.instance)
            .await
            .contains("power button, going off")
    );
    plan.delete(&host).await;
}

/// Processes that were started as this instance's guest, whatever records say.
fn running(instance: ResourceId) -> Vec<i32> {
    let name = format!("guest={instance}");
    let is_guest = |pid: &i32| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|b| *b == 0).any(|a| a == name.as_bytes())
    };
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(is_guest)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_records_are_lost_is_found_and_never_runs_twice() {
    if !can_be_real() {
        return;
    }
    let mut host = Host::new().await;
    let plan = Plan::new(ResourceId::new(), ResourceId::new(), 9);
    plan.create(&host).await;
    let first = host.pid(plan.instance).await;
    let folder = host
        .dir
        .path()
        .join("objects/instances")
        .join(plan.instance.to_string());
    assert!(folder.is_dir());
    let namespace = host.namespace(plan.network).await;

    // What says whether it shall run, or its seed alone: it is seen to lack it, and gets it again as it runs.
    let generation = async || {
        let held = host.driver().inventory(&real_support::name()).await.unwrap();
        let guest = held.into_iter().find(|h| h.kind == ObjectKind::Instance).unwrap();
        guest.generation
    };
    let defined = generation().await;
    assert_ne!(defined, 0);
    for lost in ["run.json", "seed.img"] {
        std::fs::remove_file(folder.join(lost)).unwrap();
        assert_eq!(generation().await, 0, "{lost}");
        plan.create(&host).await;
        assert_eq!(generation().await, defined, "{lost}");
        assert_eq!(running(plan.instance), [first]);
    }
    host.says(plan.instance, &plan.greeting()).await;
    // And where it is started again before that: with files that somebody put back as root, too.
    std::fs::remove_file(folder.join("seed.img")).unwrap();
    let disk = host
        .dir
        .path()
        .join(format!("objects/disks/{}.qcow2", plan.instance));
    std::os::unix::fs::chown(&disk, Some(0), Some(0)).unwrap();
    std::os::unix::fs::chown(folder.join("run"), Some(0), Some(0)).unwrap();
    host.must(plan.reboot()).await;
    host.says_times(plan.instance, &plan.greeting(), 2).await;
    assert_eq!(generation().await, defined);
    // And its console's log, as somebody does who clears up logs.
    std::fs::remove_file(folder.join("console.log")).unwrap();
    host.must(plan.reboot()).await;
    host.says(plan.instance, &plan.greeting()).await;

    // Its folder, once with its agent there and once while it is away.
    for away in [false, true] {
        let lost = running(plan.instance);
        assert_eq!(lost.len(), 1);
        if away {
            host.agent_goes().await;
        }
        std::fs::remove_dir_all(&folder).unwrap();
        if away {
            host.start().await;
        }
        let held = host.driver().inventory(&real_support::name()).await.unwrap();
        let guest = held.iter().find(|h| h.kind == ObjectKind::Instance).unwrap();
        assert_eq!(
            (guest.id, guest.state.as_str(), guest.generation),
            (plan.instance, "running", 0)
        );
        plan.create(&host).await;
        let now = running(plan.instance);
        assert!(now.len() == 1 && now != lost, "{lost:?} became {now:?}");
        host.says(plan.instance, &plan.greeting()).await;
    }

    // A guest without a folder is turned off, and one is removed.
    std::fs::remove_dir_all(&folder).unwrap();
    host.must(plan.power(Power::Off)).await;
    assert!(running(plan.instance).is_empty());
    plan.create(&host).await;
    let taps = || {
        let links = run("ip", &["-n", &namespace, "-o", "link", "show", "type", "tun"]);
        assert!(links.0, "{}", links.1);
        links.1.lines().count()
    };
    assert_eq!(taps(), 1);
    std::fs::remove_dir_all(&folder).unwrap();
    host.must(plan.remove_instance()).await;
    assert_eq!(taps(), 0);
    plan.delete(&host).await;
    assert!(running(plan.instance).is_empty());
    let held = host.driver().inventory(&real_support::name()).await.unwrap();
    assert!(held.is_empty(), "{held:?}");
}

/// What was written to it is the user's.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_whose_record_is_lost_stays_as_it_is() {
    if !can_be_real() {
        return;
    }
    let host = Host::new().await;
    let plan = Plan::new(ResourceId::new(), ResourceId::new(), 10);
    plan.define(&host).await;
    let disks = host.dir.path().join("objects/disks");
    let file = disks.join(format!("{}.qcow2", plan.instance));
    let record = disks.join(format!("{}.json", plan.instance));
    let state = async || {
        let held = host.driver().inventory(&real_support::name()).await.unwrap();
        let disk = held.into_iter().find(|h| h.kind == ObjectKind::Disk).unwrap();
        disk.state
    };
    let known = std::fs::read(&record).unwrap();
    let before = std::fs::metadata(&file).unwrap().ino();
    for lost in [None, Some("")] {
        match lost {
            None => std::fs::remove_file(&record).unwrap(),
            Some(damaged) => std::fs::write(&record, damaged).unwrap(),
        }
        assert_eq!(state().await, "unrecorded");
        plan.define(&host).await;
        assert_eq!(state().await, "ready");
        assert_eq!(std::fs::metadata(&file).unwrap().ino(), before);
        assert_eq!(std::fs::read(&record).unwrap(), known);
    }
    // What can't be a disk is left, and said; what is gone is made anew.
    std::fs::write(&file, [0; 64]).unwrap();
    std::fs::remove_file(&record).unwrap();
    let refused = host.make(plan.ensure_disk(&plan.facts(&host).await, 1)).await;
    assert_eq!(refused.unwrap_err().code, "DISK_DAMAGED");
    assert_eq!(std::fs::read(&file).unwrap(), [0; 64]);
    std::fs::remove_file(&file).unwrap();
    plan.create(&host).await;
    assert_eq!(state().await, "ready");
    plan.delete(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_ends_is_treated_by_its_policy() {
    if !can_be_real() {
        return;
    }
    let host = Host::new().await;
    let (network, image) = (ResourceId::new(), ResourceId::new());
    let stays = Plan {
        restart: RestartPolicy::Never,
        ..Plan::new(network, image, 11)
    };
    let returns = Plan {
        restart: RestartPolicy::OnFailure,
        ..Plan::new(network, image, 12)
    };
    let script = Some("#!/bin/sh\npoweroff -f\n".to_owned());
    let leaves = Plan {
        restart: RestartPolicy::OnFailure,
        user_data: script,
        ..Plan::new(network, image, 13)
    };
    for plan in [&stays, &returns, &leaves] {
        plan.create(&host).await;
    }
    let mut changes = host.driver().watch_guests();
    let before = host.pid(returns.instance).await;
    for plan in [&stays, &returns] {
        let pid = nix::unistd::Pid::from_raw(host.pid(plan.instance).await);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    host.is_power(stays.instance, SeenPower::Crashed).await;
    let seen = tokio::time::timeout(real_support::PATIENCE, async {
        loop {
            let change = changes.recv().await.unwrap();
            if change.instance == returns.instance && change.power == SeenPower::On {
                return change;
            }
        }
    });
    seen.await.unwrap();
    assert_ne!(host.pid(returns.instance).await, before);
    host.is_power(leaves.instance, SeenPower::Off).await;
    assert_eq!(
        host.seen(leaves.instance).await.detail,
        "the guest shut itself down"
    );
    for plan in [&stays, &returns, &leaves] {
        plan.delete(&host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_reboots_once_and_all_guests_stop_and_come_back() {
    if !can_be_real() {
        return;
    }
    let mut host = Host::new().await;
    let plan = Plan::new(ResourceId::new(), ResourceId::new(), 14);
    plan.create(&host).await;
    host.says(plan.instance, &plan.greeting()).await;
    let job = real_support::context(JobId::new());
    let first = host.pid(plan.instance).await;
    host.driver().make_so(&job, &plan.reboot()).await.unwrap();
    let second = host.pid(plan.instance).await;
    assert_ne!(first, second);
    host.driver().make_so(&job, &plan.reboot()).await.unwrap();
    assert_eq!(host.pid(plan.instance).await, second, "once a job");
    assert_eq!(
        host.driver().observe(&job, &plan.reboot()).await.unwrap(),
        Seen::StillSo
    );
    host.says_times(plan.instance, &plan.greeting(), 2).await;

    // `down`, and `up` again: nothing is left in between, and what should run is started.
    let namespace = host.namespace(plan.network).await;
    assert_eq!(host.driver().stop_guests().await.unwrap(), 1);
    assert!(!Path::new("/run/netns").join(&namespace).exists());
    assert!(!Path::new(&format!("/proc/{second}")).exists());
    host.agent_goes().await;
    host.start().await;
    host.is_power(plan.instance, SeenPower::On).await;
    host.says_times(plan.instance, &plan.greeting(), 3).await;
    assert_eq!(host.page(plan.network, plan.ip).await, "web-14\n10.20.0.14\n");
    plan.delete(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_grows_under_a_running_guest_and_never_shrinks() {
    if !can_be_real() {
        return;
    }
    let host = Host::new().await;
    let plan = Plan::new(ResourceId::new(), ResourceId::new(), 16);
    plan.create(&host).await;
    let facts = host.must(plan.ensure_image()).await.output;
    let facts: ImageFacts = serde_json::from_value(facts).unwrap();
    host.must(plan.ensure_disk(&facts, 2)).await;
    host.must(plan.power(Power::Off)).await;
    host.must(plan.ensure_disk(&facts, 3)).await;
    host.must(plan.ensure_disk(&facts, 1)).await;
    let disk = host
        .dir
        .path()
        .join(format!("objects/disks/{}.qcow2", plan.instance));
    let (_, info) = run("qemu-img", &["info", "--output=json", disk.to_str().unwrap()]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["virtual-size"], 3u64 << 30);
    plan.delete(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_bridges_a_guest_still_gets_its_address() {
    if !can_be_real() {
        return;
    }
    let host = Host::with(|c| {
        c.networking = Choice::Fixed(Networking::User);
        c.accelerator = Choice::Probe;
    })
    .await;
    let plan = Plan::new(ResourceId::new(), ResourceId::new(), 17);
    plan.create(&host).await;
    host.says(plan.instance, &plan.greeting()).await;
    let capacity = host.driver().capacity(&real_support::name()).await.unwrap();
    assert_eq!(
        (capacity.networking.as_str(), capacity.driver.as_str()),
        ("user", "qemu")
    );
    assert!(["kvm", "tcg"].contains(&capacity.accelerator.as_str()));
    assert!(host.seen(plan.instance).await.detail.contains("user network"));
    plan.delete(&host).await;
}
