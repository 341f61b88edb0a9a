//! What agents say of guests, gathered over all hosts and written together: a burst of starts costs a few statements, not one each, and
//! the newest word on a guest is the only one that is written.

use crate::{Context, border};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_proto::agent::GuestSeen;
use rhyzome_store::guests::GuestRow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// So long is gathered. A job's end is written by settle, with the power that it set, so that what an agent says of it at the
/// same time is no news by then.
const GATHER: Duration = Duration::from_millis(500);
/// Guests that one statement writes.
const MOST: usize = 500;

/// What was heard and isn't written yet. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Guests(Arc<Inner>);

#[derive(Default)]
struct Inner {
    heard: Mutex<BTreeMap<ResourceId, GuestRow>>,
    some: Notify,
}

impl Guests {
    /// A host's agent said this; what it said of the same guest before no longer counts.
    pub(crate) fn hear(&self, host: &HostName, guest: &GuestSeen) {
        let Ok(instance) = rhyzome_proto::convert::uuid(&guest.instance) else {
            tracing::warn!(%host, "a report of a guest without an id");
            return;
        };
        self.keep_newer(GuestRow {
            host: host.clone(),
            instance: ResourceId(instance),
            observed: border::guest(guest),
            at: DateTime::from_timestamp_millis(guest.at_ms).unwrap_or_else(Utc::now),
        });
        self.0.some.notify_one();
    }

    fn keep_newer(&self, news: GuestRow) {
        let mut heard = self.heard();
        if heard.get(&news.instance).is_none_or(|known| known.at <= news.at) {
            heard.insert(news.instance, news);
        }
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<ResourceId, GuestRow>> {
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
            let all: Vec<GuestRow> = std::mem::take(&mut *self.heard()).into_values().collect();
            for part in all.chunks(MOST) {
                match context.store.guests_observed(part).await {
                    Ok(changes) => crate::dispatch::notify(&context, &changes).await,
                    Err(error) => {
                        tracing::warn!(%error, guests = part.len(), "what guests do is not written; again");
                        for news in part {
                            self.keep_newer(news.clone());
                        }
                        self.0.some.notify_one();
                    }
                }
            }
        }
    }
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
        let powers: Vec<_> = heard.values().map(|h| h.observed["power"].clone()).collect();
        assert_eq!(powers, ["off"]);
    }
}
