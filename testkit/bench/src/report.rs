//! The figures: a table for people, and JSON by the names of stack.md.

use std::collections::BTreeMap;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde_json::{Map, Value, json};

use crate::limits::Limits;
use crate::load::{Alone, Burst};
use crate::usage::Usage;

/// Issue 2, "Scale from the start".
const DONE_PER_S: f64 = 1_500.0;
const CPU_S_PER_1000: f64 = 0.7;
const ALONE_P50_MS: f64 = 15.0;
const IDLE_MIB: f64 = 60.0;
const PLACEMENTS_PER_S: f64 = 20_000.0;
const PLACEMENTS_HOSTS: u32 = 10_000;

/// What was measured; empty where it wasn't.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) idle: Option<Usage>,
    pub(crate) limits: Option<Limits>,
    pub(crate) placements: Option<BTreeMap<u32, f64>>,
    pub(crate) alone: Option<Alone>,
    pub(crate) burst: Option<Burst>,
}

/// On which side of its target a figure should be.
#[derive(Debug, Clone, Copy)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
    None,
}

impl Burst {
    fn accepted_per_s(&self) -> f64 {
        f64::from(self.creates) / self.accepted_s
    }

    fn done_per_s(&self) -> f64 {
        f64::from(self.creates) / self.done_s
    }

    fn per_1000(&self, cpu_s: f64) -> f64 {
        cpu_s * 1_000.0 / f64::from(self.creates)
    }

    fn cpu_s_per_1000(&self) -> f64 {
        self.per_1000(self.cpu_s.values().sum())
    }
}

impl Figures {
    /// By name.
    pub(crate) fn json(&self) -> Value {
        let mut all = Map::new();
        if let Some(burst) = &self.burst {
            all.insert("accepted_per_s".into(), rounded(burst.accepted_per_s()));
            all.insert("done_per_s".into(), rounded(burst.done_per_s()));
            all.insert("cpu_s_per_1000".into(), rounded(burst.cpu_s_per_1000()));
            all.insert(
                "cpu_s".into(),
                by_role(burst.cpu_s.iter().map(|(role, cpu_s)| (role, *cpu_s))),
            );
            all.insert(
                "after_mib".into(),
                by_role(burst.after.iter().map(|(role, of)| (role, of.mib))),
            );
            all.insert("creates".into(), json!(burst.creates));
        }
        if let Some(alone) = &self.alone {
            all.insert("alone_p50_ms".into(), rounded(alone.p50_ms));
            all.insert("alone_p99_ms".into(), rounded(alone.p99_ms));
        }
        if let Some(idle) = &self.idle {
            all.insert(
                "idle_mib".into(),
                by_role(idle.iter().map(|(role, of)| (role, of.mib))),
            );
        }
        if let Some(placements) = &self.placements {
            let by_hosts = placements
                .iter()
                .map(|(hosts, rate)| (hosts.to_string(), rounded(*rate)));
            all.insert("placements_per_s".into(), Value::Object(by_hosts.collect()));
        }
        if let Some(limits) = &self.limits {
            let limits = json!({
                "pgbench_commits_per_s": rounded(limits.pgbench_commits),
                "jetstream_publishes_per_s": rounded(limits.jetstream_publishes),
                "mtls_calls_per_s": rounded(limits.mtls_calls),
                "fdatasyncs_per_s": rounded(limits.fdatasyncs),
            });
            all.insert("limits".into(), limits);
        }
        Value::Object(all)
    }

    /// For people.
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new();
        table
            .load_style(UTF8_BORDERS_ONLY)
            .set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(["", "measured", "target", ""]);
        self.burst_rows(&mut table);
        if let Some(alone) = &self.alone {
            row(
                &mut table,
                "alone, request to done, p50, ms",
                alone.p50_ms,
                Target::AtMost(ALONE_P50_MS),
            );
            row(
                &mut table,
                "alone, request to done, p99, ms",
                alone.p99_ms,
                Target::None,
            );
            row(
                &mut table,
                "  accepted to dispatched, mean, ms",
                alone.dispatch_ms,
                Target::None,
            );
            row(
                &mut table,
                "  dispatched to settled, mean, ms",
                alone.run_ms,
                Target::None,
            );
        }
        for (role, of) in self.idle.iter().flatten() {
            let several = if of.processes > 1 {
                format!(", {} processes", of.processes)
            } else {
                String::new()
            };
            let target = if is_ours(role) {
                Target::AtMost(IDLE_MIB)
            } else {
                Target::None
            };
            row(&mut table, &format!("idle {role}{several}, MiB"), of.mib, target);
        }
        for (role, of) in self.burst.iter().flat_map(|burst| &burst.after) {
            row(
                &mut table,
                &format!("after the load {role}, MiB"),
                of.mib,
                Target::None,
            );
        }
        for (hosts, rate) in self.placements.iter().flatten() {
            let target = if *hosts == PLACEMENTS_HOSTS {
                Target::AtLeast(PLACEMENTS_PER_S)
            } else {
                Target::None
            };
            row(
                &mut table,
                &format!("placements per s at {hosts} hosts"),
                *rate,
                target,
            );
        }
        if let Some(limits) = &self.limits {
            row(
                &mut table,
                "this machine: Postgres commits per s (pgbench)",
                limits.pgbench_commits,
                Target::None,
            );
            row(
                &mut table,
                "this machine: JetStream publishes per s, acked",
                limits.jetstream_publishes,
                Target::None,
            );
            row(
                &mut table,
                "this machine: mTLS gRPC calls per s",
                limits.mtls_calls,
                Target::None,
            );
            row(
                &mut table,
                "this machine: fdatasync per s",
                limits.fdatasyncs,
                Target::None,
            );
        }
        for column in [1, 2] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    fn burst_rows(&self, table: &mut Table) {
        let Some(burst) = &self.burst else { return };
        row(
            table,
            "creates, all succeeded",
            f64::from(burst.creates),
            Target::None,
        );
        row(table, "accepted per s", burst.accepted_per_s(), Target::None);
        row(
            table,
            "done per s",
            burst.done_per_s(),
            Target::AtLeast(DONE_PER_S),
        );
        row(
            table,
            "CPU s per 1,000",
            burst.cpu_s_per_1000(),
            Target::AtMost(CPU_S_PER_1000),
        );
        for (role, cpu_s) in &burst.cpu_s {
            row(table, &format!("  {role}"), burst.per_1000(*cpu_s), Target::None);
        }
        row(
            table,
            "jobs in a dispatch, mean",
            burst.dispatch_batch,
            Target::None,
        );
        row(
            table,
            "events in a settle, mean",
            burst.settle_batch,
            Target::None,
        );
    }
}

