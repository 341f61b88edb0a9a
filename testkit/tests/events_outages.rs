//! Watching goes on where it was when something ends it: the token, the API, NATS, a limit, or time (invariants 10 and 11).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use nix::sys::signal::Signal;
use rhyzome_testkit::events::{Event, Follower, NotOpen, Watch};
use rhyzome_testkit::logs;
use rhyzome_testkit::processes::{Paused, send};
use rhyzome_testkit::rest::{text, unique};
use rhyzome_testkit::tokens::{Issuer, Key};
use rhyzome_testkit::{Options, Stack, eventually};
use serde_json::{Value, json};
use sqlx::Connection;

/// Whether an event tells of a job's end: the document beside it may be of later.
fn is_end_of(job: &str) -> impl FnMut(&Event) -> bool {
    let job = job.to_owned();
    move |event| {
        let state = event.data["state"].as_str().unwrap_or_default();
        event.data["id"] == job.as_str() && ["succeeded", "failed", "cancelled"].contains(&state)
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    /// As configured by default.
    const LEEWAY_S: i64 = 30;
    let stack = Stack::shared();
    let key = Key::new("k1");
    let issuer = Issuer::start(&[&key]).await;
    let tenant = unique("t").replace('-', "");
    stack.add_tenant(&tenant, issuer.url(), "acme-api");
    let mut claims = issuer.claims("acme-api", "*:*");
    let (key, good, stack) = (&key, stack.with_token(key.sign(&claims)), &stack);
    let good = &good;
    eventually("the new tenant's tokens to be taken", || async move {
        (good.get("/v1/networks").await.status == 200).then_some(())
    })
    .await;
    claims["exp"] = json!(chrono::Utc::now().timestamp() - LEEWAY_S + 4);
    let mut watch = Watch::of(&stack.with_token(key.sign(&claims)), None).await;
    let made = good
        .create("networks", &unique("net"), json!({ "cidr": "10.20.0.0/24" }))
        .await;
    let seen = watch.until("the end", |e| e.event == "end").await;
    assert_eq!(seen.last().unwrap().data["reason"], "token_expired");
    assert!(
        seen.iter()
            .any(|e| e.data["id"] == made.id.as_str() && e.data["change"] == "created"),
        "{seen:#?}"
    );
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn outages_limits_and_what_is_kept() {
    let stack = Stack::start(
        Options::simulated(1)
            .set("api.event_streams_per_tenant", "3")
            .expecting(logs::OUTAGE),
    );
    let rest = stack.demo();
    let cidr = || json!({ "cidr": "10.20.0.0/24" });
    let start = Watch::of(&rest, None).await.last_id().unwrap().to_owned();
    let (data, token) = (stack.data(), rest.token().unwrap().to_owned());
    // Where the API is now: it gets another port when it comes back.
    let url = move || {
        let file = std::fs::read_to_string(data.join("stack.json")).unwrap();
        let file: Value = serde_json::from_str(&file).unwrap();
        format!("{}/v1/events", text(&file, "/api_url"))
    };
    let mut follower = Follower::new(url, &token, Some(&start));
    let mut seen: Vec<Event> = Vec::new();

    // Without NATS nobody says when to look; the poll does.
    let nats = Paused::new(stack.process("nats").pid);
    let while_stopped = rest.create("networks", "while-stopped", cidr()).await;
    until(&mut follower, &mut seen, &while_stopped.job).await;
    drop(nats);

    // The API ends properly: the stream says so; and then it is killed.
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let api = stack.process("api");
        let mut watch = Watch::of(&stack.demo(), None).await;
        send(api.pid, signal);
        if signal == Signal::SIGTERM {
            let seen = watch.until("the end", |e| e.event == "end").await;
            assert_eq!(seen.last().unwrap().data["reason"], "shutting_down");
        }
        assert_eq!(watch.next().await, None);
        stack.wait_restarted(&api);
        let rest = eventually("the API to serve again", || async {
            let rest = stack.demo();
            let url = format!("{}/readyz", rest.base());
            (reqwest::get(url).await.ok()?.status() == 200).then_some(rest)
        })
        .await;
        let made = rest
            .create("networks", &format!("after-{}", signal as i32), cidr())
            .await;
        until(&mut follower, &mut seen, &made.job).await;
    }
    assert!(follower.connections >= 3, "{follower:?}");
    let rest = stack.demo();
    let all = Watch::of(&rest, Some(&start))
        .await
        .until("all", |e| e.id == seen[seen.len() - 1].id)
        .await;
    let ids = |events: &[Event]| events.iter().map(|e| e.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&seen), ids(&all));

    // A tenant has so many streams at a server, and one that ends makes room.
    follower.drop_connection();
    let mut open = Vec::new();
    let (status, problem) = loop {
        match Watch::open(&format!("{}/v1/events", rest.base()), rest.token(), None).await {
            Ok(watch) => open.push(watch),
            Err(NotOpen::Refused { status, problem }) => break (status, problem),
            Err(error) => panic!("{error:?}"),
        }
    };
    assert_eq!(
        (status, problem["code"].as_str()),
        (429, Some("TOO_MANY_STREAMS"))
    );
    assert!((1..=3).contains(&open.len()), "{}", open.len());
    drop(Watch::of(&stack.tenant("other"), None).await);
    drop(open);
    let rest = &rest;
    eventually("room for a stream", || async move {
        Watch::open(&format!("{}/v1/events", rest.base()), rest.token(), None)
            .await
            .ok()
    })
    .await;

    // What is forgotten is gone for who was before it, and for nobody else.
    let mut db = sqlx::PgConnection::connect(&stack.file().postgres.url)
        .await
        .unwrap();
    let begun = start.split('-').next().unwrap();
    sqlx::query(
        "UPDATE changes_forgotten SET (xid, seq) = (SELECT xid, seq FROM changes WHERE xid > $1::text::xid8 ORDER BY xid, seq LIMIT 1)",
    )
    .bind(begun)
    .execute(&mut db)
    .await
    .unwrap();
    let (status, problem) = Watch::refused(rest, "/v1/events", Some(&start)).await;
    assert_eq!((status, problem["code"].as_str()), (410, Some("EVENTS_GONE")));
    let after = seen[seen.len() - 2].id.clone();
    let mut watch = Watch::of(rest, Some(&after)).await;
    assert_eq!(
        watch.next().await.map(|e| e.id),
        Some(seen[seen.len() - 1].id.clone())
    );
}

/// Reads on until a job's end was told.
async fn until(follower: &mut Follower, seen: &mut Vec<Event>, job: &str) {
    let mut is_last = is_end_of(job);
    loop {
        let event = tokio::time::timeout(rhyzome_testkit::PATIENCE, follower.next())
            .await
            .expect("the job's end in time")
            .unwrap();
        let last = is_last(&event);
        seen.push(event);
        if last {
            return;
        }
    }
}
