//! One host's objects and claims against what Postgres says lives there.

use super::{Check, HeldObject, HostInventory, Known, KnownResource, Violation};
use crate::ids::{HostName, ResourceId};
use crate::kinds::Kind;
use crate::step::ObjectKind;
use std::collections::{BTreeMap, BTreeSet};

/// A host's inventory, to be looked things up in.
pub(super) struct OneHost<'a> {
    inventory: &'a HostInventory,
    known: &'a Known,
    held: BTreeMap<(ObjectKind, ResourceId), &'a BTreeSet<ResourceId>>,
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
enum Absent<'a> {
    /// There is none of this id.
    Unknown,
    /// It was never made.
    NotMade,
    /// It was made, and lives on no host.
    Nowhere,
    /// It lives on this one.
    Elsewhere(&'a HostName),
}

impl Absent<'_> {
    fn sentence(self) -> String {
        match self {
            Self::Unknown => "there is no such resource".to_owned(),
            Self::NotMade => "its create came to nothing".to_owned(),
            Self::Nowhere => "it lives on no host".to_owned(),
            Self::Elsewhere(host) => format!("it lives on {host}"),
        }
    }

    fn object(self) -> Check {
        match self {
            Self::Unknown | Self::Nowhere => Check::ObjectOrphan,
            Self::NotMade => Check::LeftAfterEnd,
            Self::Elsewhere(_) => Check::ObjectElsewhere,
        }
    }

    fn claim(self) -> Check {
        match self {
            Self::Unknown | Self::Nowhere | Self::Elsewhere(_) => Check::ClaimStray,
            Self::NotMade => Check::LeftAfterEnd,
        }
    }
}

impl<'a> OneHost<'a> {
    pub(super) fn new(inventory: &'a HostInventory, known: &'a Known) -> Self {
        let held = inventory.objects.iter().map(|o| ((o.kind, o.id), &o.claims));
        Self {
            inventory,
            known,
            held: held.collect(),
        }
    }

    pub(super) fn compare(&self, found: &mut Vec<Violation>) {
        for object in &self.inventory.objects {
            match object.kind {
                ObjectKind::Disk | ObjectKind::Instance => self.owned(object, found),
                ObjectKind::Network | ObjectKind::Image => self.shared(object, found),
            }
        }
        for (id, resource) in &self.known.resources {
            if resource.applied
                && resource.host.as_ref() == Some(&self.inventory.host)
                && self.known.is_still(*id, self.inventory.asked_at)
            {
                self.missing(*id, resource, found);
                self.runs(*id, resource, found);
            }
        }
    }

    fn standing(&self, id: ResourceId) -> Standing<'a> {
        if !self.known.is_still(id, self.inventory.asked_at) {
            return Standing::Moving;
        }
        match self.known.resources.get(&id) {
            None => Standing::Not(Absent::Unknown),
            Some(resource) => match &resource.host {
                Some(host) if *host == self.inventory.host => Standing::Here(resource),
                Some(host) => Standing::Not(Absent::Elsewhere(host)),
                None if resource.applied => Standing::Not(Absent::Nowhere),
                None => Standing::Not(Absent::NotMade),
            },
        }
    }

    fn says(&self, check: Check, ids: &[ResourceId], text: String) -> Violation {
        let ids = std::iter::once(self.inventory.host.to_string()).chain(ids.iter().map(ToString::to_string));
        Violation::of_all(check, ids, text)
    }

    fn owned(&self, object: &HeldObject, found: &mut Vec<Violation>) {
        let (kind, id, host) = (object.kind.as_str(), object.id, &self.inventory.host);
        match self.standing(id) {
            Standing::Moving => {}
            Standing::Here(resource) => {
                if !objects_of(resource.kind).contains(&object.kind) {
                    let text = format!(
                        "host {host} holds the {kind} {id}, which a {} has not",
                        resource.kind
                    );
                    found.push(self.says(Check::ObjectOrphan, &[id], text));
                }
            }
            Standing::Not(absent) => {
                let text = format!("host {host} holds the {kind} {id}: {}", absent.sentence());
                found.push(self.says(absent.object(), &[id], text));
            }
        }
    }

    fn shared(&self, object: &HeldObject, found: &mut Vec<Violation>) {
        let (kind, id, host) = (object.kind.as_str(), object.id, &self.inventory.host);
        // The first claim may just be on its way, by a job of which nothing else tells.
        if object.claims.is_empty() && self.known.is_quiet(host, self.inventory.asked_at) {
            let text = format!("host {host} holds the {kind} {id}, which nobody claims");
            found.push(self.says(Check::ObjectOrphan, &[id], text));
        }
        for claim in &object.claims {
            let ids = [id, *claim];
            match self.standing(*claim) {
                Standing::Moving => {}
                Standing::Here(resource) => {
                    if !claims_of(*claim, resource).contains(&(object.kind, id)) {
                        let text =
                            format!("on host {host} {claim} claims the {kind} {id}, which it doesn't need");
                        found.push(self.says(Check::ClaimStray, &ids, text));
                    }
                }
                Standing::Not(absent) => {
                    let text = format!(
                        "on host {host} {claim} claims the {kind} {id}: {}",
                        absent.sentence()
                    );
                    found.push(self.says(absent.claim(), &ids, text));
                }
            }
        }
    }

    /// One that isn't running though it should may have ended by itself; what runs though it was turned off never does by itself.
    fn runs(&self, id: ResourceId, resource: &KnownResource, found: &mut Vec<Violation>) {
        let mut objects = self.inventory.objects.iter();
        if resource.off && objects.any(|o| o.kind == ObjectKind::Instance && o.id == id && o.runs) {
            let text = format!(
                "on host {} the {} {id} runs, which was turned off",
                self.inventory.host, resource.kind
            );
            found.push(self.says(Check::GuestRuns, &[id], text));
        }
    }

    fn missing(&self, id: ResourceId, resource: &KnownResource, found: &mut Vec<Violation>) {
        let objects = objects_of(resource.kind)
            .iter()
            .filter(|kind| !self.held.contains_key(&(**kind, id)))
            .map(|kind| format!("its {}", kind.as_str()));
        let claims = claims_of(id, resource)
            .into_iter()
            .filter(|object| self.held.get(object).is_none_or(|claims| !claims.contains(&id)))
            .map(|(kind, object)| format!("its claim on the {} {object}", kind.as_str()));
        let lacks: Vec<String> = objects.chain(claims).collect();
        if !lacks.is_empty() {
            let text = format!(
                "host {} lacks of the {} {id}: {}",
                self.inventory.host,
                resource.kind,
                lacks.join(", ")
            );
            found.push(self.says(Check::ObjectMissing, &[id], text));
        }
    }
}

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
