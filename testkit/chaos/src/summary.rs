//! What a run came to: for people, and as JSON for who compares runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rhyzome_runtime::fault::{Point, Side};
use serde_json::json;
use sqlx::{PgPool, Row};

use crate::control::Noted;
use crate::journal::Journal;
use crate::logs::Logs;

/// See the module.
pub(crate) struct Summary<'a> {
    pub(crate) seed: u64,
    pub(crate) took: Duration,
    /// How often each was played.
    pub(crate) scenarios: BTreeMap<String, u64>,
    /// Why not all was played, if so.
    pub(crate) ended_early: Option<String>,
    pub(crate) journal: &'a Journal,
    pub(crate) hits: Vec<Noted>,
    pub(crate) logs: &'a Logs,
    /// Jobs by what they were and how they ended.
    pub(crate) outcomes: BTreeMap<String, u64>,
}

/// How often each side of each act was hit; those that never were are there, at 0.
pub(crate) fn points(hits: &[Noted]) -> BTreeMap<String, u64> {
    let name = |point: Point, side: Side| format!("{} {}", point.as_str(), side.as_str());
    let mut counts: BTreeMap<String, u64> = Point::ALL
        .iter()
        .flat_map(|point| Side::ALL.map(|side| (name(*point, side), 0)))
        .collect();
    for hit in hits {
        *counts.entry(hit.at.clone()).or_default() += 1;
    }
    counts
}

impl Summary<'_> {
    /// For people.
    pub(crate) fn print(&self) {
        println!("\nseed {}, {} s", self.seed, self.took.as_secs());
        section("scenarios played", &self.scenarios);
        section("jobs by outcome", &self.outcomes);
        section("answers", &self.journal.all_answers());
        section("done from outside", &self.journal.all_done());
        if !self.hits.is_empty() {
            let points = points(&self.hits);
            let met = points.values().filter(|count| **count > 0).count();
            section(&format!("fault points hit: {met} of {}", points.len()), &points);
            section("of these in", &self.roles());
        }
        section("ERROR lines that are expected", &self.logs.expected);
        section("WARN lines", &self.logs.warnings);
    }

    /// The same as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let broken = self.journal.all_broken();
        let document = json!({
            "seed": self.seed,
            "seconds": self.took.as_secs(),
            "whole": broken.is_empty() && self.ended_early.is_none(),
            "ended_early": self.ended_early,
            "broken": broken,
            "scenarios": self.scenarios,
            "jobs": self.outcomes,
            "answers": self.journal.all_answers(),
            "outside": self.journal.all_done(),
            "points": points(&self.hits),
            "points_by_role": self.roles(),
            "errors_expected": self.logs.expected,
            "warnings": self.logs.warnings,
            "machine": machine(),
        });
        let text = serde_json::to_string_pretty(&document).context("as JSON")?;
        std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }

    fn roles(&self) -> BTreeMap<String, u64> {
        let mut roles: BTreeMap<String, u64> = BTreeMap::new();
        for hit in &self.hits {
            *roles.entry(hit.role.clone()).or_default() += 1;
        }
        roles
    }
}

/// What it ran on.
fn machine() -> serde_json::Value {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let memory = read("/proc/meminfo");
    json!({
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "memory": memory.lines().next().and_then(|line| line.split_once(':')).map(|(_, size)| size.trim().to_owned()),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "load_at_the_end": read("/proc/loadavg"),
    })
}

fn section<K: std::fmt::Display>(title: &str, counts: &BTreeMap<K, u64>) {
    if counts.is_empty() {
        return;
    }
    println!("{title}");
    for (what, count) in counts {
        println!("  {count:>6}  {what}");
    }
}

/// Jobs by what they were and how they ended; nothing where the database can't be asked.
pub(crate) async fn outcomes(db: &PgPool) -> BTreeMap<String, u64> {
    let rows = sqlx::query(
        "SELECT kind || '.' || action || ' ' || state || coalesce(' ' || (error->>'code'), ''), count(*) FROM jobs GROUP BY 1",
    )
    .fetch_all(db)
    .await
    .unwrap_or_default();
    rows.iter()
        .filter_map(|row| {
            Some((
                row.try_get::<String, _>(0).ok()?,
                u64::try_from(row.try_get::<i64, _>(1).ok()?).ok()?,
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_of_each_act_is_counted_and_none_is_left_out() {
        let hit = |at: &str| Noted {
            at: at.to_owned(),
            role: "worker".to_owned(),
            pid: 1,
        };
        let counts = points(&[hit("order_ack after"), hit("order_ack after")]);
        assert_eq!(counts.len(), 32, "as the protocol's page has");
        assert_eq!(counts["order_ack after"], 2);
        assert_eq!(counts.values().sum::<u64>(), 2);
    }
}
