//! A row that somebody holds keeps those who need it, and nobody else.

use crate::world::{World, instance, network};
use rhyzome_store::dispatch::DispatchLimits;
use std::pin::pin;

/// Ends once a session waits for a lock.
const UNTIL_ONE_WAITS: &str = "DO $$ BEGIN
    LOOP
        EXIT WHEN EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock');
        PERFORM pg_stat_clear_snapshot();
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$";

#[tokio::test]
async fn a_create_that_waits_for_a_row_holds_up_none_that_does_not_need_it() {
    let w = World::new().await;
    w.image().await;
    w.network("held").await;
    // As a scheduler that stands still in the middle of a dispatch.
    let limits = DispatchLimits {
        batch: 10,
        tenant_cap: 10,
        host_cap: 10,
    };
    let holder = w.database.store(1).await.dispatch_begin(limits).await.unwrap();
    let holder = holder.expect("their jobs are due");

    let mut waits = pin!(w.post("/v1/instances", instance("waits", "held")));
    let free = async {
        w.database.execute(UNTIL_ONE_WAITS).await;
        w.post("/v1/networks", network("free")).await
    };
    let free = tokio::select! {
        answer = &mut waits => panic!("it needs what is held: {}", answer.body),
        answer = free => answer,
    };
    assert_eq!(free.status, 202, "{}", free.body);

    holder.commit(Vec::new()).await.unwrap();
    let made = waits.await;
    assert_eq!(made.status, 202, "{}", made.body);
}
