//! What agents say of guests, gathered over all hosts and written together: a burst of starts costs a few statements, not one each, and
//! the newest word on a guest is the only one that is written.

use crate::Context;
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_proto::agent::GuestSeen;
use rhyzome_store::StoreError;
use rhyzome_store::hosts::GuestRow;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// So long is gathered. A job's end is written by settle, with the power that it set, so that what an agent says of it at the
/// same time is no news by then.
const GATHER: Duration = Duration::from_millis(500);
/// Guests that one statement writes.
const MOST: usize = 500;
/// That a guest runs, while a job works on it, is kept for the job's end, which as a rule says the same: so long at most. That it ends
/// is written at once: it would be older than the job's end, and the end's word would stand.
const KEPT: Duration = Duration::from_secs(10);

/// What was heard and isn't written yet. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Guests(Arc<Inner>);

#[derive(Default)]
struct Inner {
    heard: Mutex<BTreeMap<ResourceId, Heard>>,
    some: Notify,
}

#[derive(Clone)]
struct Heard {
    row: GuestRow,
    /// When something of this guest was heard first that isn't written yet.
    since: Instant,
}

impl Heard {
    fn runs(&self) -> bool {
        self.row.observed["power"] == "on"
    }
}

impl Guests {
    /// A host's agent said this; what it said of the same guest before no longer counts.
    pub(crate) fn hear(&self, host: &HostName, guest: &GuestSeen) {
        let Ok(instance) = rhyzome_proto::convert::uuid(&guest.instance) else {
            tracing::warn!(%host, "a report of a guest without an id");
            return;
        };
        let row = GuestRow {
            host: host.clone(),
            instance: ResourceId(instance),
            observed: json!({ "power": guest.power, "detail": guest.detail, "metrics": guest.metrics }),
            at: DateTime::from_timestamp_millis(guest.at_ms).unwrap_or_else(Utc::now),
        };
        self.keep_newer(Heard {
            row,
            since: Instant::now(),
        });
        self.0.some.notify_one();
    }

    fn keep_newer(&self, news: Heard) {
        let mut heard = self.heard();
        match heard.get_mut(&news.row.instance) {
            Some(known) => {
                known.since = known.since.min(news.since);
                if known.row.at <= news.row.at {
                    known.row = news.row;
                }
            }
            None => {
                heard.insert(news.row.instance, news);
            }
        }
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<ResourceId, Heard>> {
        self.0.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what was heard, until the process ends. What can't be written now is kept.
    pub(crate) async fn write_on(self, context: Context) {
        loop {
            tokio::select! {
                () = context.shutdown.triggered() => return,
                () = self.0.some.notified() => {}
            }
            tokio::time::sleep(GATHER).await;
            let all: Vec<Heard> = std::mem::take(&mut *self.heard()).into_values().collect();
            for part in all.chunks(MOST) {
                let kept = match write(&context, part).await {
                    Ok(kept) => kept,
                    Err(error) => {
                        tracing::warn!(%error, guests = part.len(), "what guests do is not written; again");
                        part.to_vec()
                    }
                };
                if !kept.is_empty() {
                    self.0.some.notify_one();
                }
                for heard in kept {
                    self.keep_newer(heard);
                }
            }
        }
    }
}

/// Writes what is news; gives back what is kept.
async fn write(context: &Context, heard: &[Heard]) -> Result<Vec<Heard>, StoreError> {
    let ids: Vec<ResourceId> = heard
        .iter()
        .filter(|h| h.runs())
        .map(|h| h.row.instance)
        .collect();
    let busy = context.store.worked_on(&ids).await?;
    let (kept, news): (Vec<&Heard>, Vec<&Heard>) = heard
        .iter()
        .partition(|h| h.runs() && h.since.elapsed() < KEPT && busy.contains(&h.row.instance));
    let kept = kept.into_iter().cloned().collect();
    if news.is_empty() {
        return Ok(kept);
    }
    let news: Vec<GuestRow> = news.into_iter().map(|h| h.row.clone()).collect();
    let changes = context.store.guests_observed(&news).await?;
    crate::dispatch::notify(context, &changes).await;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::Guests;
    use rhyzome_model::ids::HostName;
    use rhyzome_proto::agent::GuestSeen;

    #[test]
    fn the_newest_word_on_a_guest_counts() {
        let guests = Guests::default();
        let host = HostName::from("host-1");
        let seen = |power: &str, at_ms| GuestSeen {
            instance: vec![7; 16],
            power: power.to_owned(),
            at_ms,
            ..GuestSeen::default()
        };
        for (power, at_ms) in [("on", 2), ("off", 3), ("on", 1)] {
            guests.hear(&host, &seen(power, at_ms));
        }
        guests.hear(
            &host,
            &GuestSeen {
                instance: vec![7; 3],
                ..seen("on", 9)
            },
        );
        let heard = guests.heard();
        let powers: Vec<_> = heard.values().map(|h| h.row.observed["power"].clone()).collect();
        assert_eq!(powers, ["off"]);
    }
}
