//! A network's two tables of rules, by `nft`: the one in its namespace, and its own in the machine's.

use super::WITHIN;
use crate::driver::StepError;
use crate::objects::filter::{rules_inside, rules_outside};
use crate::objects::names::{Names, Wanted};
use crate::objects::spawn::{self, Surroundings};

/// The table inside.
const INSIDE: &str = "net";

pub(super) async fn nft(rules: String, around: Surroundings) -> Result<(), StepError> {
    spawn::must(
        "nft",
        &["-f", "-"].map(str::to_owned),
        Some(rules.into_bytes()),
        around,
        WITHIN,
    )
    .await
    .map(drop)
}

pub(super) async fn inside(names: &Names, wanted: &Wanted) -> Result<(), StepError> {
    nft(rules_inside(wanted), names.inside()).await
}

pub(super) async fn outside(names: &Names, wanted: &Wanted) -> Result<(), StepError> {
    nft(rules_outside(names, wanted), Surroundings::default()).await
}

/// Whether both are there: who loads other rules may have flushed them away, and the walls with them.
pub(super) async fn are_there(names: &Names) -> bool {
    let there = async |table: &str, around| nft(format!("list table inet {table}\n"), around).await.is_ok();
    there(INSIDE, names.inside()).await && there(&names.table, Surroundings::default()).await
}

/// Removes the one outside, there or not.
pub(super) async fn remove(names: &Names) -> Result<(), StepError> {
    nft(
        format!("table inet {0}\ndelete table inet {0}\n", names.table),
        Surroundings::default(),
    )
    .await
}
