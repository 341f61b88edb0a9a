//! The store's refusals as problems: with a pointer into the document, and with what stands in the way.

use crate::problem::{Code, Conflict, Problem};
use rhyzome_model::kinds::Kind;
use rhyzome_model::problem::FieldError;
use rhyzome_store::accept::Refusal;

/// The problem of a refusal. `what` names what the request was about: `network web-1`.
pub fn problem(refusal: Refusal, kind: Kind, what: &str) -> Problem {
    match refusal {
        Refusal::TenantGone => Problem::unauthenticated("The tenant of the token is gone."),
        Refusal::KeyReused => Problem::new(
            Code::KeyReused,
            "The idempotency key was used with another body before.",
        ),
        Refusal::NotFound => Problem::new(Code::NotFound, format!("There is no {what}.")),
        Refusal::NameTaken { holder } => {
            let detail = format!("Another {kind} of the tenant has this name: {kind} {holder}.");
            at(Code::NameTaken, "/name", detail).with_conflicts(vec![conflict(kind.as_str(), holder, None)])
        }
        Refusal::ReferenceNotFound {
            pointer,
            kind,
            target,
        } => spec(
            Code::ReferenceNotFound,
            &pointer,
            format!("There is no {kind} {target:?}."),
        ),
        Refusal::ReferenceFailed {
            pointer,
            kind,
            target,
        } => spec(
            Code::ReferenceFailed,
            &pointer,
            format!("The {kind} {target:?} could not be made."),
        ),
        Refusal::ReferenceDeleting {
            pointer,
            kind,
            target,
        } => spec(
            Code::ReferenceDeleting,
            &pointer,
            format!("The {kind} {target:?} is being deleted."),
        ),
        Refusal::AddressTaken {
            pointer,
            value,
            holder,
        } => {
            let holders = holder
                .map(|id| conflict(Kind::Instance.as_str(), id, None))
                .into_iter()
                .collect();
            let detail = match holder {
                Some(id) => format!("{value} is in use by the instance {id}."),
                None => format!("{value} is a static lease of the network."),
            };
            spec(Code::AddressTaken, &pointer, detail).with_conflicts(holders)
        }
        Refusal::AddressInvalid {
            pointer,
            code,
            detail,
        } => Problem::validation(vec![FieldError::new(format!("/spec{pointer}"), &code, detail)]),
        Refusal::RangeUsedUp { pointer, cidr } => spec(
            Code::RangeUsedUp,
            &pointer,
            format!("Every address of {cidr} is in use."),
        ),
        Refusal::QuotaExceeded { over } => {
            let told: Vec<String> = over.iter().map(ToString::to_string).collect();
            let detail = format!("The {what} would pass the tenant's quota of {}.", told.join("; "));
            let each = over
                .iter()
                .map(|over| FieldError::new("", Code::QuotaExceeded.as_str(), over.to_string()));
            Problem::new(Code::QuotaExceeded, detail)
                .with_errors(each.collect())
                .with_quota(over.first().copied())
        }
        Refusal::Moved => Problem::new(
            Code::Moved,
            format!("The {what} was changed at the same time; read it again."),
        ),
        Refusal::Deleting { job } => Problem::new(Code::Deleting, format!("The {what} is being deleted."))
            .with_conflicts(job.into_iter().map(|job| conflict("job", job, None)).collect()),
        Refusal::HasDependants { dependants } => {
            let named: Vec<String> = dependants
                .iter()
                .map(|d| format!("{} {}", d.kind, d.name))
                .collect();
            let conflicts = dependants
                .into_iter()
                .map(|d| conflict(&d.kind, d.id, Some(d.name)));
            Problem::new(
                Code::HasDependants,
                format!("The {what} is needed by {}.", named.join(", ")),
            )
            .with_conflicts(conflicts.collect())
        }
        Refusal::ResourceFailed => Problem::new(
            Code::ResourceFailed,
            format!("The {what} could not be made: retry its job, or delete it."),
        ),
        Refusal::Quarantined => Problem::new(
            Code::Quarantined,
            format!(
                "The {what} is in quarantine: a host holds it, and nobody owns it. It can only be deleted."
            ),
        ),
        Refusal::JobDone => Problem::new(Code::JobDone, "The job has ended already."),
        Refusal::NotCancellable => Problem::new(Code::NotCancellable, "A delete can not be cancelled."),
        Refusal::NotRetryable { detail } => Problem::new(
            Code::NotRetryable,
            format!("The job can not be tried again: {detail}."),
        ),
        Refusal::Several(refusals) => {
            let problems: Vec<Problem> = refusals.into_iter().map(|r| problem(r, kind, what)).collect();
            Problem::several(problems)
        }
        Refusal::Invalid(error) => Problem::validation(vec![FieldError::new("", &error.code, error.detail)]),
    }
}

