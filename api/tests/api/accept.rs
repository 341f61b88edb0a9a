//! Accept and read, on a real Postgres. No scheduler runs here: jobs stay where acceptance left them, or a test writes what settle would.

use crate::common::Answer;
use crate::world::{World, instance, is, network, refused, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[tokio::test]
async fn a_create_is_accepted_and_can_be_read_at_once() {
    let w = World::new().await;
    let made = w.post("/v1/networks", network("lan")).await;
    assert_eq!(made.status, 202, "{}", made.body);
    let job = text(&made.body["job"]["id"]);
    assert_eq!(made.headers["location"], format!("/v1/jobs/{job}"));
    assert_eq!(made.body["job"]["kind"], "network.create");
    assert_eq!(made.body["job"]["actor"], "ada");
    let id = text(&made.body["resource"]["id"]);
    let read = w.get(&format!("/v1/networks/{id}")).await;
    assert_eq!(read.status, 200);
    assert_eq!(read.body, made.body["resource"]);
    assert_eq!(
        (&read.body["state"], &read.body["active_job"]),
        (&json!("creating"), &json!(job))
    );
    assert_eq!(read.body["tenant"], "demo");
    assert!(read.headers["etag"].to_str().unwrap().starts_with('"'));
    let shown = w.get(&format!("/v1/jobs/{job}")).await;
    assert_eq!((shown.status.as_u16(), &shown.body["done"]), (200, &json!(false)));
    assert_eq!(shown.headers["retry-after"], "1");
    assert_eq!(shown.body["trace_id"].as_str().unwrap().len(), 32);
}

#[tokio::test]
async fn all_faults_at_once_and_by_their_kind() {
    let w = World::new().await;
    let answer = w
        .post(
            "/v1/networks",
            json!({"name": "A", "x": 1, "spec": {"cidr": "10.0.0.0/99", "dns": 7}}),
        )
        .await;
    assert_eq!(refused(&answer), is(400, "INVALID_REQUEST"));
    let pointers: BTreeSet<&str> = answer.body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["pointer"].as_str().unwrap())
        .collect();
    assert_eq!(
        pointers,
        BTreeSet::from(["/name", "/x", "/spec/cidr", "/spec/dns"])
    );
    let answer = w
        .post(
            "/v1/networks",
            json!({"name": "a", "spec": {"cidr": "10.0.0.0/24", "gateway": "10.9.0.1"}}),
        )
        .await;
    assert_eq!(refused(&answer), is(422, "VALIDATION_FAILED"));
    assert_eq!(answer.body["errors"][0]["pointer"], "/spec/gateway");
    let answer = w.post("/v1/networks?dryrun=true", network("a")).await;
    assert_eq!(
        (refused(&answer), &answer.body["errors"][0]["pointer"]),
        (is(400, "INVALID_REQUEST"), &json!("?dryrun"))
    );
    let list = w.get("/v1/networks").await;
    assert_eq!(list.body, json!({"items": [], "next_page_token": null}));
}

