//! The development issuer's signing keys: ECDSA P-256 in PKCS#8, one folder per issuer, one file per key, readable by their owner only.
//!
//! The newest file signs; all are published, so that putting a new one beside the old rotates the key.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

/// A key that signs.
pub(crate) struct Key {
    id: String,
    pair: EcdsaKeyPair,
    made_at: SystemTime,
}

impl Key {
    /// As in `kid`: from the public key, so that it is nobody else's.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The public half as a JSON Web Key (RFC 7518, 6.2).
    pub(crate) fn jwk(&self) -> Value {
        // An uncompressed point: 4, x, y, 32 bytes each.
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        })
    }

    /// Signs as JWS wants it (RFC 7518, 3.4).
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let signature = self
            .pair
            .sign(&SystemRandom::new(), message)
            .map_err(|_| anyhow!("signing a token"))?;
        Ok(signature.as_ref().to_vec())
    }
}

/// Where a stack keeps them.
pub(crate) fn folder(data: &Path) -> PathBuf {
    data.join("issuer")
}

/// Whether it can be an issuer's name; never a path.
pub(crate) fn is_name(issuer: &str) -> bool {
    (1..=63).contains(&issuer.len())
        && issuer
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// The keys of an issuer, the newest first; none where it has none.
pub(crate) fn read(folder: &Path, issuer: &str) -> Result<Vec<Key>> {
    let dir = folder.join(issuer);
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", dir.display())),
    };
    let mut keys = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "p8") {
            keys.push(read_one(&path).with_context(|| format!("the key {}", path.display()))?);
        }
    }
    keys.sort_by(|a, b| b.made_at.cmp(&a.made_at).then_with(|| a.id.cmp(&b.id)));
    Ok(keys)
}

fn read_one(path: &Path) -> Result<Key> {
    let bytes = std::fs::read(path)?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &bytes, &SystemRandom::new())
        .map_err(|error| anyhow!("not an ECDSA P-256 key in PKCS#8: {error}"))?;
    Ok(Key {
        id: key_id(pair.public_key().as_ref()),
        pair,
        made_at: std::fs::metadata(path)?.modified()?,
    })
}

fn key_id(public: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(&digest(&SHA256, public).as_ref()[..12])
}

/// The keys of an issuer, with a first one made where it had none.
pub(crate) fn ensure(folder: &Path, issuer: &str) -> Result<Vec<Key>> {
    let keys = read(folder, issuer)?;
    if !keys.is_empty() {
        return Ok(keys);
    }
    let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map_err(|_| anyhow!("making a key"))?;
    let dir = folder.join(issuer);
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let path = dir.join("key.p8");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("writing {}", path.display()))?;
    file.write_all(made.as_ref())?;
    file.sync_all()?;
    read(folder, issuer)
}
