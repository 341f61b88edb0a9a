//! Who may: tokens that are no good, each scope that is missing, scopes limited by tag, other tenants, operators.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::rest::{Rest, small_instance, text, unique};
use rhyzome_testkit::tokens::{Issuer, Key, sign_hs256, unsigned};
use rhyzome_testkit::{Stack, eventually};
use serde_json::{Value, json};

const AUDIENCE: &str = "acme-api";

/// A tenant with an issuer of this test's own.
async fn tenant(stack: &Stack, keys: &[&Key]) -> (String, Issuer) {
    let issuer = Issuer::start(keys).await;
    let tenant = unique("t").replace('-', "");
    stack.add_tenant(&tenant, issuer.url(), AUDIENCE);
    (tenant, issuer)
}

fn with(mut claims: Value, field: &str, value: Value) -> Value {
    claims[field] = value;
    claims
}

#[tokio::test]
async fn a_token_of_the_tenants_issuer_is_taken_and_every_bad_one_is_not() {
    let stack = Stack::shared();
    let key = Key::new("k1");
    let (tenant, issuer) = tenant(&stack, &[&key]).await;
    let api = stack.file().api_url;
    let good = issuer.claims(AUDIENCE, "*:*");
    let list = |token: String| {
        let rest = Rest::new(&api, Some(token));
        async move { rest.get("/v1/networks").await }
    };
    // A tenant that was made a moment ago is known soon, not necessarily at once.
    let (list_ref, key_ref, good_ref) = (&list, &key, &good);
    eventually("the new tenant's tokens to be taken", || async move {
        (list_ref(key_ref.sign(good_ref)).await.status == 200).then_some(())
    })
    .await;
    let made = stack
        .with_token(key.sign(&good))
        .create("networks", "net", json!({ "cidr": "10.20.0.0/24" }))
        .await;
    assert_eq!(made.answer.body["resource"]["tenant"], tenant.as_str());
    let in_a_list = with(good.clone(), "aud", json!(["account", AUDIENCE]));
    assert_eq!(
        list(key.sign(&in_a_list)).await.status,
        200,
        "the audience may be one of several"
    );

    let now = chrono::Utc::now().timestamp();
    let mut bad = vec![
        ("expired", key.sign(&with(good.clone(), "exp", json!(now - 300)))),
        ("not yet", key.sign(&with(good.clone(), "nbf", json!(now + 300)))),
        (
            "another audience",
            key.sign(&with(good.clone(), "aud", json!("account"))),
        ),
        (
            "another issuer",
            key.sign(&with(good.clone(), "iss", json!(format!("{}/x", issuer.url())))),
        ),
        (
            "an issuer that nobody knows",
            key.sign(&with(good.clone(), "iss", json!("http://127.0.0.1:1"))),
        ),
        ("unsigned", unsigned(&good)),
        (
            "signed by another key of the same name",
            Key::new("k1").sign(&good),
        ),
        ("signed by a key that isn't published", Key::new("k2").sign(&good)),
        (
            "ES256 that calls itself none",
            key.sign_as(&json!({ "alg": "none", "typ": "JWT", "kid": "k1" }), &good),
        ),
        (
            "ES256 that calls itself RS256",
            key.sign_as(&json!({ "alg": "RS256", "typ": "JWT", "kid": "k1" }), &good),
        ),
        ("no token", "nonsense".to_owned()),
    ];
    for secret in key.public_forms() {
        bad.push(("HS256 with the public key", sign_hs256(&secret, "k1", &good)));
    }
    for claim in ["exp", "aud", "iss"] {
        let mut without = good.clone();
        without.as_object_mut().unwrap().remove(claim);
        bad.push(("a claim is missing", key.sign(&without)));
    }
    let whole = key.sign(&good);
    let (signed, signature) = whole.rsplit_once('.').unwrap();
    let (head, _) = signed.split_once('.').unwrap();
    let other = key.sign(&with(good.clone(), "scope", json!("operator *:*")));
    let other_body = other.split('.').nth(1).unwrap().to_owned();
    bad.push((
        "another body under the signature",
        format!("{head}.{other_body}.{signature}"),
    ));
    bad.push(("no signature", format!("{signed}.")));
    for (what, token) in bad {
        let answer = list(token).await;
        assert_eq!(answer.status, 401, "{what}: {}", answer.text);
        assert!(answer.header("www-authenticate").is_some(), "{what}");
        answer.refused(401);
    }
    Rest::new(&api, None).get("/v1/networks").await.refused(401);
}

