//! One request at a time with an idempotency key: a second one waits until the first is answered, and then finds its reply.
//!
//! This holds within one process, so that the requests of one batch never share a key; between processes the key's row in Postgres
//! makes the second transaction wait for the first.

use rhyzome_model::ids::TenantId;
use rhyzome_store::accept::IdempotencyKey;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::OwnedMutexGuard;

type Key = (TenantId, String, String, String);

/// A key's turn: the next one's begins when this is dropped.
pub type Turn = OwnedMutexGuard<()>;

/// See the module.
#[derive(Debug, Default)]
pub struct KeyLocks(Mutex<HashMap<Key, Weak<tokio::sync::Mutex<()>>>>);

impl KeyLocks {
    /// Waits for the key's turn; hold what comes back until the request is answered.
    pub async fn lock(&self, tenant: &TenantId, key: Option<&IdempotencyKey>) -> Option<Turn> {
        let key = key?;
        let id = (
            tenant.clone(),
            key.method.clone(),
            key.path.clone(),
            key.key.clone(),
        );
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Entries outlive their requests only until they are as many as those that live.
            if locks.len() >= 1024 && locks.len() == locks.capacity() {
                locks.retain(|_, lock| lock.strong_count() > 0);
            }
            if let Some(lock) = locks.get(&id).and_then(Weak::upgrade) {
                lock
            } else {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                locks.insert(id, Arc::downgrade(&lock));
                lock
            }
        };
        Some(lock.lock_owned().await)
    }
}

#[cfg(test)]
mod tests {
    use super::KeyLocks;
    use rhyzome_model::ids::TenantId;
    use rhyzome_store::accept::IdempotencyKey;

    fn key(key: &str) -> IdempotencyKey {
        IdempotencyKey {
            method: "POST".into(),
            path: "/v1/networks".into(),
            key: key.into(),
            body_hash: [0; 32],
        }
    }

    #[tokio::test]
    async fn one_at_a_time_by_tenant_and_key() {
        let locks = KeyLocks::default();
        let (a, b) = (TenantId::from("a"), TenantId::from("b"));
        let first = locks.lock(&a, Some(&key("k"))).await;
        assert!(first.is_some());
        assert!(locks.lock(&a, Some(&key("other"))).await.is_some());
        assert!(locks.lock(&b, Some(&key("k"))).await.is_some());
        assert!(locks.lock(&a, None).await.is_none());
        let same = key("k");
        let second = locks.lock(&a, Some(&same));
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert!(second.await.is_some());
    }
}
