//! What somebody takes from a network of a real host by hand, and how it gets that again.

#![allow(clippy::unwrap_used)]

mod real_support;

use real_support::waiting::{pid_of_dnsmasq, until};
use real_support::{Host, Plan, can_be_real, context, run};
use rhyzome_agent::driver::{Driver, Seen};
use rhyzome_model::ids::{JobId, ResourceId};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A namespace whose name was deleted by hand lives on with what runs in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_lost_its_name_gets_it_back_and_the_network_stays_one() {
    if !can_be_real() {
        return;
    }
    let host = Host::new().await;
    let one = Plan::new(ResourceId::new(), ResourceId::new(), 61);
    let two = Plan {
        network: one.network,
        ..Plan::new(ResourceId::new(), ResourceId::new(), 62)
    };
    host.must(one.ensure_network()).await;
    let namespace = host.namespace(one.network).await;
    let file = Path::new("/run/netns").join(&namespace);
    let inode = |file: &Path| std::fs::metadata(file).map(|m| m.ino());
    let first = inode(&file).unwrap();

    // The next guest's step finds it, or the agent's own look before that; with no step at all the look does.
    run("ip", &["netns", "del", &namespace]);
    host.must(two.ensure_network()).await;
    assert_eq!(inode(&file).unwrap(), first);
    run("ip", &["netns", "del", &namespace]);
    until("its name to come back", || inode(&file).ok() == Some(first)).await;

    for plan in [&one, &two] {
        for action in plan.drop_networks() {
            host.must(action).await;
        }
    }
    assert!(!file.exists());
}

/// A network outlives its guests, and their addresses are given to others.

#[tokio::test(flavor = "multi_thread")]
async fn walls_that_somebody_flushed_away_are_built_again() {
    if !can_be_real() {
        return;
    }
    let host = Host::new().await;
    let plan = Plan::new(ResourceId::new(), ResourceId::new(), 81);
    host.must(plan.ensure_network()).await;
    let namespace = host.namespace(plan.network).await;
    let outside = namespace.replace('-', "_");
    let is_outside = || run("nft", &["list", "table", "inet", &outside]).0;
    let inside = |what: &str| {
        let args = ["netns", "exec", &namespace, "nft", what, "table", "inet", "net"];
        run("ip", &args).0
    };
    assert!(is_outside() && inside("list"));

    assert!(run("nft", &["delete", "table", "inet", &outside]).0);
    until("the wall outside to be there again", is_outside).await;
    // A table that is there without its rules is no wall.
    let drops = || {
        run("nft", &["list", "table", "inet", &outside])
            .1
            .contains("drop")
    };
    assert!(drops());
    assert!(run("nft", &["flush", "table", "inet", &outside]).0);
    assert!(is_outside() && !drops());
    until("the rules outside to be there again", drops).await;
    let handle = {
        let listed = run("nft", &["-a", "list", "chain", "inet", &outside, "input"]).1;
        let rule = listed.lines().find(|l| l.contains("drop")).unwrap();
        rule.rsplit(' ').next().unwrap().to_owned()
    };
    let one = ["delete", "rule", "inet", &outside, "input", "handle", &handle];
    assert!(run("nft", &one).0);
    host.must(plan.ensure_network()).await;
    assert_eq!(
        host.driver()
            .observe(&context(JobId::new()), &plan.ensure_network())
            .await
            .unwrap(),
        Seen::StillSo
    );
    assert!(
        run("nft", &["list", "chain", "inet", &outside, "input"])
            .1
            .contains("drop"),
        "one rule alone is missed, too"
    );
    assert!(inside("flush"));
    host.must(plan.ensure_network()).await;
    let listed = run(
        "ip",
        &["netns", "exec", &namespace, "nft", "list", "table", "inet", "net"],
    )
    .1;
    assert!(listed.contains("masquerade"), "{listed}");
    assert!(inside("delete"));
    host.must(plan.ensure_network()).await;
    assert!(inside("list"), "a step finds it too");
    for action in plan.drop_networks() {
        host.must(action).await;
    }
    assert!(!is_outside());
}

/// Its claims are a record, and records get lost: who is in it by a definition stays in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_whose_record_is_lost_stays_while_instances_are_in_it() {
    if !can_be_real() {
        return;
    }
    let host = Host::new().await;
    let network = ResourceId::new();
    let image = ResourceId::new();
    let [goes, stays] = [91, 92].map(|last| Plan::new(network, image, last));
    for plan in [&goes, &stays] {
        plan.define(&host).await;
    }
    let namespace = host.namespace(network).await;
    let named = Path::new("/run/netns").join(&namespace);
    let folder = host.dir.path().join(format!("objects/networks/{network}"));
    let server = pid_of_dnsmasq(&folder);
    let hosts = || std::fs::read_to_string(folder.join("hosts")).unwrap();
    std::fs::write(folder.join("network.json"), "{").unwrap();
    goes.delete(&host).await;
    assert!(named.exists());
    assert_eq!(pid_of_dnsmasq(&folder), server);

    // Its repair, for another that goes before the claim of the one that stays is there again.
    host.must(goes.ensure_network()).await;
    assert!(!hosts().contains("10.20.0.92"));
    for action in goes.drop_networks() {
        host.must(action).await;
    }
    assert!(named.exists());
    assert!(hosts().contains("10.20.0.92,web-92") && !hosts().contains("10.20.0.91"));

    // With the last one it goes, record or not.
    std::fs::remove_file(folder.join("network.json")).unwrap();
    stays.delete(&host).await;
    assert!(!named.exists() && !folder.exists());
}
