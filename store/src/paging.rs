//! Pages of lists. Which rows a page has is found first, in the order of an index from where the page begins; then they are read.

use chrono::{DateTime, Utc};
use std::collections::HashMap;
use uuid::Uuid;

/// Rows that one statement looks at, at least, where it has to look for what is asked for.
pub(crate) const LOOK: i64 = 500;

/// A place in a list: the time of acceptance and the id of the row before it.
pub type After = (DateTime<Utc>, Uuid);

/// A page of a list, by keyset: rows after `after`, oldest first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Page {
    /// Behind the page before.
    pub after: Option<After>,
    /// At most so many.
    pub limit: i64,
}

impl Page {
    /// Where it begins.
    pub(crate) fn begin(&self) -> After {
        self.after.unwrap_or((DateTime::UNIX_EPOCH, Uuid::nil()))
    }
}

/// What a page came to.
#[derive(Clone, Debug)]
pub struct Listed<Row> {
    /// Oldest first. Fewer than were asked for are no sign of the end.
    pub rows: Vec<Row>,
    /// Rows that were looked at.
    pub looked: usize,
    /// Where to go on; none at the end.
    pub next: Option<After>,
}

/// Which rows a page has.
pub(crate) struct Cut {
    ids: Vec<Uuid>,
    looked: usize,
    next: Option<After>,
}

impl Cut {
    /// Of what was found, in order, each with whether it is wanted: as many as the page holds, each once. There may be more behind them where
    /// as many were found as were looked for; without such a number all were.
    pub(crate) fn of(page: &Page, found: &[(After, bool)], looked_for: Option<i64>) -> Self {
        let most = usize::try_from(page.limit).unwrap_or(usize::MAX);
        let mut wanted: Vec<After> = found.iter().filter(|f| f.1).map(|f| f.0).collect();
        wanted.dedup();
        let next = if wanted.len() > most {
            wanted.truncate(most);
            wanted.last().copied()
        } else if looked_for.is_some_and(|n| found.len() as i64 >= n) {
            found.last().map(|f| f.0)
        } else {
            None
        };
        Self {
            ids: wanted.into_iter().map(|(_, id)| id).collect(),
            looked: found.len(),
            next,
        }
    }

    /// Of these rows.
    pub(crate) fn ids(&self) -> &[Uuid] {
        &self.ids
    }

    /// The page, of its rows as they were read, in whatever order.
    pub(crate) fn list<Row>(self, mut rows: Vec<Row>, id: impl Fn(&Row) -> Uuid) -> Listed<Row> {
        let places: HashMap<Uuid, usize> = self.ids.iter().enumerate().map(|(n, id)| (*id, n)).collect();
        rows.sort_by_key(|row| places.get(&id(row)).copied());
        Listed {
            rows,
            looked: self.looked,
            next: self.next,
        }
    }
}
