//! An issuer of a test's own, and tokens that nobody should accept beside those that all should.
//!
//! It signs ES256 (RFC 7518, 3.4) with keys that only it knows, and answers discovery (OpenID Connect Discovery 1.0) and keys (RFC 7517) on
//! loopback while it lives.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A signing key.
pub struct Key {
    id: String,
    pair: EcdsaKeyPair,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Key {
    /// A new key under this id.
    ///
    /// # Panics
    /// Where no key can be made.
    pub fn new(id: &str) -> Self {
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .ok()
            .and_then(|bytes| {
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes.as_ref(), &random).ok()
            });
        match made {
            Some(pair) => Self {
                id: id.to_owned(),
                pair,
            },
            None => panic!("making a key"),
        }
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.point();
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id,
                "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) })
    }

    /// An uncompressed point: 4, x, y, 32 bytes each.
    fn point(&self) -> (&[u8], &[u8]) {
        self.pair.public_key().as_ref()[1..].split_at(32)
    }

    /// A token with this header and these claims, signed by this key whatever the header says.
    ///
    /// # Panics
    /// Where it can't be signed.
    pub fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes());
        let signature = signature.unwrap_or_else(|error| panic!("signing a token: {error}"));
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A proper token.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({ "alg": "ES256", "typ": "JWT", "kid": self.id }), claims)
    }

    /// The public key in the forms that an attacker could take as an HMAC secret.
    pub fn public_forms(&self) -> Vec<Vec<u8>> {
        public_forms(self.pair.public_key().as_ref(), &self.jwk())
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// A P-256 key in the forms that an attacker could take as an HMAC secret: PEM, its DER, the JWK, the point (uncompressed).
fn public_forms(point: &[u8], jwk: &Value) -> Vec<Vec<u8>> {
    // SubjectPublicKeyInfo of an uncompressed P-256 point (RFC 5480, 2).
    let head = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
        0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    let der = [&head[..], point].concat();
    let lines: Vec<String> = STANDARD
        .encode(&der)
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        lines.join("\n")
    );
    vec![
        pem.clone().into_bytes(),
        pem.trim_end().as_bytes().to_vec(),
        der,
        jwk.to_string().into_bytes(),
        point.to_vec(),
    ]
}

/// As [`Key::public_forms`], of a published P-256 key.
///
/// # Panics
/// Where it is none.
pub fn public_forms_of(jwk: &Value) -> Vec<Vec<u8>> {
    let coordinate = |name: &str| {
        let bytes = jwk[name]
            .as_str()
            .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        bytes.unwrap_or_else(|| panic!("no P-256 key: {jwk}"))
    };
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    public_forms(&point, jwk)
}

/// A token signed by HMAC-SHA256 with this secret.
pub fn sign_hs256(secret: &[u8], key_id: &str, claims: &Value) -> String {
    let message = message(&json!({ "alg": "HS256", "typ": "JWT", "kid": key_id }), claims);
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let signature = ring::hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A token that nobody signed.
pub fn unsigned(claims: &Value) -> String {
    format!("{}.", message(&json!({ "alg": "none", "typ": "JWT" }), claims))
}

fn message(header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", encode(header), encode(claims))
}

/// What an issuer publishes and was asked.
#[derive(Debug, Default)]
struct Published {
    keys: Vec<Value>,
    key_requests: usize,
}

/// An issuer on loopback.
#[derive(Debug)]
pub struct Issuer {
    url: String,
    published: Arc<Mutex<Published>>,
    task: tokio::task::JoinHandle<()>,
}

impl Issuer {
    /// Serves these keys.
    ///
    /// # Panics
    /// Where it can't listen.
    pub async fn start(keys: &[&Key]) -> Self {
        let listener = match TcpListener::bind("127.0.0.1:0").await {
            Ok(listener) => listener,
            Err(error) => panic!("listening: {error}"),
        };
        let url = match listener.local_addr() {
            Ok(address) => format!("http://{address}"),
            Err(error) => panic!("listening: {error}"),
        };
        let published = Arc::new(Mutex::new(Published::default()));
        let (base, shared) = (url.clone(), Arc::clone(&published));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, base.clone(), Arc::clone(&shared)));
            }
        });
        let issuer = Self { url, published, task };
        issuer.publish(keys);
        issuer
    }

    /// As in `iss`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Replaces the published keys.
    pub fn publish(&self, keys: &[&Key]) {
        self.locked().keys = keys.iter().map(|key| key.jwk()).collect();
    }

    /// How often the keys were asked for.
    pub fn key_requests(&self) -> usize {
        self.locked().key_requests
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims that are good for this audience and scope for ten minutes.
    pub fn claims(&self, audience: &str, scope: &str) -> Value {
        let now = chrono::Utc::now().timestamp();
        json!({ "iss": self.url, "sub": "tester", "aud": audience, "scope": scope,
                "iat": now, "nbf": now - 5, "exp": now + 600 })
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One HTTP/1.1 request and its answer.
async fn answer(mut stream: TcpStream, base: String, published: Arc<Mutex<Published>>) {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return,
            Ok(read) => head.extend_from_slice(&part[..read]),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split_whitespace().nth(1).unwrap_or_default();
    let body = match path {
        "/.well-known/openid-configuration" => Some(json!({
            "issuer": base, "jwks_uri": format!("{base}/keys"), "authorization_endpoint": format!("{base}/authorize"),
            "token_endpoint": format!("{base}/token"), "response_types_supported": ["code"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
        })),
        "/keys" => {
            let mut published = published.lock().unwrap_or_else(PoisonError::into_inner);
            published.key_requests += 1;
            Some(json!({ "keys": published.keys }))
        }
        _ => None,
    };
    let (status, body) = match body {
        Some(body) => ("200 OK", body.to_string()),
        None => ("404 Not Found", "{}".to_owned()),
    };
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    // The caller may be gone.
    let _ = stream.write_all(text.as_bytes()).await;
}
