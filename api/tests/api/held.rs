//! A row that somebody holds keeps those who need it, and nobody else.

use crate::common::Answer;
use crate::world::{World, instance, is, network, refused};
use futures::future::{join, join_all};
use serde_json::json;
use std::pin::pin;

/// Ends once another session waits as said.
pub(crate) async fn until_one_waits(w: &World, how: &str) {
    let until = format!(
        "DO $$ BEGIN
             LOOP
                 EXIT WHEN EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND {how});
                 PERFORM pg_stat_clear_snapshot();
                 PERFORM pg_sleep(0.01);
             END LOOP;
         END $$"
    );
    w.database.execute(&until).await;
}

/// As a person who looks at the network `held`, until there is a tenant `over`.
pub(crate) const HOLD: &str = "SELECT FROM resources WHERE name = 'held' FOR UPDATE;
    DO $$ BEGIN
        LOOP
            EXIT WHEN EXISTS (SELECT FROM tenants WHERE id = 'over');
            PERFORM pg_sleep(0.05);
        END LOOP;
    END $$";

pub(crate) async fn let_go(w: &World) {
    w.database
        .execute("INSERT INTO tenants (id) VALUES ('over')")
        .await;
}

/// Instances that wait: more than there are transactions for those that do.
const WAITING: usize = 6;

fn accepted(answers: &[Answer]) {
    for answer in answers {
        assert_eq!(answer.status, 202, "{}", answer.body);
    }
}

#[tokio::test]
async fn creates_that_wait_for_a_row_hold_up_none_that_does_not_need_it() {
    let w = World::new().await;
    w.image().await;
    for name in ["free", "held"] {
        let wide = json!({"name": name, "spec": {"cidr": "10.30.0.0/24"}});
        accepted(&[w.post("/v1/networks", wide).await]);
    }
    let waiting = (0..WAITING).map(|n| {
        let mut body = instance(&format!("waits-{n}"), "held");
        if n % 2 == 1 {
            body["spec"]["interfaces"] = json!([{"network": "free"}, {"network": "held"}]);
        }
        w.post("/v1/instances", body)
    });
    let others = |at: &'static str| {
        let instances = (0..WAITING).map(move |n| instance(&format!("{at}-{n}"), "free"));
        let instances = join_all(instances.map(|body| w.post("/v1/instances", body)));
        join(w.post("/v1/networks", network(at)), instances)
    };
    let asked = async {
        until_one_waits(&w, "wait_event = 'PgSleep'").await;
        let mut waiting = pin!(join_all(waiting));
        let free = async {
            let with_them = others("with-them").await;
            until_one_waits(&w, "wait_event_type = 'Lock'").await;
            [with_them, others("after-them").await]
        };
        let free = tokio::select! {
            answers = &mut waiting => panic!("they need what is held: {:?}", answers.iter().map(refused).collect::<Vec<_>>()),
            answers = free => answers,
        };
        for (network, instances) in &free {
            accepted(std::slice::from_ref(network));
            accepted(instances);
        }
        let_go(&w).await;
        accepted(&waiting.await);
    };
    join(w.database.execute(HOLD), asked).await;
}

#[tokio::test]
async fn who_needs_what_is_held_for_long_is_told_so_and_can_try_again() {
    let w = World::new().await;
    w.image().await;
    w.network("held").await;
    let asked = async {
        until_one_waits(&w, "wait_event = 'PgSleep'").await;
        let answer = w.post("/v1/instances", instance("waits", "held")).await;
        let_go(&w).await;
        answer
    };
    let ((), answer) = join(w.database.execute(HOLD), asked).await;
    assert_eq!(refused(&answer), is(503, "UNAVAILABLE"));
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(detail.contains("changed by somebody else"), "{detail}");

    let again = w.post("/v1/instances", instance("waits", "held")).await;
    accepted(&[again]);
}
