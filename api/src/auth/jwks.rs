//! Issuers' published keys: OpenID Connect Discovery 1.0, then the key set (RFC 7517).
//!
//! Guarantees: only https, or http where the allow list has it; no redirects; answers no larger than [`ANSWER_MAX`] and no slower than
//! [`ANSWER_TIME`]; the document's `issuer` is the one that was asked. One fetch at a time for an issuer, whoever waits shares it. An
//! unknown `kid` makes the set be fetched again, at most once in `min_interval`. Keys that can't be fetched anew are believed for
//! [`STALE`] more, then not.

mod keys;

use http::Uri;
use jsonwebtoken::{Algorithm, DecodingKey};
use keys::KeySet;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, MutexGuard};

/// Bytes of a discovery document or a key set.
pub const ANSWER_MAX: usize = 256 * 1024;
/// For one answer, connecting included.
pub const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How long keys are believed beyond their refresh while the issuer can't be reached.
pub const STALE: Duration = Duration::from_hours(1);
/// How long a fetch by somebody else is waited for where the last keys may count.
const PATIENT: Duration = Duration::from_secs(1);

/// Why there is no key.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KeyError {
    /// The issuer has no such key, or none for this algorithm.
    #[error("the issuer has no key for this token")]
    Unknown,
    /// The issuer can't be asked. For the log: the text names URLs.
    #[error("{0}")]
    Unreachable(String),
}

/// How keys are fetched.
#[derive(Clone, Debug)]
pub struct KeySettings {
    /// URL prefixes that may be plain http.
    pub http_allow: Vec<String>,
    /// How often a set is read anew.
    pub refresh: Duration,
    /// How often at most because of an unknown `kid`, or after a failure.
    pub min_interval: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct KeySource {
    client: reqwest::Client,
    settings: KeySettings,
    issuers: StdMutex<HashMap<String, Arc<IssuerKeys>>>,
}

#[derive(Debug, Default)]
struct IssuerKeys {
    current: RwLock<Option<Arc<KeySet>>>,
    /// When it was last tried; held while it is being tried.
    tried: Mutex<Option<Instant>>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<Value>,
}

impl KeySource {
    /// No keys yet. The client must follow no redirects; [`client`] makes one.
    pub fn new(client: reqwest::Client, settings: KeySettings) -> Self {
        Self {
            client,
            settings,
            issuers: StdMutex::default(),
        }
    }

    /// The key that an issuer's token names; without a name the only one that fits.
    pub async fn key(
        &self,
        issuer: &str,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<DecodingKey>, KeyError> {
        let entry = {
            let mut issuers = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
            issuers.entry(issuer.to_owned()).or_default().clone()
        };
        let seen = entry.get();
        if let Some(set) = &seen
            && set.is_fresh(self.settings.refresh)
            && let Some(key) = set.find(id, algorithm)
        {
            return Ok(key);
        }
        // Where the last keys may still count, nobody stands in line behind a slow issuer.
        let last = seen
            .as_ref()
            .filter(|set| set.counts(self.settings.refresh))
            .and_then(|set| set.find(id, algorithm));
        let turn = entry.tried.lock();
        let turn = match last {
            None => turn.await,
            Some(last) => match tokio::time::timeout(PATIENT, turn).await {
                Ok(turn) => turn,
                Err(_) => return Ok(last),
            },
        };
        let fetched = self.fetch_shared(issuer, &entry, seen.as_ref(), turn).await;
        match (
            entry.get().filter(|set| set.counts(self.settings.refresh)),
            fetched,
        ) {
            (Some(set), outcome) => {
                if let Err(error) = outcome {
                    tracing::warn!(issuer, %error, "keys can't be read anew, the last ones count");
                }
                set.find(id, algorithm).ok_or(KeyError::Unknown)
            }
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(KeyError::Unreachable(format!(
                "{issuer} was asked a moment ago, without success"
            ))),
        }
    }

    /// Fetches the set unless somebody did since `seen`, or it was tried a moment ago.
    async fn fetch_shared(
        &self,
        issuer: &str,
        entry: &IssuerKeys,
        seen: Option<&Arc<KeySet>>,
        mut tried: MutexGuard<'_, Option<Instant>>,
    ) -> Result<(), KeyError> {
        let now_there = entry.get();
        let newer = match (&now_there, seen) {
            (Some(now), Some(seen)) => !Arc::ptr_eq(now, seen),
            (Some(_), None) => true,
            (None, _) => false,
        };
        if newer || tried.is_some_and(|at| at.elapsed() < self.settings.min_interval) {
            return Ok(());
        }
        *tried = Some(Instant::now());
        let set = self.fetch(issuer).await?;
        *entry.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(set));
        Ok(())
    }

