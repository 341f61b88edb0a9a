//! Ledgers of a host: one that was lost, one that was put back, and those of two agents that both say that they are the host.

use crate::StoreError;
use rhyzome_model::ids::HostName;
use sqlx::{Postgres, Transaction};
use std::time::Duration;

/// How long the word of an agent counts against that of another with the same name: what comes back later than this after another took
/// its place is one agent that was put back.
pub const RIVALS_MEET: Duration = Duration::from_mins(15);
/// Ledgers of a host that are remembered.
pub(super) const LEDGERS: i32 = 16;

/// What is known of a host's ledgers when an agent says hello.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledgers {
    pub(super) present: Option<String>,
    before: Vec<String>,
    /// The present one came back lately.
    returned: bool,
    /// It was heard lately.
    heard: bool,
    /// Another was refused lately.
    disputed: bool,
}

/// Whose ledger it is that says hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The host's, as it was.
    Same,
    /// A new one.
    New,
    /// One of before.
    Back,
    /// Of one of two agents.
    Disputed,
}

impl Ledgers {
    /// Under the host's lock, which the caller's transaction holds from here on.
    pub(super) async fn of(tx: &mut Transaction<'_, Postgres>, host: &HostName) -> Result<Self, StoreError> {
        // What a watch hears is written as the host's own word: only the present ledger's agent has one.
        let row = sqlx::query!(
            r#"SELECT ledger_id, ledgers_before,
                      coalesce(ledger_returned_at > now() - make_interval(secs => $2), false) AS "returned!",
                      coalesce(greatest(ledger_heard_at, seen_at) > now() - make_interval(secs => $2), false) AS "heard!",
                      coalesce(rival_at > now() - make_interval(secs => $2), false) AS "disputed!"
               FROM hosts WHERE name = $1 FOR NO KEY UPDATE"#,
            host.as_str(),
            RIVALS_MEET.as_secs_f64()
        )
        .fetch_optional(&mut **tx)
        .await?;
        Ok(row.map_or_else(Self::default, |row| Self {
            present: row.ledger_id,
            before: row.ledgers_before,
            returned: row.returned,
            heard: row.heard,
            disputed: row.disputed,
        }))
    }

    /// Pure. A ledger may be lost once, and an older one be put back once; one that comes back after that while the other is heard is
    /// another agent's.
    pub(super) fn claim(&self, ledger: &str) -> Claim {
        let known = self.before.iter().any(|l| l == ledger);
        match self.present.as_deref() {
            Some(present) if present == ledger => {
                if self.disputed {
                    Claim::Disputed
                } else {
                    Claim::Same
                }
            }
            Some(_) if self.heard && (self.disputed || (known && self.returned)) => Claim::Disputed,
            Some(_) | None if known => Claim::Back,
            Some(_) | None => Claim::New,
        }
    }
}

/// Notes the word of one of two agents; `present` is whether it is the one that is the host.
pub(super) async fn refuse(
    tx: &mut Transaction<'_, Postgres>,
    host: &HostName,
    present: bool,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE hosts SET ledger_heard_at = CASE WHEN $2 THEN now() ELSE ledger_heard_at END,
                rival_at = CASE WHEN $2 THEN rival_at ELSE now() END
         WHERE name = $1",
        host.as_str(),
        present
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_may_be_lost_and_put_back_and_two_agents_are_two() {
        let ledgers = |present: &str, before: &[&str]| Ledgers {
            present: Some(present.to_owned()),
            before: before.iter().map(|l| (*l).to_owned()).collect(),
            heard: true,
            ..Ledgers::default()
        };
        assert_eq!(Ledgers::default().claim("a"), Claim::New);
        let lost = ledgers("b", &["a"]);
        assert_eq!(ledgers("a", &[]).claim("b"), Claim::New);
        assert_eq!(lost.claim("b"), Claim::Same);
        assert_eq!(lost.claim("a"), Claim::Back, "it was put back");
        let returned = Ledgers {
            returned: true,
            ..ledgers("a", &["b"])
        };
        assert_eq!(returned.claim("a"), Claim::Same);
        assert_eq!(returned.claim("c"), Claim::New, "and lost again");
        assert_eq!(returned.claim("b"), Claim::Disputed);
        let silent = Ledgers {
            heard: false,
            ..returned.clone()
        };
        assert_eq!(silent.claim("b"), Claim::Back);
        let disputed = Ledgers {
            disputed: true,
            ..ledgers("a", &["b"])
        };
        for either in ["a", "b", "c"] {
            assert_eq!(disputed.claim(either), Claim::Disputed, "{either}");
        }
        let alone = Ledgers {
            heard: false,
            ..disputed
        };
        assert_eq!(alone.claim("b"), Claim::Back);
    }
}
