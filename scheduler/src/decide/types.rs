//! What a decision depends on, and what comes of it.

use chrono::{DateTime, Utc};
use rhyzome_model::ids::HostName;
use rhyzome_model::place::Request;
use rhyzome_store::dispatch::{Decision, NewOrder, RefRow};
use rhyzome_store::leases::LeaseView;
use std::collections::BTreeSet;

/// All that a decision depends on beside the job.
pub struct Around<'a> {
    /// What the job's resource refers to.
    pub refs: &'a [RefRow],
    /// Its leases.
    pub leases: &'a [LeaseView],
    /// Hosts whose watch is up.
    pub up: &'a BTreeSet<HostName>,
    /// `instance.stop_timeout`, seconds.
    pub stop_timeout_s: u32,
    /// The database's time.
    pub now: DateTime<Utc>,
}

/// What comes of looking at a job.
#[derive(Clone, Debug)]
pub enum Next {
    /// Decided.
    Decided(Box<Decision>),
    /// Decided once placement has found a host.
    Place(Box<ToPlace>),
}

/// A job that needs a host.
#[derive(Clone, Debug)]
pub struct ToPlace {
    /// For placement.
    pub request: Request,
    /// The order, but for its host.
    pub order: NewOrder,
    /// Instances, by id or name, on whose hosts it must not be: for `request.apart_from`, which is empty still.
    pub apart_from: Vec<String>,
    /// When a host that refused it may be asked again, if it must wait for that.
    pub refused_until: Option<DateTime<Utc>>,
    /// When the first of the hosts that refused it may be asked again.
    pub lapses: Option<DateTime<Utc>>,
}
