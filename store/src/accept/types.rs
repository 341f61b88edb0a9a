//! What the API hands in for acceptance, and what it gets back.

use crate::resources::Neighbour;
use crate::rows::{JobRow, ResourceRow};
use ipnet::Ipv4Net;
use rhyzome_model::ids::{JobId, ResourceId, TenantId};
use rhyzome_model::kinds::{Kind, LeaseRequest, Reference};
use rhyzome_model::problem::JobError;
use rhyzome_model::quota::Exceeded;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Makes a POST one effect, however often it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// `POST`.
    pub method: String,
    /// Of the request, without query.
    pub path: String,
    /// Of the header.
    pub key: String,
    /// SHA-256 of the body's canonical JSON.
    pub body_hash: [u8; 32],
}

/// Who asks, and in which trace.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The token's subject.
    pub actor: String,
    /// W3C trace id.
    pub trace_id: String,
    /// W3C traceparent.
    pub traceparent: String,
    /// Seconds until the job's deadline.
    pub deadline_s: i64,
}

/// A user's static lease of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticLeaseRequest {
    /// JSON Pointer into the document.
    pub pointer: String,
    /// Address.
    pub ip: Ipv4Addr,
    /// Lower case with colons.
    pub mac: String,
    /// A DNS label.
    pub hostname: Option<String>,
}

/// A validated create.
#[derive(Clone, Debug)]
pub struct CreateRequest {
    /// Made by the API.
    pub id: ResourceId,
    /// Made by the API.
    pub job: JobId,
    /// Whose.
    pub tenant: TenantId,
    /// What.
    pub kind: Kind,
    /// A DNS label.
    pub name: String,
    /// Of the user.
    pub tags: BTreeMap<String, String>,
    /// Parsed and validated; references still as the user wrote them.
    pub spec: Value,
    /// Others may refer to it.
    pub public: bool,
    /// Pointers relative to the spec.
    pub references: Vec<Reference>,
    /// Resources that it is kept apart from; pointers relative to the spec. They must be there now, and may go.
    pub apart_from: Vec<Reference>,
    /// Pointers relative to the spec.
    pub leases: Vec<LeaseRequest>,
    /// Of a network.
    pub static_leases: Vec<StaticLeaseRequest>,
    /// As shown from the acceptance on.
    pub step_names: Vec<&'static str>,
    /// Header of that name.
    pub idempotency: Option<IdempotencyKey>,
    /// Who asks.
    pub origin: Origin,
}

/// A change that was committed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Accepted {
    /// As it is after the change; none when it is gone already (a delete of what was never made).
    pub resource: ResourceRow,
    /// None where nothing has to be done (tags).
    pub job: Option<JobRow>,
    /// Addresses of an instance's interfaces, where they were given out just now.
    #[serde(default)]
    pub addresses: Option<Vec<Ipv4Addr>>,
}

/// A committed answer: of now, or of an earlier request with the same key.
#[derive(Clone, Debug)]
pub struct Reply {
    /// What was accepted.
    pub accepted: Accepted,
    /// Of now or earlier.
    pub now: AcceptedNow,
}

/// Whether a reply is the request's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptedNow {
    /// Committed just now: publish the job.
    Now,
    /// Accepted earlier under the same key: nothing was written.
    Earlier,
}

/// Why a request was refused. Nothing of it was written.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// 401: the tenant is gone; its tokens are good for nothing.
    TenantGone,
    /// The key was used with another body. 422.
    KeyReused,
    /// No such resource. 404.
    NotFound,
    /// 409: the name is taken by this one.
    NameTaken {
        /// Its holder.
        holder: ResourceId,
    },
    /// 422: refers to nothing that the tenant may know of.
    ReferenceNotFound {
        /// Pointer into the spec.
        pointer: String,
        /// Kind wanted.
        kind: Kind,
        /// As written.
        target: String,
    },
    /// 422: refers to what failed.
    ReferenceFailed {
        /// Pointer into the spec.
        pointer: String,
        /// Kind.
        kind: Kind,
        /// As written.
        target: String,
    },
    /// 422: refers to what is being deleted.
    ReferenceDeleting {
        /// Pointer into the spec.
        pointer: String,
        /// Kind.
        kind: Kind,
        /// As written.
        target: String,
    },
    /// 409: address or MAC is another's.
    AddressTaken {
        /// Pointer into the spec.
        pointer: String,
        /// The address or MAC.
        value: String,
        /// Its holder, if it is an instance.
        holder: Option<ResourceId>,
    },
    /// 422: the address can't be one of this network.
    AddressInvalid {
        /// Pointer into the spec.
        pointer: String,
        /// Stable.
        code: String,
        /// A sentence.
        detail: String,
    },
    /// 403: the tenant may not have so much.
    QuotaExceeded {
        /// The limits that it would pass; not empty.
        over: Vec<Exceeded>,
    },
    /// 409: no free address is left.
    RangeUsedUp {
        /// Pointer into the spec.
        pointer: String,
        /// The network's.
        cidr: Ipv4Net,
    },
    /// 409: generation differs from what was read; read again.
    Moved,
    /// 409: a delete was accepted.
    Deleting {
        /// The delete's job; none where it failed so long ago that it was forgotten.
        job: Option<JobId>,
    },
    /// 409: others need it.
    HasDependants {
        /// Some of them.
        dependants: Vec<Neighbour>,
    },
    /// 409: the resource's create failed or was cancelled: only retry or delete.
    ResourceFailed,
    /// It stands in for what a host holds of nobody.
    Quarantined,
    /// 409: the job has ended.
    JobDone,
    /// 409: the job can't be cancelled any more (a delete).
    NotCancellable,
    /// 409: the job hasn't failed or wasn't cancelled, or its resource moved on.
    NotRetryable {
        /// A sentence.
        detail: String,
    },
    /// Several at once, each of them of the document.
    Several(Vec<Refusal>),
    /// A fault of the caller with its own words.
    Invalid(JobError),
}