#[tokio::test]
async fn keys_rotate_and_unknown_ones_are_not_asked_for_without_end() {
    let stack = Stack::shared();
    let (old, new) = (Key::new("old"), Key::new("new"));
    let (_, issuer) = tenant(&stack, &[&old]).await;
    let api = stack.file().api_url;
    let claims = issuer.claims(AUDIENCE, "*:*");
    let status = |token: String| {
        let rest = Rest::new(&api, Some(token));
        async move { rest.get("/v1/networks").await.status }
    };
    let (status_ref, old_token, new_token) = (&status, &old.sign(&claims), &new.sign(&claims));
    eventually("the tokens to be taken", || async move {
        (status_ref(old_token.clone()).await == 200).then_some(())
    })
    .await;
    issuer.publish(&[&old, &new]);
    eventually("the new key to be found", || async move {
        (status_ref(new_token.clone()).await == 200).then_some(())
    })
    .await;
    let before = issuer.key_requests();
    for n in 0..50 {
        assert_eq!(status(Key::new(&format!("forged-{n}")).sign(&claims)).await, 401);
    }
    let asked = issuer.key_requests() - before;
    assert!(asked < 25, "50 forged key ids made the API ask {asked} times");
}

#[tokio::test]
async fn a_tenants_own_issuer_gives_no_operators() {
    let stack = Stack::shared();
    let key = Key::new("k1");
    let (_, issuer) = tenant(&stack, &[&key]).await;
    let token = key.sign(&issuer.claims(AUDIENCE, "operator *:*"));
    let rest = &stack.with_token(token);
    eventually("the token to be taken", || async move {
        (rest.get("/v1/networks").await.status == 200).then_some(())
    })
    .await;
    let hosts = rest.get("/v1/hosts").await;
    assert!([403, 404].contains(&hosts.status), "{}", hosts.text);
    let others = rest.get("/v1/networks?tenant=demo").await;
    assert!([400, 403, 404].contains(&others.status), "{}", others.text);
}

#[tokio::test]
async fn roles_of_keycloak_are_scopes() {
    let stack = Stack::shared();
    let key = Key::new("k1");
    let (_, issuer) = tenant(&stack, &[&key]).await;
    let mut claims = issuer.claims(AUDIENCE, "openid email");
    claims["realm_access"] = json!({ "roles": ["network:read", "offline_access"] });
    claims["resource_access"] =
        json!({ AUDIENCE: { "roles": ["network:create"] }, "account": { "roles": ["network:delete"] } });
    let rest = &stack.with_token(key.sign(&claims));
    eventually("the token to be taken", || async move {
        (rest.get("/v1/networks").await.status == 200).then_some(())
    })
    .await;
    let made = rest
        .create("networks", "net", json!({ "cidr": "10.20.0.0/24" }))
        .await;
    rest.delete(&format!("/v1/networks/{}", made.id))
        .await
        .refused(403);
}

/// Every scope that the requests below need.
const SCOPES: [&str; 15] = [
    "network:read",
    "network:create",
    "network:update",
    "network:delete",
    "image:read",
    "image:create",
    "image:update",
    "image:delete",
    "instance:read",
    "instance:create",
    "instance:update",
    "instance:delete",
    "instance:start",
    "instance:stop",
    "instance:reboot",
];

#[tokio::test]
async fn each_missing_scope_is_403_and_named() {
    let stack = Stack::shared();
    let all = stack.demo();
    let network = all.network(&unique("net")).await;
    let instance = text(
        &all.make("instances", &unique("guest"), small_instance(&network))
            .await,
        "/id",
    );
    let image = text(&all.all("/v1/images?name=tiny").await[0], "/id");
    for missing in SCOPES {
        let others: Vec<&str> = SCOPES.into_iter().filter(|scope| *scope != missing).collect();
        let rest = stack.scoped(&others.join(" "));
        let (kind, verb) = missing.split_once(':').unwrap();
        let id = match kind {
            "network" => &network,
            "image" => &image,
            _ => &instance,
        };
        let (list, one) = (format!("/v1/{kind}s"), format!("/v1/{kind}s/{id}"));
        let refused = match verb {
            "read" => {
                rest.get(&list).await.refused(403);
                rest.get(&one).await
            }
            "create" => {
                let spec = match kind {
                    "network" => json!({ "cidr": "10.20.0.0/24" }),
                    "image" => json!({ "source": { "url": "https://a.example/x" }, "format": "raw" }),
                    _ => small_instance(&network),
                };
                rest.post(&list, &json!({ "name": unique("x"), "spec": spec }))
                    .await
            }
            "update" => rest.patch(&one, &json!({ "tags": { "a": "b" } })).await,
            "delete" => rest.delete(&one).await,
            action => rest.act(&format!("{one}/{action}")).await,
        };
        let problem = refused.refused(403);
        assert!(
            text(&problem, "/detail").contains(missing),
            "which: {missing}: {problem:#}"
        );
    }
    // And nothing came of it.
    assert_eq!(all.resource("instances", &instance).await["state"], "running");
}

