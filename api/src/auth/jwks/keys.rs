//! A set of an issuer's keys (RFC 7517): those of it that this program can check signatures with.

use super::STALE;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// As it was fetched.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    fetched_at: Instant,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    fits: Fits,
    key: Arc<DecodingKey>,
}

/// Which algorithms a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fits {
    Family(AlgorithmFamily),
    Only(Algorithm),
}

impl KeySet {
    /// Fetched just now. A key of a type that isn't known here must not hide the others.
    pub(super) fn new(keys: Vec<Value>) -> Self {
        Self {
            keys: keys
                .into_iter()
                .filter_map(|key| Key::read(serde_json::from_value(key).ok()?))
                .collect(),
            fetched_at: Instant::now(),
        }
    }

    /// Whether it needs no other look.
    pub(super) fn is_fresh(&self, refresh: Duration) -> bool {
        self.fetched_at.elapsed() < refresh
    }

    /// Whether it is believed where it can't be fetched anew.
    pub(super) fn counts(&self, refresh: Duration) -> bool {
        self.is_fresh(refresh + STALE)
    }

    /// The key of this name; without a name the only one that fits.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Arc<DecodingKey>> {
        let mut fitting = self.keys.iter().filter(|k| k.fits.algorithm(algorithm));
        match id {
            Some(id) => fitting
                .find(|k| k.id.as_deref() == Some(id))
                .map(|k| k.key.clone()),
            // Without a name more than one would have to be guessed.
            None => fitting
                .next()
                .filter(|_| fitting.next().is_none())
                .map(|k| k.key.clone()),
        }
    }
}

impl Fits {
    fn algorithm(self, algorithm: Algorithm) -> bool {
        match self {
            Self::Family(family) => algorithm.family() == family,
            Self::Only(only) => only == algorithm,
        }
    }
}

impl Key {
    /// A key for signatures that this program can check; none for others (encryption, HMAC, other curves).
    fn read(jwk: Jwk) -> Option<Self> {
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        let fits = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Fits::Family(AlgorithmFamily::Rsa),
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
                Fits::Only(Algorithm::ES256)
            }
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P384 => {
                Fits::Only(Algorithm::ES384)
            }
            AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => {
                Fits::Only(Algorithm::EdDSA)
            }
            // Other curves, secrets, and whatever a later version knows.
            _ => return None,
        };
        let fits = match jwk.common.key_algorithm {
            None => fits,
            Some(named) => Fits::Only(signature_algorithm(named).filter(|a| fits.algorithm(*a))?),
        };
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self {
            id: jwk.common.key_id,
            fits,
            key: Arc::new(key),
        })
    }
}

fn signature_algorithm(named: KeyAlgorithm) -> Option<Algorithm> {
    Some(match named {
        KeyAlgorithm::RS256 => Algorithm::RS256,
        KeyAlgorithm::RS384 => Algorithm::RS384,
        KeyAlgorithm::RS512 => Algorithm::RS512,
        KeyAlgorithm::PS256 => Algorithm::PS256,
        KeyAlgorithm::PS384 => Algorithm::PS384,
        KeyAlgorithm::PS512 => Algorithm::PS512,
        KeyAlgorithm::ES256 => Algorithm::ES256,
        KeyAlgorithm::ES384 => Algorithm::ES384,
        KeyAlgorithm::EdDSA => Algorithm::EdDSA,
        // HMAC, encryption, and whatever a later version knows.
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fits(jwk: Value) -> Option<Fits> {
        Key::read(serde_json::from_value(jwk).unwrap()).map(|k| k.fits)
    }

    #[test]
    fn only_keys_for_signatures_by_algorithm() {
        let rsa = |extra: Value| {
            let mut key = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"});
            key.as_object_mut()
                .unwrap()
                .append(&mut extra.as_object().unwrap().clone());
            key
        };
        assert_eq!(fits(rsa(json!({}))), Some(Fits::Family(AlgorithmFamily::Rsa)));
        assert_eq!(
            fits(rsa(json!({"alg": "PS256", "use": "sig"}))),
            Some(Fits::Only(Algorithm::PS256))
        );
        assert_eq!(fits(rsa(json!({"use": "enc"}))), None);
        assert_eq!(fits(rsa(json!({"alg": "RSA-OAEP"}))), None);
        assert_eq!(fits(rsa(json!({"alg": "ES256"}))), None);
        assert_eq!(fits(json!({"kty": "oct", "k": "AAAA"})), None);
        let ec = json!({"kty": "EC", "crv": "P-384", "x": "AAAA", "y": "AAAA"});
        assert_eq!(fits(ec), Some(Fits::Only(Algorithm::ES384)));
        assert_eq!(
            fits(json!({"kty": "EC", "crv": "P-521", "x": "AAAA", "y": "AAAA"})),
            None
        );
    }
}
