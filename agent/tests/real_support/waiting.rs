//! Waiting for what a host does by itself, and what makes it do so.

use super::PATIENCE;
use rhyzome_agent::driver::{GuestSeen, SeenPower};
use std::path::Path;
use std::time::Duration;
use tokio::sync::broadcast;

pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(tokio::time::Instant::now() < until, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Until the agent says that the guest is so: only then has it done all that it does about it.
pub async fn told(changes: &mut broadcast::Receiver<GuestSeen>, power: SeenPower) {
    let so = async { while changes.recv().await.unwrap().power != power {} };
    let waited = tokio::time::timeout(PATIENCE, so).await;
    assert!(waited.is_ok(), "never {power:?}");
}

pub fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

pub fn kill(pid: i32) {
    signal(pid, nix::sys::signal::Signal::SIGKILL);
}

/// Of a network's folder.
pub fn pid_of_dnsmasq(folder: &Path) -> i32 {
    let record = std::fs::read(folder.join("dnsmasq.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    i32::try_from(record["process"]["pid"].as_i64().unwrap()).unwrap()
}
