//! Guests of one host never run as one user, whatever their ids hash to and whatever was lost.

#![allow(clippy::unwrap_used)]

mod real_support;

use real_support::{Host, Plan, can_be_real};
use rhyzome_agent::objects::{Choice, Networking};
use rhyzome_model::ids::ResourceId;
use rhyzome_model::kinds::Power;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Two ids whose users begin at the same number on this host: the first three bytes of SHA-256 over the state folder's identity, the host
/// and the id.
fn twins(host: &Host) -> [ResourceId; 2] {
    let identity = std::fs::read(host.dir.path().join("objects/identity.json")).unwrap();
    let identity: String = serde_json::from_slice(&identity).unwrap();
    let hash = |id: ResourceId| -> [u8; 3] {
        let whole = Sha256::digest(format!("{identity}/{}/{id}", real_support::name()));
        [whole[0], whole[1], whole[2]]
    };
    let mut seen = HashMap::new();
    std::iter::repeat_with(ResourceId::new)
        .find_map(|id| seen.insert(hash(id), id).map(|before| [before, id]))
        .unwrap()
}

/// Two guests with such ids, at these addresses.
fn twin_plans(host: &Host, last: [u8; 2]) -> [Plan; 2] {
    let (network, image) = (ResourceId::new(), ResourceId::new());
    let mut last = last.into_iter();
    twins(host).map(|instance| Plan {
        instance,
        stop_timeout_s: 1,
        ..Plan::new(network, image, last.next().unwrap())
    })
}

/// Who a guest's process is.
async fn runs_as(host: &Host, plan: &Plan) -> u32 {
    let pid = host.pid(plan.instance).await;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn disk(host: &Host, plan: &Plan) -> PathBuf {
    let disks = host.dir.path().join("objects/disks");
    disks.join(format!("{}.qcow2", plan.instance))
}

fn record(host: &Host, plan: &Plan) -> PathBuf {
    let users = host.dir.path().join("objects/users");
    users.join(format!("{}.json", plan.instance))
}

async fn power_cycle(host: &Host, plan: &Plan) {
    for power in [Power::Off, Power::On] {
        host.must(plan.power(power)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_guests_whose_ids_hash_alike_run_as_two_users_for_as_long_as_they_live() {
    if !can_be_real() {
        return;
    }
    let mut host = Host::with(|c| c.networking = Choice::Fixed(Networking::User)).await;
    let [a, b] = twin_plans(&host, [51, 52]);
    for plan in [&a, &b] {
        plan.create(&host).await;
    }
    let users = async |host: &Host| [runs_as(host, &a).await, runs_as(host, &b).await];
    let own = users(&host).await;
    assert!(own[0] != own[1] && !own.contains(&0), "{own:?}");
    for (plan, own) in [(&a, own[0]), (&b, own[1])] {
        assert_eq!(std::fs::metadata(disk(&host, plan)).unwrap().uid(), own);
    }

    // Adopted, and started again, the one that was made second first; with a record that was lost, and with all of them.
    for lost in [&[][..], &[&b], &[&a, &b]] {
        host.agent_goes().await;
        for plan in lost {
            std::fs::remove_file(record(&host, plan)).unwrap();
        }
        host.start().await;
        assert_eq!(users(&host).await, own);
        for plan in [&b, &a] {
            power_cycle(&host, plan).await;
        }
        assert_eq!(users(&host).await, own);
        assert!(record(&host, &a).is_file() && record(&host, &b).is_file());
    }
    // Off while the records are lost: its files tell it.
    host.must(b.power(Power::Off)).await;
    host.agent_goes().await;
    std::fs::remove_dir_all(host.dir.path().join("objects/users")).unwrap();
    host.start().await;
    host.must(b.power(Power::On)).await;
    assert_eq!(users(&host).await, own);

    // The number of one that is gone is free, and the other's stays.
    a.delete(&host).await;
    assert!(!record(&host, &a).exists());
    power_cycle(&host, &b).await;
    assert_eq!(runs_as(&host, &b).await, own[1]);
    a.create(&host).await;
    assert_eq!(users(&host).await, own);
    for plan in [&a, &b] {
        plan.delete(&host).await;
    }
    let left = std::fs::read_dir(host.dir.path().join("objects/users")).unwrap();
    assert_eq!(left.count(), 0);
}

/// As the version before left it: both have the number that their ids hash to, and there are no records.
#[tokio::test(flavor = "multi_thread")]
async fn guests_from_before_records_keep_their_user_unless_another_has_it() {
    if !can_be_real() {
        return;
    }
    let mut host = Host::with(|c| c.networking = Choice::Fixed(Networking::User)).await;
    let [a, b] = twin_plans(&host, [53, 54]);
    a.create(&host).await;
    b.define(&host).await;
    let old = runs_as(&host, &a).await;
    host.agent_goes().await;
    std::fs::remove_dir_all(host.dir.path().join("objects/users")).unwrap();
    let folder = host.dir.path().join(format!("objects/instances/{}", b.instance));
    for file in [
        disk(&host, &b),
        folder.join("run"),
        folder.join("seed.img"),
        folder.join("console.log"),
    ] {
        std::os::unix::fs::chown(file, Some(old), Some(old)).unwrap();
    }
    host.start().await;
    host.must(b.power(Power::On)).await;
    assert_eq!(runs_as(&host, &a).await, old);
    let new = runs_as(&host, &b).await;
    assert_ne!(new, old);
    assert_eq!(std::fs::metadata(disk(&host, &b)).unwrap().uid(), new);
    power_cycle(&host, &a).await;
    assert_eq!(runs_as(&host, &a).await, old);
    for plan in [&a, &b] {
        plan.delete(&host).await;
    }
}
