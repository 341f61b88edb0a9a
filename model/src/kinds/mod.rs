//! The kinds of resources: one file each, and the table of them all.
//!
//! A kind is a type that implements [`KindDef`]; [`Kind::ops`] hands it on without its type, on JSON documents, which is how
//! the API, the store and the scheduler use it. Where one of them does name a kind, `docs/ARCHITECTURE.md` ("A new kind") says so.

mod image;
mod instance;
mod network;
mod ops;

pub use image::{Image, ImageFormat, ImageSource, ImageSpec, ImageStatus, Visibility, kept_gib};
pub use instance::{
    APART_FROM, Instance, InstanceSpec, InstanceStatus, Interface, Placement, Power, RestartPolicy,
};
pub use network::{
    Network, NetworkSpec, NetworkStatus, StaticLease, address_fault, first_usable, free_candidates,
    last_usable, normal_mac,
};
pub use ops::KindOps;

use self::ops::{Typed, read};
use crate::ids::{HostName, ResourceId, TenantId};
use crate::job::{Action, text_enum};
use crate::problem::FieldError;
use crate::step::{HostLease, ImageFacts, Step};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

text_enum! {
    /// A kind of resource.
    Kind {
        /// A virtual network.
        Network = "network",
        /// What a disk begins as.
        Image = "image",
        /// A virtual machine.
        Instance = "instance",
    }
}

impl Kind {
    /// As in paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Network => "networks",
            Self::Image => "images",
            Self::Instance => "instances",
        }
    }

    /// What the kind says of itself, on JSON documents.
    pub fn ops(self) -> &'static dyn KindOps {
        match self {
            Self::Network => &Typed::<Network>::NEW,
            Self::Image => &Typed::<Image>::NEW,
            Self::Instance => &Typed::<Instance>::NEW,
        }
    }
}

/// What a resource takes of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Demand {
    /// Virtual processors.
    pub vcpus: i64,
    /// MiB.
    pub memory_mib: i64,
    /// GiB.
    pub disk_gib: i64,
}

impl Demand {
    /// The larger of both, in each dimension: what an update reserves.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.max(other.vcpus),
            memory_mib: self.memory_mib.max(other.memory_mib),
            disk_gib: self.disk_gib.max(other.disk_gib),
        }
    }
}

/// Why a document is validated.
#[derive(Clone, Copy, Debug)]
pub enum When<'a, S> {
    /// The resource is being made.
    Creating,
    /// The resource is there, with this spec before.
    Updating(&'a S),
}

/// A place in a spec that names another resource, by id or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// JSON Pointer into the spec: `/interfaces/0/network`.
    pub pointer: String,
    /// The kind it must be.
    pub kind: Kind,
    /// Id or name.
    pub target: String,
}

/// An address that a spec asks for, or leaves to the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// JSON Pointer into the spec of the interface: `/interfaces/0`.
    pub pointer: String,
    /// Id or name of the network.
    pub network: String,
    /// Named by the user.
    pub ip: Option<Ipv4Addr>,
    /// Named by the user; lower case with colons.
    pub mac: Option<String>,
}

/// A lease row of the resource, as allocated when it was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedLease {
    /// The network.
    pub network: ResourceId,
    /// The interface's position.
    pub position: i32,
    /// Its address.
    pub lease: HostLease,
}

/// A resource that the planned one refers to, as applied.
#[derive(Clone, Debug)]
pub struct ResolvedRef {
    /// Its kind.
    pub kind: Kind,
    /// Whose.
    pub tenant: TenantId,
    /// Its generation.
    pub generation: i64,
    /// Its spec.
    pub spec: Value,
    /// For an image: what fetching it found out.
    pub image: Option<ImageFacts>,
}

