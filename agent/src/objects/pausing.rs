//! Guests that QEMU paused by itself: the storage of the host failed, or has no room left (`werror=enospc` of QEMU's block devices, their
//! default). What was to be written is kept, and written when the guest goes on.
//!
//! ```text
//!            STOP                 RESUME                  runs for a while
//!  runs ────────────▶ paused ────────────▶ goes on ───────────────────────▶ runs
//!                     │  ▲ `cont`, with a    │
//!                     └──┘ growing pause     └──── STOP ──▶ paused
//! ```

use super::aside::aside;
use super::guests::{Guests, Live, qmp_failed};
use super::run_state::Ended;
use super::watching::{FIRST_PAUSE, doubled};
use crate::driver::StepError;
use rhyzome_model::ids::ResourceId;
use rhyzome_model::step::ObjectKind;
use rhyzome_runtime::part;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long one that goes on must run to be taken for running: what made it stop is met again at once, if it is still there.
const GOES_ON_FOR: Duration = Duration::from_secs(5);

/// Where a guest is that QEMU may pause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pausing {
    #[default]
    Runs,
    /// It is told to go on at this time.
    Paused { at: Instant, pause: Duration },
    /// At this time it is taken for running.
    GoesOn { at: Instant, pause: Duration },
}

impl Pausing {
    /// It stopped; whether it was taken for running until then.
    fn stopped(&mut self, now: Instant) -> bool {
        let (new, pause) = match *self {
            Self::Runs => (true, FIRST_PAUSE),
            Self::GoesOn { pause, .. } => (false, pause),
            Self::Paused { .. } => return false,
        };
        *self = Self::Paused {
            at: now + pause,
            pause,
        };
        new
    }

    /// It goes on.
    pub(crate) fn resumed(&mut self, now: Instant) {
        if let Self::Paused { pause, .. } = *self {
            *self = Self::GoesOn {
                at: now + GOES_ON_FOR,
                pause,
            };
        }
    }

    /// The time came that it waited for; whether it is to be told to go on. Else it runs.
    fn came(&mut self, now: Instant) -> bool {
        match *self {
            Self::Paused { pause, .. } => {
                let pause = doubled(pause);
                *self = Self::Paused {
                    at: now + pause,
                    pause,
                };
                true
            }
            Self::GoesOn { .. } | Self::Runs => {
                *self = Self::Runs;
                false
            }
        }
    }

    /// Until that time.
    pub(crate) async fn due(&self) {
        match *self {
            Self::Runs => std::future::pending().await,
            Self::Paused { at, .. } | Self::GoesOn { at, .. } => tokio::time::sleep_until(at).await,
        }
    }
}

/// What QEMU's word for its state means, of a guest that hasn't ended (`RunState` in QEMU's schema).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Runs,
    /// With a sentence on it for users.
    Paused(&'static str),
    /// Going on is refused for good.
    Broken,
}

fn standing(status: &str) -> Standing {
    match status {
        "io-error" => Standing::Paused(
            "the guest is paused: its host's storage failed or has no room left; it goes on by itself when that has passed",
        ),
        "paused" => Standing::Paused("the guest is paused on its host; it is told to go on"),
        "internal-error" => Standing::Broken,
        _ => Standing::Runs,
    }
}

impl Live {
    /// A sentence on why it is paused, if it is.
    pub(crate) fn paused(&self) -> Option<&'static str> {
        *self
            .paused
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn set_paused(&self, why: Option<&'static str>) {
        *self
            .paused
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = why;
    }

    /// Tells a paused guest to go on.
    pub(crate) async fn go_on(&self) -> Result<(), StepError> {
        self.qmp
            .execute("cont", Value::Null)
            .await
            .map(drop)
            .map_err(|e| qmp_failed(&e))
    }
}

impl Guests {
    /// Looks whether a guest stopped that hasn't ended; its end, where it can't go on any more.
    pub(crate) async fn note_stop(
        self: &Arc<Self>,
        id: ResourceId,
        live: &Live,
        pausing: &mut Pausing,
    ) -> Option<Ended> {
        let status = match live.qmp.status().await {
            Ok(status) => status,
            Err(error) => {
                tracing::warn!(instance = %id, %error, "a guest's monitor doesn't say whether it runs");
                return None;
            }
        };
        match standing(&status) {
            Standing::Runs => None,
            Standing::Paused(why) => {
                live.set_paused(Some(why));
                if pausing.stopped(Instant::now()) {
                    tracing::warn!(instance = %id, why, "a guest is paused");
                    self.tell_anew(id);
                }
                None
            }
            Standing::Broken => Some(Ended::Crashed(
                "QEMU met a fault of its own, and couldn't go on with the guest".to_owned(),
            )),
        }
    }

    /// Does what is due of a guest that is paused, or was.
    pub(crate) async fn see_to_pause(self: &Arc<Self>, id: ResourceId, live: &Live, pausing: &mut Pausing) {
        if pausing.came(Instant::now()) {
            if let Err(error) = live.go_on().await {
                tracing::warn!(instance = %id, %error, inside = error.inside, "a paused guest could not be told to go on");
            }
            return;
        }
        live.set_paused(None);
        tracing::info!(instance = %id, "a paused guest goes on");
        self.tell_anew(id);
    }

    /// Tells how a guest is, once nobody changes it: who watches it waits for no lock, as who holds that may wait for its end.
    fn tell_anew(self: &Arc<Self>, id: ResourceId) {
        let guests = Arc::clone(self);
        self.tasks.spawn(part::guard("a guest's pause", async move {
            let ending = guests.ending.clone();
            let work = async {
                let lock = guests.locks.take(ObjectKind::Instance, id).await;
                let for_look = Arc::clone(&guests);
                let told = aside(&guests.tasks, async move {
                    let told = for_look.run_state(id).map(|run| for_look.tell(id, &run));
                    drop(lock);
                    told
                });
                if let Err(error) = told.await {
                    tracing::warn!(instance = %id, %error, inside = error.inside, "a guest's pause can't be told");
                }
            };
            tokio::select! {
                () = ending.cancelled() => {}
                () = work => {}
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_guest_is_told_to_go_on_with_a_growing_pause_until_it_does() {
        let now = Instant::now();
        let mut guest = Pausing::default();
        assert!(guest.stopped(now));
        let pause_of = |guest: Pausing| match guest {
            Pausing::Paused { at, pause } => {
                assert_eq!(at, now + pause);
                pause.as_secs()
            }
            other => panic!("{other:?}"),
        };
        let mut pauses = vec![pause_of(guest)];
        for _ in 0..3 {
            assert!(guest.came(now));
            pauses.push(pause_of(guest));
        }
        // It goes on, and stops again at once.
        guest.resumed(now);
        assert!(!guest.stopped(now), "it wasn't taken for running yet");
        pauses.push(pause_of(guest));
        assert!(guest.came(now));
        pauses.push(pause_of(guest));
        assert_eq!(pauses, [1, 2, 4, 8, 8, 16]);
        guest.resumed(now);
        assert!(!guest.came(now));
        assert_eq!(guest, Pausing::Runs);
        guest.resumed(now);
        assert_eq!(guest, Pausing::Runs);
    }

    #[test]
    fn what_qemu_calls_its_state() {
        assert!(matches!(standing("io-error"), Standing::Paused(_)));
        assert!(matches!(standing("paused"), Standing::Paused(_)));
        assert_eq!(standing("internal-error"), Standing::Broken);
        for runs in ["running", "suspended", "what will be"] {
            assert_eq!(standing(runs), Standing::Runs, "{runs}");
        }
    }
}