/// A part of Rhyzome itself.
fn is_ours(role: &str) -> bool {
    !matches!(role, "postgres" | "nats")
}

fn row(table: &mut Table, name: &str, value: f64, target: Target) {
    let (target, verdict) = match target {
        Target::AtLeast(target) => (format!("≥ {}", shown(target)), reached(value >= target)),
        Target::AtMost(target) => (format!("≤ {}", shown(target)), reached(value <= target)),
        Target::None => (String::new(), ""),
    };
    table.add_row([name, &shown(value), &target, verdict]);
}

fn reached(is: bool) -> &'static str {
    if is { "reached" } else { "missed" }
}

fn by_role<'a>(values: impl Iterator<Item = (&'a String, f64)>) -> Value {
    Value::Object(
        values
            .map(|(role, value)| (role.clone(), rounded(value)))
            .collect(),
    )
}

fn rounded(value: f64) -> Value {
    json!((value * 1_000.0).round() / 1_000.0)
}

/// Three figures that mean something; thousands apart.
fn shown(value: f64) -> String {
    if value.abs() < 10.0 {
        return format!("{value:.2}");
    }
    if value.abs() < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::OfRole;

    fn figures() -> Figures {
        let of = OfRole {
            processes: 2,
            cpu_s: 1.0,
            mib: 40.5,
        };
        Figures {
            idle: Some(Usage::from([("worker".to_owned(), of)])),
            limits: Some(Limits {
                pgbench_commits: 5e3,
                jetstream_publishes: 7e4,
                mtls_calls: 2e4,
                fdatasyncs: 8e3,
            }),
            placements: Some(BTreeMap::from([(100, 1e6), (10_000, 19_999.0)])),
            alone: Some(Alone {
                p50_ms: 9.0,
                p99_ms: 20.0,
                dispatch_ms: 3.0,
                run_ms: 5.0,
            }),
            burst: Some(Burst {
                creates: 2_000,
                accepted_s: 0.5,
                done_s: 1.0,
                cpu_s: BTreeMap::from([("api".to_owned(), 0.4), ("worker".to_owned(), 0.6)]),
                after: Usage::from([("worker".to_owned(), of)]),
                dispatch_batch: 100.0,
                settle_batch: 50.0,
            }),
        }
    }

    #[test]
    fn json_has_the_names_of_the_contract() {
        let json = figures().json();
        assert_eq!(json["accepted_per_s"], 4_000.0);
        assert_eq!(json["done_per_s"], 2_000.0);
        assert_eq!(json["cpu_s_per_1000"], 0.5);
        assert_eq!(
            (&json["alone_p50_ms"], &json["alone_p99_ms"]),
            (&json!(9.0), &json!(20.0))
        );
        assert_eq!(json["idle_mib"]["worker"], 40.5);
        assert_eq!(json["cpu_s"]["api"], 0.4);
        assert_eq!(json["placements_per_s"]["10000"], 19_999.0);
        assert!(json["limits"].is_object());
        assert_eq!(Figures::default().json(), json!({}));
    }

    #[test]
    fn the_table_says_what_is_reached() {
        let text = figures().table().to_string();
        let line = |word: &str| text.lines().find(|line| line.contains(word)).unwrap().to_owned();
        assert!(
            line("done per s").contains("2,000") && line("done per s").contains("reached"),
            "{text}"
        );
        assert!(line("at 10000 hosts").contains("missed"), "{text}");
        assert!(line("idle worker, 2 processes").contains("reached"), "{text}");
    }

    #[test]
    fn numbers_are_short() {
        let pairs = [
            (0.123, "0.12"),
            (15.0, "15.0"),
            (150.4, "150"),
            (1_500.0, "1,500"),
            (1_234_567.0, "1,234,567"),
        ];
        for (value, text) in pairs {
            assert_eq!(shown(value), text);
        }
    }
}
