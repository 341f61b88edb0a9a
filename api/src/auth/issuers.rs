//! Which issuers are bound to which tenant, kept for a moment.
//!
//! Guarantees: an issuer that was bound is known at once (one that isn't known makes the list be read again, at most every
//! [`AGAIN`]); one that was taken away is forgotten within [`FRESH`]. While the database can't be reached the last list counts.

use rhyzome_store::{Store, StoreError};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

pub use rhyzome_store::tenants::Issuer;

/// How long the list is believed.
pub const FRESH: Duration = Duration::from_secs(10);
/// How soon after a look another one is taken because of an unknown issuer.
pub const AGAIN: Duration = Duration::from_millis(200);

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
    known: Mutex<Option<Known>>,
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
            known: Mutex::default(),
        }
    }

    /// The bindings of an issuer's URL: one for each audience.
    pub async fn of_url(&self, url: &str) -> Result<Vec<Issuer>, StoreError> {
        let mut known = self.known.lock().await;
        if let Some(known) = known.as_ref() {
            let found = pick(&known.issuers, url);
            let age = known.read_at.elapsed();
            if age < AGAIN || (age < FRESH && !found.is_empty()) {
                return Ok(found);
            }
        }
        match self.source.list().await {
            Ok(issuers) => {
                let found = pick(&issuers, url);
                *known = Some(Known {
                    issuers,
                    read_at: Instant::now(),
                });
                Ok(found)
            }
            Err(error) => match known.as_ref() {
                Some(known) => {
                    tracing::warn!(%error, "issuers can't be read, the last list counts");
                    Ok(pick(&known.issuers, url))
                }
                None => Err(error),
            },
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
