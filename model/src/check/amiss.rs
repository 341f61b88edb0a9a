//! What is to be mended on hosts: by resource, what its host lacks of it, or what a host holds of it that isn't there to be. Pure.
//!
//! It is what the check finds of hosts, put together by what one job can mend. An object of a kind that its resource has not is left to
//! operators: whoever made it was none of ours.

use super::compare::{ByHost, Finding, Object, OneHost};
use super::{HostInventory, Known, RowOf};
use crate::ids::{HostName, ResourceId};
use crate::kinds::{Kind, Power};
use crate::step::{Action, DropShared, ObjectKind, RemoveDisk, RemoveInstance, SetPower, Step};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// A resource that a host holds otherwise than Postgres says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Amiss {
    /// Which host.
    pub host: HostName,
    /// The resource, or the id by which the host holds something.
    pub resource: ResourceId,
    /// What the resource is; of one that there is not, what it would be.
    pub kind: Kind,
    /// What is wrong.
    pub wrong: Wrong,
    /// A moment before its agent began to look.
    pub asked_at: DateTime<Utc>,
}

/// What is wrong with a resource on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It lives there, and isn't all there, runs though it was turned off, or may be older than it was.
    Incomplete {
        /// Its disk is gone, with what was written to it.
        disk_lost: bool,
    },
    /// The host holds something of it that isn't to be there.
    Stray(Stray),
}

/// What a host holds of a resource that isn't to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Whose it is.
    pub owner: Owner,
    /// Its own objects.
    pub objects: Vec<ObjectKind>,
    /// Shared objects that it claims, or that nobody claims.
    pub claims: Vec<Object>,
    /// It is a guest, and runs.
    pub runs: bool,
}

/// Whose a stray is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// There is such a resource; it isn't to be on this host, or not with all this.
    Resource,
    /// There is none.
    Nobody,
}

impl Wrong {
    /// As stored.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Incomplete { .. } => "incomplete",
            Self::Stray(_) => "stray",
        }
    }
}

impl Amiss {
    /// What keeps a stray guest from doing harm until it is removed: it is turned off. Nothing where none runs.
    pub fn quarantine(&self) -> Vec<Step> {
        match &self.wrong {
            Wrong::Stray(stray) if stray.runs => vec![Step::forward_only(Action::SetPower(SetPower {
                instance: self.resource,
                power: Power::Off,
            }))],
            Wrong::Stray(_) | Wrong::Incomplete { .. } => Vec::new(),
        }
    }

    /// What removes a stray: the guest, its disk, then the claims, with the last of which the shared objects go.
    pub fn removal(&self) -> Vec<Step> {
        let Wrong::Stray(stray) = &self.wrong else {
            return Vec::new();
        };
        let id = self.resource;
        let owned = |kind: ObjectKind, action: Action| stray.objects.contains(&kind).then_some(action);
        let claims = stray.claims.iter().filter_map(|&(kind, object)| {
            let claim = DropShared { object, holder: id };
            match kind {
                ObjectKind::Image => Some(Action::DropImage(claim)),
                ObjectKind::Network => Some(Action::DropNetwork(claim)),
                ObjectKind::Disk | ObjectKind::Instance => None,
            }
        });
        let instance = Action::RemoveInstance(RemoveInstance { instance: id });
        let disk = Action::RemoveDisk(RemoveDisk { disk: id });
        owned(ObjectKind::Instance, instance)
            .into_iter()
            .chain(owned(ObjectKind::Disk, disk))
            .chain(claims)
            .map(Step::forward_only)
            .collect()
    }
}

type All = BTreeMap<(HostName, ResourceId), Amiss>;

