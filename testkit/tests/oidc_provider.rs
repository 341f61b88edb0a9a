//! A certified OpenID provider as a tenant's issuer: its tokens are taken, what resembles them is not, and its keys are followed.
//!
//! Needs Node.js and npm; where they or its packages can't be had, it says that it was not run, and why.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::oidc::{OidcProvider, claims_of};
use rhyzome_testkit::rest::{Rest, unique};
use rhyzome_testkit::tokens::{Key, public_forms_of, sign_hs256, unsigned};
use rhyzome_testkit::{Stack, eventually};
use serde_json::json;
use std::time::Instant;

const AUDIENCE: &str = "https://api.rhyzome.test";
/// `api.issuer_keys_min_interval`: how often at most an API process asks for keys because of an unknown one.
const MIN_INTERVAL_S: u64 = 5;

/// The provider, and a tenant that is bound to it; nothing where it can't be had here.
fn provider(stack: &Stack) -> Option<(String, OidcProvider)> {
    let provider = match OidcProvider::start(AUDIENCE) {
        Ok(provider) => provider,
        Err(why) => {
            eprintln!("skipped, no OpenID provider was tried: {why}");
            return None;
        }
    };
    let tenant = unique("t").replace('-', "");
    stack.add_tenant(&tenant, provider.url(), AUDIENCE);
    Some((tenant, provider))
}

async fn status(stack: &Stack, token: &str) -> u16 {
    stack
        .with_token(token.to_owned())
        .get("/v1/networks")
        .await
        .status
}

async fn until_taken(stack: &Stack, token: &str) {
    eventually("the provider's token to be taken", || async move {
        (status(stack, token).await == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn its_tokens_make_a_network_and_what_resembles_them_is_refused() {
    let stack = Stack::shared();
    let Some((tenant, provider)) = provider(&stack) else {
        return;
    };
    let good = provider.token(AUDIENCE, "network:read network:create").await;
    until_taken(&stack, &good).await;
    let rest = stack.with_token(good.clone());
    let made = rest
        .create("networks", "lan", json!({ "cidr": "10.20.0.0/24" }))
        .await;
    assert_eq!(made.answer.body["resource"]["tenant"], tenant.as_str());
    rest.succeed(&made.job).await;

    // Scopes are as the provider granted them.
    let reads = provider.token(AUDIENCE, "network:read").await;
    let reads = stack.with_token(reads);
    reads.get("/v1/networks").await.ok();
    let spec = json!({ "name": "x", "spec": { "cidr": "10.20.0.0/24" } });
    reads.post("/v1/networks", &spec).await.refused(403);
    rest.delete(&format!("/v1/networks/{}", made.id))
        .await
        .refused(403);

    let jwk = provider.published_key().await;
    let key_id = jwk["kid"].as_str().unwrap();
    let claims = claims_of(&good);
    let mut bad = vec![
        (
            "expired",
            provider
                .token(&format!("{AUDIENCE}/expired"), "network:read")
                .await,
        ),
        (
            "another audience",
            provider
                .token("https://elsewhere.rhyzome.test", "network:read")
                .await,
        ),
        ("unsigned", unsigned(&claims)),
        ("signed by another key", Key::new(key_id).sign(&claims)),
    ];
    for secret in public_forms_of(&jwk) {
        bad.push(("HS256 with the public key", sign_hs256(&secret, key_id, &claims)));
    }
    assert_eq!(bad.len(), 9);
    for (what, token) in bad {
        let answer = Rest::new(&stack.file().api_url, Some(token))
            .get("/v1/networks")
            .await;
        assert_eq!(answer.status, 401, "{what}: {}", answer.text);
    }
    assert_eq!(status(&stack, &good).await, 200, "the good one still is");
}

#[tokio::test]
async fn its_keys_are_followed_and_unknown_ones_asked_for_at_a_limited_rate() {
    let stack = Stack::shared();
    let Some((_, mut provider)) = provider(&stack) else {
        return;
    };
    let old = provider.token(AUDIENCE, "network:read").await;
    until_taken(&stack, &old).await;
    // One that was taken counts for a moment more; this one is shown for the first time after its key is gone.
    let old = provider.token(AUDIENCE, "network:read").await;

    provider.rotate("k2");
    let new = provider.token(AUDIENCE, "network:read").await;
    until_taken(&stack, &new).await;
    assert_eq!(
        status(&stack, &old).await,
        401,
        "its key is published no more, and the keys were read anew since"
    );

    let claims = claims_of(&new);
    let (before, began) = (provider.key_requests(), Instant::now());
    for n in 0..50 {
        let forged = Key::new(&format!("forged-{n}")).sign(&claims);
        assert_eq!(status(&stack, &forged).await, 401);
    }
    let asked = provider.key_requests() - before;
    let apis = stack.processes("api").len() as u64;
    let most = apis * (began.elapsed().as_secs() / MIN_INTERVAL_S + 1);
    assert!(
        asked <= most,
        "50 forged key ids made {apis} API processes ask {asked} times; {most} are allowed"
    );
    assert_eq!(status(&stack, &new).await, 200);
}
