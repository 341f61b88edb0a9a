//! Tokens that were verified a moment ago, so that a busy client's signature isn't checked on every request.
//!
//! Guarantees: keyed by the SHA-256 of the whole token, never by a part of it; an entry ends with the token, and after `max_age` in any
//! case, so that a key or an issuer that was taken away ends with it; never more than `capacity` entries.

use super::caller::Caller;
use ring::digest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// SHA-256 of a token.
pub type TokenDigest = [u8; 32];

/// Digest of a token as it stands in the header.
pub fn digest_of(token: &str) -> TokenDigest {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    out
}

/// See the module.
#[derive(Debug)]
pub struct TokenCache {
    entries: Mutex<HashMap<TokenDigest, Entry>>,
    capacity: usize,
    max_age_s: u64,
}

#[derive(Debug)]
struct Entry {
    caller: Arc<Caller>,
    until_s: u64,
}

impl TokenCache {
    /// An empty cache.
    pub fn new(capacity: usize, max_age: Duration) -> Self {
        Self {
            entries: Mutex::default(),
            capacity: capacity.max(1),
            max_age_s: max_age.as_secs(),
        }
    }

    /// The caller of a token that is good at `now_s` (seconds since 1970).
    pub fn get(&self, token: &TokenDigest, now_s: u64) -> Option<Arc<Caller>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .get(token)
            .filter(|entry| now_s < entry.until_s)
            .map(|entry| entry.caller.clone())
    }

    /// Keeps a verified token until `expires_s` (seconds since 1970), or its age is too high.
    pub fn put(&self, token: TokenDigest, caller: Arc<Caller>, expires_s: u64, now_s: u64) {
        let until_s = expires_s.min(now_s.saturating_add(self.max_age_s));
        if until_s <= now_s {
            return;
        }
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.capacity {
            entries.retain(|_, entry| now_s < entry.until_s);
        }
        // Still full of good tokens: begin anew, which costs each of them one verification.
        if entries.len() >= self.capacity {
            entries.clear();
        }
        entries.insert(token, Entry { caller, until_s });
    }
}

#[cfg(test)]
mod tests {
    use super::{TokenCache, digest_of};
    use crate::auth::caller::Caller;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn ends_with_the_token_and_with_its_age() {
        let cache = TokenCache::new(10, Duration::from_mins(1));
        let (short, long) = (digest_of("short"), digest_of("long"));
        cache.put(short, Arc::new(Caller::for_tests("demo", &[])), 1_010, 1_000);
        cache.put(long, Arc::new(Caller::for_tests("demo", &[])), 9_000, 1_000);
        assert!(cache.get(&short, 1_009).is_some() && cache.get(&short, 1_010).is_none());
        assert!(cache.get(&long, 1_059).is_some() && cache.get(&long, 1_060).is_none());
        assert!(cache.get(&digest_of("other"), 1_001).is_none());
    }

    #[test]
    fn is_bounded() {
        let cache = TokenCache::new(3, Duration::from_mins(1));
        for n in 0..100 {
            cache.put(
                digest_of(&n.to_string()),
                Arc::new(Caller::for_tests("demo", &[])),
                9_000,
                1_000,
            );
        }
        assert!(cache.entries.lock().unwrap().len() <= 3);
        assert!(cache.get(&digest_of("99"), 1_001).is_some());
    }
}
