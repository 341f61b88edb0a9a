//! One host's objects and claims against what Postgres says lives there.

use super::{Check, HeldObject, HostInventory, Known, KnownResource, Part, Violation};
use crate::ids::{HostName, ResourceId};
use crate::kinds::Kind;
use crate::step::ObjectKind;
use std::collections::{BTreeMap, BTreeSet};

/// An object on a host, or a claim on it.
pub(super) type Object = (ObjectKind, ResourceId);

/// Resources by the host that they live on.
pub(super) struct ByHost<'a>(BTreeMap<&'a HostName, Vec<(ResourceId, &'a KnownResource)>>);

impl<'a> ByHost<'a> {
    pub(super) fn new(known: &'a Known) -> Self {
        let mut all: BTreeMap<&HostName, Vec<_>> = BTreeMap::new();
        for (id, resource) in &known.resources {
            if let Some(host) = &resource.host {
                all.entry(host).or_default().push((*id, resource));
            }
        }
        Self(all)
    }

    pub(super) fn at(&self, host: &HostName) -> &[(ResourceId, &'a KnownResource)] {
        self.0.get(host).map_or(&[], Vec::as_slice)
    }
}

/// A host's inventory, to be looked things up in.
pub(super) struct OneHost<'a> {
    inventory: &'a HostInventory,
    known: &'a Known,
    /// What lives here.
    here: &'a [(ResourceId, &'a KnownResource)],
    held: BTreeMap<Object, &'a BTreeSet<ResourceId>>,
    /// Guests that run here.
    running: BTreeSet<ResourceId>,
    /// Disks with what was written to them.
    filled: BTreeSet<ResourceId>,
}

