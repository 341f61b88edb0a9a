//! Watching: every change once, in order, of those that the caller may know of, through every interruption (invariants 10 and 12).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use futures::StreamExt;
use rhyzome_testkit::Stack;
use rhyzome_testkit::events::{Event, Follower, Watch};
use rhyzome_testkit::rest::{Rest, pointers, small_instance, text, unique};
use serde_json::{Value, json};

/// Whether an event tells of a job's end: the document beside it may be of later.
fn is_end_of(job: &str) -> impl FnMut(&Event) -> bool {
    let job = job.to_owned();
    move |event| {
        let state = event.data["state"].as_str().unwrap_or_default();
        event.data["id"] == job.as_str() && ["succeeded", "failed", "cancelled"].contains(&state)
    }
}

fn of<'a>(events: &'a [Event], id: &str) -> Vec<&'a Event> {
    events.iter().filter(|e| e.data["id"] == id).collect()
}

/// The states of a job, each once as it came.
fn states(events: &[Event], job: &str) -> Vec<String> {
    let mut states: Vec<String> = of(events, job).iter().map(|e| text(&e.data, "/state")).collect();
    states.dedup();
    states
}

fn changes(events: &[Event], id: &str) -> Vec<String> {
    of(events, id).iter().map(|e| text(&e.data, "/change")).collect()
}

