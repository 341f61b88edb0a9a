//! A network of a real host whose bridge somebody deleted: guests and DHCP are on the next one.

#![allow(clippy::unwrap_used)]

mod real_support;

use real_support::{Host, PATIENCE, Plan, can_be_real, run};
use rhyzome_model::ids::ResourceId;
use std::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_somebody_deleted_is_made_anew_with_all_that_was_on_it() {
    if !can_be_real() {
        return;
    }
    let host = Host::new().await;
    let plan = Plan::new(ResourceId::new(), ResourceId::new(), 91);
    plan.create(&host).await;
    host.says(plan.instance, &plan.greeting()).await;
    let namespace = host.namespace(plan.network).await;
    let (deleted, said) = run("ip", &["-n", &namespace, "link", "del", "dev", "br0"]);
    assert!(deleted, "{said}");

    // By the agent's own look, with no step.
    let until = Instant::now() + PATIENCE;
    loop {
        let page = host.page(plan.network, plan.ip).await;
        if page == "web-91\n10.20.0.91\n" {
            break;
        }
        // Without the bridge the way leads out of the machine: whoever answers there is not the guest.
        assert!(Instant::now() < until, "another answers: {page}");
    }
    // What boots on it is given its address.
    host.must(plan.reboot()).await;
    host.says_times(plan.instance, &plan.greeting(), 2).await;
    plan.delete(&host).await;
}
