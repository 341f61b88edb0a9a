//! Texts that must parse: the `format` of a schema.

use crate::kinds::normal_mac;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// What is wrong with a text of this format, with what would be right; none also for a format that isn't known.
pub(super) fn fault(format: &str, text: &str) -> Option<&'static str> {
    let (parses, right) = match format {
        "ipv4" => (
            text.parse::<Ipv4Addr>().is_ok(),
            "an IPv4 address such as 10.20.0.7",
        ),
        "ipv4-cidr" => (
            text.parse::<Ipv4Net>().is_ok(),
            "an IPv4 range such as 10.20.0.0/24",
        ),
        "mac" => (
            normal_mac(text).is_some(),
            "a MAC address such as 02:00:00:00:00:07",
        ),
        "uuid" => (uuid::Uuid::parse_str(text).is_ok(), "a UUID"),
        "sha256" => (
            text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()),
            "64 hex digits",
        ),
        "date-time" => (
            chrono::DateTime::parse_from_rfc3339(text).is_ok(),
            "a time as in RFC 3339",
        ),
        _ => return None,
    };
    (!parses).then_some(right)
}