fn order(event: &Event) -> Vec<u64> {
    event.id.split('-').map(|part| part.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_create_is_seen_from_its_acceptance_until_it_runs_and_its_delete_until_it_is_gone() {
    let rest = Stack::shared().demo();
    let mut watch = Watch::of(&rest, None).await;
    let network = rest
        .create("networks", &unique("net"), json!({ "cidr": "10.20.0.0/24" }))
        .await;
    let instance = rest
        .create("instances", &unique("guest"), small_instance(&network.id))
        .await;
    let seen = watch.until("the instance to run", is_end_of(&instance.job)).await;

    assert!(seen.windows(2).all(|w| order(&w[0]) < order(&w[1])), "{seen:#?}");
    for event in &seen {
        assert_eq!(event.event, event.data["kind"].as_str().unwrap());
        let named = if event.event == "job" { "job" } else { "resource" };
        assert!(event.data.get(named).is_some(), "{event:#?}");
        chrono::DateTime::parse_from_rfc3339(&text(&event.data, "/changed_at")).unwrap();
    }
    assert_eq!(states(&seen, &network.job), ["queued", "succeeded"]);
    assert_eq!(states(&seen, &instance.job), ["queued", "running", "succeeded"]);
    let told = changes(&seen, &instance.job);
    assert_eq!(told[0], "created");
    assert!(told[1..].iter().all(|change| change == "updated"), "{told:?}");
    assert_eq!(changes(&seen, &instance.id)[0], "created");
    // The document is the one that a GET has.
    let last = of(&seen, &instance.job).pop().unwrap().data["job"].clone();
    assert_eq!(last, rest.job(&instance.job).await);

    // The resource comes in the same row, after its job.
    let ready = watch
        .until("the instance itself", |e| {
            e.data["resource"]["state"] == "running" && e.data["id"] == instance.id.as_str()
        })
        .await;
    let shown = &ready.last().unwrap().data["resource"];
    let now = rest.resource("instances", &instance.id).await;
    assert_eq!(
        (&shown["spec"], &shown["name"], &shown["generation"]),
        (&now["spec"], &now["name"], &now["generation"])
    );

    let gone = rest
        .delete(&format!("/v1/instances/{}", instance.id))
        .await
        .accepted();
    let seen = watch
        .until("the instance to be gone", |e| {
            e.data["id"] == instance.id.as_str() && e.data["change"] == "deleted"
        })
        .await;
    assert_eq!(states(&seen, &gone.job), ["queued", "running", "succeeded"]);
    assert_eq!(seen.last().unwrap().data["resource"], Value::Null);
}

#[tokio::test]
async fn who_loses_the_connection_in_a_burst_sees_what_who_keeps_it_sees() {
    const CREATES: usize = 60;
    /// Seen on one connection, then it is dropped.
    const EACH: usize = 7;
    let stack = Stack::shared();
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    let mut whole = Watch::of(&rest, None).await;
    let start = whole.last_id().unwrap().to_owned();
    let url = format!("{}/v1/events", rest.base());
    let mut torn = Follower::new(move || url.clone(), rest.token().unwrap(), Some(&start));
    let (rest, network) = (&rest, &network);
    let burst = async {
        let made: Vec<String> = futures::stream::iter(0..CREATES)
            .map(|n| async move {
                match n % 3 {
                    0 => {
                        rest.create("instances", &unique("guest"), small_instance(network))
                            .await
                            .job
                    }
                    _ => {
                        rest.create("networks", &unique("net"), json!({ "cidr": "10.20.0.0/24" }))
                            .await
                            .job
                    }
                }
            })
            .buffer_unordered(8)
            .collect()
            .await;
        for job in &made {
            rest.succeed(job).await;
        }
        // What ends the reading.
        (
            rest.create("networks", &unique("last"), json!({ "cidr": "10.20.0.0/24" }))
                .await
                .job,
            made,
        )
    };
    let read_torn = async {
        let mut seen: Vec<Event> = Vec::new();
        loop {
            let event = torn.next().await.unwrap();
            let last = event.data["change"] == "created"
                && event.data["job"]["target"]["name"]
                    .as_str()
                    .is_some_and(|n| n.starts_with("last-"));
            seen.push(event);
            if last {
                return seen;
            }
            if seen.len().is_multiple_of(EACH) {
                torn.drop_connection();
            }
        }
    };
    let ((last, made), seen) = tokio::join!(burst, read_torn);
    let kept = whole
        .until("the last create", |e| e.data["id"] == last.as_str())
        .await;
    let told = |events: &[Event]| -> Vec<(String, Value, Value, Value)> {
        events
            .iter()
            .map(|e| {
                (
                    e.id.clone(),
                    e.data["id"].clone(),
                    e.data["change"].clone(),
                    e.data["state"].clone(),
                )
            })
            .collect()
    };
    assert_eq!(told(&seen), told(&kept));
    assert!(torn.connections > CREATES * 4 / EACH, "{torn:?}");
    for job in &made {
        let states = states(&kept, job);
        assert_eq!(changes(&kept, job).iter().filter(|c| *c == "created").count(), 1);
        assert_eq!(
            (states[0].as_str(), states[states.len() - 1].as_str()),
            ("queued", "succeeded"),
            "{states:?}"
        );
    }
    // And who only comes now, with the first id, sees the same again.
    let mut late = Watch::of(rest, Some(&start)).await;
    let again = late
        .until("the last create", |e| e.data["id"] == last.as_str())
        .await;
    assert_eq!(told(&again), told(&kept));
}

#[tokio::test]
async fn tenants_are_apart_and_operators_see_them_all() {
    let stack = Stack::shared();
    let (demo, other, operator) = (stack.demo(), stack.tenant("other"), stack.operator());
    let mut of_other = Watch::of(&other, None).await;
    let mut of_all = Watch::of(&operator, None).await;
    let mut of_one = Watch::at(&operator, "/v1/events?tenant=other", None).await;
    let cidr = || json!({ "cidr": "10.20.0.0/24" });
    let first = demo.create("networks", &unique("net"), cidr()).await;
    demo.succeed(&first.job).await;
    let second = other.create("networks", &unique("net"), cidr()).await;
    for (watch, whole) in [(&mut of_other, false), (&mut of_one, false), (&mut of_all, true)] {
        let seen = watch.until("the other's network", is_end_of(&second.job)).await;
        assert_eq!(!of(&seen, &first.id).is_empty(), whole);
        assert_eq!(!of(&seen, &first.job).is_empty(), whole);
        assert!(
            whole || seen.iter().all(|e| e.data["tenant"] != "demo"),
            "{seen:#?}"
        );
        assert!(seen.iter().any(|e| e.data["tenant"] == "other"));
    }
    assert_eq!(
        Watch::refused(&demo, "/v1/events?tenant=other", None).await.0,
        403
    );
}

#[tokio::test]
async fn a_scope_limited_by_a_tag_sees_what_has_it_to_the_end() {
    let stack = Stack::shared();
    let rest = stack.demo();
    let value = unique("v");
    let tagged = |name: &str, value: &str| json!({ "name": unique(name), "tags": { "env": value }, "spec": { "cidr": "10.20.0.0/24" } });
    let dev = stack.scoped(&format!("network:read?env={value}"));
    let images = stack.scoped("image:read");
    let mut watch = Watch::of(&dev, None).await;
    let start = watch.last_id().unwrap().to_owned();
    let mut blind = Watch::of(&images, None).await;

    let mine = rest
        .post("/v1/networks", &tagged("mine", &value))
        .await
        .accepted();
    let theirs = rest
        .post("/v1/networks", &tagged("theirs", "prod"))
        .await
        .accepted();
    let moved = rest
        .post("/v1/networks", &tagged("moved", &value))
        .await
        .accepted();
    for job in [&mine.job, &theirs.job, &moved.job] {
        rest.succeed(job).await;
    }
    let seen = watch.until("its network", is_end_of(&moved.job)).await;
    assert_eq!(states(&seen, &mine.job), ["queued", "succeeded"]);
    assert!(
        of(&seen, &theirs.id).is_empty() && of(&seen, &theirs.job).is_empty(),
        "{seen:#?}"
    );

    // What has the tag no more isn't told of, not even that it went.
    let patched = rest
        .patch(
            &format!("/v1/networks/{}", moved.id),
            &json!({ "tags": { "env": "prod" } }),
        )
        .await;
    assert_eq!(patched.status, 200, "{}", patched.text);
    rest.remove("networks", &moved.id).await;
    rest.remove("networks", &theirs.id).await;
    let gone = rest.delete(&format!("/v1/networks/{}", mine.id)).await.accepted();
    let is_gone = |e: &Event| e.data["id"] == mine.id.as_str() && e.data["change"] == "deleted";
    let rest_of_it = watch.until("its network to go", is_gone).await;
    assert_eq!(states(&rest_of_it, &gone.job), ["queued", "succeeded"]);
    let patch_alone: Vec<_> = rest_of_it
        .iter()
        .filter(|e| e.data["id"] == moved.id.as_str() && e.data["change"] == "deleted")
        .collect();
    assert!(
        patch_alone.is_empty() && of(&rest_of_it, &theirs.id).is_empty(),
        "{rest_of_it:#?}"
    );

    // Who comes later sees the same of it, though it is gone: judged by the tags that it had last.
    let again = Watch::of(&dev, Some(&start))
        .await
        .until("its network to go", is_gone)
        .await;
    for id in [&mine.id, &mine.job, &gone.job] {
        let told = |events: &[Event]| of(events, id).iter().map(|e| e.id.clone()).collect::<Vec<_>>();
        let live: Vec<Event> = seen.iter().chain(&rest_of_it).cloned().collect();
        assert_eq!(told(&again), told(&live));
    }
    // Who reads images sees those, the operators' public ones too, and nothing of networks.
    let image = json!({ "name": unique("image"), "spec": { "source": { "url": "https://images.example.org/a.qcow2" }, "format": "qcow2",
                        "visibility": "public" } });
    let operators = stack.with_token(stack.token(&["--operator", "--scope", "operator image:create"]));
    let public = operators.post("/v1/images", &image).await.accepted();
    let seen = blind
        .until("a public image", |e| e.data["id"] == public.id.as_str())
        .await;
    let of_image = |e: &Event| {
        e.event == "image" || (e.data["job"]["target"]["kind"] == "image" && e.data["tenant"] == "demo")
    };
    assert!(seen.iter().all(of_image), "{seen:#?}");
    assert_eq!(seen.last().unwrap().data["tenant"], "system");
}

#[tokio::test]
async fn what_is_asked_for_wrongly_is_refused() {
    let stack = Stack::shared();
    let rest = stack.demo();
    for bad in ["x", "1-2", "1-2-3-4", "-1-2-3"] {
        let (status, problem) = Watch::refused(&rest, "/v1/events", Some(bad)).await;
        assert_eq!(
            (status, problem["code"].as_str()),
            (400, Some("INVALID_REQUEST")),
            "{bad}"
        );
        assert!(text(&problem, "/detail").contains("Last-Event-ID"), "{problem:#}");
    }
    let (status, problem) = Watch::refused(&rest, "/v1/events?kinds=job", None).await;
    assert_eq!((status, pointers(&problem)), (400, vec!["?kinds".to_owned()]));
    // An id of a time that has not come here.
    let (status, problem) = Watch::refused(&rest, "/v1/events", Some("18446744073709551615-1-0")).await;
    assert_eq!((status, problem["code"].as_str()), (410, Some("EVENTS_GONE")));
    assert_eq!(
        Watch::refused(&stack.scoped("network:create"), "/v1/events", None)
            .await
            .0,
        403
    );
    assert_eq!(
        Watch::refused(&Rest::new(rest.base(), None), "/v1/events", None)
            .await
            .0,
        401
    );
}