#[tokio::test]
async fn names_references_and_addresses_are_judged() {
    let w = World::new().await;
    let lan = w.network("lan").await;
    let taken = w.post("/v1/networks", network("lan")).await;
    assert_eq!(
        (refused(&taken), &taken.body["conflicts"][0]["id"]),
        (is(409, "NAME_TAKEN"), &json!(lan))
    );
    let nothing = w.post("/v1/instances", instance("a", "lan")).await;
    assert_eq!(
        (refused(&nothing), &nothing.body["errors"][0]["pointer"]),
        (is(422, "REFERENCE_NOT_FOUND"), &json!("/spec/image"))
    );
    w.image().await;
    let one = w.post("/v1/instances", instance("one", "lan")).await;
    assert_eq!(one.status, 202, "{}", one.body);
    assert_eq!(
        one.body["resource"]["spec"]["interfaces"][0]["network"],
        json!(lan)
    );
    let address = text(&one.body["resource"]["status"]["addresses"][0]);
    assert!(
        address.starts_with("10.20.0.") && address != "10.20.0.1",
        "{address}"
    );
    let mut same = instance("two", "lan");
    same["spec"]["interfaces"][0]["ip"] = json!(address);
    let taken = w.post("/v1/instances", same.clone()).await;
    assert_eq!(
        (refused(&taken), &taken.body["errors"][0]["pointer"]),
        (is(409, "ADDRESS_TAKEN"), &json!("/spec/interfaces/0/ip"))
    );
    for (ip, code) in [
        ("10.20.1.5", "ADDRESS_OUTSIDE_NETWORK"),
        ("10.20.0.1", "ADDRESS_IS_GATEWAY"),
    ] {
        same["spec"]["interfaces"][0]["ip"] = json!(ip);
        let answer = w.post("/v1/instances", same.clone()).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["errors"][0]["code"]),
            (422, &json!(code))
        );
    }
    // A /29 has five addresses for guests.
    for n in 2..=5 {
        let answer = w.post("/v1/instances", instance(&format!("i{n}"), "lan")).await;
        assert_eq!(answer.status, 202, "{n}: {}", answer.body);
    }
    assert_eq!(
        refused(&w.post("/v1/instances", instance("i6", "lan")).await),
        is(409, "RANGE_USED_UP")
    );
    let leases = w.get(&format!("/v1/networks/{lan}/leases?limit=3")).await;
    assert_eq!(leases.body["items"].as_array().unwrap().len(), 3);
    assert_eq!(leases.body["items"][0]["automatic"], true);
    let next = text(&leases.body["next_page_token"]);
    let rest = w
        .get(&format!("/v1/networks/{lan}/leases?limit=3&page_token={next}"))
        .await;
    assert_eq!(
        (
            rest.body["items"].as_array().unwrap().len(),
            &rest.body["next_page_token"]
        ),
        (2, &Value::Null)
    );
}

#[tokio::test]
async fn two_hundred_at_once_each_get_their_own() {
    let w = World::new().await;
    let bodies = (0..200).map(|n| {
        // Every tenth has a name that is taken by the one before, every eleventh a fault.
        let name = if n % 10 == 9 {
            format!("n{}", n - 1)
        } else {
            format!("n{n}")
        };
        let cidr = if n % 11 == 10 {
            "10.0.0.0/24x"
        } else {
            "10.0.0.0/24"
        };
        json!({"name": name, "spec": {"cidr": cidr}})
    });
    let answers = futures::future::join_all(bodies.map(|b| w.post("/v1/networks", b))).await;
    let count = |status: u16| answers.iter().filter(|a| a.status == status).count();
    assert_eq!((count(202) + count(409) + count(400), count(400)), (200, 18));
    let jobs: BTreeSet<String> = answers
        .iter()
        .filter(|a| a.status == 202)
        .map(|a| text(&a.body["job"]["id"]))
        .collect();
    assert_eq!(jobs.len(), count(202));
    let mut seen = 0;
    let mut path = "/v1/networks?limit=50".to_owned();
    loop {
        let page = w.get(&path).await;
        seen += page.body["items"].as_array().unwrap().len();
        match page.body["next_page_token"].as_str() {
            Some(token) => path = format!("/v1/networks?limit=50&page_token={token}"),
            None => break,
        }
    }
    assert_eq!(seen, count(202));
}