    async fn fetch(&self, issuer: &str) -> Result<KeySet, KeyError> {
        let discovery = format!(
            "{}/.well-known/openid-configuration",
            issuer.trim_end_matches('/')
        );
        let document: Discovery = self.get(&discovery).await?;
        if document.issuer != issuer {
            return Err(KeyError::Unreachable(format!(
                "{discovery} is of the issuer {}",
                document.issuer
            )));
        }
        let keys: Keys = self.get(&document.jwks_uri).await?;
        Ok(KeySet::new(keys.keys))
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T, KeyError> {
        if !self.allowed(url) {
            return Err(KeyError::Unreachable(format!(
                "{url} is neither https nor in api.issuer_http_allow"
            )));
        }
        let failed = |why: &dyn std::fmt::Display| KeyError::Unreachable(format!("GET {url}: {why}"));
        let mut answer = self
            .client
            .get(url)
            .send()
            .await
            .map_err(|e| failed(&chain(&e)))?;
        if answer.status() != http::StatusCode::OK {
            return Err(failed(&answer.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| failed(&chain(&e)))? {
            if body.len() + chunk.len() > ANSWER_MAX {
                return Err(failed(&format!("more than {ANSWER_MAX} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|e| failed(&e))
    }

    fn allowed(&self, url: &str) -> bool {
        let Ok(uri) = url.parse::<Uri>() else { return false };
        match uri.scheme_str() {
            Some("https") => true,
            Some("http") => self.settings.http_allow.iter().any(|prefix| within(&uri, prefix)),
            _ => false,
        }
    }
}

/// Whether a URL lies under a prefix: same scheme and host; the port where the prefix names one; the path by whole segments.
fn within(uri: &Uri, prefix: &str) -> bool {
    let Ok(prefix) = prefix.parse::<Uri>() else {
        return false;
    };
    let path = prefix.path().trim_end_matches('/');
    uri.scheme() == prefix.scheme()
        && uri.host().is_some()
        && uri.host() == prefix.host()
        && (prefix.port_u16().is_none() || uri.port_u16() == prefix.port_u16())
        && uri
            .path()
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        && uri.authority().is_some_and(|a| !a.as_str().contains('@'))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

impl IssuerKeys {
    fn get(&self) -> Option<Arc<KeySet>> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A client for issuers; `ca` holds further CA certificates as PEM.
pub fn client(ca: Option<&[u8]>) -> Result<reqwest::Client, reqwest::Error> {
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(ANSWER_TIME)
        .timeout(ANSWER_TIME)
        .user_agent("rhyzome-api");
    if let Some(pem) = ca {
        builder = builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(pem)?);
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn the_allow_list_goes_by_whole_parts() {
        let table = [
            ("http://127.0.0.1:4000/a/demo", "http://127.0.0.1", true),
            ("http://127.0.0.1:4000/a/demo", "http://127.0.0.1:4000/a", true),
            ("http://127.0.0.1:4001/a/demo", "http://127.0.0.1:4000/a", false),
            ("http://127.0.0.1:4000/ab", "http://127.0.0.1:4000/a", false),
            ("http://127.0.0.1.evil.org/", "http://127.0.0.1", false),
            ("http://127.0.0.1@evil.org/", "http://127.0.0.1", false),
            ("http://evil@127.0.0.1/", "http://127.0.0.1", false),
            ("http://[::1]:80/x", "http://[::1]", true),
            ("http://localhost/", "https://localhost", false),
        ];
        for (url, prefix, inside) in table {
            assert_eq!(
                within(&url.parse().unwrap(), prefix),
                inside,
                "{url} under {prefix}"
            );
        }
    }
}