/// What a resource has to do with this host.
enum Standing<'a> {
    /// It moves, or moved: nothing can be said.
    Moving,
    /// It lives here.
    Here(&'a KnownResource),
    /// It isn't here.
    Not(Absent<'a>),
}

/// Why a resource isn't on this host.
#[derive(Clone, Copy)]
pub(super) enum Absent<'a> {
    /// There is none of this id, or only what stands in for what this host holds.
    Unknown,
    /// It was never made.
    NotMade(&'a KnownResource),
    /// It was made, and lives on no host.
    Nowhere(&'a KnownResource),
    /// It lives on this one.
    Elsewhere(&'a KnownResource, &'a HostName),
}

impl<'a> Absent<'a> {
    /// The resource, where there is one.
    pub(super) fn resource(self) -> Option<&'a KnownResource> {
        match self {
            Self::Unknown => None,
            Self::NotMade(known) | Self::Nowhere(known) | Self::Elsewhere(known, _) => Some(known),
        }
    }

    fn sentence(self) -> String {
        match self {
            Self::Unknown => "there is no such resource".to_owned(),
            Self::NotMade(_) => "its create came to nothing".to_owned(),
            Self::Nowhere(_) => "it lives on no host".to_owned(),
            Self::Elsewhere(_, host) => format!("it lives on {host}"),
        }
    }

    fn object(self) -> Check {
        match self {
            Self::Unknown | Self::Nowhere(_) => Check::ObjectOrphan,
            Self::NotMade(_) => Check::LeftAfterEnd,
            Self::Elsewhere(..) => Check::ObjectElsewhere,
        }
    }

    fn claim(self) -> Check {
        match self {
            Self::Unknown | Self::Nowhere(_) | Self::Elsewhere(..) => Check::ClaimStray,
            Self::NotMade(_) => Check::LeftAfterEnd,
        }
    }
}

/// What a host holds otherwise than Postgres says.
pub(super) enum Finding<'a> {
    /// An object of its own of a resource that isn't here.
    Owned {
        object: &'a HeldObject,
        absent: Absent<'a>,
    },
    /// An object of its own that a resource of this kind has not.
    OfAnotherKind { object: &'a HeldObject, kind: Kind },
    /// A shared object that nobody claims.
    Unclaimed {
        object: Object,
        resource: Option<&'a KnownResource>,
    },
    /// A claim of a resource that isn't here, or that is here and doesn't need it.
    Claim {
        object: Object,
        holder: ResourceId,
        why: Result<&'a KnownResource, Absent<'a>>,
    },
    /// What is applied is not all there.
    Missing {
        id: ResourceId,
        resource: &'a KnownResource,
        objects: Vec<ObjectKind>,
        claims: Vec<Object>,
        /// The guest runs all the same.
        runs: bool,
        /// What was written to its disk is gone.
        disk_lost: bool,
    },
    /// It runs, and was turned off.
    Runs {
        id: ResourceId,
        resource: &'a KnownResource,
    },
}

impl<'a> OneHost<'a> {
    pub(super) fn new(inventory: &'a HostInventory, known: &'a Known, by_host: &'a ByHost<'a>) -> Self {
        let objects = || inventory.objects.iter();
        let whole = objects().filter(|o| o.part == Part::Whole);
        let running = objects().filter(|o| o.kind == ObjectKind::Instance && o.runs);
        let filled = objects().filter(|o| o.kind == ObjectKind::Disk && o.part != Part::Rest);
        Self {
            inventory,
            known,
            here: by_host.at(&inventory.host),
            held: whole.map(|o| ((o.kind, o.id), &o.claims)).collect(),
            running: running.map(|o| o.id).collect(),
            filled: filled.map(|o| o.id).collect(),
        }
    }

    pub(super) fn compare(&self) -> Vec<Finding<'a>> {
        let mut found = Vec::new();
        for object in &self.inventory.objects {
            match object.kind {
                ObjectKind::Disk | ObjectKind::Instance => found.extend(self.owned(object)),
                ObjectKind::Network | ObjectKind::Image => self.shared(object, &mut found),
            }
        }
        for &(id, resource) in self.here {
            if resource.applied && self.known.is_still(id, self.inventory.asked_at) {
                found.extend(self.missing(id, resource));
                found.extend(self.runs(id, resource));
            }
        }
        found
    }

    fn standing(&self, id: ResourceId) -> Standing<'a> {
        if !self.known.is_still(id, self.inventory.asked_at) {
            return Standing::Moving;
        }
        match self.known.resources.get(&id).filter(|r| r.is_resource()) {
            None => Standing::Not(Absent::Unknown),
            Some(resource) => match &resource.host {
                Some(host) if *host == self.inventory.host => Standing::Here(resource),
                Some(host) => Standing::Not(Absent::Elsewhere(resource, host)),
                None if resource.applied => Standing::Not(Absent::Nowhere(resource)),
                None => Standing::Not(Absent::NotMade(resource)),
            },
        }
    }

    fn owned(&self, object: &'a HeldObject) -> Option<Finding<'a>> {
        match self.standing(object.id) {
            Standing::Moving => None,
            Standing::Here(resource) => {
                (!objects_of(resource.kind).contains(&object.kind)).then_some(Finding::OfAnotherKind {
                    object,
                    kind: resource.kind,
                })
            }
            Standing::Not(absent) => Some(Finding::Owned { object, absent }),
        }
    }

    fn shared(&self, object: &'a HeldObject, found: &mut Vec<Finding<'a>>) {
        let (host, asked_at) = (&self.inventory.host, self.inventory.asked_at);
        let of = (object.kind, object.id);
        // The first claim may just be on its way, by a job of which nothing else tells.
        if object.claims.is_empty() && self.known.is_quiet(host, asked_at) {
            let resource = self.known.resources.get(&object.id).filter(|r| r.is_resource());
            found.push(Finding::Unclaimed { object: of, resource });
        }
        for holder in &object.claims {
            let why = match self.standing(*holder) {
                Standing::Moving => continue,
                Standing::Here(resource) if claims_of(*holder, resource).contains(&of) => continue,
                Standing::Here(resource) => Ok(resource),
                Standing::Not(absent) => Err(absent),
            };
            found.push(Finding::Claim {
                object: of,
                holder: *holder,
                why,
            });
        }
    }

    /// One that isn't running though it should may have ended by itself; what runs though it was turned off never does by itself.
    fn runs(&self, id: ResourceId, resource: &'a KnownResource) -> Option<Finding<'a>> {
        let runs = resource.off && self.running.contains(&id);
        runs.then_some(Finding::Runs { id, resource })
    }

    fn missing(&self, id: ResourceId, resource: &'a KnownResource) -> Option<Finding<'a>> {
        let objects: Vec<ObjectKind> = objects_of(resource.kind)
            .iter()
            .copied()
            .filter(|kind| !self.held.contains_key(&(*kind, id)))
            .collect();
        let claims: Vec<Object> = claims_of(id, resource)
            .into_iter()
            .filter(|object| self.held.get(object).is_none_or(|claims| !claims.contains(&id)))
            .collect();
        let all = objects.is_empty() && claims.is_empty();
        (!all).then(|| Finding::Missing {
            id,
            resource,
            objects,
            claims,
            runs: self.running.contains(&id),
            disk_lost: objects_of(resource.kind).contains(&ObjectKind::Disk) && !self.filled.contains(&id),
        })
    }
}

impl Finding<'_> {
    /// The rule that it breaks on this host.
    pub(super) fn violation(&self, host: &HostName) -> Violation {
        let says = |check: Check, ids: &[ResourceId], text: String| {
            let ids = std::iter::once(host.to_string()).chain(ids.iter().map(ToString::to_string));
            Violation::of_all(check, ids, text)
        };
        match self {
            Self::Owned { object, absent } => {
                let (kind, id) = (object.kind.as_str(), object.id);
                let text = format!("host {host} holds the {kind} {id}: {}", absent.sentence());
                says(absent.object(), &[id], text)
            }
            Self::OfAnotherKind { object, kind: of } => {
                let (kind, id) = (object.kind.as_str(), object.id);
                let text = format!("host {host} holds the {kind} {id}, which a {of} has not");
                says(Check::ObjectOrphan, &[id], text)
            }
            Self::Unclaimed {
                object: (kind, id), ..
            } => {
                let text = format!(
                    "host {host} holds the {} {id}, which nobody claims",
                    kind.as_str()
                );
                says(Check::ObjectOrphan, &[*id], text)
            }
            Self::Claim {
                object: (kind, id),
                holder,
                why,
            } => {
                let claims = format!("on host {host} {holder} claims the {} {id}", kind.as_str());
                match why {
                    Ok(_) => says(
                        Check::ClaimStray,
                        &[*id, *holder],
                        format!("{claims}, which it doesn't need"),
                    ),
                    Err(absent) => says(
                        absent.claim(),
                        &[*id, *holder],
                        format!("{claims}: {}", absent.sentence()),
                    ),
                }
            }
            Self::Missing {
                id,
                resource,
                objects,
                claims,
                runs,
                ..
            } => {
                let objects = objects.iter().map(|kind| format!("its {}", kind.as_str()));
                let claims = claims
                    .iter()
                    .map(|(kind, object)| format!("its claim on the {} {object}", kind.as_str()));
                let lacks: Vec<String> = objects.chain(claims).collect();
                let text = format!(
                    "host {host} lacks of the {} {id}{}: {}",
                    resource.kind,
                    if *runs { ", which runs" } else { "" },
                    lacks.join(", ")
                );
                says(Check::ObjectMissing, &[*id], text)
            }
            Self::Runs { id, resource } => {
                let text = format!(
                    "on host {host} the {} {id} runs, which was turned off",
                    resource.kind
                );
                says(Check::GuestRuns, &[*id], text)
            }
        }
    }
}

/// Whether it is this instance's guest, and runs.
/// Objects of its own that a resource has on the host where it lives, by its id.
fn objects_of(kind: Kind) -> &'static [ObjectKind] {
    match kind {
        Kind::Network | Kind::Image => &[],
        Kind::Instance => &[ObjectKind::Disk, ObjectKind::Instance],
    }
}

/// Shared objects that a resource claims on the host where it lives.
fn claims_of(id: ResourceId, resource: &KnownResource) -> BTreeSet<(ObjectKind, ResourceId)> {
    let refs = || {
        resource.refs.iter().filter_map(|(to, kind)| match kind {
            Kind::Network => Some((ObjectKind::Network, *to)),
            Kind::Image => Some((ObjectKind::Image, *to)),
            Kind::Instance => None,
        })
    };
    match resource.kind {
        Kind::Network => BTreeSet::new(),
        Kind::Image => BTreeSet::from([(ObjectKind::Image, id)]),
        Kind::Instance => refs().collect(),
    }
}
