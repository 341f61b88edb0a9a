//! Who checks when, and what was found last: one row, so that of several schedulers one checks at a time, and all show the same.

use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::check::Violation;
use serde::Deserialize;
use serde_json::Value;

/// What the last check found.
#[derive(Clone, Debug, Default)]
pub struct LastCheck {
    /// When; none before the first.
    pub checked_at: Option<DateTime<Utc>>,
    /// What.
    pub violations: Vec<Violation>,
}

impl LastCheck {
    fn of(checked_at: Option<DateTime<Utc>>, violations: &Value) -> Self {
        let items = violations.as_array().map(Vec::as_slice).unwrap_or_default();
        Self {
            checked_at,
            // A check that only a newer scheduler knows is that one's to show.
            violations: items
                .iter()
                .filter_map(|v| Violation::deserialize(v).ok())
                .collect(),
        }
    }
}

impl Store {
    /// Takes the next check, if it is time and nobody else has it: for `lease_s`, so that one that dies in it doesn't keep it. Gives
    /// what the last one found.
    pub async fn check_take(&self, interval_s: f64, lease_s: f64) -> Result<Option<LastCheck>, StoreError> {
        let row = sqlx::query!(
            "WITH free AS (
                 SELECT one FROM check_runs
                 WHERE one AND taken_until <= now() AND (checked_at IS NULL OR checked_at <= now() - make_interval(secs => $1))
                 FOR UPDATE SKIP LOCKED
             )
             UPDATE check_runs c SET taken_until = now() + make_interval(secs => $2) FROM free WHERE c.one = free.one
             RETURNING c.checked_at, c.violations",
            interval_s,
            lease_s
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|r| LastCheck::of(r.checked_at, &r.violations)))
    }

    /// Who checks is still at it.
    pub async fn check_renew(&self, lease_s: f64) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE check_runs SET taken_until = now() + make_interval(secs => $1) WHERE one AND taken_until > now()",
            lease_s
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Keeps what a check found, and gives the next one free.
    pub async fn check_done(&self, violations: &[Violation]) -> Result<(), StoreError> {
        let violations = serde_json::to_value(violations).map_err(|e| StoreError::row("check_runs", e))?;
        sqlx::query!(
            "UPDATE check_runs SET checked_at = now(), violations = $1, taken_until = '-infinity' WHERE one",
            violations
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// What the last check found, whoever made it.
    pub async fn check_last(&self) -> Result<LastCheck, StoreError> {
        let row = sqlx::query!("SELECT checked_at, violations FROM check_runs WHERE one")
            .fetch_one(&self.pool)
            .await?;
        Ok(LastCheck::of(row.checked_at, &row.violations))
    }
}