fn spec(code: Code, pointer: &str, detail: String) -> Problem {
    at(code, &format!("/spec{pointer}"), detail)
}

fn at(code: Code, pointer: &str, detail: String) -> Problem {
    Problem::new(code, detail.clone()).with_errors(vec![FieldError::new(pointer, code.as_str(), detail)])
}

fn conflict(kind: &str, id: impl std::fmt::Display, name: Option<String>) -> Conflict {
    Conflict {
        kind: kind.to_owned(),
        id: id.to_string(),
        name,
    }
}

#[cfg(test)]
mod tests {
    use super::problem;
    use rhyzome_model::ids::{JobId, ResourceId};
    use rhyzome_model::kinds::Kind;
    use rhyzome_store::accept::Refusal;
    use rhyzome_store::resources::Neighbour;

    #[test]
    fn a_taken_name_names_its_holder() {
        let holder = ResourceId::new();
        let problem = problem(Refusal::NameTaken { holder }, Kind::Network, "network lan");
        assert!(
            problem.detail().contains(&format!("network {holder}")) && !problem.detail().contains("lan"),
            "{}",
            problem.detail()
        );
    }

    #[test]
    fn statuses_and_pointers() {
        let id = ResourceId::new();
        let target = || ("/image".to_owned(), Kind::Image, "tiny".to_owned());
        let ((pointer, kind, name), ip) = (target(), "/interfaces/0/ip".to_owned());
        let table = [
            (Refusal::TenantGone, 401, None),
            (Refusal::KeyReused, 422, None),
            (Refusal::NotFound, 404, None),
            (Refusal::NameTaken { holder: id }, 409, Some("/name")),
            (
                Refusal::ReferenceFailed {
                    pointer,
                    kind,
                    target: name,
                },
                422,
                Some("/spec/image"),
            ),
            (
                Refusal::AddressTaken {
                    pointer: ip.clone(),
                    value: "10.0.0.7".into(),
                    holder: Some(id),
                },
                409,
                Some("/spec/interfaces/0/ip"),
            ),
            (
                Refusal::AddressInvalid {
                    pointer: ip,
                    code: "X".into(),
                    detail: "no".into(),
                },
                422,
                Some("/spec/interfaces/0/ip"),
            ),
            (
                Refusal::Deleting {
                    job: Some(JobId::new()),
                },
                409,
                None,
            ),
            (Refusal::Deleting { job: None }, 409, None),
            (Refusal::JobDone, 409, None),
            (Refusal::Quarantined, 409, None),
            (
                Refusal::HasDependants {
                    dependants: vec![Neighbour {
                        kind: Kind::Instance.to_string(),
                        id,
                        name: "web-1".into(),
                    }],
                },
                409,
                None,
            ),
        ];
        for (refusal, status, pointer) in table {
            let shown = format!("{refusal:?}");
            let problem = problem(refusal, Kind::Instance, "instance x");
            assert_eq!(problem.status(), status, "{shown}");
            assert_eq!(
                problem.errors().first().map(|e| e.pointer.as_str()),
                pointer,
                "{shown}"
            );
        }
    }
}
