//! What a token allows: `KIND:VERB`, limited further by `?tag=value` or `?id=…`.
//!
//! Pure. A text that isn't of this grammar allows nothing (`openid`, `profile` and an identity provider's own roles are such).
//! `*` stands for any kind or any verb, never for a part of a word. A limit is a query string: every pair must hold, `id` names a
//! resource, any other key a tag.

use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use url::form_urlencoded;

/// The scope that adds the operators' routes; counts only from an issuer bound to operators.
pub const OPERATOR: &str = "operator";

/// A token's permissions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    grants: Vec<Grant>,
    operator: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Grant {
    kind: Pattern,
    verb: Pattern,
    limits: Vec<Limit>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pattern {
    Any,
    Is(String),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Limit {
    Id(String),
    Tag(String, String),
}

/// What is about to be touched.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The resource's id as text; none for one that is being created.
    pub id: Option<&'a str>,
    /// Its tags.
    pub tags: &'a BTreeMap<String, String>,
}

/// How far a token allows a verb on a kind, before any resource is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Not at all.
    Nothing,
    /// Those that a limit names.
    Some,
    /// All of the tenant's.
    All,
}

/// The claims that carry permissions: OAuth's `scope` (RFC 8693, 4.2, as text; some providers send a list) and Keycloak's roles.
#[derive(Debug, Default, Deserialize)]
pub struct ScopeClaims {
    #[serde(default)]
    scope: Value,
    #[serde(default)]
    realm_access: Roles,
    #[serde(default)]
    resource_access: BTreeMap<String, Roles>,
}

#[derive(Debug, Default, Deserialize)]
struct Roles {
    #[serde(default)]
    roles: Vec<String>,
}

/// Whether an issuer may give the scope `operator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssuerRole {
    /// A tenant's own.
    Tenant,
    /// Bound to operators.
    Operators,
}

impl Scopes {
    /// Permissions of a token of an issuer: of a client's roles only those of the one that the token is for.
    pub fn of_claims(claims: &ScopeClaims, audience: &str, issuer: IssuerRole) -> Self {
        let listed: Vec<&str> = match &claims.scope {
            Value::String(text) => text.split_ascii_whitespace().collect(),
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
        };
        let roles = claims
            .resource_access
            .get(audience)
            .into_iter()
            .chain([&claims.realm_access])
            .flat_map(|r| &r.roles);
        Self::parse(listed.into_iter().chain(roles.map(String::as_str)), issuer)
    }

    /// Permissions of a list of scopes.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>, issuer: IssuerRole) -> Self {
        let mut operator = false;
        let mut grants = BTreeSet::new();
        for text in texts {
            if text == OPERATOR {
                operator |= issuer == IssuerRole::Operators;
            } else if let Some(grant) = Grant::parse(text) {
                grants.insert(grant);
            }
        }
        Self {
            grants: grants.into_iter().collect(),
            operator,
        }
    }

    /// Whether the operators' routes are open.
    pub fn operator(&self) -> bool {
        self.operator
    }

    /// How far a verb on a kind is allowed.
    pub fn reach(&self, kind: &str, verb: &str) -> Reach {
        let mut reach = Reach::Nothing;
        for grant in self.for_verb(kind, verb) {
            if grant.limits.is_empty() {
                return Reach::All;
            }
            reach = Reach::Some;
        }
        reach
    }

    /// Whether a verb is allowed on this very resource.
    pub fn allows(&self, kind: &str, verb: &str, subject: Subject<'_>) -> bool {
        self.for_verb(kind, verb)
            .any(|grant| grant.limits.iter().all(|limit| limit.holds(subject)))
    }

    fn for_verb<'a>(&'a self, kind: &'a str, verb: &'a str) -> impl Iterator<Item = &'a Grant> {
        self.grants
            .iter()
            .filter(move |g| g.kind.fits(kind) && g.verb.fits(verb))
    }
}

impl Grant {
    fn parse(text: &str) -> Option<Self> {
        let (pair, query) = match text.split_once('?') {
            Some((pair, query)) => (pair, Some(query)),
            None => (text, None),
        };
        let (kind, verb) = pair.split_once(':')?;
        let limits = match query {
            None => Vec::new(),
            // A limit that says nothing must not widen: `instance:read?` allows nothing.
            Some(query) => Limit::parse_all(query)?,
        };
        Some(Self {
            kind: Pattern::parse(kind)?,
            verb: Pattern::parse(verb)?,
            limits,
        })
    }
}

impl Pattern {
    fn parse(word: &str) -> Option<Self> {
        if word == "*" {
            return Some(Self::Any);
        }
        let plain = !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        plain.then(|| Self::Is(word.to_owned()))
    }

    fn fits(&self, word: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Is(is) => is == word,
        }
    }
}

impl Limit {
    fn parse_all(query: &str) -> Option<Vec<Self>> {
        let mut limits = Vec::new();
        for part in query.split('&') {
            let (key, _) = part.split_once('=')?;
            if key.is_empty() {
                return None;
            }
            let (key, value) = form_urlencoded::parse(part.as_bytes()).next()?;
            limits.push(match &*key {
                "id" => Self::Id(value.to_ascii_lowercase()),
                _ => Self::Tag(key.into_owned(), value.into_owned()),
            });
        }
        Some(limits)
    }

