//! Placement: hosts and requests in; for each request a host, or the reasons counted per cause, out.
//!
//! Pure: the same hosts, requests and seed give the same verdicts. Requests placed on one [`Cluster`] see each other's
//! reservations, and a network without a home lives from then on where its first instance was placed. A request is refused only
//! if no host fits, and then every host is counted once, under the first cause in the order of [`Reason`].
//!
//! What is best stands in `score.rs`, in a struct whose order of fields is the policy. Among many hosts a seeded sample is compared, which
//! spreads a burst and keeps two schedulers from picking alike; where the sample has no host that fits, all are looked at.

mod cluster;
mod grow;
mod score;

pub use cluster::Cluster;
pub use grow::grow;

use crate::ids::{HostName, ResourceId};
use crate::job::text_enum;
use crate::kinds::Demand;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

text_enum! {
    /// Why a host can't take a request, in the order in which causes are looked at.
    Reason {
        /// Its agent can't be reached, or isn't known to be able.
        Unreachable = "unreachable",
        /// An operator takes nothing new there.
        Cordoned = "cordoned",
        /// It lacks a label that the request needs.
        Label = "label",
        /// A network of the request lives on another host.
        Network = "network",
        /// It can't get the image.
        Image = "image",
        /// It has an instance from which the requested one is kept apart.
        ApartFrom = "apart_from",
        /// It refused this request before.
        Refused = "refused",
        /// Too few virtual processors are free.
        Vcpus = "vcpus",
        /// Too little memory is free.
        Memory = "memory",
        /// Too little disk is free.
        Disk = "disk",
    }
}

/// Whether a host's agent can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Its watch is up.
    Reachable,
    /// It isn't.
    Unreachable,
}

/// Whether an operator lets new resources onto a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cordon {
    /// Yes.
    Open,
    /// No.
    Cordoned,
}

/// A host, as placement sees it.
#[derive(Clone, Debug)]
pub struct HostView {
    /// Its name.
    pub name: HostName,
    /// What it offers in all, overcommitment included.
    pub capacity: Demand,
    /// What isn't reserved of that.
    pub free: Demand,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether its agent can be reached.
    pub reach: Reach,
    /// Whether it takes new resources.
    pub cordon: Cordon,
    /// Images that it keeps.
    pub images: BTreeSet<ResourceId>,
}

/// An image that a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageNeed {
    /// Which.
    pub image: ResourceId,
    /// What keeping it takes of a host that doesn't yet, GiB.
    pub disk_gib: i64,
}

/// What is to be placed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// What it takes.
    pub demand: Demand,
    /// What it can't do with less of, however it is changed: no hint goes below this, nor to nothing.
    pub least: Demand,
    /// Labels that its host must have.
    pub host_labels: BTreeMap<String, String>,
    /// Networks that it is on: their homes must be its host.
    pub networks: Vec<ResourceId>,
    /// The image that it needs.
    pub image: Option<ImageNeed>,
    /// Hosts of the instances from which it is kept apart.
    pub apart_from: Vec<HostName>,
    /// Hosts that had no room for it after all.
    pub refused: Vec<HostName>,
    /// Hosts that couldn't get its image.
    pub image_refused: Vec<HostName>,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Refusal {
    /// How many hosts there are.
    pub total: u32,
    /// How many were excluded under each cause; they sum to `total`.
    pub excluded: BTreeMap<Reason, u32>,
    /// The smallest change of the demand that would fit, where one does: by the sum of what is given up in each dimension, each
    /// relative to what was asked for, in parts per million.
    pub fits_with: Option<FitsWith>,
}

/// What one host has to say to a request; for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HostVerdict {
    /// The host.
    #[schema(value_type = String)]
    pub host: HostName,
    /// The first cause for which it can't take it; none where it can.
    pub excluded: Option<Reason>,
    /// What isn't reserved of it.
    pub free: Demand,
}

/// A smaller demand; only what differs from the one asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FitsWith {
    /// Virtual processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<i64>,
    /// MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<i64>,
    /// GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_gib: Option<i64>,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its host. What it takes there is reserved in the cluster.
    Placed(HostName),
    /// No host fits.
    NoRoom(Refusal),
}
