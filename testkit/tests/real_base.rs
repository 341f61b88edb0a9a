//! An image's file that a host lost while disks stand on it: who starts a guest is told at once, and a repair fetches it again from where the
//! image came. With a real guest, as root and with the image `tiny`; `RHYZOME_SKIP_REAL` leaves it out.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::rest::{small_instance, text};
use rhyzome_testkit::{LocalHost, Options, Stack, eventually, tools};
use serde_json::json;

#[tokio::test]
async fn a_start_without_its_image_fails_at_once_and_works_once_that_was_fetched_again() {
    if let Some(why) = tools::why_no_guests() {
        eprintln!("skipped: {why}");
        return;
    }
    let stack = Stack::start(Options {
        simulated_hosts: 0,
        local_host: LocalHost::Yes,
        ..Options::default()
            .set("agent.disk_reserve_gib", "1")
            .set("scheduler.check_interval", "1s")
            .set("scheduler.repair_after", "1s")
            .expecting(&["a step failed", "invariant broken"])
    });
    let rest = stack.demo();
    let host = stack.file().agents[0].host.clone();
    let network = rest.network("lan").await;
    let mut spec = small_instance(&network);
    spec["power"] = json!("off");
    let id = text(&rest.make("instances", "based", spec).await, "/id");
    let start = format!("/v1/instances/{id}/start");

    // Nothing is mended on a host that is cordoned.
    stack.run(&["admin", "host", "cordon", &host]);
    let images = stack.data().join("agents").join(&host).join("objects/images");
    let files = || -> Vec<_> {
        std::fs::read_dir(&images)
            .unwrap()
            .map(|f| f.unwrap().path())
            .collect()
    };
    let base = files();
    assert_eq!(base.len(), 1, "{base:?}");
    std::fs::remove_file(&base[0]).unwrap();
    let in_vain = rest.act(&start).await.accepted();
    let job = rest.fail(&in_vain.job).await;
    assert_eq!(
        (
            &job["error"]["code"],
            &job["error"]["step"],
            &job["error"]["retryable"],
            &job["attempt"]
        ),
        (&json!("IMAGE_LOST"), &json!("set_power"), &json!(true), &json!(1)),
        "{job:#}"
    );
    let shown = rest.resource("instances", &id).await;
    assert_eq!(
        (&shown["state"], &shown["reason"]["code"]),
        (&json!("stopped"), &json!("IMAGE_LOST")),
        "{shown:#}"
    );

    stack.run(&["admin", "host", "uncordon", &host]);
    // By a repair of the image or one of the instance, whichever comes first; by the same digest.
    eventually("its image to be fetched again", || async {
        (files() == base).then_some(())
    })
    .await;
    let again = rest.act(&start).await.accepted();
    rest.succeed(&again.job).await;
    assert_eq!(rest.resource("instances", &id).await["state"], "running");
    rest.remove("instances", &id).await;
}
