//! DELETE is accepted in every state, is one job however often it is asked for, and leaves nothing.

use rhyzome_testkit::Stack;
use rhyzome_testkit::agents::{Agent, AgentSize};
use rhyzome_testkit::faults::{Fault, FaultError};
use rhyzome_testkit::rest::{Accepted, Rest, small_instance_on, step_state, text, unique};
use serde_json::json;

struct Scene {
    stack: Stack,
    agent: Agent,
    rest: Rest,
    network: String,
}

impl Scene {
    async fn new() -> Self {
        let stack = Stack::shared_for_hosts();
        let agent = Agent::start(&stack, &unique("del"), 1, AgentSize::default());
        let rest = stack.demo();
        let network = rest.network(&unique("net")).await;
        Self {
            stack,
            agent,
            rest,
            network,
        }
    }

    async fn create(&self) -> Accepted {
        self.rest
            .create(
                "instances",
                &unique("guest"),
                small_instance_on(&self.network, self.agent.label()),
            )
            .await
    }

    async fn make(&self) -> String {
        let accepted = self.create().await;
        self.rest.succeed(&accepted.job).await;
        accepted.id
    }

    /// Deletes it, and looks at all that the contract says of that.
    async fn delete(&self, id: &str) {
        let path = format!("/v1/instances/{id}");
        let first = self.rest.delete(&path).await.accepted();
        let again = self.rest.delete(&path).await;
        // It may be gone already.
        if again.status != 404 {
            assert_eq!(
                again.accepted().job,
                first.job,
                "DELETE again answers the same job"
            );
        }
        for answer in [
            self.rest.patch(&path, &json!({ "tags": { "a": "b" } })).await,
            self.rest.act(&format!("{path}/start")).await,
        ] {
            if answer.status != 404 {
                assert_eq!(answer.refused(409)["code"], "DELETING");
            }
        }
        self.rest.succeed(&first.job).await;
        self.rest.get(&path).await.refused(404);
        for host in self.agent.hosts() {
            let inventory = self.stack.inventory(&host);
            assert!(inventory.traces_of(id).is_empty(), "{host}: {inventory:#?}");
        }
        let leases = self
            .rest
            .all(&format!("/v1/networks/{}/leases", self.network))
            .await;
        assert!(leases.iter().all(|lease| lease["instance"] != id), "{leases:#?}");
    }
}

#[tokio::test]
async fn running_and_stopped() {
    let scene = Scene::new().await;
    scene.delete(&scene.make().await).await;
    let id = scene.make().await;
    let stop = scene
        .rest
        .act(&format!("/v1/instances/{id}/stop"))
        .await
        .accepted();
    scene.rest.succeed(&stop.job).await;
    scene.delete(&id).await;
    let inventory = scene.stack.inventory(&scene.agent.hosts()[0]);
    assert!(
        inventory.traces_of(&scene.network).is_empty(),
        "with its last claim the network goes: {inventory:#?}"
    );
}

#[tokio::test]
async fn just_accepted_and_waiting_for_room() {
    let scene = Scene::new().await;
    let accepted = scene.create().await;
    scene.delete(&accepted.id).await;
    assert!(
        ["cancelled", "succeeded"].contains(&text(&scene.rest.done(&accepted.job).await, "/state").as_str())
    );

    let mut spec = small_instance_on(&scene.network, scene.agent.label());
    spec["memory_mib"] = json!(1_000_000);
    let waiting = scene.rest.create("instances", &unique("huge"), spec).await;
    scene
        .rest
        .job_until(&waiting.job, "the job to wait", |job| {
            job["waiting_on"]["reason"] == "capacity"
        })
        .await;
    scene.delete(&waiting.id).await;
    assert_eq!(scene.rest.job(&waiting.job).await["state"], "cancelled");
}

#[tokio::test]
async fn in_the_middle_of_its_create_and_of_a_stop() {
    let scene = Scene::new().await;
    let made = scene.make().await;
    scene.agent.faults().set(&[
        Fault::at("ensure_disk").delay_ms(60_000),
        Fault::at("set_power").delay_ms(1500),
    ]);
    let held = loop {
        let accepted = scene.create().await;
        let job = scene
            .rest
            .job_until(&accepted.job, "the create to be held up or done", |job| {
                job["done"] == true || step_state(job, "ensure_disk") == Some("running")
            })
            .await;
        if job["done"] == json!(false) {
            break accepted;
        }
    };
    scene.delete(&held.id).await;
    assert_eq!(scene.rest.job(&held.job).await["state"], "cancelled");

    let stop = scene
        .rest
        .act(&format!("/v1/instances/{made}/stop"))
        .await
        .accepted();
    let start = scene
        .rest
        .act(&format!("/v1/instances/{made}/start"))
        .await
        .accepted();
    scene
        .rest
        .job_until(&stop.job, "the stop to run", |job| job["state"] != "queued")
        .await;
    scene.delete(&made).await;
    let stop = text(&scene.rest.job(&stop.job).await, "/state");
    assert!(
        ["cancelled", "succeeded"].contains(&stop.as_str()),
        "what runs is cancelled, or was done: {stop}"
    );
    let start = text(&scene.rest.job(&start.job).await, "/state");
    assert_eq!(start, "cancelled", "what waits is cancelled");
}

#[tokio::test]
async fn failed_and_while_it_is_undone() {
    let scene = Scene::new().await;
    scene.agent.faults().set(&[
        Fault::at("ensure_instance").error(FaultError::Permanent),
        Fault::at("undo_ensure_disk").delay_ms(1500),
    ]);
    let undoing = loop {
        let accepted = scene.create().await;
        let job = scene
            .rest
            .job_until(&accepted.job, "the create to be undone or done", |job| {
                job["done"] == true || job["state"] == "undoing"
            })
            .await;
        if job["done"] == json!(false) {
            break accepted;
        }
    };
    scene.delete(&undoing.id).await;
    let accepted = scene.create().await;
    scene.rest.fail(&accepted.job).await;
    scene.delete(&accepted.id).await;
}