#[tokio::test]
async fn a_scope_may_be_limited_to_a_tag_or_an_id() {
    let stack = Stack::shared();
    let all = stack.demo();
    let mark = unique("e");
    let tagged =
        |name: String, tags: Value| json!({ "name": name, "tags": tags, "spec": { "cidr": "10.20.0.0/24" } });
    let dev = all
        .post("/v1/networks", &tagged(unique("dev"), json!({ "env": mark })))
        .await
        .accepted();
    let prod = all
        .post("/v1/networks", &tagged(unique("prod"), json!({ "env": "prod" })))
        .await
        .accepted();
    all.succeed(&dev.job).await;
    all.succeed(&prod.job).await;
    let (dev, prod) = (
        format!("/v1/networks/{}", dev.id),
        format!("/v1/networks/{}", prod.id),
    );
    let change = json!({ "tags": { "seen": "1" } });

    let update = stack.scoped(&format!("network:read network:update?env={mark}"));
    update.patch(&dev, &change).await.ok();
    update.patch(&prod, &change).await.refused(403);

    let read = stack.scoped(&format!("network:read?env={mark}"));
    read.get(&dev).await.ok();
    let hidden = read.get(&prod).await;
    assert!([403, 404].contains(&hidden.status), "{}", hidden.text);
    let listed = read.all("/v1/networks").await;
    assert_eq!(listed.len(), 1, "a list shows what may be read: {listed:#?}");

    let one = stack.scoped(&format!(
        "network:read network:update?id={}",
        prod.rsplit_once('/').unwrap().1
    ));
    one.patch(&prod, &change).await.ok();
    one.patch(&dev, &change).await.refused(403);

    let create = stack.scoped(&format!("network:create?env={mark}"));
    create
        .post("/v1/networks", &tagged(unique("x"), json!({ "env": "prod" })))
        .await
        .refused(403);
    create
        .post("/v1/networks", &tagged(unique("x"), json!({ "env": mark })))
        .await
        .accepted();
}

#[tokio::test]
async fn another_tenants_resources_are_not_there() {
    let stack = Stack::shared();
    let (demo, other) = (stack.demo(), stack.tenant("other"));
    let network = demo.network(&unique("net")).await;
    let instance = text(
        &demo
            .make("instances", &unique("guest"), small_instance(&network))
            .await,
        "/id",
    );
    for (kinds, id) in [("networks", &network), ("instances", &instance)] {
        let path = format!("/v1/{kinds}/{id}");
        other.get(&path).await.refused(404);
        other
            .patch(&path, &json!({ "tags": { "a": "b" } }))
            .await
            .refused(404);
        other.delete(&path).await.refused(404);
        assert!(
            other
                .all(&format!("/v1/{kinds}"))
                .await
                .iter()
                .all(|item| item["id"] != id.as_str())
        );
    }
    other
        .get(&format!("/v1/networks/{network}/leases"))
        .await
        .refused(404);
    other
        .act(&format!("/v1/instances/{instance}/stop"))
        .await
        .refused(404);
    other
        .get(&format!("/v1/instances/{instance}/console"))
        .await
        .refused(404);
    // Nor can it be referred to.
    let body = json!({ "name": unique("guest"), "spec": small_instance(&network) });
    other.post("/v1/instances", &body).await.refused(422);
    let job = text(&demo.all(&format!("/v1/jobs?target={instance}")).await[0], "/id");
    other.get(&format!("/v1/jobs/{job}")).await.refused(404);
    for action in ["cancel", "retry"] {
        other.act(&format!("/v1/jobs/{job}/{action}")).await.refused(404);
    }
}

#[tokio::test]
async fn operators_see_hosts_and_every_tenant_and_nobody_else_does() {
    let stack = Stack::shared();
    let (demo, operator) = (stack.demo(), stack.operator());
    for path in ["/v1/hosts", "/v1/hosts/sim-1"] {
        let answer = demo.get(path).await;
        assert!([403, 404].contains(&answer.status), "{}", answer.text);
        operator.get(path).await.ok();
    }
    let hosts = operator.all("/v1/hosts").await;
    let names: Vec<&Value> = hosts.iter().map(|host| &host["name"]).collect();
    for host in ["sim-1", "sim-2", "sim-3"] {
        assert!(names.contains(&&json!(host)), "{names:?}");
    }
    operator.get("/v1/hosts/no-such-host").await.refused(404);
    let network = demo.network(&unique("net")).await;
    let seen = operator.all("/v1/networks?tenant=demo").await;
    assert!(seen.iter().any(|item| item["id"] == network.as_str()));
    operator
        .get(&format!("/v1/networks/{network}?tenant=demo"))
        .await
        .ok();
    let answer = demo.get("/v1/networks?tenant=other").await;
    assert!([400, 403, 404].contains(&answer.status), "{}", answer.text);
}