#[tokio::test]
async fn an_idempotency_key_is_one_effect() {
    let w = World::new().await;
    let send = |body: Value| {
        let w = &w;
        async move {
            w.api
                .call_with(
                    &w.token,
                    "POST",
                    "/v1/networks",
                    Some(body),
                    &[("idempotency-key", "k-1")],
                )
                .await
        }
    };
    let answers = futures::future::join_all((0..20).map(|_| send(network("lan")))).await;
    let ids: BTreeSet<String> = answers.iter().map(|a| text(&a.body["job"]["id"])).collect();
    assert!(
        answers.iter().all(|a| a.status == 202) && ids.len() == 1,
        "{ids:?}"
    );
    // Equal as JSON, written differently.
    let raw = "{ \"spec\" : {\"cidr\":\"10.20.0.0/29\"}, \"tags\": {\"env\":\"dev\"}, \"name\":\"lan\" }";
    assert_eq!(
        text(&send(serde_json::from_str(raw).unwrap()).await.body["job"]["id"]),
        *ids.first().unwrap()
    );
    assert_eq!(
        refused(&send(network("wan")).await),
        is(422, "IDEMPOTENCY_KEY_REUSED")
    );
    let other = w.other.token("*:*");
    let answer = w
        .api
        .call_with(
            &other,
            "POST",
            "/v1/networks",
            Some(network("lan")),
            &[("idempotency-key", "k-1")],
        )
        .await;
    assert_eq!(answer.status, 202, "keys are a tenant's own");
    // Refusals are not kept.
    let again = |body: Value| {
        let w = &w;
        async move {
            w.api
                .call_with(
                    &w.token,
                    "POST",
                    "/v1/networks",
                    Some(body),
                    &[("idempotency-key", "k-2")],
                )
                .await
        }
    };
    assert_eq!(again(network("lan")).await.status, 409);
    assert_eq!(again(network("wan")).await.status, 202);
}

#[tokio::test]
async fn patch_by_generation_and_tags_without_a_job() {
    let w = World::new().await;
    let id = w.network("lan").await;
    w.all_done().await;
    let path = format!("/v1/networks/{id}");
    let etag = w.get(&path).await.headers["etag"].to_str().unwrap().to_owned();
    let patch = |body: Value, tag: String| {
        let (w, path) = (&w, &path);
        async move {
            w.api
                .call_with(&w.token, "PATCH", path, Some(body), &[("if-match", &tag)])
                .await
        }
    };
    let tagged = patch(json!({"tags": {"env": null, "a": "b"}}), etag.clone()).await;
    assert_eq!(
        (tagged.status.as_u16(), &tagged.body["job"]),
        (200, &Value::Null),
        "{}",
        tagged.body
    );
    assert_eq!(tagged.body["resource"]["tags"], json!({"a": "b"}));
    assert_eq!(
        (
            &tagged.body["resource"]["generation"],
            &tagged.body["resource"]["observed_generation"]
        ),
        (&json!(2), &json!(2))
    );
    assert_eq!(
        refused(&patch(json!({"tags": {"x": "y"}}), etag).await),
        is(412, "PRECONDITION_FAILED")
    );
    let same = patch(json!({"tags": {"a": "b"}}), "*".to_owned()).await;
    assert_eq!(
        (same.status.as_u16(), &same.body["resource"]["generation"]),
        (200, &json!(2))
    );
    let changed = patch(json!({"spec": {"dns": ["10.20.0.2"]}}), "*".to_owned()).await;
    assert_eq!(
        (changed.status.as_u16(), &changed.body["job"]["kind"]),
        (202, &json!("network.update"))
    );
    assert_eq!(changed.body["resource"]["state"], "updating");
    let fixed = patch(json!({"spec": {"cidr": "10.21.0.0/24"}}), "*".to_owned()).await;
    assert_eq!(
        (fixed.status.as_u16(), &fixed.body["errors"][0]["code"]),
        (422, &json!("IMMUTABLE"))
    );
    assert_eq!(patch(json!({"state": "ready"}), "*".to_owned()).await.status, 400);
    let renames = futures::future::join_all(
        (0..8).map(|n| patch(json!({"tags": {format!("t{n}"): "1"}}), "*".to_owned())),
    )
    .await;
    assert!(
        renames.iter().all(|a| a.status == 200),
        "patches at the same time are made anew, none is lost"
    );
    let tags = w.get(&path).await.body["tags"].as_object().unwrap().len();
    assert_eq!(tags, 9);
}

