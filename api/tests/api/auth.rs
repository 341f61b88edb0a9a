//! Tokens and scopes, against a local issuer; and every endpoint without a token, and without its scope.

use crate::common::{AUDIENCE, Api, LocalIssuer, SigningKey, message, nowhere};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rhyzome_api::config::ApiConfig;
use rhyzome_api::routes::table::{Need, endpoints};
use rhyzome_runtime::Span;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

const KINDS: &str = "/v1/kinds";

async fn api() -> (LocalIssuer, Api) {
    let issuer = LocalIssuer::start().await;
    let api = Api::new(nowhere(), vec![issuer.bound("demo")]);
    (issuer, api)
}

async fn status(api: &Api, token: &str) -> u16 {
    api.call(token, "GET", KINDS, None).await.status.as_u16()
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

#[tokio::test]
async fn a_good_token_and_every_bad_one() {
    let (issuer, api) = api().await;
    let now = jsonwebtoken::get_current_timestamp();
    let good = issuer.claims("*:*");
    let sign = |claims: &Value| issuer.key.sign(claims);
    assert_eq!(status(&api, &sign(&good)).await, 200);
    let list = with(good.clone(), "aud", json!(["other", AUDIENCE]));
    assert_eq!(status(&api, &sign(&list)).await, 200);

    let unsigned = |alg: &str| format!("{}.", message(&json!({"alg": alg, "typ": "JWT"}), &good));
    let hs256 = {
        // The public key as the secret: what HS* would make of it.
        let message = message(&json!({"alg": "HS256", "typ": "JWT", "kid": "k1"}), &good);
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &issuer.key.public_bytes());
        format!(
            "{message}.{}",
            URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, message.as_bytes()).as_ref())
        )
    };
    let mut no_exp = good.clone();
    no_exp.as_object_mut().unwrap().remove("exp");
    let tampered = {
        let token = sign(&good);
        let parts: Vec<&str> = token.split('.').collect();
        let other = message(&json!({}), &with(good.clone(), "sub", json!("eve")));
        format!("{}.{}.{}", parts[0], other.split('.').nth(1).unwrap(), parts[2])
    };
    let bad = [
        ("none at all", String::new()),
        ("no token", "x".to_owned()),
        ("expired", sign(&with(good.clone(), "exp", json!(now - 120)))),
        ("no exp", sign(&no_exp)),
        ("not yet", sign(&with(good.clone(), "nbf", json!(now + 120)))),
        (
            "another audience",
            sign(&with(good.clone(), "aud", json!("other"))),
        ),
        (
            "another issuer",
            sign(&with(good.clone(), "iss", json!("http://127.0.0.1:1"))),
        ),
        ("unsigned", unsigned("none")),
        ("unsigned as NONE", unsigned("NONE")),
        ("an empty signature", unsigned("ES256")),
        ("another key", SigningKey::new("k1").sign(&good)),
        ("an unknown key", SigningKey::new("k9").sign(&good)),
        ("HS256 with the public key", hs256),
        ("tampered", tampered),
    ];
    for (what, token) in bad {
        let answer = api.call(&token, "GET", KINDS, None).await;
        assert_eq!(answer.status, 401, "{what}");
        assert_eq!(answer.body["code"], "UNAUTHENTICATED", "{what}");
        assert!(
            answer.headers["www-authenticate"]
                .to_str()
                .unwrap()
                .starts_with("Bearer"),
            "{what}"
        );
        assert_eq!(
            answer.headers["content-type"], "application/problem+json",
            "{what}"
        );
        assert_eq!(
            answer.headers["x-request-id"],
            answer.body["request_id"].as_str().unwrap(),
            "{what}"
        );
    }
}

#[tokio::test]
async fn keys_rotate_and_are_fetched_at_a_limited_rate() {
    let issuer = LocalIssuer::start().await;
    let config = ApiConfig {
        issuer_keys_min_interval: Span::hours(1),
        ..ApiConfig::default()
    };
    let limited = Api::with(config, nowhere(), vec![issuer.bound("demo")]);
    assert_eq!(status(&limited, &issuer.token("*:*")).await, 200);
    for n in 0..20 {
        let unknown = SigningKey::new(&format!("x{n}")).sign(&issuer.claims("*:*"));
        assert_eq!(status(&limited, &unknown).await, 401);
    }
    assert_eq!(
        issuer.fetches.load(Ordering::SeqCst),
        1,
        "unknown kids asked the issuer again and again"
    );

    let free = Api::new(nowhere(), vec![issuer.bound("demo")]);
    assert_eq!(status(&free, &issuer.token("*:*")).await, 200);
    let next = SigningKey::new("k2");
    issuer.publish(vec![next.jwk()]);
    assert_eq!(
        status(&free, &next.sign(&issuer.claims("*:*"))).await,
        200,
        "the new key"
    );
}

