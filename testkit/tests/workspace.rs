//! Who may use whom: the table of docs/ARCHITECTURE.md, held against the workspace's own manifests.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Crate, and what it may use of ours (dev-dependencies aside: a test may use testkit).
const MAY_USE: [(&str, &[&str]); 11] = [
    ("model", &[]),
    ("proto", &["model"]),
    ("runtime", &[]),
    ("store", &["model"]),
    ("nats", &["model", "proto"]),
    ("api", &["model", "proto", "runtime", "store", "nats"]),
    ("scheduler", &["model", "proto", "runtime", "store", "nats"]),
    ("worker", &["model", "proto", "runtime", "nats"]),
    ("agent", &["model", "proto", "runtime"]),
    ("xtask", &[]),
    ("testkit/model", &[]),
];

/// Third parties that only one of ours may use: SQL in the store, NATS in `nats`.
const ONLY_IN: [(&str, &[&str]); 2] = [
    ("sqlx", &["store", "testkit", "testkit/chaos", "cli"]),
    ("async-nats", &["nats", "testkit"]),
];

fn manifest(root: &Path, member: &str) -> toml::Table {
    let path = root.join(member).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn dependencies(manifest: &toml::Table) -> BTreeSet<String> {
    ["dependencies", "build-dependencies"]
        .iter()
        .filter_map(|section| manifest.get(*section)?.as_table())
        .flat_map(|table| table.keys().cloned())
        .collect()
}

#[test]
fn crates_use_only_whom_they_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.into_iter().collect();
    let workspace = manifest(root, ".");
    let members = workspace["workspace"]["members"].as_array().expect("members");
    let mut faults = Vec::new();
    for member in members.iter().filter_map(|m| m.as_str()) {
        let used = dependencies(&manifest(root, member));
        if let Some(allowed) = allowed.get(member) {
            for ours in used.iter().filter_map(|d| d.strip_prefix("rhyzome-")) {
                if !allowed.contains(&ours) {
                    faults.push(format!("{member} uses {ours}"));
                }
            }
        } else if !["cli", "testkit", "testkit/bench", "testkit/chaos", "testkit/sim"].contains(&member) {
            faults.push(format!("{member} isn't in the table"));
        }
        for (third, places) in ONLY_IN {
            if used.contains(third) && !places.contains(&member) {
                faults.push(format!("{member} uses {third}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:?}");
}
