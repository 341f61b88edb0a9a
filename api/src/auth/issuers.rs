//! Which issuers are bound to which tenant, kept for a moment.
//!
//! Guarantees: an issuer that was bound is known at once (one that isn't known makes the list be read again, at most every
//! [`AGAIN`]); one that was taken away is forgotten within [`FRESH`]. While the database can't be reached the last list counts, and
//! nobody waits for the database in line: who comes while it is read shares what comes of it.

use rhyzome_store::{Store, StoreError};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

pub use rhyzome_store::tenants::Issuer;

/// How long the list is believed.
pub const FRESH: Duration = Duration::from_secs(10);
/// How soon after a look another one is taken because of an unknown issuer.
pub const AGAIN: Duration = Duration::from_millis(200);
/// How long the last list counts without another try, once it could not be read.
const BLIND: Duration = Duration::from_secs(2);
/// How long a read is waited for where there is a list to go by.
const PATIENT: Duration = Duration::from_secs(1);

/// Where the list comes from.
pub trait IssuerSource: Send + Sync {
    /// Every issuer.
    fn list(&self) -> Pin<Box<dyn Future<Output = Result<Vec<Issuer>, StoreError>> + Send + '_>>;
}

impl IssuerSource for Store {
    fn list(&self) -> Pin<Box<dyn Future<Output = Result<Vec<Issuer>, StoreError>> + Send + '_>> {
        Box::pin(self.issuer_list())
    }
}

impl IssuerSource for Vec<Issuer> {
    fn list(&self) -> Pin<Box<dyn Future<Output = Result<Vec<Issuer>, StoreError>> + Send + '_>> {
        Box::pin(std::future::ready(Ok(self.clone())))
    }
}

/// See the module.
pub struct Issuers {
    source: Arc<dyn IssuerSource>,
    state: Mutex<State>,
    /// Held by who reads the list.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    known: Option<Known>,
    /// When the list could not be read last.
    failed_at: Option<Instant>,
}

struct Known {
    issuers: Vec<Issuer>,
    read_at: Instant,
}

impl Issuers {
    /// Nothing known yet.
    pub fn new(source: Arc<dyn IssuerSource>) -> Self {
        Self {
            source,
            state: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bindings of an issuer's URL: one for each audience.
    pub async fn of_url(&self, url: &str) -> Result<Vec<Issuer>, StoreError> {
        let came = Instant::now();
        let last = {
            let state = self.state();
            let found = state.known.as_ref().map(|known| pick(&known.issuers, url));
            if let (Some(known), Some(found)) = (&state.known, &found) {
                let age = known.read_at.elapsed();
                if age < AGAIN || (age < FRESH && !found.is_empty()) {
                    return Ok(found.clone());
                }
            }
            let blind = state.failed_at.is_some_and(|at| at.elapsed() < BLIND);
            match found.filter(|found| !found.is_empty()) {
                Some(last) if blind => return Ok(last),
                last => last,
            }
        };
        let Some(last) = last else {
            self.read(came).await?;
            return Ok(self.known(url));
        };
        match tokio::time::timeout(PATIENT, self.read(came)).await {
            Ok(Ok(())) => return Ok(self.known(url)),
            Ok(Err(error)) => tracing::warn!(%error, "issuers can't be read, the last list counts"),
            Err(_) => {
                tracing::warn!("issuers can't be read in time, the last list counts");
                self.state().failed_at = Some(Instant::now());
            }
        }
        Ok(last)
    }

    fn known(&self, url: &str) -> Vec<Issuer> {
        let state = self.state();
        let known = state.known.as_ref();
        known.map_or_else(Vec::new, |known| pick(&known.issuers, url))
    }

    /// Reads the list, or takes what somebody read, or failed to, since `came`.
    async fn read(&self, came: Instant) -> Result<(), StoreError> {
        let _one = self.reading.lock().await;
        {
            let state = self.state();
            if state.known.as_ref().is_some_and(|known| known.read_at >= came) {
                return Ok(());
            }
            if state.failed_at.is_some_and(|at| at >= came) {
                return Err(StoreError::out_of_reach());
            }
        }
        let listed = self.source.list().await;
        let mut state = self.state();
        match listed {
            Ok(issuers) => {
                let read_at = Instant::now();
                *state = State {
                    known: Some(Known { issuers, read_at }),
                    failed_at: None,
                };
                Ok(())
            }
            Err(error) => {
                state.failed_at = Some(Instant::now());
                Err(error)
            }
        }
    }
}

fn pick(issuers: &[Issuer], url: &str) -> Vec<Issuer> {
    issuers.iter().filter(|i| i.url == url).cloned().collect()
}

impl std::fmt::Debug for Issuers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuers").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A database that answers once, and then only after 10 s that it can't be reached.
    #[derive(Default)]
    struct Fading {
        asked: AtomicUsize,
    }

    fn issuer(url: &str) -> Issuer {
        Issuer {
            url: url.to_owned(),
            tenant: "demo".into(),
            operators: false,
            audience: "rhyzome".to_owned(),
        }
    }

    impl IssuerSource for Fading {
        fn list(&self) -> Pin<Box<dyn Future<Output = Result<Vec<Issuer>, StoreError>> + Send + '_>> {
            let first = self.asked.fetch_add(1, Ordering::SeqCst) == 0;
            Box::pin(async move {
                if first {
                    return Ok(vec![issuer("https://known")]);
                }
                tokio::time::sleep(Duration::from_secs(10)).await;
                Err(StoreError::out_of_reach())
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_in_line_for_a_database_that_is_away() {
        let source = Arc::new(Fading::default());
        let issuers = Issuers::new(source.clone());
        assert_eq!(issuers.of_url("https://known").await.unwrap().len(), 1);
        tokio::time::advance(FRESH).await;
        let began = Instant::now();
        let known = futures::future::join_all((0..50).map(|_| issuers.of_url("https://known"))).await;
        assert!(known.iter().all(|found| found.as_ref().unwrap().len() == 1));
        assert!(began.elapsed() <= PATIENT, "{:?}", began.elapsed());
        // One that isn't in the last list can't be told from one that was bound since: that is no refusal.
        let began = Instant::now();
        let unknown = futures::future::join_all((0..50).map(|_| issuers.of_url("https://new"))).await;
        assert!(unknown.iter().all(Result::is_err));
        assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
        assert!(source.asked.load(Ordering::SeqCst) <= 4);
    }
}