#[tokio::test]
async fn delete_in_every_state() {
    let w = World::new().await;
    w.image().await;
    let lan = w.network("lan").await;
    let one = text(&w.post("/v1/instances", instance("one", "lan")).await.body["resource"]["id"]);
    let needed = w.call("DELETE", &format!("/v1/networks/{lan}"), None).await;
    assert_eq!(
        (refused(&needed), &needed.body["conflicts"][0]["name"]),
        (is(409, "HAS_DEPENDANTS"), &json!("one"))
    );
    let gone = w.call("DELETE", &format!("/v1/instances/{one}"), None).await;
    assert_eq!(
        (gone.status.as_u16(), &gone.body["resource"]["state"]),
        (202, &json!("deleting"))
    );
    assert_eq!(gone.body["job"]["kind"], "instance.delete");
    let again = w.call("DELETE", &format!("/v1/instances/{one}"), None).await;
    assert_eq!(
        (again.status.as_u16(), &again.body["job"]["id"]),
        (202, &gone.body["job"]["id"])
    );
    let change = w
        .call(
            "PATCH",
            &format!("/v1/instances/{one}"),
            Some(json!({"tags": {"a": "b"}})),
        )
        .await;
    assert_eq!(refused(&change), is(409, "DELETING"));
    assert_eq!(
        refused(&w.call("POST", &format!("/v1/instances/{one}/stop"), None).await),
        is(409, "DELETING")
    );
    // A dependant that is being deleted itself doesn't refuse it.
    assert_eq!(
        w.call("DELETE", &format!("/v1/networks/{lan}"), None)
            .await
            .status,
        202
    );
}

