//! A network's two tables of rules, by `nft`: the one in its namespace, and its own in the machine's.

use super::WITHIN;
use crate::driver::StepError;
use crate::objects::filter::{rules_inside, rules_outside};
use crate::objects::names::{Names, Wanted};
use crate::objects::spawn::{self, Surroundings};

/// The table inside.
const INSIDE: &str = "net";

async fn asked(rules: String, around: Surroundings) -> Result<Vec<u8>, StepError> {
    let args = ["-f", "-"].map(str::to_owned);
    spawn::must("nft", &args, Some(rules.into_bytes()), around, WITHIN).await
}

pub(super) async fn nft(rules: String, around: Surroundings) -> Result<(), StepError> {
    asked(rules, around).await.map(drop)
}

pub(super) async fn inside(names: &Names, wanted: &Wanted) -> Result<(), StepError> {
    nft(rules_inside(wanted), names.inside()).await
}

pub(super) async fn outside(names: &Names, wanted: &Wanted) -> Result<(), StepError> {
    nft(rules_outside(names, wanted), Surroundings::default()).await
}

/// Whether both are there with all of their rules: who loads other rules may have flushed them away, and the walls with them.
pub(super) async fn are_there(names: &Names, wanted: &Wanted) -> bool {
    let whole = async |table: &str, around, rules: String| {
        let listed = asked(format!("list table inet {table}\n"), around).await;
        listed.is_ok_and(|l| count(&String::from_utf8_lossy(&l)) == count(&rules))
    };
    whole(INSIDE, names.inside(), rules_inside(wanted)).await
        && whole(
            &names.table,
            Surroundings::default(),
            rules_outside(names, wanted),
        )
        .await
}

/// Pure: how many chains and rules a text has, ours or `nft`'s: each is a line, however that words it.
fn count(text: &str) -> (usize, usize) {
    let lines = || text.lines().map(str::trim).filter(|l| !l.is_empty() && *l != "}");
    let first = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    let chains = lines().filter(|l| first(l) == "chain").count();
    let rules = lines().filter(|l| !["table", "delete", "chain", "type"].contains(&first(l).as_str()));
    (chains, rules.count())
}

/// Removes the one outside, there or not.
pub(super) async fn remove(names: &Names) -> Result<(), StepError> {
    nft(
        format!("table inet {0}\ndelete table inet {0}\n", names.table),
        Surroundings::default(),
    )
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nft(8) 1.0 lists a table that was flushed in part.
    const LISTED: &str = "table inet net {
\tchain input {
\t\ttype filter hook input priority filter; policy drop;
\t\tiifname \"lo\" accept
\t\tct state established,related accept
\t}

\tchain forward {
\t\ttype filter hook forward priority filter; policy drop;
\t}
}
";

    #[test]
    fn chains_and_rules_are_counted_in_our_text_and_in_the_listed_one() {
        assert_eq!(count(LISTED), (2, 2));
        assert_eq!(count(""), (0, 0));
        let wanted = Wanted {
            cidr: "10.20.0.0/24".parse().unwrap(),
            gateway: "10.20.0.1".parse().unwrap(),
            transfer: "100.127.0.8/30".parse().unwrap(),
        };
        assert_eq!(count(&rules_inside(&wanted)), (3, 9));
    }
}
