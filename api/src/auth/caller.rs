//! Who asks: the tenant, the person or program, and what they may.

use super::scopes::{IssuerRole, Reach, Scopes, Subject};
use crate::problem::{Code, Problem};
use rhyzome_model::ids::TenantId;
use rhyzome_model::kinds::Kind;
use std::collections::BTreeMap;

/// A verified bearer token.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The tenant that the token's issuer is bound to.
    pub tenant: TenantId,
    /// The token's subject, as jobs and the audit name it.
    pub actor: String,
    /// What they may.
    pub scopes: Scopes,
    /// The token is good until then (seconds since 1970).
    pub expires_s: u64,
}

impl Caller {
    /// A caller of a verified token that is good until `expires_s`.
    pub fn new(tenant: TenantId, actor: String, scopes: Scopes, expires_s: u64) -> Self {
        Self {
            tenant,
            actor,
            scopes,
            expires_s,
        }
    }

    /// Whether they see what operators see.
    pub fn is_operator(&self) -> bool {
        self.scopes.operator()
    }

    /// Refuses where no scope allows the verb on any resource of the kind. Operators read everything.
    pub fn require(&self, kind: &str, verb: &str) -> Result<(), Problem> {
        if verb == "read" && self.is_operator() {
            return Ok(());
        }
        match self.scopes.reach(kind, verb) {
            Reach::Some | Reach::All => Ok(()),
            Reach::Nothing => Err(missing(kind, verb)),
        }
    }

    /// Refuses who may read nothing at all: no resource of any kind, and no job.
    pub fn require_any_read(&self) -> Result<(), Problem> {
        let some = Kind::ALL
            .iter()
            .any(|kind| self.require(kind.as_str(), "read").is_ok());
        if some { Ok(()) } else { self.require("job", "read") }
    }

    /// Whether the verb is allowed on this very resource.
    pub fn may(&self, kind: &str, verb: &str, id: Option<&str>, tags: &BTreeMap<String, String>) -> bool {
        (verb == "read" && self.is_operator()) || self.scopes.allows(kind, verb, Subject { id, tags })
    }

    /// Whether every resource of the kind may be read, so that none has to be looked at for it.
    pub fn reads_all(&self, kind: &str) -> bool {
        self.is_operator() || self.scopes.reach(kind, "read") == Reach::All
    }

    /// Refuses where the verb isn't allowed on this very resource: 403 for one they may read, else 404.
    pub fn require_on(
        &self,
        kind: &str,
        verb: &str,
        id: &str,
        tags: &BTreeMap<String, String>,
    ) -> Result<(), Problem> {
        if self.may(kind, verb, Some(id), tags) {
            Ok(())
        } else if self.may(kind, "read", Some(id), tags) {
            Err(missing(kind, verb))
        } else {
            Err(Problem::not_found(kind, id))
        }
    }

    /// Refuses who isn't an operator.
    pub fn require_operator(&self) -> Result<(), Problem> {
        if self.is_operator() {
            return Ok(());
        }
        Err(Problem::new(
            Code::ScopeMissing,
            "The scope operator, of an issuer bound to operators, is missing.",
        ))
    }

    /// A caller with these scopes, of a tenant's own issuer; of the operators' one where the tenant is `system`.
    #[doc(hidden)]
    pub fn for_tests(tenant: &str, scopes: &[&str]) -> Self {
        let issuer = if tenant == TenantId::SYSTEM {
            IssuerRole::Operators
        } else {
            IssuerRole::Tenant
        };
        Self::new(
            TenantId::from(tenant),
            "tester".to_owned(),
            Scopes::parse(scopes.iter().copied(), issuer),
            u64::MAX,
        )
    }
}

/// 403 that names the scope.
pub fn missing(kind: &str, verb: &str) -> Problem {
    Problem::new(
        Code::ScopeMissing,
        format!("The scope {kind}:{verb} is missing, or limited to other resources."),
    )
}

#[cfg(test)]
mod tests {
    use super::Caller;
    use std::collections::BTreeMap;

    #[test]
    fn what_may_not_be_known_of_is_not_found() {
        let dev = BTreeMap::from([("env".to_owned(), "dev".to_owned())]);
        let prod = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
        let caller = Caller::for_tests("demo", &["instance:read?env=dev", "instance:update?env=prod"]);
        let status = |verb, tags| {
            caller
                .require_on("instance", verb, "i", tags)
                .map_err(|p| p.status())
        };
        assert_eq!(status("read", &dev), Ok(()));
        assert_eq!(status("update", &dev), Err(403));
        assert_eq!(status("read", &prod), Err(404));
        assert_eq!(status("delete", &prod), Err(404));
        assert_eq!(
            caller.require("network", "read").map_err(|p| p.status()),
            Err(403)
        );
    }

    #[test]
    fn operators_read_all_and_write_by_scope() {
        let operator = Caller::for_tests("system", &["operator"]);
        assert!(operator.require("instance", "read").is_ok() && operator.require_operator().is_ok());
        assert_eq!(
            operator.require("instance", "delete").map_err(|p| p.status()),
            Err(403)
        );
    }
}
