//! What the stack's processes use: CPU time and memory by role, from `/proc` (proc(5)).
//!
//! A process counts with its descendants, those that have ended included: Postgres has one for each connection.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::stack::StackFile;

/// Clock ticks a second in `/proc`: 100 on every Linux that we build for (`USER_HZ`).
const TICKS: f64 = 100.0;

/// Of one role.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct OfRole {
    /// Processes in `stack.json`.
    pub(crate) processes: u32,
    /// User and system, since they began.
    pub(crate) cpu_s: f64,
    /// Resident memory. Of a process with descendants what it shares with them is counted once (its proportional share).
    pub(crate) mib: f64,
}

/// By role.
pub(crate) type Usage = BTreeMap<String, OfRole>;

/// As it is now.
pub(crate) fn sample(stack: &StackFile) -> Result<Usage> {
    let children = children()?;
    let mut usage = Usage::new();
    for process in &stack.processes {
        let tree = tree(process.pid, &children);
        let role = usage.entry(process.role.clone()).or_default();
        role.processes += 1;
        for pid in &tree {
            // A descendant may be gone since; its parent counts its time from then on.
            let Some(stat) = stat(*pid) else { continue };
            role.cpu_s += stat.cpu_s;
            role.mib += if tree.len() > 1 {
                proportional_mib(*pid)?
            } else {
                resident_mib(*pid)?
            };
        }
    }
    Ok(usage)
}

/// CPU seconds by role between two samples.
pub(crate) fn cpu_between(before: &Usage, after: &Usage) -> BTreeMap<String, f64> {
    let earlier = |role: &str| before.get(role).map_or(0.0, |of| of.cpu_s);
    after
        .iter()
        .map(|(role, of)| (role.clone(), of.cpu_s - earlier(role)))
        .collect()
}

struct Stat {
    parent: i32,
    cpu_s: f64,
}

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields 4 (parent) and 14 to 17 (user and system time, its own and that of children waited for). The name before them, in
/// parentheses, may hold anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields
        .get(11..15)?
        .iter()
        .map(|field| field.parse::<f64>().ok())
        .sum::<Option<f64>>()?;
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        cpu_s: ticks / TICKS,
    })
}

fn children() -> Result<BTreeMap<i32, Vec<i32>>> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").context("reading /proc")? {
        let name = entry.context("reading /proc")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    Ok(children)
}

fn tree(root: i32, children: &BTreeMap<i32, Vec<i32>>) -> Vec<i32> {
    let mut tree = vec![root];
    let mut at = 0;
    while let Some(pid) = tree.get(at) {
        tree.extend(children.get(pid).into_iter().flatten());
        at += 1;
    }
    tree
}

fn resident_mib(pid: i32) -> Result<f64> {
    kib(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// Needs the rights of its owner; without them its resident memory less what is shared.
fn proportional_mib(pid: i32) -> Result<f64> {
    if let Ok(mib) = kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:") {
        return Ok(mib);
    }
    let status = format!("/proc/{pid}/status");
    Ok(kib(&status, "RssAnon:")? + kib(&status, "RssFile:")?)
}

/// A line `Name:  123 kB`, in MiB; 0 where the process is gone or has no memory any more.
fn kib(path: &str, name: &str) -> Result<f64> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0.0),
        Err(error) => return Err(error).with_context(|| format!("reading {path}")),
    };
    let Some(line) = text.lines().find_map(|line| line.strip_prefix(name)) else {
        return Ok(0.0);
    };
    let number = line
        .split_whitespace()
        .next()
        .and_then(|number| number.parse::<f64>().ok());
    number
        .map(|kib| kib / 1024.0)
        .with_context(|| format!("{name} in {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let text = "7 (a) b (c) S 3 7 7 0 -1 0 1 2 3 4 100 50 30 20 20 0 1 0 99";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.parent, stat.cpu_s), (3, 2.0));
        assert!(parse_stat("nothing").is_none());
    }

    #[test]
    fn a_tree_has_its_grandchildren() {
        let children = [(1, vec![2, 3]), (3, vec![4]), (9, vec![10])].into();
        assert_eq!(tree(1, &children), [1, 2, 3, 4]);
    }

    #[test]
    fn differences_are_by_role() {
        let of = |cpu_s| OfRole {
            processes: 1,
            cpu_s,
            mib: 1.0,
        };
        let before = Usage::from([("api".to_owned(), of(1.0))]);
        let after = Usage::from([("api".to_owned(), of(3.5)), ("worker".to_owned(), of(2.0))]);
        let between = cpu_between(&before, &after);
        assert_eq!((between["api"], between["worker"]), (2.5, 2.0));
    }
}
