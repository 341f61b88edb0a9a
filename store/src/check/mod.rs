//! Reads the books for what breaks a rule. Everything is read in one snapshot, so that a book and what it is a book of are of one
//! moment: each rule holds after every committed transaction, and what is found here is never merely in motion.
//!
//! | file | the book |
//! | --- | --- |
//! | `capacity` | what hosts have reserved, and the orders that are out |
//! | `slots` | running jobs of tenants |
//! | `quotas` | what counts against tenants' quotas |
//! | `leases` | addresses |
//! | `names` | references |
//! | `jobs` | ends, lines, fences, and who is woken by nobody |
//! | `usage` | what is metered |
//! | `homes` | where networks live |
//! | `deletions` | what is being deleted |
//! | `known` | what hosts' inventories are compared with |
//! | `runs` | who checks when, and what was found last |
//!
//! What a check finds, and what is to be done about it: `rhyzome_model::check`.

mod capacity;
mod deletions;
mod homes;
mod jobs;
mod known;
mod leases;
mod names;
mod quotas;
mod runs;
mod slots;
mod usage;

pub use known::{NotKnown, StoredInventory};
pub use runs::LastCheck;

use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::check::{Amiss, HostInventory, Older, Violation, amiss, compare, older};
use sqlx::{Postgres, Transaction};

type Tx = Transaction<'static, Postgres>;

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Every rule that is broken; sorted.
    pub violations: Vec<Violation>,
    /// What of it is to be mended on hosts.
    pub amiss: Vec<Amiss>,
    /// Hosts that were put back to an older copy of themselves.
    pub older: Vec<Older>,
}

impl Store {
    /// The database's time.
    pub async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        Ok(sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#)
            .fetch_one(&self.pool)
            .await?)
    }

    /// Every rule that the books break, and every one that these inventories break with them; sorted.
    ///
    /// The inventories must be there already: what moved since each was asked for is left out, and that is read here.
    pub async fn check(&self, inventories: &[HostInventory]) -> Result<Vec<Violation>, StoreError> {
        Ok(self.check_all(inventories).await?.violations)
    }

    /// The same, with what is to be mended on these hosts.
    pub async fn check_all(&self, inventories: &[HostInventory]) -> Result<Checked, StoreError> {
        let mut tx = self.check_begin().await?;
        let mut found = capacity::check(&mut tx).await?;
        found.extend(slots::check(&mut tx).await?);
        found.extend(quotas::check(&mut tx).await?);
        found.extend(leases::check(&mut tx).await?);
        found.extend(names::check(&mut tx).await?);
        found.extend(jobs::check(&mut tx).await?);
        found.extend(usage::check(&mut tx).await?);
        found.extend(homes::check(&mut tx).await?);
        found.extend(deletions::check(&mut tx).await?);
        let known = if inventories.is_empty() {
            None
        } else {
            Some(known::read(&mut tx, inventories).await?)
        };
        // The comparison takes its time, in which the snapshot need not stand.
        tx.commit().await?;
        let mut checked = Checked::default();
        if let Some(known) = known {
            found.extend(compare(inventories, &known));
            checked.amiss = amiss(inventories, &known);
            checked.older = older(inventories, &known);
        }
        found.sort();
        checked.violations = found;
        Ok(checked)
    }

    /// One snapshot, read with plans for whole tables.
    async fn check_begin(&self) -> Result<Tx, StoreError> {
        let mut tx = self
            .pool
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?;
        crate::plan_as_survey(&mut tx).await?;
        Ok(tx)
    }
}