#[tokio::test]
async fn power_actions() {
    let w = World::new().await;
    w.image().await;
    w.network("lan").await;
    let id = text(&w.post("/v1/instances", instance("one", "lan")).await.body["resource"]["id"]);
    w.all_done().await;
    let read = w.get(&format!("/v1/instances/{id}")).await;
    assert_eq!(
        (&read.body["state"], &read.body["reason"]),
        (&json!("running"), &Value::Null)
    );
    let stop = w.call("POST", &format!("/v1/instances/{id}/stop"), None).await;
    assert_eq!(
        (stop.status.as_u16(), &stop.body["resource"]["spec"]["power"]),
        (202, &json!("off")),
        "{}",
        stop.body
    );
    assert_eq!(
        (
            &stop.body["resource"]["state"],
            &stop.body["job"]["steps"][0]["name"]
        ),
        (&json!("stopping"), &json!("set_power"))
    );
    w.all_done().await;
    let again = w.call("POST", &format!("/v1/instances/{id}/stop"), None).await;
    assert_eq!(
        (again.status.as_u16(), &again.body["job"]["steps"]),
        (202, &json!([]))
    );
    assert_eq!(
        w.call("POST", &format!("/v1/instances/{id}/reboot?dry_run=true"), None)
            .await
            .status,
        200
    );
    assert_eq!(
        w.call("POST", &format!("/v1/instances/{id}/explode"), None)
            .await
            .status,
        404
    );
    let body = Some(json!({"force": true}));
    assert_eq!(
        w.call("POST", &format!("/v1/instances/{id}/start"), body)
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn jobs_are_cancelled_retried_listed_and_waited_for() {
    let w = World::new().await;
    let made = w.post("/v1/networks", network("lan")).await;
    let (id, job) = (text(&made.body["resource"]["id"]), text(&made.body["job"]["id"]));
    let cancelled = w.call("POST", &format!("/v1/jobs/{job}/cancel"), None).await;
    assert_eq!(
        (cancelled.status.as_u16(), &cancelled.body["job"]["state"]),
        (202, &json!("cancelled")),
        "{}",
        cancelled.body
    );
    assert_eq!(
        refused(&w.call("POST", &format!("/v1/jobs/{job}/cancel"), None).await),
        is(409, "JOB_DONE")
    );
    let read = w.get(&format!("/v1/networks/{id}")).await;
    assert_eq!(
        (&read.body["state"], &read.body["reason"]["job"]),
        (&json!("failed"), &json!(job))
    );
    let change = w
        .call(
            "PATCH",
            &format!("/v1/networks/{id}"),
            Some(json!({"tags": {"a": "b"}})),
        )
        .await;
    assert_eq!(refused(&change), is(409, "RESOURCE_FAILED"));
    let retry = w.call("POST", &format!("/v1/jobs/{job}/retry"), None).await;
    assert_eq!(
        (retry.status.as_u16(), &retry.body["job"]["retry_of"]),
        (202, &json!(job)),
        "{}",
        retry.body
    );
    let newer = text(&retry.body["job"]["id"]);
    assert_eq!(
        refused(&w.call("POST", &format!("/v1/jobs/{job}/retry"), None).await),
        is(409, "NOT_RETRYABLE")
    );
    let list = w.get(&format!("/v1/jobs?target={id}&state=queued")).await;
    assert_eq!(
        (
            list.body["items"].as_array().unwrap().len(),
            &list.body["items"][0]["id"]
        ),
        (1, &json!(newer))
    );
    assert_eq!(w.get("/v1/jobs?state=blocked").await.status, 400);

    let wait_path = format!("/v1/jobs/{newer}?wait=30");
    let waiting = w.get(&wait_path);
    let end = async {
        w.all_done().await;
        w.api.app.jobs.heard(newer.parse().unwrap());
    };
    let (waited, ()) = tokio::join!(waiting, end);
    assert_eq!(
        (&waited.body["state"], &waited.body["done"]),
        (&json!("succeeded"), &json!(true))
    );
    assert!(!waited.headers.contains_key("retry-after"));
    assert_eq!(w.get(&format!("/v1/jobs/{newer}?wait=61")).await.status, 400);
}

#[tokio::test]
async fn tenants_are_apart_and_scopes_hold() {
    let w = World::new().await;
    let made = w.post("/v1/networks", network("lan")).await;
    let (id, job) = (text(&made.body["resource"]["id"]), text(&made.body["job"]["id"]));
    let stranger = w.other.token("*:*");
    let body = || Some(json!({"tags": {"a": "b"}}));
    let one = format!("/v1/networks/{id}");
    for (method, path, body) in [
        ("GET", one.clone(), None),
        ("PATCH", one.clone(), body()),
        ("DELETE", one.clone(), None),
        ("GET", format!("{one}/leases"), None),
        ("GET", format!("/v1/jobs/{job}"), None),
        ("POST", format!("/v1/jobs/{job}/cancel"), None),
        ("POST", format!("/v1/jobs/{job}/retry"), None),
    ] {
        let answer = w.api.call(&stranger, method, &path, body).await;
        assert_eq!(refused(&answer), is(404, "NOT_FOUND"), "{method} {path}");
    }
    assert_eq!(
        w.api.call(&stranger, "GET", "/v1/networks", None).await.body["items"],
        json!([])
    );
    assert_eq!(
        w.api.call(&stranger, "GET", "/v1/jobs", None).await.body["items"],
        json!([])
    );
    assert_eq!(
        w.api
            .call(&stranger, "POST", "/v1/networks", Some(network("lan")))
            .await
            .status,
        202
    );

    // scopes, method, path, status
    let table = [
        ("network:read", "PATCH", one.clone(), 403),
        ("network:read", "GET", format!("/v1/jobs/{job}"), 200),
        ("job:read", "GET", format!("/v1/jobs/{job}"), 200),
        ("image:*", "GET", format!("/v1/jobs/{job}"), 403),
        ("network:read", "POST", format!("/v1/jobs/{job}/cancel"), 403),
        ("network:read", "POST", format!("/v1/jobs/{job}/retry"), 403),
        ("network:read?env=prod", "GET", one.clone(), 404),
        ("network:read?env=dev", "GET", one.clone(), 200),
        ("network:read?env=prod", "GET", format!("/v1/jobs/{job}"), 404),
        ("network:read network:update?env=prod", "PATCH", one.clone(), 403),
        ("network:update?env=dev", "PATCH", one.clone(), 200),
    ];
    for (scope, method, path, status) in table {
        let answer = w
            .api
            .call(
                &w.demo.token(scope),
                method,
                &path,
                (method == "PATCH").then(|| json!({"tags": {"a": "b"}})),
            )
            .await;
        assert_eq!(answer.status, status, "{scope}: {method} {path}: {}", answer.body);
    }
    let away = w
        .api
        .call(
            &w.demo.token("network:update?env=dev"),
            "PATCH",
            &one,
            Some(json!({"tags": {"env": "prod"}})),
        )
        .await;
    assert_eq!(away.status, 403, "a tag that the scope hangs on was given away");
    let limited = w.demo.token("network:create?env=prod");
    assert_eq!(
        w.api
            .call(&limited, "POST", "/v1/networks", Some(network("x")))
            .await
            .status,
        403
    );
    let list = w
        .api
        .call(
            &w.demo.token("network:read?env=prod"),
            "GET",
            "/v1/networks",
            None,
        )
        .await;
    assert_eq!(list.body["items"], json!([]));

    let operator = w.operators.token("operator");
    assert_eq!(w.api.call(&operator, "GET", &one, None).await.status, 200);
    let of_demo = w
        .api
        .call(&operator, "GET", "/v1/networks?tenant=demo", None)
        .await;
    assert_eq!(
        (
            of_demo.body["items"].as_array().unwrap().len(),
            &of_demo.body["items"][0]["id"]
        ),
        (1, &json!(id))
    );
    assert_eq!(w.api.call(&operator, "DELETE", &one, None).await.status, 403);
}

#[tokio::test]
async fn public_images_are_seen_and_not_touched() {
    let w = World::new().await;
    let id = w.image().await;
    let path = format!("/v1/images/{id}");
    assert_eq!(w.get(&path).await.body["tenant"], "system");
    assert_eq!(
        w.get("/v1/images?name=tiny").await.body["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(w.call("DELETE", &path, None).await.status, 403);
    for source in [json!({"file": "x"}), json!({"url": "https://example.org/x"})] {
        let public =
            json!({"name": "mine", "spec": {"source": source, "format": "raw", "visibility": "public"}});
        assert_eq!(
            refused(&w.post("/v1/images", public).await),
            is(403, "SCOPE_MISSING")
        );
    }
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let w = World::new().await;
    w.image().await;
    w.network("lan").await;
    let dry = w.post("/v1/instances?dry_run=true", instance("one", "lan")).await;
    assert_eq!(dry.status, 200, "{}", dry.body);
    assert_eq!(
        dry.body["placement"],
        json!({"fits": false, "hosts": {"total": 0, "excluded": {}}, "fits_with": null})
    );
    assert_eq!(
        (dry.body["steps"].as_array().unwrap().len(), &dry.body["price"]),
        (5, &Value::Null)
    );
    assert_eq!(w.get("/v1/instances").await.body["items"], json!([]));
    assert_eq!(
        refused(&w.post("/v1/networks?dry_run=true", network("lan")).await),
        is(409, "NAME_TAKEN")
    );
    assert_eq!(
        w.post("/v1/instances", instance("one", "lan")).await.status,
        202,
        "its address was not kept"
    );
}

#[tokio::test]
async fn lists_by_tag_state_name_and_page() {
    let w = World::new().await;
    for n in 0..5 {
        let body = json!({"name": format!("n{n}"), "tags": {"n": n.to_string(), "all": "yes"}, "spec": {"cidr": "10.0.0.0/24"}});
        assert_eq!(w.post("/v1/networks", body).await.status, 202);
    }
    w.all_done().await;
    w.network("late").await;
    let names = |answer: &Answer| -> Vec<String> {
        answer.body["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| text(&i["name"]))
            .collect()
    };
    assert_eq!(names(&w.get("/v1/networks?tag=all:yes&tag=n:3").await), ["n3"]);
    assert_eq!(names(&w.get("/v1/networks?state=creating").await), ["late"]);
    assert_eq!(names(&w.get("/v1/networks?name=n1").await), ["n1"]);
    let first = w.get("/v1/networks?state=ready&limit=3").await;
    assert_eq!(names(&first), ["n0", "n1", "n2"]);
    let token = text(&first.body["next_page_token"]);
    let rest = w
        .get(&format!("/v1/networks?state=ready&limit=3&page_token={token}"))
        .await;
    assert_eq!(
        (names(&rest), &rest.body["next_page_token"]),
        (vec!["n3".to_owned(), "n4".to_owned()], &Value::Null)
    );
    for bad in ["state=blue", "limit=0", "tag=x", "page_token=!", "foo=1"] {
        assert_eq!(w.get(&format!("/v1/networks?{bad}")).await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn prefer_wait_answers_when_the_job_ends() {
    let w = World::new().await;
    let headers = [("prefer", "wait=30")];
    let create = w
        .api
        .call_with(&w.token, "POST", "/v1/networks", Some(network("lan")), &headers);
    let end = async {
        loop {
            let jobs = w.get("/v1/jobs").await;
            if let Some(job) = jobs.body["items"][0]["id"].as_str() {
                w.all_done().await;
                w.api.app.jobs.heard(job.parse().unwrap());
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let (answer, ()) = tokio::join!(create, end);
    assert_eq!(
        (answer.status.as_u16(), &answer.body["job"]["done"]),
        (202, &json!(true))
    );
    assert_eq!(answer.body["resource"]["state"], "ready");
}

#[tokio::test]
async fn an_instance_is_no_smaller_than_its_image_needs() {
    let w = World::new().await;
    let image = w.image().await;
    w.network("lan").await;
    let facts = r#"{"sha256": "00", "size_bytes": 1, "virtual_size_bytes": 3221225472}"#;
    w.database
        .execute(&format!(
            "UPDATE resources SET facts = '{facts}' WHERE id = '{image}'"
        ))
        .await;
    let mut small = instance("one", "lan");
    small["spec"]["root_disk_gib"] = json!(2);
    let answer = w.post("/v1/instances", small).await;
    assert_eq!(refused(&answer), is(422, "VALIDATION_FAILED"));
    assert_eq!(answer.body["errors"][0]["pointer"], "/spec/root_disk_gib");
    assert_eq!(w.post("/v1/instances", instance("one", "lan")).await.status, 202);
}

#[tokio::test]
async fn a_networks_status_is_the_same_in_a_list() {
    let w = World::new().await;
    let id = w.network("lan").await;
    w.database
        .execute(&format!(
            "INSERT INTO hosts (name, address) VALUES ('host-1', '127.0.0.1:1');
             INSERT INTO network_homes (network_id, host, facts)
             VALUES ('{id}', 'host-1', '{{\"namespace\": \"rz-1\", \"networking\": \"bridge\"}}')"
        ))
        .await;
    let operator = w.operators.token("operator");
    let one = w
        .api
        .call(&operator, "GET", &format!("/v1/networks/{id}"), None)
        .await;
    assert_eq!(
        one.body["status"],
        json!({"host": "host-1", "namespace": "rz-1", "networking": "bridge"})
    );
    let list = w
        .api
        .call(&operator, "GET", "/v1/networks?tenant=demo", None)
        .await;
    assert_eq!(list.body["items"][0]["status"], one.body["status"]);
    assert_eq!(
        w.get("/v1/networks").await.body["items"][0]["status"],
        json!({"networking": "bridge"})
    );
}
