//! Whether a host holds something of a job that was abandoned. Pure: what was abandoned and what the host's agent says, in.

use rhyzome_proto::agent::Inventory;
use rhyzome_store::settle::Abandoned;

/// Whether nothing of an abandoned job is there, and nothing can come of it any more.
///
/// That nothing is there is not enough: an order of the job that a worker still holds could make it. The agent refuses that one when it
/// has heard of the job's last order, or began a new epoch since. An agent leaves the fence of a resource out of its inventory while an
/// operation runs on it: then nothing is known yet.
pub fn is_gone(rest: &Abandoned, inventory: &Inventory) -> bool {
    let resource = rest.resource.to_string();
    let heard = inventory
        .resources
        .iter()
        .any(|r| r.id == resource && r.fence >= rest.fence.0);
    let anew = inventory.epoch > rest.epoch.0;
    let nothing = inventory
        .objects
        .iter()
        .all(|o| o.id != resource && !o.claims.contains(&resource));
    // What was made by an earlier job is there, and shall be.
    (heard || anew) && (nothing || rest.made)
}

#[cfg(test)]
mod tests {
    use super::is_gone;
    use chrono::Utc;
    use rhyzome_model::ids::{Epoch, Fence, HostName, JobId, ResourceId, TenantId};
    use rhyzome_proto::agent::{HeldFence, HeldObject, Inventory};
    use rhyzome_store::settle::Abandoned;

    fn rest(made: bool) -> Abandoned {
        Abandoned {
            job: JobId::new(),
            resource: ResourceId::new(),
            tenant: TenantId::from("demo"),
            host: HostName::from("h1"),
            fence: Fence(7),
            epoch: Epoch(1),
            made,
            at: Utc::now(),
        }
    }

    fn inventory(rest: &Abandoned, objects: &[&str], fence: Option<i64>, epoch: i64) -> Inventory {
        let resource = rest.resource.to_string();
        let object = |kind: &&str| HeldObject {
            kind: (*kind).to_owned(),
            id: if *kind == "network" {
                "another".to_owned()
            } else {
                resource.clone()
            },
            claims: if *kind == "network" {
                vec![resource.clone()]
            } else {
                Vec::new()
            },
            ..HeldObject::default()
        };
        Inventory {
            objects: objects.iter().map(object).collect(),
            resources: fence
                .map(|fence| HeldFence {
                    id: resource.clone(),
                    fence,
                })
                .into_iter()
                .collect(),
            epoch,
            ..Inventory::default()
        }
    }

    #[test]
    fn gone_is_what_nothing_is_there_of_and_nothing_can_come_of() {
        let made = rest(false);
        for (objects, fence, epoch, gone) in [
            (&[][..], Some(7), 1, true),
            (&[][..], Some(8), 1, true),
            // It never heard of the undo: what a worker still holds could be done.
            (&[][..], Some(6), 1, false),
            (&[][..], None, 1, false),
            // Its ledger was lost since: what is older is refused.
            (&[][..], None, 2, true),
            (&["disk"][..], Some(7), 1, false),
            (&["network"][..], Some(7), 1, false),
            (&["disk"][..], None, 2, false),
        ] {
            let seen = inventory(&made, objects, fence, epoch);
            assert_eq!(is_gone(&made, &seen), gone, "{objects:?} {fence:?} {epoch}");
        }
        let change = rest(true);
        assert!(is_gone(&change, &inventory(&change, &["disk"], Some(7), 1)));
        // An operation runs on it.
        assert!(!is_gone(&change, &inventory(&change, &["disk"], None, 1)));
    }
}
