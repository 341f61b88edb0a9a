//! Requests and hosts for tests.

use rhyzome_model::ids::{HostName, JobId, ResourceId, TenantId};
use rhyzome_model::job::Action;
use rhyzome_model::kinds::{Demand, Kind};
use rhyzome_store::Store;
use rhyzome_store::accept::{Accepted, CreateRequest, IdempotencyKey, Origin};
use rhyzome_store::change::{ChangeRequest, Work};
use rhyzome_store::rows::ResourceRow;
use rhyzome_store::watches::Watch;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The owner of all watches in tests.
pub const WATCHER: &str = "test";

pub async fn tenant(store: &Store, id: &str) -> TenantId {
    let tenant = TenantId::from(id);
    store
        .tenant_create(&tenant, None, &BTreeMap::new())
        .await
        .unwrap();
    tenant
}

/// A host that is up.
pub async fn host(store: &Store, name: &str, vcpus: i64) -> HostName {
    let name = HostName::from(name);
    store.host_add(&name, "127.0.0.1:1").await.unwrap();
    let offered = Demand {
        vcpus,
        memory_mib: vcpus * 1024,
        disk_gib: vcpus * 10,
    };
    store
        .host_capacity(&name, offered, &BTreeMap::new(), &json!({}))
        .await
        .unwrap();
    store.watch_take(WATCHER, 3600.0, 1000).await.unwrap();
    store.watch_set(WATCHER, &name, Watch::Up).await.unwrap();
    name
}

pub fn origin() -> Origin {
    Origin {
        actor: "tester".into(),
        trace_id: "0".repeat(32),
        traceparent: "00-0-0-01".into(),
        deadline_s: 3600,
    }
}

pub fn create(tenant: &TenantId, kind: Kind, name: &str, spec: &Value) -> CreateRequest {
    let ops = kind.ops();
    let spec = ops.parse(spec).unwrap();
    CreateRequest {
        id: ResourceId::new(),
        job: JobId::new(),
        tenant: tenant.clone(),
        kind,
        name: name.to_owned(),
        tags: BTreeMap::new(),
        public: false,
        references: ops.references(&spec).unwrap(),
        apart_from: ops.apart_from(&spec).unwrap(),
        leases: ops.lease_requests(&spec).unwrap(),
        static_leases: Vec::new(),
        step_names: ops.step_names(Action::Create, &spec, None).unwrap(),
        idempotency: None,
        origin: origin(),
        spec,
    }
}

pub fn network(tenant: &TenantId, name: &str, cidr: &str) -> CreateRequest {
    create(tenant, Kind::Network, name, &json!({ "cidr": cidr }))
}

pub fn image(tenant: &TenantId, name: &str) -> CreateRequest {
    create(
        tenant,
        Kind::Image,
        name,
        &json!({ "source": { "url": "https://example.org/i.qcow2" }, "format": "qcow2" }),
    )
}

pub fn instance(tenant: &TenantId, name: &str, image: &str, network: &str) -> CreateRequest {
    let spec =
        json!({ "vcpus": 1, "memory_mib": 512, "image": image, "interfaces": [{ "network": network }] });
    create(tenant, Kind::Instance, name, &spec)
}

pub fn with_ip(tenant: &TenantId, name: &str, image: &str, network: &str, ip: &str) -> CreateRequest {
    let spec = json!({ "vcpus": 1, "memory_mib": 512, "image": image, "interfaces": [{ "network": network, "ip": ip }] });
    create(tenant, Kind::Instance, name, &spec)
}

#[allow(clippy::unnecessary_wraps, reason = "as a request takes it")]
pub fn key(name: &str, body: u8) -> Option<IdempotencyKey> {
    Some(IdempotencyKey {
        method: "POST".into(),
        path: "/v1/things".into(),
        key: name.into(),
        body_hash: [body; 32],
    })
}

/// Accepts one create that must be accepted.
pub async fn accepted(store: &Store, request: CreateRequest) -> Accepted {
    store
        .accept_creates(&[request])
        .await
        .unwrap()
        .remove(0)
        .unwrap()
        .accepted
}

/// New intent for a resource as it was read.
pub fn change(before: &ResourceRow, action: Action, spec: Value) -> ChangeRequest {
    ChangeRequest {
        job: JobId::new(),
        tenant: before.tenant.clone(),
        kind: before.kind,
        id: before.id,
        from_generation: before.generation,
        action,
        name: before.name.clone(),
        tags: before.tags.clone(),
        step_names: before
            .kind
            .ops()
            .step_names(action, &spec, before.applied.as_ref())
            .unwrap(),
        spec,
        public: before.public,
        static_leases: None,
        work: Work::Job,
        idempotency: None,
        origin: origin(),
    }
}

/// Counts rows.
pub async fn count(store: &Store, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(store.pool()).await.unwrap()
}