/// All that a plan may depend on.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The resource.
    pub id: ResourceId,
    /// Whose.
    pub tenant: TenantId,
    /// Its name.
    pub name: String,
    /// Of the intent that the job makes so.
    pub generation: i64,
    /// Intent.
    pub spec: Value,
    /// The spec of the last success; none before the first.
    pub applied: Option<Value>,
    /// The resource's own leases, by position.
    pub leases: Vec<AssignedLease>,
    /// What it refers to, by id.
    pub references: BTreeMap<ResourceId, ResolvedRef>,
    /// The host that holds it, if any does yet (for a network: the one it lives on).
    pub host: Option<HostName>,
    /// How long a guest may take to end on the ACPI button, seconds.
    pub stop_timeout_s: u32,
}

/// Where a plan's steps are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Venue {
    /// On a host that placement chooses, or the one that holds the resource already.
    Placed,
    /// On the host that holds it; nowhere, if none does.
    WhereItIs,
}

/// What a kind says of itself. One type each, in a file of its own.
pub trait KindDef: 'static + Send + Sync {
    /// What a user asks for. Unknown fields are refused.
    type Spec: Serialize + DeserializeOwned + utoipa::ToSchema + Clone + Send + Sync;
    /// Which it is.
    const KIND: Kind;
    /// What can be done to it beside create, update and delete.
    const ACTIONS: &'static [Action];

    /// Faults that only meaning shows (422): all of them.
    fn validate(spec: &Self::Spec, when: When<'_, Self::Spec>) -> Vec<FieldError>;
    /// What it refers to.
    fn references(spec: &Self::Spec) -> Vec<Reference>;
    /// Addresses that it needs, in order.
    fn lease_requests(spec: &Self::Spec) -> Vec<LeaseRequest>;
    /// What it takes of a host.
    fn demand(spec: &Self::Spec) -> Demand;
    /// What it takes of a host, with all that is known of what it refers to.
    fn demand_resolved(resolved: &Resolved) -> Result<Demand, PlanError> {
        read::<Self>(&resolved.spec).map(|spec| Self::demand(&spec))
    }
    /// The least of [`KindDef::demand_resolved`] that a user can change it to: what hints of placement don't go below. A kind whose demand
    /// isn't the user's to change says its demand.
    fn least_resolved(resolved: &Resolved) -> Result<Demand, PlanError> {
        Self::demand_resolved(resolved)
    }
    /// Labels that its host must have.
    fn host_labels(spec: &Self::Spec) -> BTreeMap<String, String>;
    /// Resources on whose hosts it must not be. No dependencies: one that is gone is left out.
    fn apart_from(_: &Self::Spec) -> Vec<Reference> {
        Vec::new()
    }
    /// Where its steps are done.
    fn venue(action: Action) -> Venue;
    /// The spec after an action that isn't an update: start and stop set `power`.
    fn apply_action(spec: &mut Self::Spec, action: Action);
    /// What a start or a stop is planned against: the applied spec, or, where its host last saw it otherwise than the action makes it, that:
    /// a guest which ended by itself is started. Never less is done than by what is applied: what the host wants of it is not seen.
    fn as_seen(_action: Action, applied: Self::Spec, _observed: &Value) -> Self::Spec {
        applied
    }
    /// The spec of what stands in for something of this kind that a host holds of nobody. Nothing is ever made of it.
    fn stand_in() -> Self::Spec;
    /// The steps. Empty where nothing is to do. Pure.
    fn plan(action: Action, resolved: &Resolved) -> Result<Vec<Step>, PlanError>;
    /// The names of the steps before all is resolved, shown from the acceptance on.
    fn step_names(action: Action, spec: &Self::Spec, applied: Option<&Self::Spec>) -> Vec<&'static str>;
}

/// Why no plan could be made: a broken invariant of the caller, not a fault of the user.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The stored spec isn't one of this kind.
    #[error("stored spec of a {kind}: {source}")]
    Spec {
        /// The kind.
        kind: Kind,
        /// What serde says.
        source: serde_json::Error,
    },
    /// A reference that should be resolved is not.
    #[error("reference to {0} is not resolved")]
    Unresolved(String),
    /// The kind has no such action.
    #[error("{kind} has no action {action}")]
    NoSuchAction {
        /// The kind.
        kind: Kind,
        /// The action.
        action: Action,
    },
}
