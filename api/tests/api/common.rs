//! A local issuer, and the API's router in front of a database.

use crate::contract;
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use rhyzome_api::app::App;
use rhyzome_api::auth::issuers::Issuer;
use rhyzome_api::config::ApiConfig;
use rhyzome_api::routes::table::router;
use rhyzome_api::run::assemble;
use rhyzome_model::ids::TenantId;
use rhyzome_runtime::{Span, install_crypto};
use rhyzome_store::Store;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(crate) const AUDIENCE: &str = "rhyzome";

pub(crate) struct SigningKey {
    pub(crate) kid: String,
    pair: EcdsaKeyPair,
}

impl SigningKey {
    pub(crate) fn new(kid: &str) -> Self {
        let rng = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &rng).unwrap();
        Self {
            kid: kid.to_owned(),
            pair,
        }
    }

    pub(crate) fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let coordinate = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
               "x": coordinate(1..33), "y": coordinate(33..65)})
    }

    pub(crate) fn public_bytes(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": self.kid});
        let message = message(&header, claims);
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

pub(crate) fn message(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// An OpenID provider's two documents, on loopback.
pub(crate) struct LocalIssuer {
    pub(crate) url: String,
    pub(crate) key: SigningKey,
    published: Arc<Mutex<Vec<Value>>>,
    pub(crate) fetches: Arc<AtomicUsize>,
}

impl LocalIssuer {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let key = SigningKey::new("k1");
        let published = Arc::new(Mutex::new(vec![key.jwk()]));
        let fetches = Arc::new(AtomicUsize::new(0));
        let discovery = json!({"issuer": url, "jwks_uri": format!("{url}/keys")});
        let (keys, count) = (published.clone(), fetches.clone());
        let router = Router::new()
            .route(
                "/.well-known/openid-configuration",
                get(move || std::future::ready(axum::Json(discovery.clone()))),
            )
            .route(
                "/keys",
                get(move || {
                    count.fetch_add(1, Ordering::SeqCst);
                    std::future::ready(axum::Json(json!({"keys": *keys.lock().unwrap()})))
                }),
            );
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            url,
            key,
            published,
            fetches,
        }
    }

    pub(crate) fn publish(&self, keys: Vec<Value>) {
        *self.published.lock().unwrap() = keys;
    }

    pub(crate) fn claims(&self, scope: &str) -> Value {
        let now = jsonwebtoken::get_current_timestamp();
        json!({"iss": self.url, "aud": AUDIENCE, "sub": "ada", "exp": now + 600, "iat": now, "scope": scope})
    }

    pub(crate) fn token(&self, scope: &str) -> String {
        self.key.sign(&self.claims(scope))
    }

    pub(crate) fn bound(&self, tenant: &str) -> Issuer {
        Issuer {
            url: self.url.clone(),
            audience: AUDIENCE.to_owned(),
            tenant: TenantId::from(tenant),
            operators: tenant == TenantId::SYSTEM,
        }
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

/// The API, without its listener.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) app: App,
    pub(crate) router: Router,
}

impl Api {
    pub(crate) fn new(store: Store, issuers: Vec<Issuer>) -> Self {
        let config = ApiConfig {
            issuer_keys_min_interval: Span::millis(0),
            ..ApiConfig::default()
        };
        Self::with(config, store, issuers)
    }

    pub(crate) fn with(config: ApiConfig, store: Store, issuers: Vec<Issuer>) -> Self {
        install_crypto();
        let app = assemble(
            config,
            store,
            None,
            None,
            Arc::new(issuers),
            CancellationToken::new(),
        )
        .unwrap();
        Self {
            router: router(app.clone()),
            app,
        }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into()));
        let media_type = parts.headers.get("content-type").map(|t| t.to_str().unwrap());
        contract::holds(
            &method,
            &path,
            parts.status,
            media_type.unwrap_or_default(),
            &body,
        );
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    pub(crate) async fn call(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.call_with(token, method, path, body, &[]).await
    }

    pub(crate) async fn call_with(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        self.send(request.body(body).unwrap()).await
    }
}

/// A store that can't be reached: for what is decided before the database.
pub(crate) fn nowhere() -> Store {
    let options = "postgres://nobody@127.0.0.1:1/none".parse().unwrap();
    Store::connect_lazy(options, 1)
}