/// What is amiss on these hosts, by host and resource. What lives on a host and lacks something is made complete first.
pub fn amiss(inventories: &[HostInventory], known: &Known) -> Vec<Amiss> {
    let mut all = All::new();
    let by_host = ByHost::new(known);
    for inventory in inventories {
        for finding in OneHost::new(inventory, known, &by_host).compare() {
            gather(inventory, &finding, &mut all);
        }
        // Nothing shows what it is older in.
        for &(id, resource) in by_host.at(&inventory.host) {
            if resource.applied && resource.row == RowOf::InDoubt && known.is_still(id, inventory.asked_at) {
                incomplete(inventory, id, resource.kind, false, &mut all);
            }
        }
    }
    all.into_values().collect()
}

fn incomplete(inventory: &HostInventory, id: ResourceId, kind: Kind, disk_lost: bool, all: &mut All) {
    let key = (inventory.host.clone(), id);
    if let Some(Amiss {
        wrong: Wrong::Incomplete { disk_lost: lost },
        ..
    }) = all.get_mut(&key)
    {
        *lost |= disk_lost;
        return;
    }
    let amiss = Amiss {
        host: inventory.host.clone(),
        resource: id,
        kind,
        wrong: Wrong::Incomplete { disk_lost },
        asked_at: inventory.asked_at,
    };
    all.insert(key, amiss);
}

fn gather(inventory: &HostInventory, finding: &Finding<'_>, all: &mut All) {
    match finding {
        // It has the file open that is no longer there: what is in it is lost only when it ends.
        Finding::Missing {
            objects,
            runs: true,
            disk_lost: true,
            ..
        } if !objects.contains(&ObjectKind::Instance) => {}
        Finding::Missing {
            id,
            resource,
            disk_lost,
            ..
        } => incomplete(inventory, *id, resource.kind, *disk_lost, all),
        Finding::Runs { id, resource } => incomplete(inventory, *id, resource.kind, false, all),
        Finding::OfAnotherKind { .. } => {}
        Finding::Owned { object, absent } => {
            let stray = stray(
                inventory,
                object.id,
                absent.resource().map(|r| r.kind),
                Kind::Instance,
                all,
            );
            if let Some(stray) = stray {
                stray.objects.push(object.kind);
                stray.runs |= object.runs;
            }
        }
        Finding::Unclaimed { object, resource } => {
            let kind = shared(object.0);
            if let Some(stray) = stray(inventory, object.1, resource.map(|r| r.kind), kind, all) {
                stray.claims.push(*object);
            }
        }
        Finding::Claim { object, holder, why } => {
            let resource = match why {
                Ok(resource) => Some(*resource),
                Err(absent) => absent.resource(),
            };
            let kind = if *holder == object.1 {
                shared(object.0)
            } else {
                Kind::Instance
            };
            if let Some(stray) = stray(inventory, *holder, resource.map(|r| r.kind), kind, all) {
                stray.claims.push(*object);
            }
        }
    }
}

fn shared(kind: ObjectKind) -> Kind {
    match kind {
        ObjectKind::Network => Kind::Network,
        ObjectKind::Image => Kind::Image,
        ObjectKind::Disk | ObjectKind::Instance => Kind::Instance,
    }
}

/// The stray of an id, begun where there is none yet. None of what is incomplete here.
fn stray<'a>(
    inventory: &HostInventory,
    id: ResourceId,
    known: Option<Kind>,
    otherwise: Kind,
    all: &'a mut All,
) -> Option<&'a mut Stray> {
    let amiss = all.entry((inventory.host.clone(), id)).or_insert_with(|| Amiss {
        host: inventory.host.clone(),
        resource: id,
        kind: known.unwrap_or(otherwise),
        wrong: Wrong::Stray(Stray {
            owner: if known.is_some() {
                Owner::Resource
            } else {
                Owner::Nobody
            },
            objects: Vec::new(),
            claims: Vec::new(),
            runs: false,
        }),
        asked_at: inventory.asked_at,
    });
    match &mut amiss.wrong {
        Wrong::Stray(stray) => Some(stray),
        Wrong::Incomplete { .. } => None,
    }
}
