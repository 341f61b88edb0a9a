//! A dry run of a change says what the change itself would be told.

use crate::common::Answer;
use crate::world::{World, instance, is, refused, text};
use serde_json::{Value, json};

async fn dry(w: &World, path: &str, patch: Value) -> Answer {
    w.call("PATCH", &format!("{path}?dry_run=true"), Some(patch))
        .await
}

/// An instance that is off, on a host with room for twice its memory, beside one that is down and one of another zone.
async fn on_a_host(w: &World) -> String {
    w.image().await;
    w.network("lan").await;
    let mut body = instance("web", "lan");
    body["spec"]["power"] = json!("off");
    let made = w.post("/v1/instances", body).await;
    assert_eq!(made.status, 202, "{}", made.body);
    w.all_done().await;
    let id = text(&made.body["resource"]["id"]);
    w.database
        .execute(&format!(
            "INSERT INTO hosts (name, address, labels, vcpus, memory_mib, disk_gib, watch_up, watch_until)
             SELECT 'host-' || n, '127.0.0.1:1', jsonb_build_object('zone', CASE n WHEN 3 THEN 'b' ELSE 'a' END), 8, 256, 20, n <> 2,
                    now() + interval '1 hour' FROM generate_series(1, 3) n;
             UPDATE hosts SET used_vcpus = 1, used_memory_mib = 128, used_disk_gib = 1 WHERE name = 'host-1';
             INSERT INTO reservations (resource_id, host, vcpus, memory_mib, disk_gib) VALUES ('{id}', 'host-1', 1, 128, 1);
             UPDATE resources SET host = 'host-1' WHERE id = '{id}'"
        ))
        .await;
    format!("/v1/instances/{id}")
}

#[tokio::test]
async fn a_lease_that_an_instance_has_is_refused_dry_as_well() {
    let w = World::new().await;
    w.image().await;
    let network = format!("/v1/networks/{}", w.network("lan").await);
    let mut body = instance("web", "lan");
    body["spec"]["interfaces"][0] = json!({"network": "lan", "ip": "10.20.0.2", "mac": "02:00:00:00:00:02"});
    assert_eq!(w.post("/v1/instances", body).await.status, 202);
    w.all_done().await;
    let patch = |ip: &str, mac: &str| json!({"spec": {"leases": [{"ip": ip, "mac": mac}]}});
    for (ip, mac, at) in [
        ("10.20.0.2", "02:00:00:00:00:03", "/spec/leases/0/ip"),
        ("10.20.0.3", "02:00:00:00:00:02", "/spec/leases/0/mac"),
    ] {
        let (dry, real) = (
            dry(&w, &network, patch(ip, mac)).await,
            w.call("PATCH", &network, Some(patch(ip, mac))).await,
        );
        assert_eq!(refused(&dry), is(409, "ADDRESS_TAKEN"), "{}", dry.body);
        assert_eq!(dry.body["errors"], real.body["errors"]);
        assert_eq!(dry.body["errors"][0]["pointer"], at);
    }
    let free = dry(&w, &network, patch("10.20.0.3", "02:00:00:00:00:03")).await;
    assert_eq!(free.status, 200, "{}", free.body);
}

#[tokio::test]
async fn a_change_is_placed_on_the_host_that_it_is_on_and_no_other() {
    let w = World::new().await;
    let web = on_a_host(&w).await;
    let fits = dry(&w, &web, json!({"spec": {"memory_mib": 256}})).await;
    assert_eq!(
        fits.body["placement"],
        json!({"fits": true, "hosts": {"total": 1, "excluded": {}}, "fits_with": null}),
        "{}",
        fits.body
    );
    let large = dry(&w, &web, json!({"spec": {"memory_mib": 512}})).await;
    assert_eq!(
        large.body["placement"],
        json!({"fits": false, "hosts": {"total": 1, "excluded": {"memory": 1}}, "fits_with": {"memory_mib": 256}}),
        "{}",
        large.body
    );
    for patch in [json!({"tags": {"a": "b"}}), json!({"name": "other"})] {
        assert_eq!(dry(&w, &web, patch).await.body["placement"], Value::Null);
    }
    w.database
        .execute("UPDATE hosts SET watch_up = false WHERE name = 'host-1'")
        .await;
    let lost = dry(&w, &web, json!({"spec": {"memory_mib": 256}})).await;
    assert_eq!(
        lost.body["placement"]["hosts"]["excluded"],
        json!({"unreachable": 1}),
        "{}",
        lost.body
    );
}

#[tokio::test]
async fn hosts_are_counted_though_one_of_them_fits() {
    let w = World::new().await;
    on_a_host(&w).await;
    let wide = json!({"name": "wide", "spec": {"cidr": "10.30.0.0/24"}});
    assert_eq!(w.post("/v1/networks", wide).await.status, 202);
    let mut body = instance("one", "wide");
    body["spec"]["placement"] = json!({"host_labels": {"zone": "a"}});
    let dry = w.post("/v1/instances?dry_run=true", body).await;
    assert_eq!(
        dry.body["placement"],
        json!({"fits": true, "hosts": {"total": 3, "excluded": {"unreachable": 1, "label": 1}}, "fits_with": null}),
        "{}",
        dry.body
    );
}
