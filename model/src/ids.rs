//! Typed identifiers. Server-made ids are UUIDv7 (RFC 9562), so that they sort by the time they were made.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id, of now.
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(s).map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    };
}

uuid_id! {
    /// A resource of any kind.
    ResourceId
}
uuid_id! {
    /// One accepted request on one resource.
    JobId
}

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(s: &str) -> Self {
                Self(s.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(s: String) -> Self {
                Self(s)
            }
        }
    };
}

string_id! {
    /// A tenant: a unique lower-case alphanumeric word. `system` is the operators' own.
    TenantId
}
string_id! {
    /// A hypervisor host, by its name: a DNS label, the same as in its certificate.
    HostName
}

impl TenantId {
    /// The operators' tenant, to which public images belong.
    pub const SYSTEM: &'static str = "system";
}

/// Orders the orders of one resource: drawn from one Postgres sequence with the resource's row locked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(pub i64);

/// Counts the lives of a host: raised when its ledger is new, when it is removed, when it is declared dead.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub i64);

/// The pattern (ECMA-262) of names of resources and hosts: a DNS label. [`is_dns_label`] judges by the same rule.
pub const DNS_LABEL: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";

/// True for a name by [`DNS_LABEL`].
pub fn is_dns_label(s: &str) -> bool {
    let b = s.as_bytes();
    let word = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    !b.is_empty()
        && b.len() <= 63
        && b.iter().all(|c| word(c) || *c == b'-')
        && b.first().is_some_and(word)
        && b.last().is_some_and(word)
}

#[cfg(test)]
mod tests {
    use super::{DNS_LABEL, is_dns_label};
    use proptest::prelude::*;

    #[test]
    fn dns_labels() {
        for good in ["a", "web-1", "0", &"a".repeat(63)] {
            assert!(is_dns_label(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "ä", &"a".repeat(64)] {
            assert!(!is_dns_label(bad), "{bad}");
        }
    }

    fn by_pattern() -> impl Strategy<Value = String> {
        let inside = DNS_LABEL.trim_start_matches('^').trim_end_matches('$');
        proptest::string::string_regex(inside).unwrap()
    }

    proptest! {
        #[test]
        fn what_the_pattern_has_is_a_name(name in by_pattern()) {
            prop_assert!(is_dns_label(&name), "{name:?}");
        }

        #[test]
        fn what_is_around_the_pattern_is_none(name in by_pattern(), around in "[^a-z0-9]", last in any::<bool>()) {
            let wrong = if last { name + &around } else { around + &name };
            prop_assert!(!is_dns_label(&wrong), "{wrong:?}");
        }
    }
}
