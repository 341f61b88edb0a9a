//! Which URLs an agent may fetch from, and which addresses it may connect to for them.
//!
//! https to public addresses; http, and addresses that are private, loopback, link-local or otherwise not of the public internet,
//! only below a prefix that the operator allowed. Prefixes are compared as URLs (scheme, host, port, whole segments of the path), not as text.

use crate::driver::StepError;
use rhyzome_model::job::ErrorClass;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use url::{Host, Url};

/// Operators' exceptions.
#[derive(Clone, Debug, Default)]
pub(crate) struct AllowList {
    prefixes: Vec<Url>,
}

/// What a URL may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Public addresses alone.
    Public,
    /// Any: an operator said so.
    Any,
}

fn refused(detail: impl Into<String>) -> StepError {
    StepError::new(ErrorClass::Permanent, "URL_REFUSED", detail)
}

impl AllowList {
    /// An error names the entry that is no URL.
    pub(crate) fn new(entries: &[String]) -> Result<Self, StepError> {
        let prefixes = entries.iter().map(|entry| {
            Url::parse(entry).map_err(|e| {
                StepError::new(
                    ErrorClass::Permanent,
                    "CONFIGURATION",
                    format!("agent.image_allow: {entry:?} is not a URL: {e}"),
                )
            })
        });
        Ok(Self {
            prefixes: prefixes.collect::<Result<_, _>>()?,
        })
    }

    fn covers(&self, url: &Url) -> bool {
        self.prefixes.iter().any(|p| {
            p.scheme() == url.scheme()
                && p.host() == url.host()
                && p.port_or_known_default() == url.port_or_known_default()
                && is_below(p.path(), url.path())
        })
    }

    /// Checks the URL itself; its addresses come after.
    pub(crate) fn check(&self, url: &Url) -> Result<Reach, StepError> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("an image's URL may not hold a user name or password"));
        }
        if url.host().is_none() {
            return Err(refused("an image's URL must name a host"));
        }
        match (url.scheme(), self.covers(url)) {
            ("https" | "http", true) => Ok(Reach::Any),
            ("https", false) => Ok(Reach::Public),
            ("http", false) => Err(refused(
                "images are fetched by https; http only where the operator allows it",
            )),
            (scheme, _) => Err(refused(format!("images can't be fetched by {scheme}"))),
        }
    }
}

/// Pure: whether a path is another, or lies below it, by whole segments.
fn is_below(above: &str, path: &str) -> bool {
    path.strip_prefix(above)
        .is_some_and(|rest| above.ends_with('/') || rest.is_empty() || rest.starts_with('/'))
}

/// The address in a URL whose host is one.
pub(crate) fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(a) => Some(IpAddr::V4(a)),
        Host::Ipv6(a) => Some(IpAddr::V6(a)),
        Host::Domain(_) => None,
    }
}

/// Checks what a name was resolved to: all of it, as any may be connected to.
pub(crate) fn check_addresses(reach: Reach, host: &str, addresses: &[IpAddr]) -> Result<(), StepError> {
    match reach {
        Reach::Any => Ok(()),
        Reach::Public if addresses.iter().all(|a| is_public(*a)) => Ok(()),
        Reach::Public => Err(refused(format!(
            "{host} is at an address that isn't of the public internet; only the operator can allow it"
        ))),
    }
}

/// Whether an address is of the public internet (IANA's special-purpose registries are not).
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => is_public_v4(a),
        IpAddr::V6(a) => is_public_v6(a),
    }
}

fn is_public_v4(a: Ipv4Addr) -> bool {
    let [x, y, z, _] = a.octets();
    !(a.is_private()
        || a.is_loopback()
        || a.is_link_local()
        || a.is_multicast()
        || a.is_broadcast()
        || a.is_documentation()
        || x == 0
        || x >= 240
        || (x == 100 && (64..128).contains(&y))
        || (x == 192 && y == 0 && z == 0)
        || (x == 192 && y == 88 && z == 99)
        || (x == 198 && (18..20).contains(&y)))
}

fn is_public_v6(a: Ipv6Addr) -> bool {
    let s = a.segments();
    let low = |hi: u16, lo: u16| Ipv4Addr::from((u32::from(hi) << 16) | u32::from(lo));
    if let Some(v4) = a.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    match s {
        // NAT64 and 6to4 lead to an IPv4 address.
        [0x64, 0xff9b, 0, 0, 0, 0, hi, lo] | [0x2002, hi, lo, ..] => is_public_v4(low(hi, lo)),
        // Teredo, ORCHID, benchmarks, documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        // Global unicast is 2000::/3.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_public() {
        for public in [
            "9.9.9.9",
            "151.101.2.132",
            "2a04:4e42::644",
            "64:ff9b::909:909",
            "2606:4700::1111",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for other in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "198.18.0.1",
            "192.0.2.7",
            "192.0.0.8",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
            "::7f00:1",
        ] {
            assert!(!is_public(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn an_allowed_path_covers_whole_segments() {
        let covers = |prefix: &str, url: &str| {
            let allow = AllowList::new(&[prefix.to_owned()]).unwrap();
            allow.covers(&Url::parse(url).unwrap())
        };
        for (prefix, url, is) in [
            ("http://h/images", "http://h/images", true),
            ("http://h/images", "http://h/images/a", true),
            ("http://h/images", "http://h/images-private/a", false),
            ("http://h/images", "http://h/images.qcow2", false),
            ("http://h/images/", "http://h/images/a", true),
            ("http://h/images/", "http://h/images", false),
            ("http://h", "http://h/a", true),
        ] {
            assert_eq!(covers(prefix, url), is, "{prefix} and {url}");
        }
    }

    #[test]
    fn an_allowed_prefix_is_a_url_and_not_text() {
        let allow = AllowList::new(&["http://127.0.0.1:8000/images/".to_owned()]).unwrap();
        let check = |u: &str| allow.check(&Url::parse(u).unwrap()).map_err(|e| e.code);
        assert_eq!(check("http://127.0.0.1:8000/images/a.qcow2"), Ok(Reach::Any));
        for not in [
            "http://127.0.0.1:8000/other",
            "http://127.0.0.1:80/images/a",
            "http://127.0.0.1:8000/images/../other",
            "http://127.0.0.1:8000@evil.example/images/a",
            "ftp://127.0.0.1:8000/images/a",
            "http://127.0.0.2:8000/images/a",
        ] {
            assert!(check(not).is_err(), "{not}");
        }
        assert_eq!(check("https://example.org/a"), Ok(Reach::Public));
        assert_eq!(check("https://127.0.0.1:8000/images/a"), Ok(Reach::Public));
        assert!(
            check_addresses(
                Reach::Public,
                "x",
                &["9.9.9.9".parse().unwrap(), "10.0.0.1".parse().unwrap()]
            )
            .is_err()
        );
    }
}
