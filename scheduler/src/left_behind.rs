//! Whether a host holds something of a job that was abandoned. Pure: what was abandoned and what the host's agent says, in.

use rhyzome_proto::agent::Inventory;
use rhyzome_store::settle::Abandoned;

/// Whether nothing of an abandoned job is there, and nothing works on it any more.
///
/// An agent leaves the fence of a resource out of its inventory while an operation runs on it: then nothing is known yet.
pub fn is_gone(rest: &Abandoned, inventory: &Inventory) -> bool {
    let (job, resource) = (rest.job.to_string(), rest.resource.to_string());
    let at_rest = inventory.resources.iter().any(|r| r.id == resource);
    let unknown = inventory.jobs.iter().all(|j| j.id != job);
    let nothing = inventory
        .objects
        .iter()
        .all(|o| o.id != resource && !o.claims.contains(&resource));
    // What was made by an earlier job is there, and shall be.
    (at_rest || unknown) && (nothing || rest.made)
}

#[cfg(test)]
mod tests {
    use super::is_gone;
    use chrono::Utc;
    use rhyzome_model::ids::{Fence, HostName, JobId, ResourceId, TenantId};
    use rhyzome_proto::agent::{HeldFence, HeldJob, HeldObject, Inventory};
    use rhyzome_store::settle::Abandoned;

    fn rest(made: bool) -> Abandoned {
        Abandoned {
            job: JobId::new(),
            resource: ResourceId::new(),
            tenant: TenantId::from("demo"),
            host: HostName::from("h1"),
            fence: Fence(7),
            made,
            at: Utc::now(),
        }
    }

    fn inventory(rest: &Abandoned, objects: &[&str], at_rest: bool, phase: Option<&str>) -> Inventory {
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
            resources: at_rest
                .then(|| HeldFence {
                    id: resource.clone(),
                    fence: 7,
                })
                .into_iter()
                .collect(),
            jobs: phase
                .map(|phase| HeldJob {
                    id: rest.job.to_string(),
                    phase: phase.to_owned(),
                })
                .into_iter()
                .collect(),
            ..Inventory::default()
        }
    }

    #[test]
    fn gone_is_what_nothing_is_there_of_and_nothing_works_on() {
        let made = rest(false);
        for (objects, at_rest, phase, gone) in [
            (&[][..], true, Some("undoing"), true),
            (&[][..], true, Some("finished"), true),
            (&[][..], false, None, true),
            // An operation runs on it.
            (&[][..], false, Some("undoing"), false),
            (&["disk"][..], true, Some("undoing"), false),
            (&["network"][..], true, Some("finished"), false),
            (&["disk"][..], false, None, false),
        ] {
            let seen = inventory(&made, objects, at_rest, phase);
            assert_eq!(is_gone(&made, &seen), gone, "{objects:?} {at_rest} {phase:?}");
        }
        let change = rest(true);
        assert!(is_gone(
            &change,
            &inventory(&change, &["disk"], true, Some("finished"))
        ));
        assert!(!is_gone(
            &change,
            &inventory(&change, &["disk"], false, Some("undoing"))
        ));
    }
}
