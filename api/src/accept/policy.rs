//! What only operators may ask for: images from their folder, and public ones.

use crate::auth::Caller;
use crate::problem::{Code, Problem};
use rhyzome_model::ids::TenantId;
use rhyzome_model::kinds::{ImageSource, ImageSpec, Kind, NetworkSpec, PlanError, Visibility};
use rhyzome_model::problem::FieldError;
use rhyzome_store::accept::StaticLeaseRequest;
use serde::Deserialize;
use serde_json::Value;

/// Whether a resource may be referred to by every tenant.
pub fn is_public(kind: Kind, spec: &Value) -> Result<bool, PlanError> {
    match kind {
        Kind::Image => Ok(image(spec)?.visibility == Visibility::Public),
        Kind::Network | Kind::Instance => Ok(false),
    }
}

/// Refuses what is for operators. `before` is the spec that is there already.
pub fn check(caller: &Caller, kind: Kind, spec: &Value, before: Option<&Value>) -> Result<(), Problem> {
    match kind {
        Kind::Network | Kind::Instance => Ok(()),
        Kind::Image => {
            let spec = image(spec)?;
            let before = before.map(image).transpose()?;
            let from_folder = matches!(spec.source, ImageSource::File(_))
                && before.as_ref().is_none_or(|b| b.source != spec.source);
            if from_folder && !caller.is_operator() {
                return Err(forbidden(
                    "/spec/source/file",
                    "Images from the operator's folder are for operators.",
                ));
            }
            let made_public = spec.visibility == Visibility::Public
                && before.as_ref().is_none_or(|b| b.visibility != Visibility::Public);
            let theirs = caller.is_operator() && caller.tenant.as_str() == TenantId::SYSTEM;
            if made_public && !theirs {
                return Err(forbidden(
                    "/spec/visibility",
                    "Public images belong to the operators.",
                ));
            }
            Ok(())
        }
    }
}

fn forbidden(pointer: &str, detail: &str) -> Problem {
    Problem::new(
        Code::ScopeMissing,
        format!("{detail} The scope operator is missing."),
    )
    .with_errors(vec![FieldError::new(
        pointer,
        Code::ScopeMissing.as_str(),
        detail,
    )])
}

/// The static leases of a network, which become rows of their own; none for other kinds.
pub fn static_leases(kind: Kind, spec: &Value) -> Result<Option<Vec<StaticLeaseRequest>>, PlanError> {
    match kind {
        Kind::Image | Kind::Instance => Ok(None),
        Kind::Network => {
            let spec = NetworkSpec::deserialize(spec).map_err(|source| PlanError::Spec { kind, source })?;
            let lease = |(n, lease): (usize, rhyzome_model::kinds::StaticLease)| StaticLeaseRequest {
                pointer: format!("/leases/{n}"),
                ip: lease.ip,
                mac: lease.mac,
                hostname: lease.hostname,
            };
            Ok(Some(spec.leases.into_iter().enumerate().map(lease).collect()))
        }
    }
}

fn image(spec: &Value) -> Result<ImageSpec, PlanError> {
    ImageSpec::deserialize(spec).map_err(|source| PlanError::Spec {
        kind: Kind::Image,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::{check, is_public};
    use crate::auth::Caller;
    use rhyzome_model::kinds::Kind;
    use serde_json::json;

    #[test]
    fn folders_and_public_images_are_for_operators() {
        let user = Caller::for_tests("demo", &["*:*"]);
        let operator = Caller::for_tests("system", &["operator", "*:*"]);
        let file = json!({"source": {"file": "tiny.qcow2"}, "format": "qcow2", "visibility": "private"});
        let public = json!({"source": {"url": "https://x/y"}, "format": "raw", "visibility": "public"});
        let own = json!({"source": {"url": "https://x/y"}, "format": "raw", "visibility": "private"});
        for (spec, allowed) in [(&file, false), (&public, false), (&own, true)] {
            assert_eq!(check(&user, Kind::Image, spec, None).is_ok(), allowed, "{spec}");
            assert!(check(&operator, Kind::Image, spec, None).is_ok(), "{spec}");
        }
        assert!(is_public(Kind::Image, &public).unwrap() && !is_public(Kind::Image, &own).unwrap());
    }
}
