//! What a run came to, for people.

use std::collections::BTreeMap;

use rhyzome_runtime::fault::{Point, Side};
use sqlx::{PgPool, Row};

use crate::control::Points;
use crate::journal::Journal;
use crate::logs::Logs;

/// Prints it.
pub(crate) async fn print(seed: u64, journal: &Journal, points: &Points, logs: &Logs, db: &PgPool) {
    println!("\nseed {seed}");
    section("jobs by outcome", &outcomes(db).await);
    section("answers", &journal.all_answers());
    section("done from outside", &journal.all_done());
    let mut hits: BTreeMap<String, u64> = BTreeMap::new();
    let mut roles: BTreeMap<String, u64> = BTreeMap::new();
    for hit in points.hits() {
        *hits.entry(hit.at.clone()).or_default() += 1;
        *roles.entry(hit.role).or_default() += 1;
    }
    if !hits.is_empty() {
        section("fault points hit", &hits);
        section("of these in", &roles);
        let missed: Vec<String> = Point::ALL
            .iter()
            .flat_map(|point| Side::ALL.map(|side| format!("{} {} abort", point.as_str(), side.as_str())))
            .filter(|at| !hits.contains_key(at))
            .collect();
        println!(
            "fault points never hit: {}",
            if missed.is_empty() {
                "none".to_owned()
            } else {
                missed.join(", ")
            }
        );
    }
    section("ERROR lines that are expected", &logs.expected);
    section("WARN lines", &logs.warnings);
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

async fn outcomes(db: &PgPool) -> BTreeMap<String, u64> {
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
