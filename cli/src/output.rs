//! Lists: a table for people, JSON for programs.

use anyhow::Result;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use crate::args::Format;

/// One row of a table.
pub(crate) trait Row: Serialize {
    /// The columns' heads.
    const HEADS: &'static [&'static str];

    /// Its cells, as many as there are heads.
    fn cells(&self) -> Vec<String>;
}

/// Prints a list.
pub(crate) fn list<R: Row>(rows: &[R], format: Format) -> Result<()> {
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(rows)?),
        Format::Table => {
            let mut table = Table::new();
            table
                .load_style(NOTHING)
                .set_content_arrangement(ContentArrangement::Disabled);
            table.set_header(R::HEADS);
            for row in rows {
                table.add_row(row.cells());
            }
            println!("{}", table.trim_fmt());
        }
    }
    Ok(())
}

/// Prints one thing: its row, or as JSON.
pub(crate) fn one<R: Row>(row: &R, format: Format) -> Result<()> {
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(row)?),
        Format::Table => list(std::slice::from_ref(row), format)?,
    }
    Ok(())
}

/// `k=v k=v`.
pub(crate) fn pairs(map: &std::collections::BTreeMap<String, String>) -> String {
    map.iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(" ")
}
