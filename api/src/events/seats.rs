//! Who watches in this process. One task looks for all of them whether there is something new, and wakes those whose it is: at once
//! after a notice, and every `poll` in case none came. Without watchers it asks nothing.

use rhyzome_model::ids::TenantId;
use rhyzome_runtime::part;
use rhyzome_store::Store;
use rhyzome_store::changes::Position;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// After a notice the look is so late: what comes together is found together.
const FIRST: Duration = Duration::from_millis(20);
/// What a notice tells of can't be read while an older transaction is open; each look is so much later than the one before, up to `poll`.
const LATER: u32 = 2;

/// How many may watch at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// In this process.
    pub all: usize,
    /// Of one tenant.
    pub tenant: usize,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// That of the process.
    All(usize),
    /// That of the tenant.
    Tenant(usize),
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Seats(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: Limits,
    taken: Mutex<Taken>,
    heard: Notify,
    end: CancellationToken,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    tenants: HashMap<TenantId, usize>,
    /// By whose changes are watched; none is everyone's.
    bells: HashMap<Option<TenantId>, watch::Sender<()>>,
}

/// A place among those who watch; it is free again when this is dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Seats,
    tenant: TenantId,
    watched: Option<TenantId>,
    bell: watch::Receiver<()>,
}

impl Seats {
    /// Begins to look for watchers; ends with the token, and so do their streams.
    pub fn spawn(store: Store, limits: Limits, poll: Duration, end: CancellationToken) -> Self {
        let seats = Self(Arc::new(Inner {
            limits,
            taken: Mutex::default(),
            heard: Notify::new(),
            end: end.clone(),
        }));
        part::spawn(
            "streams of events",
            end.run_until_cancelled_owned(look(seats.clone(), store, poll)),
        );
        seats
    }

    /// A place for a caller of this tenant, who watches a tenant's changes or everyone's.
    pub fn take(&self, tenant: &TenantId, watched: Option<&TenantId>) -> Result<Seat, Full> {
        let mut taken = self.taken();
        let limits = self.0.limits;
        if taken.all >= limits.all {
            return Err(Full::All(limits.all));
        }
        let of_tenant = taken.tenants.entry(tenant.clone()).or_default();
        if *of_tenant >= limits.tenant {
            return Err(Full::Tenant(limits.tenant));
        }
        *of_tenant += 1;
        taken.all += 1;
        metrics::gauge!("rhyzome_event_streams").set(taken.all as f64);
        let bell = taken
            .bells
            .entry(watched.cloned())
            .or_insert_with(|| watch::channel(()).0)
            .subscribe();
        drop(taken);
        self.0.heard.notify_one();
        Ok(Seat {
            seats: self.clone(),
            tenant: tenant.clone(),
            watched: watched.cloned(),
            bell,
        })
    }

    /// Something changed, as a notice says.
    pub fn heard(&self) {
        self.0.heard.notify_one();
    }

    /// Cancelled when the process is told to end.
    pub fn end(&self) -> &CancellationToken {
        &self.0.end
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nobody(&self) -> bool {
        self.taken().all == 0
    }

    fn ring_all(&self) {
        for bell in self.taken().bells.values() {
            bell.send_replace(());
        }
    }

    fn ring(&self, whose: &TenantId) {
        for (watched, bell) in &self.taken().bells {
            // What is public belongs to the operators' tenant, and everyone sees it.
            let hears = watched
                .as_ref()
                .is_none_or(|watched| watched == whose || whose.as_str() == TenantId::SYSTEM);
            if hears {
                bell.send_replace(());
            }
        }
    }
}

impl Seat {
    /// Waits until there may be something new since this was last called.
    pub async fn woken(&mut self) {
        if self.bell.changed().await.is_err() {
            // Bells are there while somebody listens.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        taken.all = taken.all.saturating_sub(1);
        metrics::gauge!("rhyzome_event_streams").set(taken.all as f64);
        if let Some(of_tenant) = taken.tenants.get_mut(&self.tenant) {
            *of_tenant = of_tenant.saturating_sub(1);
            if *of_tenant == 0 {
                taken.tenants.remove(&self.tenant);
            }
        }
        // This one's is still among the receivers.
        if taken
            .bells
            .get(&self.watched)
            .is_some_and(|bell| bell.receiver_count() <= 1)
        {
            taken.bells.remove(&self.watched);
        }
    }
}

async fn look(seats: Seats, store: Store, poll: Duration) {
    let mut from: Option<Position> = None;
    let mut pause = poll;
    loop {
        if seats.nobody() {
            from = None;
            seats.0.heard.notified().await;
            if seats.nobody() {
                continue;
            }
        } else {
            tokio::select! {
                () = seats.0.heard.notified() => {
                    tokio::time::sleep(FIRST).await;
                    pause = FIRST * LATER;
                }
                () = tokio::time::sleep(pause) => pause = (pause * LATER).min(poll),
            }
        }
        match from {
            None => match store.changes_now().await {
                Ok(now) => {
                    // They may have read before this.
                    seats.ring_all();
                    from = Some(now);
                }
                Err(error) => tracing::warn!(%error, "what changed can't be looked for, again soon"),
            },
            Some(position) => match store.changes_heads(position).await {
                Ok(heads) => {
                    heads.tenants.iter().for_each(|tenant| seats.ring(tenant));
                    from = Some(heads.next);
                }
                Err(error) => tracing::warn!(%error, "what changed can't be looked for, again soon"),
            },
        }
    }
}