    fn holds(&self, subject: Subject<'_>) -> bool {
        match self {
            Self::Id(id) => subject.id == Some(id.as_str()),
            Self::Tag(key, value) => subject.tags.get(key) == Some(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{IssuerRole, Reach, ScopeClaims, Scopes, Subject};
    use std::collections::BTreeMap;

    fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    /// Scope, kind, verb, id, tags, allowed.
    type Case<'a> = (
        &'a str,
        &'a str,
        &'a str,
        Option<&'a str>,
        &'a BTreeMap<String, String>,
        bool,
    );

    #[test]
    fn table() {
        let dev = tags(&[("env", "dev")]);
        let prod = tags(&[("env", "prod"), ("tier", "1")]);
        let id = "0198c0de-0000-7000-8000-000000000001";
        let by_id = format!("instance:update?id={}", id.to_uppercase());
        let table: &[Case<'_>] = &[
            ("instance:read", "instance", "read", Some(id), &dev, true),
            ("instance:read", "instance", "update", Some(id), &dev, false),
            ("instance:read", "network", "read", Some(id), &dev, false),
            ("instance:*", "instance", "reboot", Some(id), &dev, true),
            ("*:read", "network", "read", Some(id), &dev, true),
            ("*:read", "network", "delete", Some(id), &dev, false),
            ("*:*", "image", "create", None, &dev, true),
            (
                "instance:update?env=dev",
                "instance",
                "update",
                Some(id),
                &dev,
                true,
            ),
            (
                "instance:update?env=dev",
                "instance",
                "update",
                Some(id),
                &prod,
                false,
            ),
            (
                "instance:update?env=prod&tier=1",
                "instance",
                "update",
                Some(id),
                &prod,
                true,
            ),
            (
                "instance:update?env=prod&tier=2",
                "instance",
                "update",
                Some(id),
                &prod,
                false,
            ),
            (&by_id, "instance", "update", Some(id), &dev, true),
            (&by_id, "instance", "update", Some("other"), &dev, false),
            (&by_id, "instance", "update", None, &dev, false),
            ("instance:update?", "instance", "update", Some(id), &dev, false),
            ("instance:update?env", "instance", "update", Some(id), &dev, false),
            (
                "instance:update?=dev",
                "instance",
                "update",
                Some(id),
                &dev,
                false,
            ),
            ("inst*:read", "instance", "read", Some(id), &dev, false),
            ("instance", "instance", "read", Some(id), &dev, false),
            ("openid", "instance", "read", Some(id), &dev, false),
            ("*", "instance", "read", Some(id), &dev, false),
            (":", "instance", "read", Some(id), &dev, false),
            ("INSTANCE:READ", "instance", "read", Some(id), &dev, false),
        ];
        for &(scope, kind, verb, id, tags, allowed) in table {
            let scopes = Scopes::parse([scope], IssuerRole::Tenant);
            assert_eq!(
                scopes.allows(kind, verb, Subject { id, tags }),
                allowed,
                "{scope} {kind}:{verb} {tags:?}"
            );
        }
    }

    #[test]
    fn reach_before_the_resource() {
        let scopes = Scopes::parse(
            ["instance:read?env=dev", "network:read", "network:read?x=y"],
            IssuerRole::Tenant,
        );
        assert_eq!(scopes.reach("instance", "read"), Reach::Some);
        assert_eq!(scopes.reach("network", "read"), Reach::All);
        assert_eq!(scopes.reach("image", "read"), Reach::Nothing);
    }

    #[test]
    fn operator_only_from_operators() {
        assert!(!Scopes::parse(["operator", "*:*"], IssuerRole::Tenant).operator());
        assert!(Scopes::parse(["operator"], IssuerRole::Operators).operator());
        assert!(!Scopes::parse(["*:*"], IssuerRole::Operators).operator());
    }

    #[test]
    fn scope_and_keycloak_roles() {
        let claims: ScopeClaims = serde_json::from_value(serde_json::json!({
            "scope": "openid instance:read",
            "realm_access": {"roles": ["network:create", "offline_access"]},
            "resource_access": {"rhyzome": {"roles": ["image:*"]}, "account": {"roles": ["instance:create"]}}
        }))
        .unwrap();
        let scopes = Scopes::of_claims(&claims, "rhyzome", IssuerRole::Tenant);
        for (kind, verb) in [("instance", "read"), ("network", "create"), ("image", "delete")] {
            assert_eq!(scopes.reach(kind, verb), Reach::All, "{kind}:{verb}");
        }
        assert_eq!(scopes.reach("instance", "create"), Reach::Nothing);
        let list: ScopeClaims = serde_json::from_value(serde_json::json!({"scope": ["disk:read"]})).unwrap();
        assert_eq!(
            Scopes::of_claims(&list, "rhyzome", IssuerRole::Tenant).reach("disk", "read"),
            Reach::All
        );
    }
}