#[tokio::test]
async fn many_at_once_share_one_fetch() {
    let (issuer, api) = api().await;
    let tokens: Vec<String> = (0..50)
        .map(|n| {
            issuer
                .key
                .sign(&with(issuer.claims("*:*"), "sub", json!(n.to_string())))
        })
        .collect();
    let answers = futures::future::join_all(tokens.iter().map(|token| status(&api, token))).await;
    assert!(answers.iter().all(|s| *s == 200));
    assert_eq!(issuer.fetches.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_issuer_that_is_someone_else_or_out_of_reach() {
    let (issuer, _) = api().await;
    // Bound under another URL than the one its document names.
    let mut bound = issuer.bound("demo");
    bound.url = format!("{}/", issuer.url);
    let api = Api::new(nowhere(), vec![bound.clone()]);
    let token = issuer
        .key
        .sign(&with(issuer.claims("*:*"), "iss", json!(bound.url)));
    assert_eq!(status(&api, &token).await, 503);
    let config = ApiConfig {
        issuer_http_allow: Vec::new(),
        ..ApiConfig::default()
    };
    let strict = Api::with(config, nowhere(), vec![issuer.bound("demo")]);
    assert_eq!(
        status(&strict, &issuer.token("*:*")).await,
        503,
        "plain http that isn't allowed"
    );
    assert_eq!(issuer.fetches.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn operators_only_from_their_own_issuer() {
    let (tenants, operators) = (LocalIssuer::start().await, LocalIssuer::start().await);
    let api = Api::new(nowhere(), vec![tenants.bound("demo"), operators.bound("system")]);
    let answer = api
        .call(&tenants.token("operator *:*"), "GET", "/v1/hosts", None)
        .await;
    assert_eq!(
        (answer.status.as_u16(), answer.body["code"].as_str()),
        (403, Some("SCOPE_MISSING"))
    );
    let answer = api
        .call(
            &tenants.token("operator *:*"),
            "GET",
            "/v1/networks?tenant=other",
            None,
        )
        .await;
    assert_eq!(answer.status, 403);
    // Let through to the database, which isn't there.
    let answer = api
        .call(&operators.token("operator"), "GET", "/v1/hosts", None)
        .await;
    assert_eq!(answer.status, 503);
}

/// The path of an endpoint with ids in it.
fn concrete(path: &str) -> String {
    path.replace("{id}", "0198c0de-0000-7000-8000-000000000001")
        .replace("{name}", "host-1")
        .replace("{kind}", "network")
}

/// The authorisation case of an endpoint: a token's scopes that must not do. None where there is none to test here.
fn insufficient(need: Need) -> Option<String> {
    match need {
        Need::Scope { kind, verb } => {
            let others = ["read", "create", "update", "delete", "start", "stop", "reboot"];
            let verbs = others
                .iter()
                .filter(|v| **v != verb)
                .map(|v| format!("{kind}:{v}"));
            let kinds = ["network", "image", "instance", "job"]
                .iter()
                .filter(|k| **k != kind.as_str());
            Some(
                verbs
                    .chain(kinds.map(|k| format!("{k}:*")))
                    .collect::<Vec<_>>()
                    .join(" "),
            )
        }
        Need::AnyRead => Some("instance:update network:create image:delete job:cancel openid".to_owned()),
        Need::Operator => Some("operator *:*".to_owned()),
        // Any token will do, or the job's resource decides: accept.rs has those cases.
        Need::Public | Need::Token | Need::Job => None,
    }
}

#[tokio::test]
async fn every_endpoint_has_its_authorisation_case() {
    let (issuer, api) = api().await;
    let mut judged_by_resource = Vec::new();
    for endpoint in endpoints() {
        let (method, path) = (endpoint.method.as_str(), concrete(&endpoint.path));
        let answer = api.call("", method, &path, None).await;
        if endpoint.need == Need::Public {
            assert_ne!(answer.status, 401, "{endpoint:?}");
            let public = ["/healthz", "/readyz", "/openapi.json", "/docs"];
            assert!(
                public.contains(&path.as_str()),
                "{endpoint:?} is open to everyone: is it meant to be?"
            );
            continue;
        }
        assert_eq!(answer.status, 401, "{endpoint:?} without a token");
        match insufficient(endpoint.need) {
            Some(scope) => {
                let answer = api.call(&issuer.token(&scope), method, &path, None).await;
                assert_eq!(answer.status, 403, "{endpoint:?} with {scope}");
                if let Need::Scope { kind, verb } = endpoint.need {
                    let detail = answer.body["detail"].as_str().unwrap();
                    assert!(detail.contains(&format!("{kind}:{verb}")), "{detail}");
                }
            }
            None => judged_by_resource.push(format!("{method} {}", endpoint.path)),
        }
    }
    let want = [
        "GET /v1/jobs",
        "GET /v1/jobs/{id}",
        "POST /v1/jobs/{id}/cancel",
        "POST /v1/jobs/{id}/retry",
        "GET /v1/kinds",
        "GET /v1/kinds/{kind}",
    ];
    assert_eq!(
        judged_by_resource, want,
        "an endpoint without an authorisation case"
    );
    let answer = api.call(&issuer.token("openid"), "GET", "/v1/jobs", None).await;
    assert_eq!(answer.status, 403);
}

#[tokio::test]
async fn what_is_not_there_and_what_is_too_much() {
    let (issuer, api) = api().await;
    let token = issuer.token("*:*");
    let table = [
        ("GET", "/v1/nothing", 404, "NOT_FOUND"),
        ("PUT", "/v1/networks", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/v1/kinds/nothing", 404, "NOT_FOUND"),
        ("GET", "/v1/kinds?limit=1", 400, "INVALID_REQUEST"),
        ("GET", "/v1/networks/not-an-id", 404, "NOT_FOUND"),
        ("GET", "/v1/networks", 503, "UNAVAILABLE"),
    ];
    for (method, path, status, code) in table {
        let answer = api.call(&token, method, path, None).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body["code"].as_str()),
            (status, Some(code)),
            "{method} {path}"
        );
        assert_eq!(answer.body["instance"], path.split('?').next().unwrap());
    }
    let large = json!({"name": "x", "spec": {"dns": ["a".repeat(2 * 1024 * 1024)]}});
    let answer = api.call(&token, "POST", "/v1/networks", Some(large)).await;
    assert_eq!(
        (answer.status.as_u16(), answer.body["code"].as_str()),
        (413, Some("BODY_TOO_LARGE"))
    );
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let answer = api.call_with(&token, "POST", "/v1/networks", None, &form).await;
    assert_eq!(answer.status, 415);
}

#[tokio::test]
async fn over_the_rate() {
    let issuer = LocalIssuer::start().await;
    let config = ApiConfig {
        rate_per_second: 1,
        rate_burst: 3,
        ..ApiConfig::default()
    };
    let api = Api::with(config, nowhere(), vec![issuer.bound("demo")]);
    let token = issuer.token("*:*");
    for _ in 0..3 {
        assert_eq!(status(&api, &token).await, 200);
    }
    let answer = api.call(&token, "GET", KINDS, None).await;
    assert_eq!(
        (answer.status.as_u16(), answer.body["code"].as_str()),
        (429, Some("RATE_LIMITED"))
    );
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn documents_without_a_token() {
    let (_, api) = api().await;
    let answer = api.call("", "GET", "/openapi.json", None).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body["openapi"]),
        (200, &json!("3.1.0"))
    );
    let docs = api.call("", "GET", "/docs", None).await;
    assert!(docs.body.as_str().unwrap().contains("/v1/instances/{id}/console"));
    assert_eq!(api.call("", "GET", "/healthz", None).await.status, 200);
    let ready = api.call("", "GET", "/readyz", None).await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.body["missing"], json!(["database", "migrations", "nats"]));
}

#[tokio::test]
async fn the_trace_of_the_caller_is_kept() {
    let (issuer, api) = api().await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = api
        .call_with(
            &issuer.token("*:*"),
            "GET",
            KINDS,
            None,
            &[("traceparent", parent)],
        )
        .await;
    assert!(
        answer.headers["traceparent"]
            .to_str()
            .unwrap()
            .starts_with("00-0af7651916cd43dd8448eb211c80319c-")
    );
}
